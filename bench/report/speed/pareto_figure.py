"""The figure of speed at equal accuracy: error against time per step, and the Pareto front."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.speed import pareto
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Layout, Sheet

# The letters beside a point of a number type.
TAGS = {"fp32": "32", "fp32:tf32x3": "x3", "fp32:tf32": "tf", "fp16": "16", "bf16": "bf"}
TAG_SIZE = (6.5, 4.6)  # their width and height in points
# Where they may be, in points from the mark's middle: the first place that is free. Left of the
# front and below it there is no point.
PLACES = ((-5.5, -3.5), (5.5, 3.5), (5.5, -3.5), (-5.5, 3.5), (0, 5.5), (0, -5.5), (9, 0), (-9, 0))
PARTS = {"fwd": "forward, output", "fwd+bwd": "fwd+bwd, worst"}


def jobs(run: Run) -> Iterator[Job]:
    """A figure per setting that was measured in several number types at one shape."""
    for setting, sizes, rows in pareto.widest(pareto.points(run)):
        yield functools.partial(draw, rows, setting, sizes)


def draw(
    rows: pd.DataFrame, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """Error against time per step: a mark per provider and number type, and their front."""
    ok = pareto.measured(rows)
    cells, passes = terms.ordered_cells(ok["cell"]), terms.ordered_passes(ok["pass"])
    numbers = terms.ordered_numbers(ok["number"])
    few = int(rows["status"].eq("ok").sum()) - len(ok)
    what = "output and, in fwd+bwd, gradients" if "fwd+bwd" in passes else "output"
    sheet = Sheet(
        len(cells),
        len(passes),
        title=f"Speed at equal accuracy: {terms.where(setting, sizes)}",
        origin=frames.provenance(ok),
        handles=[
            *looks.legend(ok["provider"], linestyle=""),
            looks.handle("Pareto front", **looks.FLOOR),
        ],
        notes=[
            f"Letters: {', '.join(f'{TAGS[name]} {name}' for name in numbers)}. "
            "Nothing is both faster and more exact than a point on the front.",
            f"Largest relative L2 error of the timed call's {what}. {pareto.TRUTH}",
            *([f"Left out for too few visits: {few} points."] if few else []),
            *plots.failure_notes(rows[rows["status"] != "ok"]),
        ],
        layout=Layout(panel_height=1.25),
    )
    plots.number_axis(sheet.shared, ok["us_per_step"].min(), ok["us_per_step"].max())
    plots.error_axis(sheet.shared, ok["rel_l2"], [], marks=0)
    least = plots.zero_height(sheet.shared)
    for axes, cell, pass_ in sheet.panels(cells, passes, PARTS):
        here = ok[(ok["cell"] == cell) & (ok["pass"] == pass_)]
        best = here[here["front"].astype(bool)].sort_values("us_per_step")
        if best.empty:
            continue
        error = best["rel_l2"].clip(lower=least)
        right, top = axes.get_xlim()[1], axes.get_ylim()[1]
        axes.plot(
            [best["us_per_step"].iloc[0], *best["us_per_step"], right],
            [top, *error, error.iloc[-1]],
            drawstyle="steps-post", zorder=1, **looks.FLOOR,
        )  # fmt: skip
        for provider in terms.ordered_providers(here["provider"]):
            mine = here[here["provider"] == provider]
            steps, time = 1e3 / mine["T"], mine["us_per_step"]
            bars = [time - mine["ci_low_ms"] * steps, mine["ci_high_ms"] * steps - time]
            look = vars(looks.look(provider)) | {"linestyle": "", "zorder": 2.5}
            axes.errorbar(
                time, mine["rel_l2"].clip(lower=least), xerr=np.maximum(np.array(bars, float), 0),
                elinewidth=0.9, **look,
            )  # fmt: skip
        placed = here.sort_values("front", ascending=False)
        at = np.column_stack([placed["us_per_step"], placed["rel_l2"].clip(lower=least)])
        write_tags(axes, at, [TAGS[number] for number in placed["number"]])
    sheet.label("µs per step", "relative L2 error")
    return sheet.save(folder, f"pareto-{terms.setting_slug(setting)}", rows[pareto.DATA])


def write_tags(axes: Axes, at: np.ndarray, tags: Sequence[str]) -> None:
    """Letters beside points [points, 2], each where no mark and no earlier letters are."""
    scale = 72 / axes.figure.dpi
    marks = scale * axes.transData.transform(at.astype(float))
    frame = scale * axes.bbox.get_points()
    room = np.array(TAG_SIZE)
    taken = [(mark, np.array([3.6, 3.6])) for mark in marks]
    for mark, data, tag in zip(marks, at, tags, strict=True):

        def cost(shift: Sequence[float], mark: np.ndarray = mark) -> float:
            middle = mark + shift
            outside = np.any(middle - room / 2 < frame[0]) or np.any(middle + room / 2 > frame[1])
            gaps = [(size + room) / 2 - np.abs(middle - other) for other, size in taken]
            return 100 * outside + sum(float(gap.prod()) for gap in gaps if (gap > 0).all())

        shift = min(PLACES, key=cost)
        taken.append((mark + shift, room))
        axes.annotate(
            tag, data, shift, textcoords="offset points", ha="center", va="center_baseline",
            fontsize=4.6, color="0.2", zorder=4,
        )  # fmt: skip
