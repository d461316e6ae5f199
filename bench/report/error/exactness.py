"""Figures and tables of the activations, of repeatability, and of training."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.records import files
from bench.report import frames, terms
from bench.report.error import equivalence, memory
from bench.report.runs import Run
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Layout, Sheet, panel_title
from bench.report.style.typeset import Table

ACTIVATIONS = f"{files.RECORDS}/{files.ACTIVATIONS}"
REPEATABILITY = f"{files.RECORDS}/{files.REPEATABILITY}"
TRAINING = f"{files.RECORDS}/{files.TRAINING}"
MEMORY = f"{files.RECORDS}/{files.MEMORY}"
PROVIDERS = ("torch.nn", "ours")
EVERY = 7  # steps between markers
NONE = 0.01  # ULP: an error that is not drawn
SMALLEST = 1e-8  # of the log axis; float32 losses above 1 differ by 0 or at least 1.2e-7


def _where(found: dict[str, Any]) -> str:
    return "in Triton's interpreter on the CPU" if found["interpreted"] else "on the device"


def _ranges(numbers: list[int]) -> str:
    """Sorted whole numbers in words.

    >>> _ranges([-2, -1, 0, 3])
    '-2 to 0, 3'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _tried(found: dict[str, Any]) -> str:
    """In words, at which arguments the activations were measured, and by whose exponential."""
    return (
        f"{found['points']:,} sampled points of every exponent of float32 and both signs, and "
        "every float32 of the binades where these show the largest errors. The functions compute "
        f"with {found['exponential']}"
    )


def activation_table(found: dict[str, Any]) -> Table:
    """Error of each device function over the whole float32 range."""
    rows = []
    for name, errors in found["functions"].items():
        whole = errors["enumerated"] == errors["exponents"]
        row = {
            "function": name.replace("_gradient", ", derivative"),
            "max. ULP": errors["max_ulp"],
            "worst at": errors["worst_at"],
            "every float of exponents": "all" if whole else _ranges(errors["enumerated"]),
            "elsewhere, sampled": errors["elsewhere_ulp"],
            "99 % within ULP": errors["p99_ulp"],
            "n": errors["n"],
            "torch's max. ULP": errors["torch_max_ulp"],
        }
        row |= {f"of {x}": errors["special"].get(x) for x in ("inf", "-inf", "nan")}
        rows.append(row | frames.origin(found))
    full = pd.DataFrame(rows)
    numbers = {"max. ULP": 4, "worst at": 4, "elsewhere, sampled": 3, "99 % within ULP": 3, "n": 0}
    return Table(
        "activations",
        f"Error of the activation functions, {_where(found)}, against float64, in ULP of float32: "
        f"at {_tried(found)}; the row exp2 is the error of that exp2 alone, for |x| up to 1/2. The "
        "99th percentile is the smallest of the n sampled errors that 99 % of them do not exceed.",
        full.drop(columns=list(frames.ORIGIN)),
        full,
        numbers | {"torch's max. ULP": 3},
        frames.provenance(full),
    )


def repeat_table(found: dict[str, Any]) -> Table:
    """Each question, answered over all measured cases of a provider and track."""
    full = pd.DataFrame(found["rows"]).assign(**frames.origin(found))
    keys = ["provider", "track", "question"]
    groups = frames.ordered(full, keys[:1]).groupby(keys, sort=False)
    shown = groups.agg(same=("same", "sum"), cases=("same", "size"), most=("max_abs", "max"))
    same, cases = shown.pop("same"), shown.pop("cases")
    some = same.astype(str) + " of " + cases.astype(str) + " cases"
    shown.insert(0, "same bits", some.where(same < cases, "yes"))
    return Table(
        "repeatability",
        f"Are the bits the same? Answers over {full['case_id'].nunique()} cases, {_where(found)}.",
        shown.rename(columns={"most": "largest difference"}).reset_index(),
        full,
        {"largest difference": -2},
        frames.provenance(full),
    )


def tables(run: Run) -> list[Table]:
    """The tables of the files that were measured."""
    makers = {
        ACTIVATIONS: activation_table,
        REPEATABILITY: repeat_table,
        TRAINING: training_table,
        MEMORY: memory.table,
    }
    found = ((make, run.read(name)) for name, make in makers.items())
    made = [make(data) for make, data in found if data is not None]
    in_bf16 = trained_in_bf16(run)
    return [*made, equivalence.table(in_bf16)] if in_bf16 else made


def trained_in_bf16(run: Run) -> dict[str, Any] | None:
    """The file of the training runs, if some were in bf16."""
    found = run.read(TRAINING)
    return found if found and found.get("bf16") else None


def jobs(run: Run) -> Iterator[Job]:
    """The figures of the activations' error over their arguments, and of training."""
    for name, draw in ((ACTIVATIONS, activations), (TRAINING, training), (MEMORY, memory.figure)):
        found = run.read(name)
        if found is not None:
            yield functools.partial(draw, found)
    if in_bf16 := trained_in_bf16(run):
        yield functools.partial(equivalence.figure, in_bf16)


