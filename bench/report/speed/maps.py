"""Heatmaps over hidden size and batch: speed over torch.nn, and what the compiler made.

A value stands in each square, so that the map is read without its colours; a failure is a hatched
square with its letter. Imports no torch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle

from bench.report import frames
from bench.report.frames import CELL_NAMES, CELL_ORDER, PASS_HEADS, PASS_ORDER
from bench.report.speed.figures import DATA, cut_words, speedups
from bench.report.style import plots

Job = Callable[[Path], list[Path]]
# A corner mark for what torch's rule asks of cuDNN; "standard" is unmarked.
ALGORITHMS = {"standard": "", "small-h": "●", "persist": "▲"}
NARROW = 5  # sizes H up to which two maps stand side by side
SQUARE = 0.155  # inches of a square's height


def speedup_jobs(time: pd.DataFrame) -> Iterator[Job]:
    """Per setting and provider a map of each cell and pass; wide maps make a figure per pass."""
    table = speedups(time)
    for setting, rows in frames.settings(table):
        providers = plots.by_look(rows["provider"])
        # The reference is no rival; its map is drawn where nobody else could run.
        rivals = [name for name in providers if not name.startswith("reference")]
        able = set(rows.loc[rows["speedup"].notna(), "provider"])
        for provider in rivals if able & set(rivals) else providers:
            here = rows[rows["provider"] == provider]
            shown = here[here["speedup"].notna()]
            if shown.empty:
                continue
            counts = shown.groupby("T")[["B", "H"]].apply(
                lambda sizes: len(sizes.drop_duplicates())
            )
            steps = int(counts[counts == counts.max()].index.max())
            here = here[here["T"] == steps]
            if here["H"].nunique() * here["B"].nunique() < 2:
                continue
            wide = here["H"].nunique() > NARROW
            passes = frames.known(here["pass"], PASS_ORDER)
            for chosen in [[name] for name in passes] if wide else [passes]:
                some = here[here["pass"].isin(chosen)]
                yield functools.partial(speedup_map, some, provider, setting, {"T": steps})


def speedup_map(
    rows: pd.DataFrame, provider: str, setting: dict[str, Any], cut: dict[str, int], folder: Path
) -> list[Path]:
    """``figures.speedups`` in each square: above 1 (warm) the provider is faster."""
    cells, passes = frames.known(rows["cell"], CELL_ORDER), frames.known(rows["pass"], PASS_ORDER)
    widths, heights = sorted(set(rows["H"])), sorted(set(rows["B"]))
    baseline = frames.BASELINES.get(str(setting["mode"]), "torch.nn")
    seen = {name for found in rows["algorithm"].dropna() for name in str(found).split("/")}
    marks = [f"{mark} {name}" for name, mark in ALGORITHMS.items() if mark and name in seen]
    said = ["Above 1 the provider is faster; paired by visits where recorded, else of medians."]
    if seen:
        twice = " (forward, then backward)" if marks and passes != ["fwd"] else ""
        said.append(
            "cuDNN's persistent algorithms, as torch's rule asks for them: "
            f"{', '.join(marks) or 'nowhere'}{twice}."
        )
    if (rows["speedup"].isna() & (rows["status"] == "ok")).any():
        said.append(f"– no time of {baseline} to compare with.")
    page = sheet(
        len(cells),
        len(passes),
        widths,
        heights,
        title=f"Speed of {provider} over {baseline}: {frames.setting_words(setting)}, "
        f"{cut_words(cut)}",
        origin=frames.provenance(rows),
        notes=[*said, *plots.failure_notes(rows[rows["status"] != "ok"])],
    )
    largest = max(2.0, float(np.nanmax(np.abs(np.log2(rows["speedup"].astype(float))))))
    norm = TwoSlopeNorm(0.0, -largest, largest)
    colors = matplotlib.colormaps["PuOr_r"]
    for (r, cell), (c, pass_) in itertools.product(enumerate(cells), enumerate(passes)):
        axes = page.axes[r, c]
        plots.head(axes, f"{CELL_NAMES.get(cell, cell)}, {PASS_HEADS[pass_]}")
        here = rows[(rows["cell"] == cell) & (rows["pass"] == pass_)]
        for row in here.to_dict("records"):
            x, y = widths.index(row["H"]), heights.index(row["B"])
            if row["speedup"] != row["speedup"]:
                failure(axes, x, y, str(row["status"]))
                continue
            color = colors(norm(math.log2(row["speedup"])))
            value(axes, x, y, short(row["speedup"]), color, len(widths) * len(passes))
            for k, name in enumerate(reversed(str(row["algorithm"] or "").split("/"))):
                axes.text(
                    x + 0.46 - 0.16 * k, y + 0.42, ALGORITHMS.get(name, ""), fontsize=2.6,
                    ha="right", va="top", color=contrast(color),
                )  # fmt: skip
    mode = frames.setting_slug(setting)
    slug = (
        f"{provider}-{mode}"
        if len(passes) > 1
        else f"{provider}-{passes[0].replace('+', '-')}-{mode}"
    )
    names = [*(n for n in DATA if n != "tokens_per_s"), "speedup", "speedup_low", "speedup_high"]
    return page.save(folder, f"speedup-{slug}", rows[names])


def sheet(
    rows: int, columns: int, widths: list[int], heights: list[int], **words: Any
) -> plots.Sheet:
    """A sheet of empty maps with a square for each H (across) and B (up), ``words`` around them."""
    found = plots.Sheet(
        rows, columns, panel_height=SQUARE * max(len(heights), 2), row_gap=0.4, column_gap=0.32,
        left=0.32, bottom=0.2, **words,
    )  # fmt: skip
    found.shared.set_xlim(-0.5, len(widths) - 0.5)
    found.shared.set_ylim(-0.5, len(heights) - 0.5)
    found.shared.set_xticks(range(len(widths)), [str(v) for v in widths])
    found.shared.set_yticks(range(len(heights)), [str(v) for v in heights])
    for axes in found.axes.flat:
        # Labels at every map, and no marks.
        axes.tick_params(length=0, labelbottom=True, labelleft=True, left=False, bottom=False)
        axes.grid(visible=False)
        axes.set_facecolor("0.96")
        axes.spines[:].set_visible(False)
        for name, at, shift in (("B", (0, 1), (-4, 3)), ("H", (0, 0), (-4, -8))):
            axes.annotate(
                name, at, shift, xycoords="axes fraction", textcoords="offset points", ha="right",
            )  # fmt: skip
    return found


def short(number: float) -> str:
    """A ratio in at most four characters.

    >>> short(0.123), short(3.456), short(45.6), short(1234)
    ('0.12', '3.5', '46', '1.2k')
    """
    if number >= 1000:
        return plots.engineering(float(f"{number:.2g}"))
    if number >= 9.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 0.95 else f"{number:.2f}"


def value(axes: Axes, x: int, y: int, words: str, color: Any, across: int) -> None:
    """A coloured square with its value in it."""
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", lw=0.4))
    size = 5.8 if across <= 10 else 5.0
    axes.text(x, y, words, ha="center", va="center_baseline", fontsize=size, color=contrast(color))


def contrast(color: Any) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def failure(axes: Axes, x: int, y: int, status: str) -> None:
    """A hatched square with the letter of what went wrong, a dash where only the baseline did."""
    square = (x - 0.5, y - 0.5)
    axes.add_patch(
        Rectangle(square, 1, 1, facecolor="white", edgecolor="0.6", hatch="//////", lw=0.4)
    )
    letter = plots.LETTERS[status][0] if status != "ok" else "–"
    axes.text(
        x, y, letter, ha="center", va="center_baseline", fontsize=5.8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip
