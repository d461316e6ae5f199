"""The figures of speed: throughput, speed-up, time per step beside its floor, growth with T.

Each function takes the time records of one run as ``frames.flat`` gives them and yields jobs; a
job draws one figure and returns the files it wrote. A figure without data is no job.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.report import frames
from bench.report.frames import CELL_NAMES, CELL_ORDER, PASS_HEADS, PASS_NAMES, PASS_ORDER
from bench.report.style import plots

Job = Callable[[Path], list[Path]]
AXIS_WORDS = {"H": "hidden units H", "B": "batch B", "T": "time steps T"}
DATA = [
    *("case_id", "cell", "pass", "provider", "status", "reason", "B", "T", "I", "H"),
    *("median_ms", "ci_low_ms", "ci_high_ms", "converged", "us_per_step", "tokens_per_s"),
    *("floor_share", "peak_bytes", "algorithm"),
    *frames.ORIGIN,
]


def cut_words(cut: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in cut.items())


def _panels(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    return frames.known(rows["cell"], CELL_ORDER), frames.known(rows["pass"], PASS_ORDER)


def line_jobs(time: pd.DataFrame) -> Iterator[Job]:
    """Throughput against H, B and T, and time per step beside its floor, per setting."""
    for setting, rows in frames.settings(time):
        for axis in AXIS_WORDS:
            found = frames.best_slice(rows, axis)
            if found is None:
                continue
            cut, here = found
            yield functools.partial(throughput, here, axis, setting, cut)
            if axis == "H" and here["floor_share"].notna().any():
                yield functools.partial(step_floor, here, setting, cut)


def throughput(
    rows: pd.DataFrame, axis: str, setting: dict[str, Any], cut: dict[str, int], folder: Path
) -> list[Path]:
    """Tokens per second (B*T / median) along one size, with the median's 95 % interval."""
    ok, failed = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    unable = plots.by_look(failed["provider"])
    cells, passes = _panels(rows)
    sheet = plots.Sheet(
        len(cells),
        len(passes),
        title=f"Throughput against {AXIS_WORDS[axis]}: {frames.setting_words(setting)}, "
        f"{cut_words(cut)}",
        origin=frames.provenance(rows),
        providers=plots.by_look(rows["provider"]),
        notes=plots.mark_notes(failed),
    )
    tokens = 1e3 * ok["B"] * ok["T"]
    spread = pd.concat([tokens / ok["ci_low_ms"], tokens / ok["ci_high_ms"], ok["tokens_per_s"]])
    plots.size_axis(sheet.shared, rows[axis])
    plots.value_axis(sheet.shared, spread.min(), spread.max(), marks=len(unable))
    for r, cell in enumerate(cells):
        for c, pass_ in enumerate(passes):
            axes = sheet.axes[r, c]
            here = ok[(ok["cell"] == cell) & (ok["pass"] == pass_)]
            for provider in plots.by_look(here["provider"]):
                line = here[here["provider"] == provider].sort_values(axis)
                count = 1e3 * line["B"] * line["T"]
                plots.draw_line(
                    axes, provider, line[axis], count / line["median_ms"],
                    count / line["ci_high_ms"], count / line["ci_low_ms"],
                )  # fmt: skip
            bad = failed[(failed["cell"] == cell) & (failed["pass"] == pass_)]
            plots.mark_failures(axes, bad, axis, unable)
            plots.head(axes, f"{CELL_NAMES.get(cell, cell)}, {PASS_HEADS[pass_]}")
    sheet.label(AXIS_WORDS[axis], "tokens/s")
    name = f"throughput-{axis}-{frames.setting_slug(setting)}"
    return sheet.save(folder, name, rows[DATA])


