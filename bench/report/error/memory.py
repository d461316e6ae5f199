"""The figure and the table of training on a task that needs memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.report import frames, terms
from bench.report.error import selection
from bench.report.style import looks, plots
from bench.report.style.numbers import significant
from bench.report.style.sheet import Layout, Sheet, panel_title
from bench.report.style.typeset import Table

# Each run's provider and number format.
RUNS = {"ours": ("ours", "bf16"), "torch.nn": ("torch.nn", "bf16"), "fp32": ("torch.nn", "fp32")}


def frame(found: dict[str, Any]) -> pd.DataFrame:
    """One row per run, seed and recorded step: the loss, and how far the gate's bias has moved."""
    curves = (
        {"run": run, "seed": seed, **curve}
        for run in RUNS
        for seed, curve in zip(found["seeds"], found["curves"][run], strict=True)
    )
    data = pd.concat(map(pd.DataFrame, curves))
    data.insert(2, "step", (data.index + 1) * found["every"])
    return data.assign(**frames.origin(found))


def _words(found: dict[str, Any]) -> str:
    cell, rate = terms.cell_name(found["cell"]), found["learning_rate"]
    where = ", ours in Triton's interpreter" if found["interpreted"] else ""
    return (
        f"{found['task'].capitalize()}, {cell} with update gate bias {found['bias']:g}, "
        f"{terms.sizes_words(found['sizes'])}, {found['steps']} steps of Adam at {rate:g}, weights "
        f"kept in fp32 and rounded for each step{where}; "
        f"{terms.plural(len(found['seeds']), 'seed')}. Mean square error over "
        f"{found['every']} steps; {found['baseline']:.3f} is that of a constant answer."
    )


def table(found: dict[str, Any]) -> Table:
    """The last losses and the distance that the gate's bias has moved, by run."""
    full = frame(found)
    last = full[full["step"] == full["step"].max()].groupby("run", sort=False)
    shown = last.agg(
        **{
            "last loss, median": ("loss", "median"),
            "least": ("loss", "min"),
            "largest": ("loss", "max"),
            "bias moved by, median": ("moved", "median"),
        }
    ).reset_index()
    names = pd.DataFrame(shown.pop("run").map(RUNS).tolist(), columns=["provider", "number"])
    return Table(
        "training-memory",
        f"Training on a task that needs memory. {_words(found)}",
        pd.concat([names, shown], axis=1),
        full,
        dict.fromkeys(shown, -2) | {"bias moved by, median": 2},
        frames.provenance(full),
    )


def headlines(error: pd.DataFrame, found: dict[str, Any] | None) -> Iterator[str]:
    """The error of the gate's bias at the largest bias in bf16, and the last losses in training."""
    rows = selection.of_memory(error)
    rows = rows[rows["part"].eq("gate") & rows["number"].eq("bf16")]
    rows = rows[rows["memory"] == rows["memory"].max()]
    medians = rows.groupby(["cell", "provider"])["rel_l2"].median()
    for cell in terms.ordered_cells(rows["cell"]):
        here = medians[cell]
        words = (f"`{p}` {significant(here[p], -2)}" for p in terms.ordered_providers(here.index))
        yield (
            f"{terms.cell_name(cell)} in bf16 with bias {rows['memory'].iloc[0]} of the gate that "
            f"keeps the state: relative L2 error of this bias's gradient {', '.join(words)}."
        )
    if found is not None:
        losses = (
            f"`{provider}` in {number} {significant(loss, -2)}"
            for provider, number, loss, *_ in table(found).shown.itertuples(index=False)
        )
        yield f"{_words(found)} Last loss, median over seeds: {', '.join(losses)}."


def figure(found: dict[str, Any], folder: Path) -> list[Path]:
    """The loss (left) and the distance that the gate's bias has moved (right) over the steps."""
    data = frame(found)
    sheet = Sheet(
        1,
        2,
        title="Training on a task that needs memory, in bf16",
        origin=frames.provenance(data),
        handles=[
            *looks.legend(("ours", "torch.nn")),
            looks.handle("torch.nn in fp32", **looks.MODEL),
            looks.handle("constant answer", **looks.LIMIT),
        ],
        notes=[f"Line: median over seeds; band: least to largest. {_words(found)}"],
        layout=Layout(column_gap=0.45, share=False),
    )
    left, right = sheet.axes[0]
    for axes, column in ((left, "loss"), (right, "moved")):
        plots.draw_seeds(axes, data, column, markevery=2, alpha=0.15)
        axes.set_xlabel("training step")
    left.axhline(found["baseline"], zorder=1, **looks.LIMIT)
    plots.value_axis(left, data["loss"].min(), data["loss"].max(), powers=True)
    panel_title(left, "mean square error")
    panel_title(right, "change of the gate's bias")
    return sheet.save(folder, "training-memory", data)
