"""Tables of speed: times, speed over torch.nn, growth with the number of steps T."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.speed.derived import growth_table, mean_interval, speedups
from bench.report.speed.steps import step_table
from bench.report.style.numbers import interval, uncertain
from bench.report.style.typeset import MOST_ROWS, Table, drop_constant_columns, joined_origin, named

FULL = [
    *("case_id", "cell", "pass", "track", "directions", "layers", "number", "resets", "B", "T"),
    *("I", "H", "provider", "provider_version", "mode", "status", "reason", "n", "median_ms"),
    *("p20_ms", "p80_ms", "ci_low_ms", "ci_high_ms", "converged", "us_per_step", "tokens_per_s"),
    *("tflops", "gbps", "floor_share", "peak_bytes", "compile_s", "algorithm", "plan_mode"),
    *frames.ORIGIN,
]


def time_table(time: pd.DataFrame) -> Table:
    """Median times with intervals; the shown rows are those of the figures."""
    measured = time["case_id"].isin(time.loc[time["status"] == "ok", "case_id"])
    setting, rows = frames.settings(time[measured])[0]
    found = next(filter(None, (frames.best_slice(rows, axis) for axis in ("H", "B", "T"))), None)
    rows = rows if found is None else found[1]
    providers = terms.ordered_providers(rows["provider"])
    # The caption names the providers that ran nowhere in the slice.
    able = terms.ordered_providers(rows.loc[rows["status"] == "ok", "provider"])
    keys = ["cell", "pass", *terms.SIZES]

    def frame(text: Callable[..., str]) -> tuple[pd.DataFrame, str]:
        lines: dict[tuple[Any, ...], dict[str, str]] = {}
        for row in named(rows).to_dict("records"):
            key, ends = tuple(row[name] for name in keys), (row["ci_low_ms"], row["ci_high_ms"])
            line = lines.setdefault(key, dict(zip(keys, key, strict=True)))
            ok = row["status"] == "ok"
            line[row["provider"]] = text(row["median_ms"], *ends) if ok else row["status"]
        table = pd.DataFrame(list(lines.values()), columns=[*keys, *able])
        return drop_constant_columns(table.head(MOST_ROWS), terms.SIZES)

    shown, sizes = frame(interval)
    out = [name for name in providers if name not in able]
    left = f" Not able to run here: {', '.join(out)}." if out else ""
    where = ", ".join(filter(None, (terms.setting_words(setting), sizes)))
    return Table(
        "time",
        f"Time of one call in ms, median and its 95 % interval: {where}.{left}",
        shown,
        time[FULL],
        dict.fromkeys(terms.SIZES, 0),
        frames.provenance(rows),
        frame(uncertain)[0],
    )


def speedup_table(time: pd.DataFrame) -> Table | None:
    """Speed over torch.nn: geometric mean over shapes with its interval, and the extremes."""
    rows = []
    keys = ["cell", "pass", *terms.SETTING, "provider"]
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
            "least_at": terms.sizes_words(worst[list(terms.SIZES)]),
            "most": best["speedup"],
            "most_at": terms.sizes_words(best[list(terms.SIZES)]),
        }
        rows.append(row | joined_origin(group))
    if not rows:
        return None
    full = pd.DataFrame(rows)
    settings = [terms.setting_words(row) for row in rows]
    means = zip(full["geomean"], full["geomean_low"], full["geomean_high"], strict=True)
    intervals = {"mean [95 %]": [interval(*mean) for mean in means]}
    columns = ["provider", "cell", "pass", "setting", "shapes", "failed", "unsupported"]
    shown = named(full).assign(setting=settings, **intervals)[
        [*columns, *intervals, "least", "most"]
    ]
    shown, same = drop_constant_columns(shown.head(MOST_ROWS), ("setting", "failed", "unsupported"))
    return Table(
        "speedup",
        "Speed over torch.nn under the same clock (paired by visits where the two took turns, else "
        "the ratio of medians), above 1 is faster: geometric mean over shapes "
        f"with a bootstrap interval over them, the least and the most{'; ' if same else ''}{same}.",
        shown,
        full,
        {"shapes": 0, "failed": 0, "unsupported": 0, "least": 3, "most": 3},
        frames.provenance(time),
    )


def growth(time: pd.DataFrame) -> Table | None:
    """Fitted slopes of time and memory over T."""
    full = growth_table(time)
    if full.empty:
        return None
    settings = [terms.setting_words(row) for row in full.to_dict("records")]
    shown = named(full)[["provider", "cell", "pass"]].assign(setting=settings)
    shown["B"], shown["H"] = full["B"], full["H"]
    shown["T"] = [f"{a} to {b}" for a, b in zip(full["T_from"], full["T_to"], strict=True)]
    fits = {
        "us_per_step_fit": "µs per step",
        "time_exponent": "time exponent",
        "bytes_per_step_fit": "bytes per step",
        "memory_exponent": "memory exponent",
    }
    shown = shown.join(full[list(fits)].dropna(axis="columns", how="all").rename(columns=fits))
    shown, same = drop_constant_columns(shown.head(MOST_ROWS), ("setting", "B", "H", "T"))
    return Table(
        "growth",
        "Growth with the number of steps T: slope of a straight line through the medians, and "
        f"exponent p of a fit proportional to T to the power of p{'; ' if same else ''}{same}.",
        shown,
        full.assign(**joined_origin(time)),
        {"B": 0, "H": 0} | dict.fromkeys(fits.values(), 3),
        frames.provenance(time),
    )


def tables(run: Run) -> list[Table]:
    """The tables of the time records."""
    if not run.ok("time"):
        return []
    time = run.time
    made = (time_table(time), speedup_table(time), step_table(time), growth(time))
    return [table for table in made if table is not None]