def step_floor(
    rows: pd.DataFrame, setting: dict[str, Any], cut: dict[str, int], folder: Path
) -> list[Path]:
    """Microseconds per step (solid) and the cost model's floor for it (grey, one per panel)."""
    ok, failed = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    unable = plots.by_look(failed["provider"])
    ok = ok.assign(floor_us=ok["us_per_step"] * ok["floor_share"])
    cells, passes = _panels(rows)
    floor_handle = plots.Line2D([], [], color="black", linewidth=1.6, alpha=0.35, label="floor")
    providers = plots.by_look(rows["provider"])
    sheet = plots.Sheet(
        len(cells),
        len(passes),
        title=f"Time per step beside its floor: {frames.setting_words(setting)}, {cut_words(cut)}",
        origin=frames.provenance(rows),
        handles=[*(plots.handle(name) for name in providers), floor_handle],
        notes=[
            "Floor: the least time that the cost model (bench/README.md) gives the step.",
            *plots.mark_notes(failed),
        ],
    )
    values = pd.concat([ok["us_per_step"], ok["floor_us"]]).dropna()
    plots.size_axis(sheet.shared, rows["H"])
    plots.value_axis(sheet.shared, values.min(), values.max(), marks=len(unable))
    for r, cell in enumerate(cells):
        for c, pass_ in enumerate(passes):
            axes = sheet.axes[r, c]
            here = ok[(ok["cell"] == cell) & (ok["pass"] == pass_)]
            for provider in plots.by_look(here["provider"]):
                line = here[here["provider"] == provider].sort_values("H")
                scale = 1e3 / line["T"]
                plots.draw_line(
                    axes, provider, line["H"], line["us_per_step"],
                    line["ci_low_ms"] * scale, line["ci_high_ms"] * scale,
                )  # fmt: skip
            floor = here.dropna(subset=["floor_us"]).groupby("H")["floor_us"].min()
            axes.plot(floor.index, floor, color="black", linewidth=1.6, alpha=0.35, zorder=1)
            bad = failed[(failed["cell"] == cell) & (failed["pass"] == pass_)]
            plots.mark_failures(axes, bad, "H", unable)
            plots.head(axes, f"{CELL_NAMES.get(cell, cell)}, {PASS_HEADS[pass_]}")
    sheet.label(AXIS_WORDS["H"], "µs per step")
    return sheet.save(folder, f"step-H-{frames.setting_slug(setting)}", rows[DATA])


def growth_table(time: pd.DataFrame) -> pd.DataFrame:
    """How time and memory grow with T: per curve the cost of one more step and the exponent.

    Fits over at least three T: ``us_per_step_fit`` and ``bytes_per_step_fit`` are slopes of
    straight lines, ``time_exponent`` and ``memory_exponent`` slopes between the logarithms (1 is
    proportional to T; 0 does not grow).
    """
    keys = ["cell", "pass", *frames.SETTING, "provider", "B", "H"]
    ok = time[time["status"] == "ok"]
    # Plain dictionaries: a data frame per curve would take longer than all figures.
    curves: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for row in ok[[*keys, "T", "median_ms", "peak_bytes"]].to_dict("records"):
        curves.setdefault(tuple(row[name] for name in keys), {})[row["T"]] = row
    rows = []
    for values, points in curves.items():
        if len(points) < 3:
            continue
        steps = np.array(list(points), float)
        times = np.array([point["median_ms"] for point in points.values()], float)
        row = dict(zip(keys, values, strict=True))
        row |= {"T_from": min(points), "T_to": max(points), "points": len(points)}
        row["us_per_step_fit"] = 1e3 * slope(steps, times)
        row["time_exponent"] = slope(np.log(steps), np.log(times))
        memory = np.array([point["peak_bytes"] or 0 for point in points.values()], float)
        held = memory > 0
        if held.sum() >= 3:
            row["bytes_per_step_fit"] = slope(steps[held], memory[held])
            row["memory_exponent"] = slope(np.log(steps[held]), np.log(memory[held]))
        rows.append(row)
    extra = ["T_from", "T_to", "points", "us_per_step_fit", "time_exponent"]
    return pd.DataFrame(rows, columns=[*keys, *extra, "bytes_per_step_fit", "memory_exponent"])


