"""Our curve of the loss beside torch.nn's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import files
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Layout, Sheet, panel_title
from bench.report.style.typeset import Table

FILE = f"{files.RECORDS}/{files.TRAINING}"
PROVIDERS = ("torch.nn", "ours")
EVERY = 7  # steps from one marker to the next
SMALLEST = 1e-8  # of the logarithmic axis: float32 losses above 1 differ by 1.2e-7 or not at all


def frame(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell and step: both losses and how far they are apart."""
    rows = [
        {"cell": cell, "step": step, **dict(zip(PROVIDERS, pair, strict=True))}
        for cell, curves in found["losses"].items()
        for step, pair in enumerate(zip(*(curves[p] for p in PROVIDERS), strict=True), start=1)
    ]
    data = pd.DataFrame(rows)
    data["difference"] = (data["ours"] - data["torch.nn"]).abs()
    return data.assign(**frames.origin(found))


def tables(run: Run) -> list[Table]:
    """What was learned and how far the curves came apart, if it was measured."""
    found = run.read(FILE)
    if found is None:
        return []
    full = frame(found)
    rows = [
        {
            "cell": terms.cell_name(cell),
            "first loss": group["torch.nn"].iloc[0],
            "last loss, torch.nn": group["torch.nn"].iloc[-1],
            "last loss, ours": group["ours"].iloc[-1],
            "largest difference": group["difference"].max(),
            "stated bound": found["bound"],
        }
        for cell, group in full.groupby("cell", sort=False)
    ]
    return [
        Table(
            "training",
            f"A training run from the same seed: {words(found)}",
            pd.DataFrame(rows),
            full,
            {name: 6 for name in rows[0] if "loss" in name}
            | {"largest difference": -2, "stated bound": -1},
            frames.provenance(full),
        )
    ]


def words(found: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in found["sizes"].items())
    steps = len(next(iter(found["losses"].values()))["ours"])
    where = ", ours in Triton's interpreter" if found["interpreted"] else ""
    return (
        f"a character model of the project's licence, {steps} steps of RMSprop, float32 without "
        f"tf32{where}; {sizes}, seed {found['seed']}; loss in nats a letter."
    )


def jobs(run: Run) -> Iterator[Job]:
    """The figure, if it was measured."""
    found = run.read(FILE)
    if found is not None:
        yield functools.partial(training, found)


def training(found: dict[str, Any], folder: Path) -> list[Path]:
    """Per cell both losses over the steps, and beside them their difference."""
    data = frame(found)
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
        notes=[f"A{words(found)[1:]} A difference of zero stands at the foot."],
        layout=Layout(column_gap=0.5, row_gap=0.22, share=False),
    )
    apart = data.loc[data["difference"] > 0, "difference"]
    low, high = min([SMALLEST, *apart]), max([found["bound"], *apart])
    top = max(data["ours"].max(), data["torch.nn"].max())
    bottom = min(data["ours"].min(), data["torch.nn"].min())
    for (left, right), cell in zip(sheet.axes, cells, strict=True):
        here = data[data["cell"] == cell]
        for k, provider in enumerate(PROVIDERS):
            # The curves lie on each other: markers in turn, and the lower line wider.
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
        panel_title(left, terms.cell_name(cell))
        panel_title(right, terms.cell_name(cell))
        for axes in (left, right):
            axes.tick_params(labelbottom=cell == cells[-1])
    for axes in sheet.axes[-1]:
        axes.set_xlabel("training step")
    return sheet.save(folder, "training", data)
