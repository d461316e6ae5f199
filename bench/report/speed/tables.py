"""Which tables a run fills: times, speed over torch.nn, growth with T, error, failures.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.report import frames
from bench.report.device import compiler as compiled
from bench.report.frames import CELL_NAMES, PASS_HEADS, SETTING, SIZES
from bench.report.speed.figures import growth_table, speedups
from bench.report.style import plots
from bench.report.style.typeset import Table, interval, uncertain

RESAMPLES = 1000
MOST_ROWS = 40  # of a table in Markdown or LaTeX: about what one page holds
FULL = [
    *("case_id", "cell", "pass", "track", "directions", "layers", "number", "resets", "B", "T"),
    *("I", "H", "provider", "provider_version", "mode", "status", "reason", "n", "median_ms"),
    *("p20_ms", "p80_ms", "ci_low_ms", "ci_high_ms", "converged", "us_per_step", "tokens_per_s"),
    *("tflops", "gbps", "floor_share", "peak_bytes", "compile_s", "algorithm", "plan_mode"),
    *frames.ORIGIN,
]


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells and passes in a reader's words."""
    return frame.assign(
        cell=frame["cell"].map(lambda name: CELL_NAMES.get(name, name)),
        **{"pass": frame["pass"].map(lambda name: PASS_HEADS.get(name, name))},
    )


def fixed(shown: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Columns that never change, taken out and said in words instead."""
    same = [name for name in names if name in shown and shown[name].nunique() == 1]
    words = []
    for name in same:
        value = shown[name].iloc[0]
        if name in ("failed", "unsupported") and not value:
            continue  # that nobody failed needs no word
        words.append(str(value) if name == "setting" else f"{name}={value}")
    return shown.drop(columns=same), ", ".join(words)


def settings_in_words(frame: pd.DataFrame) -> list[str]:
    return [frames.setting_words(row) for row in frame.to_dict("records")]


def time_table(time: pd.DataFrame) -> Table:
    """Median times with intervals; what is shown is the slice that the figures show."""
    setting, rows = frames.settings(time)[0]
    found = next(filter(None, (frames.best_slice(rows, axis) for axis in ("H", "B", "T"))), None)
    rows = rows if found is None else found[1]
    providers = plots.by_look(rows["provider"])
    # A provider that could not run anywhere in the slice is said once, in the caption.
    able = plots.by_look(rows.loc[rows["status"] == "ok", "provider"])
    keys = ["cell", "pass", *SIZES]
    wide: dict[tuple[Any, ...], dict[str, str]] = {}
    thin: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in named(rows).to_dict("records"):
        key, ends = tuple(row[name] for name in keys), (row["ci_low_ms"], row["ci_high_ms"])
        ok = row["status"] == "ok"
        for lines, text in ((wide, interval), (thin, uncertain)):
            line = lines.setdefault(key, dict(zip(keys, key, strict=True)))
            line[row["provider"]] = text(row["median_ms"], *ends) if ok else row["status"]

    def frame(lines: Mapping[Any, dict[str, str]]) -> tuple[pd.DataFrame, str]:
        table = pd.DataFrame(list(lines.values()), columns=[*keys, *able])
        return fixed(table.head(MOST_ROWS), SIZES)

    shown, sizes = frame(wide)
    out = [name for name in providers if name not in able]
    left = f" Not able to run here: {', '.join(out)}." if out else ""
    where = ", ".join(filter(None, (frames.setting_words(setting), sizes)))
    return Table(
        "time",
        f"Time of one call in ms, median and its 95 % interval: {where}.{left}",
        shown,
        time[FULL],
        dict.fromkeys(SIZES, 0),
        frames.provenance(rows),
        frame(thin)[0],
    )


def speedup_table(time: pd.DataFrame) -> Table | None:
    """Speed over torch.nn: geometric mean over shapes with its interval, and the extremes."""
    rows = []
    keys = ["cell", "pass", *SETTING, "provider"]
    for values, group in speedups(time).groupby(keys, dropna=False, sort=False):
        ok = group[group["speedup"].notna()]
        if ok.empty:
            continue
        low, high = mean_interval(ok["speedup"])
        best, worst = ok.loc[ok["speedup"].idxmax()], ok.loc[ok["speedup"].idxmin()]
        row = dict(zip(keys, values, strict=True)) | {
            "shapes": len(ok),
            "failed": int((~group["status"].isin(["ok", "unsupported"])).sum()),
            "unsupported": int((group["status"] == "unsupported").sum()),
            "geomean": float(np.exp(np.log(ok["speedup"].astype(float)).mean())),
            "geomean_low": low,
            "geomean_high": high,
            "least": worst["speedup"],
            "least_at": _shape(worst),
            "most": best["speedup"],
            "most_at": _shape(best),
        }
        rows.append(row | {name: _joined(group[name]) for name in frames.ORIGIN})
    if not rows:
        return None
    full = pd.DataFrame(rows)
    words = named(full)[["provider", "cell", "pass"]]
    means = zip(full["geomean"], full["geomean_low"], full["geomean_high"], strict=True)
    shown = words.assign(setting=settings_in_words(full), shapes=full["shapes"])
    shown["failed"], shown["unsupported"] = full["failed"], full["unsupported"]
    shown["mean [95 %]"] = [interval(*mean) for mean in means]
    shown["least"], shown["most"] = full["least"], full["most"]
    shown, said = fixed(shown.head(MOST_ROWS), ("setting", "failed", "unsupported"))
    return Table(
        "speedup",
        "Speed over torch.nn under the same clock (paired by visits where the two took turns, else "
        "the ratio of medians), above 1 is faster: geometric mean over shapes "
        f"with a bootstrap interval over them, the least and the most{'; ' if said else ''}{said}.",
        shown,
        full,
        {"shapes": 0, "failed": 0, "unsupported": 0, "least": 3, "most": 3},
        frames.provenance(time),
    )


def _shape(row: pd.Series) -> str:
    return ", ".join(f"{name}={row[name]}" for name in SIZES)


def _joined(column: pd.Series) -> str:
    return " ".join(sorted({str(value) for value in column.dropna()}))


def mean_interval(ratios: Sequence[float] | pd.Series) -> tuple[float | None, float | None]:
    """The geometric mean's 95 % bootstrap interval over shapes; None for a single one."""
    logs = np.log(np.asarray(ratios, float))
    if len(logs) < 2:
        return None, None
    draw = np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[draw].mean(axis=1), (2.5, 97.5)))
    return float(low), float(high)