def slope(x: Any, y: Any) -> float:
    """The least-squares slope of y over x."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def growth_jobs(time: pd.DataFrame) -> Iterator[Job]:
    """Time and memory as T grows, per setting and pass."""
    for setting, rows in frames.settings(time):
        for pass_ in frames.known(rows["pass"], PASS_ORDER):
            here = rows[rows["pass"] == pass_]
            found = frames.best_slice(here, "T")
            if found is None or found[1]["T"].nunique() < 3:
                continue
            cut, here = found
            yield functools.partial(growth, here, pass_, setting, cut)


def growth(
    rows: pd.DataFrame, pass_: str, setting: dict[str, Any], cut: dict[str, int], folder: Path
) -> list[Path]:
    """Milliseconds (left) and peak memory (right, where recorded) against T with their slopes."""
    ok, failed = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
    unable = plots.by_look(failed["provider"])
    cells = frames.known(rows["cell"], CELL_ORDER)
    memory = ok["peak_bytes"].fillna(0).gt(0).any()
    sheet = plots.Sheet(
        len(cells),
        2 if memory else 1,
        title=f"Growth with T, {PASS_NAMES[pass_]}: {frames.setting_words(setting)}, "
        f"{cut_words(cut)}",
        origin=frames.provenance(rows),
        providers=plots.by_look(rows["provider"]),
        notes=[
            "Numbers in the panels: slope between the logarithms, 1 is proportional to T.",
            *plots.mark_notes(failed),
        ],
        share=False,
        column_gap=0.42,
        row_gap=0.3,
        panel_height=1.15,
    )
    sides = [("median_ms", 1.0, "time (ms)")]
    if memory:
        sides.append(("peak_bytes", 2.0**-20, "peak memory (MiB)"))
    for r, cell in enumerate(cells):
        here = ok[ok["cell"] == cell]
        for c, (column, unit, words) in enumerate(sides):
            axes = sheet.axes[r, c]
            lines = []
            for provider in plots.by_look(here["provider"]):
                line = here[(here["provider"] == provider) & here[column].gt(0)].sort_values("T")
                if line.empty:
                    continue
                ends = ("ci_low_ms", "ci_high_ms") if column == "median_ms" else (column, column)
                y, low, high = (line[name].astype(float) * unit for name in (column, *ends))
                plots.draw_line(axes, provider, line["T"], y, low, high)
                if line["T"].nunique() >= 3:
                    lines.append((provider, slope(np.log(line["T"]), np.log(y))))
            values = ok.loc[ok[column].gt(0), column].astype(float) * unit
            plots.size_axis(axes, rows["T"], most=4 if memory else 6)
            if not values.empty:
                span = math.log10(values.max() / values.min())
                top = values.max() * 10 ** (0.3 * span)
                plots.value_axis(axes, values.min(), top, marks=len(unable))
            for k, (provider, exponent) in enumerate(lines):
                # The marker tells whose number it is where colours do not.
                x, y = 0.04 + 0.25 * (k % 4), 0.95 - 0.09 * (k // 4)
                shape = plots.look(provider)
                axes.plot(
                    x, y, marker=shape.marker, color=shape.color, markersize=2.6,
                    transform=axes.transAxes, zorder=5,
                )  # fmt: skip
                axes.text(
                    x + 0.03, y, f"{exponent:.2f}", transform=axes.transAxes, color=shape.color,
                    va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )  # fmt: skip
            plots.mark_failures(axes, failed[failed["cell"] == cell], "T", unable)
            plots.head(axes, CELL_NAMES.get(cell, cell))
            axes.set_ylabel(words)
    for axes in sheet.axes[-1]:
        axes.set_xlabel(AXIS_WORDS["T"])
    suffix = pass_.replace("+", "-")
    return sheet.save(folder, f"growth-T-{suffix}-{frames.setting_slug(setting)}", rows[DATA])


def speedups(time: pd.DataFrame) -> pd.DataFrame:
    """Each record's speed over torch.nn at the same case and clock, with its interval.

    ``speedup`` is over torch.nn, or torch.nn-graph for times of replayed graphs: one over the
    paired ratio by visits that the record holds where both took turns (``versus``), else torch.nn's
    median over the provider's, whose interval joins the two medians' 95 % intervals as independent
    errors, in quadrature of the logarithms. ``algorithm`` is cuDNN's, as predicted for torch.nn.
    """
    keys = ["case_id", "mode"]
    is_base = time["provider"] == time["mode"].map(frames.BASELINES)
    base = time[is_base].drop_duplicates(keys, keep="last").set_index(keys)
    base = base[["status", "reason", "median_ms", "ci_low_ms", "ci_high_ms", "algorithm"]]
    others = time[~is_base].drop(columns="algorithm")
    both = others.join(base.rename(columns=lambda name: f"base_{name}"), on=keys)
    both = both.rename(columns={"base_algorithm": "algorithm"})
    ratio = both["base_median_ms"].astype(float) / both["median_ms"].astype(float)

    def half(prefix: str) -> pd.Series:
        low, high = (both[f"{prefix}{name}"].astype(float) for name in ("ci_low_ms", "ci_high_ms"))
        return np.log(high / low) / 2

    width = np.hypot(half(""), half("base_"))
    both = both.assign(
        speedup=ratio, speedup_low=ratio * np.exp(-width), speedup_high=ratio * np.exp(width)
    )
    # Where the two took turns, the record holds the ratio of their visits, which drifts cancel in.
    paired = both["versus"].map(lambda found: isinstance(found, dict) and bool(found.get("ratio")))
    for column, name in (("speedup", "ratio"), ("speedup_low", "high"), ("speedup_high", "low")):
        inverse = both.loc[paired, "versus"].map(lambda found, name=name: found[name])
        both.loc[paired, column] = 1 / inverse.astype(float)
    return both.drop(columns="versus")
