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

from bench.cases.numbers import ROUNDOFF
from bench.report import frames
from bench.report.error import figures as figures_error
from bench.report.error.figures import PART_WORDS, SETTING
from bench.report.frames import CELL_NAMES, CELL_ORDER
from bench.report.speed import maps as heatmaps
from bench.report.speed.figures import Job, cut_words
from bench.report.style import plots

SHOWN = ("ours", "torch.nn")  # the two that a reader compares; tables have all


def jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Per setting and provider a map of each cell, of its output and of its worst gradient.

    Wide maps make a figure for each of the two.
    """
    parts = figures_error.by_part(error[error["provider"].isin(SHOWN)])
    failed = error[(error["status"] != "ok") & error["provider"].isin(SHOWN)]
    if parts.empty:
        return
    for setting, rows in frames.settings(parts, SETTING):
        rows = figures_error.one_pass(rows)
        sizes = rows.groupby("T")[["B", "H"]].nunique().prod(axis=1)
        steps = int(sizes[sizes == sizes.max()].index.max())
        rows = rows[rows["T"] == steps]
        if rows["B"].nunique() < 2 or rows["H"].nunique() < 2:
            continue
        bad = figures_error.matching(failed, setting | {"T": steps})
        bad = bad[bad["pass"].isin(rows["pass"]) & bad["cell"].isin(rows["cell"])]
        bad = bad[bad["H"].isin(rows["H"]) & bad["B"].isin(rows["B"])]
        known = frames.known(rows["part"], tuple(PART_WORDS))
        wide = rows["H"].nunique() > heatmaps.NARROW
        for provider in plots.by_look(rows["provider"]):
            for chosen in [[name] for name in known] if wide else [known]:
                some = rows[rows["part"].isin(chosen)]
                yield functools.partial(
                    error_map,
                    some[some["provider"] == provider],
                    bad[bad["provider"] == provider],
                    some,
                    provider,
                    setting,
                    {"T": steps},
                )


def error_map(
    rows: pd.DataFrame,
    failed: pd.DataFrame,
    everyone: pd.DataFrame,
    provider: str,
    setting: dict[str, Any],
    cut: dict[str, int],
    folder: Path,
) -> list[Path]:
    """Relative L2 error over the format's unit roundoff u; colours mean the same for everyone."""
    cells = frames.known([*rows["cell"], *failed["cell"]], CELL_ORDER)
    parts = frames.known(rows["part"], tuple(PART_WORDS))
    widths, heights = sorted(set(everyone["H"])), sorted(set(everyone["B"]))
    unit = ROUNDOFF[setting["number"].partition(":")[0]]
    seeds = figures_error.seeds(rows, "B", "H")
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
            + (f"; median of {seeds}." if seeds != "1 seed" else "."),
            "A grey square was not asked for.",
            *figures_error.notes(rows),
            *plots.failure_notes(failed),
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
        medians = here.groupby(["H", "B"])["roundoffs"].median()
        shades = colors(norm(medians.clip(lower=low).to_numpy()))
        for ((H, B), found), color in zip(medians.items(), shades, strict=True):
            x, y = widths.index(H), heights.index(B)
            heatmaps.value(axes, x, y, heatmaps.short(found), color, len(widths) * len(parts))
        for H, B, status in failed.loc[failed["cell"] == cell, ["H", "B", "status"]].to_numpy():
            heatmaps.failure(axes, widths.index(H), heights.index(B), status)
    slug = frames.setting_slug({**setting, "mode": setting["regime"]})
    part = f"-{parts[0]}" if everyone["H"].nunique() > heatmaps.NARROW else ""
    return sheet.save(folder, f"error-map-{provider}{part}-{slug}", data)
