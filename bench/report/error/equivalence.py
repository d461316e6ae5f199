"""The table and the figure of training in bf16 from several seeds, compared with fp32."""

import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from bench.report import frames, terms
from bench.report.error.memory import RUNS
from bench.report.style import looks, plots
from bench.report.style.sheet import Layout, Sheet, panel_title
from bench.report.style.typeset import Table

# What is compared: two runs, by their names in the file, and the words for it.
PAIRS = {
    ("ours", "fp32"): "ours in bf16 − torch.nn in fp32",
    ("torch.nn", "fp32"): "torch.nn in bf16 − torch.nn in fp32",
    ("ours", "torch.nn"): "ours in bf16 − torch.nn in bf16",
}
LEVEL = 0.9  # of an interval that is within the bound if both one-sided tests of 5 % reject


def interval(values: list[float]) -> tuple[float, float]:
    """Student's t interval of the mean, of ``LEVEL``; infinite for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return -math.inf, math.inf
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def verdict(low: float, high: float, bound: float) -> str:
    """What an interval of a difference says of a bound, in one word."""
    if -bound < low and high < bound:
        return "equivalent"
    return "different" if low > bound or high < -bound else "undecided"


def frame(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell, seed, run and step: the loss; an empty frame without training in bf16."""
    curves = [
        pd.DataFrame({"cell": cell, "seed": seed, "run": run, "loss": runs[run]})
        for cell, of_seeds in found["bf16"]["curves"].items()
        for seed, runs in zip(found["bf16"]["seeds"], of_seeds, strict=True)
        for run in RUNS
    ]
    data = pd.concat(curves)
    data.insert(3, "step", data.index + 1)
    return data.assign(**frames.origin(found))


def differences(data: pd.DataFrame, last: int) -> pd.DataFrame:
    """One row per cell and seed: each run's mean loss of the last steps."""
    end = data[data["step"] > data["step"].max() - last]
    return end.groupby(["cell", "seed", "run"])["loss"].mean().unstack("run")


def words(found: dict[str, Any]) -> str:
    """The study in a sentence."""
    study = found["bf16"]
    where = ", ours in Triton's interpreter" if found["interpreted"] else ""
    return (
        f"a character model of the project's licence, {study['steps']} steps of RMSprop at "
        f"{study['learning_rate']:g}, weights kept in fp32 and rounded for each step{where}; "
        f"{terms.sizes_words(study['sizes'])}; {terms.plural(len(study['seeds']), 'seed')}."
    )


def table(found: dict[str, Any]) -> Table:
    """The differences of last losses, paired by seed, with their intervals and verdicts."""
    study, full = found["bf16"], frame(found)
    ends = differences(full, study["last"])
    rows = []
    for cell in terms.ordered_cells(full["cell"]):
        here = ends.loc[cell]
        for (one, other), what in PAIRS.items():
            values = (here[one] - here[other]).tolist()
            low, high = interval(values)
            rows.append(
                {
                    "cell": terms.cell_name(cell),
                    "difference of last losses": what,
                    "mean": fmean(values),
                    "low": low,
                    "high": high,
                    "bound": study["bound"],
                    "verdict": verdict(low, high, study["bound"]),
                    "spread over seeds": here["fp32"].std(),
                }
            )
    numbers = {"mean": -2, "low": -2, "high": -2, "bound": -1, "spread over seeds": -2}
    return Table(
        "training-bf16",
        f"Training in bf16 and in fp32: {words(found)} Last loss: the mean of {study['last']} "
        "steps, in nats a letter; differences are paired by seed, low and high are the ends of "
        "Student's 90 % interval of their mean. Equivalent: it is within the bound, which was set "
        "before (two one-sided tests of 5 %). Spread over seeds: the standard deviation of the "
        "last loss in fp32.",
        pd.DataFrame(rows),
        full,
        numbers,
        frames.provenance(full),
    )


def headline(found: dict[str, Any]) -> str:
    """In how many cells training in bf16 ends at fp32's loss, of ours and of torch.nn's."""
    shown, said = table(found).shown, []
    for (one, other), what in PAIRS.items():
        if other == "fp32":
            here = shown.loc[shown["difference of last losses"] == what, "verdict"]
            said.append(f"`{one}` in {(here == 'equivalent').sum()} of {len(here)} cells")
    return (
        f"Training in bf16 ends within {found['bf16']['bound']:g} nats a letter of fp32 "
        f"(90 % interval over {len(found['bf16']['seeds'])} seeds): {', '.join(said)}."
    )


def figure(found: dict[str, Any], folder: Path) -> list[Path]:
    """Per cell the losses over the steps (left) and each seed's differences at the end (right)."""
    study, data = found["bf16"], frame(found)
    cells, ends = terms.ordered_cells(data["cell"]), differences(data, study["last"])
    sheet = Sheet(
        len(cells),
        2,
        title="Training in bf16 from several seeds, compared with fp32",
        origin=frames.provenance(data),
        handles=[
            *looks.legend(("ours", "torch.nn")),
            looks.handle("torch.nn in fp32", **looks.MODEL),
            looks.handle("stated bound", **looks.LIMIT),
        ],
        notes=[
            f"Left: median over seeds; band: least to largest. Right: last loss (mean of "
            f"{study['last']} steps) less fp32's of the same seed, and Student's 90 % interval of "
            f"the mean. A{words(found)[1:]}"
        ],
        layout=Layout(column_gap=0.5, row_gap=0.22, share=False),
    )
    for (left, right), cell in zip(sheet.axes, cells, strict=True):
        plots.draw_seeds(left, data[data["cell"] == cell], "loss", markevery=10, alpha=0.12)
        for k, run in enumerate(("ours", "torch.nn")):
            values = ends.loc[cell, run] - ends.loc[cell, "fp32"]
            look, (low, high) = looks.look(run), interval(values.tolist())
            places = k - 0.15 + 0.3 * (values.reset_index(drop=True).index + 0.5) / len(values)
            right.plot(places, values, color=look.color, marker=look.marker, linestyle="", ms=2.5)
            if math.isfinite(low):
                right.errorbar(
                    k + 0.3, values.mean(), yerr=(high - low) / 2, color=look.color, fmt="_"
                )
        for sign in (-1, 1):
            right.axhline(sign * study["bound"], zorder=1, **looks.LIMIT)
        right.set_xlim(-0.5, 1.5)
        right.set_xticks((0, 1), ("ours", "torch.nn"))
        left.set_ylabel("loss")
        right.set_ylabel("difference")
        for axes in (left, right):
            panel_title(axes, terms.cell_name(cell))
            axes.tick_params(labelbottom=cell == cells[-1])
    sheet.axes[-1][0].set_xlabel("training step")
    return sheet.save(folder, "training-bf16", data)
