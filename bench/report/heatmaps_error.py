"""Heatmaps of numerical error over hidden size and batch, in unit roundoffs. Imports no torch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import LogNorm

from bench.report import figures_error, frames, heatmaps, plots
from bench.report.figures import Job, cut_words
from bench.report.figures_error import PART_WORDS, ROUNDOFF, SETTING
from bench.report.frames import CELL_NAMES, CELL_ORDER

SHOWN = ("ours", "torch.nn")  # the two that a reader compares; tables have all


def jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Per setting and provider a map of each cell, of its output and of its worst gradient."""
    parts = figures_error.by_part(error[error["provider"].isin(SHOWN)])
    if parts.empty:
        return
    for setting, rows in frames.settings(parts, SETTING):
        rows = figures_error.one_pass(rows)
        sizes = rows.groupby("T")[["B", "H"]].nunique().prod(axis=1)
        steps = int(sizes[sizes == sizes.max()].index.max())
        rows = rows[rows["T"] == steps]
        if rows["B"].nunique() < 2 or rows["H"].nunique() < 2:
            continue
        for provider in plots.by_look(rows["provider"]):
            here = rows[rows["provider"] == provider]
            yield functools.partial(error_map, here, rows, provider, setting, {"T": steps})


def error_map(
    rows: pd.DataFrame,
    everyone: pd.DataFrame,
    provider: str,
    setting: dict[str, Any],
    cut: dict[str, int],
    folder: Path,
) -> list[Path]:
    """Relative L2 error over the format's unit roundoff u; colours mean the same for everyone."""
    cells = frames.known(rows["cell"], CELL_ORDER)
    parts = frames.known(rows["part"], tuple(PART_WORDS))
    widths, heights = sorted(set(everyone["H"])), sorted(set(everyone["B"]))
    unit = ROUNDOFF[setting["number"].partition(":")[0]]
    seeds = rows["seed"].nunique()
    sheet = heatmaps.sheet(
        len(cells),
        len(parts),
        widths,
        heights,
        title=f"Error of {provider} over B and H: {frames.setting_words(setting)}, "
        f"{cut_words(cut)}{figures_error.regime_words(setting)}",
        origin=frames.provenance(rows),
        notes=[
            "Relative L2 error against float64 on the same inputs, in unit roundoffs "
            f"(u = {unit:.2g} of {setting['number'].partition(':')[0]})"
            + (f"; median of {seeds} seeds." if seeds > 1 else "."),
            *figures_error.notes(rows),
        ],
    )
    data = rows.assign(roundoffs=rows["rel_l2"] / unit)
    shown = everyone.loc[everyone["rel_l2"] > 0, "rel_l2"] / unit
    low, high = (shown.min(), shown.max()) if len(shown) else (0.1, 1.0)
    norm = LogNorm(min(low, 0.25), max(high, 4.0))
    colors = matplotlib.colormaps["cividis_r"]
    for (r, cell), (c, part) in itertools.product(enumerate(cells), enumerate(parts)):
        axes = sheet.axes[r, c]
        plots.head(axes, f"{CELL_NAMES.get(cell, cell)}, {PART_WORDS[part]}")
        here = data[(data["cell"] == cell) & (data["part"] == part)]
        for (H, B), found in here.groupby(["H", "B"])["roundoffs"].median().items():
            color = colors(norm(max(found, low)))
            x, y = widths.index(H), heights.index(B)
            heatmaps.value(axes, x, y, heatmaps.short(found), color, len(widths) * len(parts))
    slug = frames.setting_slug({**setting, "mode": setting["regime"]})
    return sheet.save(folder, f"error-map-{provider}-{slug}", data)