def growth(time: pd.DataFrame) -> Table | None:
    """Fitted slopes of time and memory over T."""
    full = growth_table(time)
    if full.empty:
        return None
    shown = named(full)[["provider", "cell", "pass"]].assign(setting=settings_in_words(full))
    shown["B"], shown["H"] = full["B"], full["H"]
    shown["T"] = [f"{a} to {b}" for a, b in zip(full["T_from"], full["T_to"], strict=True)]
    for name, column in (
        ("µs per step", "us_per_step_fit"),
        ("time exponent", "time_exponent"),
        ("bytes per step", "bytes_per_step_fit"),
        ("memory exponent", "memory_exponent"),
    ):
        if full[column].notna().any():
            shown[name] = full[column]
    shown, said = fixed(shown.head(MOST_ROWS), ("setting", "B", "H", "T"))
    numbers = {"B": 0, "H": 0, "µs per step": 3, "time exponent": 3}
    numbers |= {"bytes per step": 3, "memory exponent": 3}
    return Table(
        "growth",
        "Growth with the number of steps T: slope of a straight line through the medians, and "
        f"exponent p of a fit proportional to T to the power of p{'; ' if said else ''}{said}.",
        shown,
        full.assign(**{name: _joined(time[name]) for name in frames.ORIGIN}),
        {name: digits for name, digits in numbers.items() if name in shown},
        frames.provenance(time),
    )


def error_table(error: pd.DataFrame) -> Table | None:
    """Errors against float64: the largest over the grid, of the output and of the gradients.

    In ULP of 99 % of the entries: the largest of all stands where the truth is nearly zero, and
    says how near.
    """
    ok = frames.comparable(error)
    ok = ok[ok["part"].eq("gradient") | ok["tensor"].isin(frames.OUTPUTS)]
    if ok.empty:
        return None
    rows = []
    for (cell, number, provider), group in ok.groupby(["cell", "number", "provider"], sort=False):
        row = {"cell": cell, "pass": "fwd", "number": number, "provider": provider}
        for part in ("output", "gradient"):
            here = group[group["part"] == part]
            row[f"{part}, L2"] = here["rel_l2"].max()
            row[f"{part}, ULP"] = here["p99_ulp"].max()
        rows.append(row | {"cases": group["case_id"].nunique()})
    shown = named(frames.ordered(pd.DataFrame(rows))).drop(columns="pass").head(2 * MOST_ROWS)
    interpreted = plots.by_look(ok.loc[ok["interpreted"].eq(True), "provider"])
    said = f" Interpreted on the CPU: {', '.join(interpreted)}." if interpreted else ""
    columns = [name for name in shown if ", " in str(name)]
    return Table(
        "error",
        "Error against float64 on the same rounded inputs: relative L2, and the ULP that 99 % of a "
        "tensor's entries stay within, of the output of all steps and of the worst gradient; of "
        "each the largest with default weights and inputs over "
        "the shapes that ours and torch.nn both measured (for a cell that one of them lacks, over "
        f"all).{said}",
        shown,
        error.drop(columns=["kind", "time"]),
        {name: -2 if "L2" in name else 3 for name in columns} | {"cases": 0},
        frames.provenance(ok),
    )


def failure_table(records: pd.DataFrame) -> Table | None:
    """Who could not do what, and why."""
    failed = records[records["status"] != "ok"]
    if failed.empty:
        return None
    counted = (
        failed.assign(reason=failed["reason"].fillna("no reason recorded"))
        .groupby(["kind", "provider", "status", "reason"], sort=True)
        .size()
        .rename("cases")
        .reset_index()
    )
    shown = counted.assign(
        reason=[text if len(text) <= 90 else text[:88] + " …" for text in counted["reason"]]
    )
    return Table(
        "failures",
        "What was not measured, and why.",
        shown.head(MOST_ROWS),
        counted.assign(**{name: _joined(failed[name]) for name in frames.ORIGIN}),
        {"cases": 0},
        frames.provenance(failed),
    )


def all_tables(run: frames.Run) -> list[Table]:
    """Every table that a run's records fill."""
    found: list[Table | None] = []
    time, error = run.time, run.error
    if (time["status"] == "ok").any():
        found += [time_table(time), speedup_table(time), growth(time)]
    if len(error):
        found.append(error_table(error))
    found.append(compiled.table(run.of("resources")))
    found.append(failure_table(run.every))
    return [table for table in found if table is not None]
