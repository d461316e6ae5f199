"""The figure of error by time step: of the output, and of the gradient on its way back."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.cases.cases import MEMORY, Case
from bench.cases.numbers import ROUNDOFF
from bench.error import rounding_model
from bench.records import store
from bench.report import frames, terms
from bench.report.error import selection
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Sheet

# Default weights and inputs, and the longest memory; the records have the other regimes too.
REGIMES = ("default", f"{MEMORY}7")
PARTS = {"y": "output", "dx": "input", "dgx": "input"}


def frame(records: Sequence[store.Record]) -> pd.DataFrame:
    """One row per error record of an implementation, tensor and step: the error there."""
    measured = [
        record
        for record in records
        if record["by_step"] and not record["provider"].startswith(terms.MODELS)
    ]
    rows = [
        row | {"part": PARTS[tensor], "tensor": tensor, "step": step, "rel_l2": off}
        for record, row in zip(measured, _rows(measured), strict=True)
        for tensor, pairs in record["by_step"].items()
        for step, off in pairs
    ]
    columns = [*selection.SETTING, "cell", "provider", "part", "tensor", "step", "rel_l2"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def _rows(records: Sequence[store.Record]) -> Iterator[dict[str, Any]]:
    """What identifies each record, and its case as a model takes it."""
    for record in records:
        flat = frames.errors([record]).to_dict("records")[0]
        yield {
            name: flat[name]
            for name in ("case_id", "cell", "provider", *selection.SETTING, *terms.SIZES, "seed")
        } | {
            "interpreted": flat["interpreted"],
            **{name: flat[name] for name in frames.ORIGIN},
            "case": Case.from_fields(record),
        }


def jobs(records: Sequence[store.Record]) -> Iterator[Job]:
    """A figure per setting, of each cell's longest case that ours and torch.nn both measured."""
    data = frame(records)
    shown = data[data["regime"].fillna("default").isin(REGIMES)]
    for setting, rows in frames.settings(shown, selection.SETTING):
        longest = pd.concat([_longest(here) for _, here in rows.groupby("cell", sort=False)])
        yield functools.partial(figure, longest, setting)


def _longest(rows: pd.DataFrame) -> pd.DataFrame:
    """A cell's rows of the case with most compared providers; of several, that of most steps."""
    compared = rows["provider"].isin(frames.COMPARED)
    counts = rows[compared].groupby("case_id")["provider"].nunique()
    steps = rows.groupby("case_id")["T"].first()
    best = max(steps.index, key=lambda case: (counts.get(case, 0), steps[case], case))
    return rows[rows["case_id"] == best]


def figure(rows: pd.DataFrame, setting: dict[str, Any], folder: Path) -> list[Path]:
    """Per cell the output's error by step (left), and the gradient's by distance (right)."""
    cells = terms.ordered_cells(rows["cell"])
    providers = terms.ordered_providers(rows["provider"])
    roundoff = ROUNDOFF.get(setting["number"])
    cases: dict[str, Case] = rows.groupby("cell")["case"].first().to_dict()
    modelled = {} if setting["regime"] else _models(cases)
    sizes = "; ".join(
        f"{terms.cell_name(cell)} B={case.B}, T={case.T}, H={case.H}"
        for cell, case in ((cell, cases[cell]) for cell in cells)
    )
    sheet = Sheet(
        len(cells),
        2,
        title=f"Error by time step: {terms.where(setting)}",
        origin=frames.provenance(rows),
        handles=[
            *looks.legend(providers),
            *([looks.handle("unit roundoff", **looks.LIMIT)] if roundoff else []),
            *([looks.handle("model of ours", **looks.MODEL)] if modelled else []),
        ],
        notes=[
            "Relative L2 error of all batch rows of a step, against float64 on the same rounded "
            "inputs: of the output by the step, of the input's gradient by the distance from the "
            f"last step, which counts as 1. One seed. {sizes}.",
            *selection.notes(rows),
        ],
    )
    last = int(rows["step"].max())
    plots.size_axis(sheet.shared, [*(4**k for k in range(9) if 4**k <= last), last])
    positive = rows["rel_l2"].dropna()
    limits = [*([roundoff] if roundoff else []), *(v for m in modelled.values() for v in m)]
    plots.error_axis(sheet.shared, positive, limits, marks=0)
    floor = plots.zero_height(sheet.shared)
    for axes, cell, part in sheet.panels(cells, ("output", "input"), terms.PART_NAMES):
        here = rows[rows["cell"].eq(cell) & rows["part"].eq(part)]
        for provider in providers:
            line = here[here["provider"] == provider]
            plots.draw_line(
                axes, provider, line["step"], line["rel_l2"].clip(lower=floor), markevery=4
            )
        if part == "output" and cell in modelled:
            axes.plot(np.arange(len(modelled[cell])) + 1, modelled[cell], **looks.MODEL)
        if roundoff:
            axes.axhline(roundoff, zorder=1, **looks.LIMIT)
    sheet.label("", "relative L2 error")
    for axes, across in zip(sheet.axes[-1], ("time step", "steps from the end"), strict=True):
        axes.set_xlabel(across)
    slug = terms.setting_slug({**setting, "mode": setting["regime"]})
    return sheet.save(folder, f"error-step-{slug}", rows.drop(columns="case"))


def _models(cases: dict[str, Case]) -> dict[str, np.ndarray]:
    """By cell the model's error of the output at each step; only of what the model covers."""
    return {
        cell: rounding_model.growth(case, case.T)
        for cell, case in cases.items()
        if cell in rounding_model.CELLS and case.layers == 1 and not case.resets
    }
