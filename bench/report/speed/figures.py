"""The figures of speed: throughput, time per step and its floor, growth with T.

Each function takes the time records of one run as ``frames.flat`` gives them and yields jobs; a
job draws one figure and returns the files it wrote. A figure without data has no job.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any

import numpy as np
import pandas as pd

from bench.report import frames, terms
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Layout, Sheet, panel_title

DATA = [
    *("case_id", "cell", "pass", "provider", "status", "reason", "B", "T", "I", "H"),
    *("median_ms", "ci_low_ms", "ci_high_ms", "converged", "us_per_step", "tokens_per_s"),
    *("floor_share", "peak_bytes", "algorithm"),
    *frames.ORIGIN,
]


def line_jobs(time: pd.DataFrame) -> Iterator[Job]:
    """Throughput against H, B and T, and time per step and its floor, per setting."""
    for setting, rows in frames.settings(time):
        for axis in terms.AXIS_NAMES:
            found = frames.best_slice(rows, axis)
            if found is None:
                continue
            sizes, here = found
            yield functools.partial(throughput, here, axis, setting, sizes)
            if axis == "H" and here["floor_share"].notna().any():
                yield functools.partial(step_floor, here, setting, sizes)


def throughput(
    rows: pd.DataFrame, axis: str, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """Tokens per second (B*T / median) along one size, with the median's 95 % interval."""
    tokens = 1e3 * rows["B"] * rows["T"]
    drawn = rows.assign(
        y=tokens / rows["median_ms"],
        low=tokens / rows["ci_high_ms"],
        high=tokens / rows["ci_low_ms"],
    )
    title = f"Throughput against {terms.AXIS_NAMES[axis]}: {terms.where(setting, sizes)}"
    sheet = draw_lines(drawn, axis, title, ("low", "high", "tokens_per_s"))
    sheet.label(terms.AXIS_NAMES[axis], "tokens/s")
    return sheet.save(folder, f"throughput-{axis}-{terms.setting_slug(setting)}", rows[DATA])


