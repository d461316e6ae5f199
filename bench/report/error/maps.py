"""Maps of numerical error over hidden size and batch, in unit roundoffs."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import LogNorm

from bench.report import frames, terms
from bench.report.error import selection
from bench.report.style import looks, maps, plots
from bench.report.style.numbers import short
from bench.report.style.sheet import Job


def jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Per setting and compared provider a map of each cell, of its output and worst gradients.

    Wide maps make a figure for each of the parts.
    """
    error = error[error["provider"].isin(frames.COMPARED)]
    parts = selection.by_part(error)
    if parts.empty:
        return
    for setting, rows in frames.settings(parts, selection.SETTING):
        rows = selection.one_pass(rows)
        shapes = rows.groupby("T")[["B", "H"]].nunique().prod(axis=1)
        steps = int(shapes[shapes == shapes.max()].index.max())
        rows = rows[rows["T"] == steps]
        if rows["B"].nunique() < 2 or rows["H"].nunique() < 2:
            continue
        failed = selection.failures(error, setting | {"T": steps}, rows)
        for name in ("cell", "H", "B"):
            failed = failed[failed[name].isin(rows[name])]
        for provider in terms.ordered_providers(rows["provider"]):
            for parts_shown in maps.by_figure(terms.ordered_parts(rows["part"]), rows["H"]):
                all_rows = rows[rows["part"].isin(parts_shown)]
                bad = failed[failed["provider"] == provider]
                yield functools.partial(error_map, all_rows, bad, provider, setting, {"T": steps})


def error_map(
    all_rows: pd.DataFrame,
    failed: pd.DataFrame,
    provider: str,
    setting: dict[str, Any],
    sizes: dict[str, int],
    folder: Path,
) -> list[Path]:
    """Relative L2 error over the format's unit roundoff u, all providers on one colour scale."""
    rows = all_rows[all_rows["provider"] == provider]
    cells = terms.ordered_cells([*rows["cell"], *failed["cell"]])
    parts = terms.ordered_parts(rows["part"])
    u = terms.roundoff(setting["number"])
    counted = selection.seed_count(rows, "B", "H")
    sheet = maps.MapSheet(
        len(cells),
        len(parts),
        all_rows["H"],
        all_rows["B"],
        title=f"Error of {provider} over B and H: {terms.where(setting, sizes)}",
        origin=frames.provenance(rows),
        notes=[
            "Relative L2 error against float64 on the same inputs, in unit roundoffs "
            f"(u = {u:.2g} of {setting['number']})"
            + (f"; median of {counted}." if counted != "1 seed" else "."),
            "A grey square was not measured.",
            *selection.notes(rows),
            *plots.failure_notes(failed),
        ],
    )
    data = rows.assign(roundoffs=rows["rel_l2"] / u)
    shown = all_rows.loc[all_rows["rel_l2"] > 0, "rel_l2"] / u
    low, high = (shown.min(), shown.max()) if len(shown) else (0.1, 1.0)
    norm = LogNorm(min(low, 0.25), max(high, 4.0))
    colors = matplotlib.colormaps[looks.ERROR_MAP]
    for axes, cell, part in sheet.panels(cells, parts, terms.PART_TITLES):
        here = data[(data["cell"] == cell) & (data["part"] == part)]
        medians = here.groupby(["H", "B"])["roundoffs"].median()
        shades = colors(norm(medians.clip(lower=low).to_numpy()))
        for ((H, B), found), color in zip(medians.items(), shades, strict=True):
            sheet.draw_value(axes, H, B, short(found), color)
        for H, B, status in failed.loc[failed["cell"] == cell, ["H", "B", "status"]].to_numpy():
            sheet.draw_failure(axes, H, B, status)
    one_part = f"-{parts[0]}" if all_rows["H"].nunique() > maps.NARROW else ""
    slug = terms.setting_slug({**setting, "mode": setting["regime"]})
    return sheet.save(folder, f"error-map-{provider}{one_part}-{slug}", data)