def activations(found: dict[str, Any], folder: Path) -> list[Path]:
    """The largest error in each binary exponent of the argument, in ULP."""
    curves = (
        {
            "function": name,
            "exponent": each["exponents"],
            "max_ulp": each["max_ulp_per_exponent"],
            "enumerated": np.isin(each["exponents"], each["enumerated"]),
        }
        for name, each in found["functions"].items()
    )
    data = pd.concat(map(pd.DataFrame, curves)).assign(**frames.origin(found))
    sheet = Sheet(
        2,
        1,
        title="Error of the activation functions over all of float32",
        origin=frames.provenance(data),
        handles=[looks.handle(name, **line) for name, line in looks.ACTIVATIONS.items()],
        notes=[
            "Largest error against float64 in each binary exponent of the argument, "
            f"{_where(found)}: {_tried(found)}.",
            f"Dots: every float32 of the exponent was tried. Beyond the axes: below {NONE} ULP.",
        ],
        layout=Layout(share=False, row_gap=0.42),
    )
    panels = (
        ("function", "", "binary exponent of the argument"),
        ("derivative", "_gradient", "binary exponent of the argument; of tanh's, of its output"),
    )
    drawn = data[data["function"].str.removesuffix("_gradient").isin(looks.ACTIVATIONS)]
    off = drawn.loc[~(drawn["max_ulp"] < NONE), "exponent"]
    for axes, (words, tail, across) in zip(sheet.axes[:, 0], panels, strict=True):
        top = 1.0
        axes.set_xlim(off.min() - 2, off.max() + 2)
        for name, line in looks.ACTIVATIONS.items():
            rows = data[data["function"] == name + tail].dropna(subset="max_ulp")
            axes.step(rows["exponent"], rows["max_ulp"], where="mid", linewidth=0.9, **line)
            whole = rows[rows["enumerated"]]
            axes.plot(
                whole["exponent"], whole["max_ulp"], color=line["color"], marker="o", linestyle=""
            )
            top = max([top, *rows["max_ulp"]])
        axes.set_ylim(0, 1.08 * top)
        axes.set_ylabel("max. ULP")
        axes.set_xlabel(across)
        panel_title(axes, words)
    return sheet.save(folder, "activations", data)


def training_frame(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell and step: both losses and how far they are apart."""
    curves = ({"cell": cell} | losses for cell, losses in found["losses"].items())
    data = pd.concat(map(pd.DataFrame, curves))
    data.insert(1, "step", data.index + 1)
    data["difference"] = (data["ours"] - data["torch.nn"]).abs()
    return data.assign(**frames.origin(found))


def training_table(found: dict[str, Any]) -> Table:
    """The first and last losses, and the largest difference of the curves."""
    full = training_frame(found)
    columns = {
        "first loss": ("torch.nn", "first"),
        "last loss, torch.nn": ("torch.nn", "last"),
        "last loss, ours": ("ours", "last"),
        "largest difference": ("difference", "max"),
    }
    shown = full.groupby("cell", sort=False).agg(**columns).rename(index=terms.cell_name)
    shown["stated bound"] = found["bound"]
    return Table(
        "training",
        f"A training run from the same seed: {_run_words(found)}",
        shown.reset_index(),
        full,
        {name: 6 for name in columns if "loss" in name}
        | {"largest difference": -2, "stated bound": -1},
        frames.provenance(full),
    )


def _run_words(found: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in found["sizes"].items())
    steps = len(next(iter(found["losses"].values()))["ours"])
    where = ", ours in Triton's interpreter" if found["interpreted"] else ""
    return (
        f"a character model of the project's licence, {steps} steps of RMSprop, float32 without "
        f"tf32{where}; {sizes}, seed {found['seed']}; loss in nats a letter."
    )


def training(found: dict[str, Any], folder: Path) -> list[Path]:
    """Per cell both losses over the steps (left) and their difference (right)."""
    data = training_frame(found)
    cells = terms.ordered_cells(data["cell"])
    sheet = Sheet(
        len(cells),
        2,
        title="Training from the same seed: the loss and its difference",
        origin=frames.provenance(data),
        handles=[
            *looks.legend(PROVIDERS),
            looks.handle("difference", **looks.DIFFERENCE),
            looks.handle("stated bound", **looks.LIMIT),
        ],
        notes=[f"A{_run_words(found)[1:]} A difference of zero is drawn at the bottom."],
        layout=Layout(column_gap=0.5, row_gap=0.22, share=False),
    )
    apart = data.loc[data["difference"] > 0, "difference"]
    low, high = min([SMALLEST, *apart]), max([found["bound"], *apart])
    top = max(data["ours"].max(), data["torch.nn"].max())
    bottom = min(data["ours"].min(), data["torch.nn"].min())
    for (left, right), cell in zip(sheet.axes, cells, strict=True):
        here = data[data["cell"] == cell]
        for k, provider in enumerate(PROVIDERS):
            # The curves coincide: alternate the markers, and make the lower line wider.
            marks = (k * EVERY // 2, EVERY)
            width = 1.0 if provider == "ours" else 2.2
            plots.draw_line(
                left, provider, here["step"], here[provider], markevery=marks, linewidth=width
            )
        left.set_ylim(bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom))
        left.set_ylabel("loss")
        right.plot(
            here["step"], here["difference"].clip(lower=low), linewidth=0.7, **looks.DIFFERENCE
        )
        right.axhline(found["bound"], zorder=1, **looks.LIMIT)
        plots.value_axis(right, low, high, powers=True)
        right.set_ylabel("difference")
        for axes in (left, right):
            panel_title(axes, terms.cell_name(cell))
            axes.tick_params(labelbottom=cell == cells[-1])
    for axes in sheet.axes[-1]:
        axes.set_xlabel("training step")
    return sheet.save(folder, "training", data)