def step_floor(
    rows: pd.DataFrame, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """Microseconds per step (solid) and its floor (grey, one per panel)."""
    steps = 1e3 / rows["T"]
    drawn = rows.assign(
        y=rows["us_per_step"],
        low=rows["ci_low_ms"] * steps,
        high=rows["ci_high_ms"] * steps,
        floor=rows["us_per_step"] * rows["floor_share"],
    )
    title = f"Time per step beside its floor: {terms.where(setting, sizes)}"
    sheet = draw_lines(drawn, "H", title, ("y", "floor"))
    sheet.label(terms.AXIS_NAMES["H"], "µs per step")
    return sheet.save(folder, f"step-H-{terms.setting_slug(setting)}", rows[DATA])


def draw_lines(rows: pd.DataFrame, axis: str, title: str, span: Sequence[str]) -> Sheet:
    """Each provider's ``y`` from ``low`` to ``high`` along a size, per cell and pass.

    Below them the smallest ``floor``, where there is one. The axis holds the columns of ``span``.
    """
    ok, failed = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    unable = terms.ordered_providers(failed["provider"])
    cells = terms.ordered_cells(rows["cell"])
    passes = terms.ordered_passes(rows["pass"])
    handles, notes = looks.legend(rows["provider"]), plots.mark_notes(failed)
    if "floor" in rows:
        handles = [*handles, looks.handle("floor", **looks.FLOOR)]
        floor_note = "Floor: a model of this design at measured rates (bench/README.md)."
        notes = [floor_note, *notes]
    origin = frames.provenance(rows)
    sheet = Sheet(len(cells), len(passes), title=title, origin=origin, handles=handles, notes=notes)
    values = pd.concat([ok[name] for name in span]).dropna()
    plots.size_axis(sheet.shared, rows[axis])
    plots.value_axis(sheet.shared, values.min(), values.max(), marks=len(unable))
    for axes, cell, pass_ in sheet.panels(cells, passes, terms.PASS_TITLES):
        here = ok[(ok["cell"] == cell) & (ok["pass"] == pass_)]
        for provider in terms.ordered_providers(here["provider"]):
            line = here[here["provider"] == provider].sort_values(axis)
            plots.draw_line(axes, provider, line[axis], line["y"], line["low"], line["high"])
        if "floor" in here:
            floor = here.dropna(subset=["floor"]).groupby(axis)["floor"].min()
            axes.plot(floor.index, floor, zorder=1, **looks.FLOOR)
        bad = failed[(failed["cell"] == cell) & (failed["pass"] == pass_)]
        plots.mark_failures(axes, bad, axis, unable)
    return sheet


def growth_jobs(time: pd.DataFrame) -> Iterator[Job]:
    """Time and memory as T grows, per setting and pass."""
    for setting, rows in frames.settings(time):
        for pass_ in terms.ordered_passes(rows["pass"]):
            found = frames.best_slice(rows[rows["pass"] == pass_], "T")
            if found is not None and found[1]["T"].nunique() >= 3:
                sizes, here = found
                yield functools.partial(growth, here, pass_, setting, sizes)


def growth(
    rows: pd.DataFrame, pass_: str, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """Milliseconds (left) and peak memory (right, where recorded) against T with their slopes."""
    ok, failed = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    unable = terms.ordered_providers(failed["provider"])
    cells = terms.ordered_cells(rows["cell"])
    # A column, its interval, its unit, and the axis label.
    sides = [("median_ms", ("ci_low_ms", "ci_high_ms"), 1.0, "time (ms)")]
    if ok["peak_bytes"].fillna(0).gt(0).any():
        memory = ("peak_bytes", "peak_bytes")
        sides.append(("peak_bytes", memory, 2.0**-20, "peak memory (MiB)"))
    sheet = Sheet(
        len(cells),
        len(sides),
        title=f"Growth with T, {terms.PASS_NAMES[pass_]}: {terms.where(setting, sizes)}",
        origin=frames.provenance(rows),
        handles=looks.legend(rows["provider"]),
        notes=[
            "Numbers in the panels: slope between the logarithms, 1 is proportional to T.",
            *plots.mark_notes(failed),
        ],
        layout=Layout(share=False, column_gap=0.42, row_gap=0.3, panel_height=1.15),
    )
    for r, cell in enumerate(cells):
        here = ok[ok["cell"] == cell]
        for axes, (column, ends, unit, words) in zip(sheet.axes[r], sides, strict=True):
            exponents = []
            for provider in terms.ordered_providers(here.loc[here[column].gt(0), "provider"]):
                line = here[(here["provider"] == provider) & here[column].gt(0)].sort_values("T")
                y, low, high = (line[name].astype(float) * unit for name in (column, *ends))
                plots.draw_line(axes, provider, line["T"], y, low, high)
                if line["T"].nunique() >= 3:
                    fit = linear_regression(np.log(line["T"]), np.log(y))
                    exponents.append((provider, fit.slope))
            values = ok.loc[ok[column].gt(0), column].astype(float) * unit
            plots.size_axis(axes, rows["T"], most=4 if len(sides) > 1 else 6)
            if not values.empty:
                room = 10 ** (0.3 * math.log10(values.max() / values.min()))  # for the exponents
                plots.value_axis(axes, values.min(), values.max() * room, marks=len(unable))
            plots.write_exponents(axes, exponents)
            plots.mark_failures(axes, failed[failed["cell"] == cell], "T", unable)
            panel_title(axes, terms.cell_name(cell))
            axes.set_ylabel(words)
    for axes in sheet.axes[-1]:
        axes.set_xlabel(terms.AXIS_NAMES["T"])
    suffix = pass_.replace("+", "-")
    return sheet.save(folder, f"growth-T-{suffix}-{terms.setting_slug(setting)}", rows[DATA])
