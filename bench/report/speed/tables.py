"""Tables of speed: times, speed over torch.nn, growth with the number of steps T."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.speed.derived import LAUNCH_BOUND, growth_table, host_share, speedups, too_few
from bench.report.speed.steps import step_table
from bench.report.style.numbers import interval, significant, uncertain
from bench.report.style.typeset import MOST_ROWS, Table, drop_constant_columns, joined_origin, named

FULL = [
    *("case_id", "cell", "pass", "track", "directions", "layers", "number", "resets", "B", "T"),
    *("I", "H", "provider", "provider_version", "mode", "status", "reason", "n", "median_ms"),
    *("p20_ms", "p80_ms", "ci_low_ms", "ci_high_ms", "converged", "visits", "starts", "host_ms"),
    *("host_share", "warm_ms", "warmup_calls", "settled", "checked_calls"),
    *("us_per_step", "tokens_per_s"),
    *("tflops", "gbps", "floor_share", "peak_bytes", "compile_s", "algorithm", "plan_mode"),
    *frames.ORIGIN,
]


def time_table(time: pd.DataFrame) -> Table:
    """Median times with intervals; the shown rows are those of the figures."""
    time = time.assign(host_share=host_share(time))
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
            if row["status"] != "ok":
                line[row["provider"]] = row["status"]
            elif too_few(row["n"]):
                line[row["provider"]] = f"{significant(row['median_ms'])} (too few)"
            else:
                line[row["provider"]] = text(row["median_ms"], *ends)
        table = pd.DataFrame(list(lines.values()), columns=[*keys, *able])
        return drop_constant_columns(table.head(MOST_ROWS), terms.SIZES)

    shown, sizes = frame(interval)
    out = [name for name in providers if name not in able]
    left = f" Not able to run here: {', '.join(out)}." if out else ""
    where = ", ".join(filter(None, (terms.setting_words(setting), sizes)))
    return Table(
        "time",
        f"Time of one call in ms, median and its 95 % interval {_across(rows)}: {where}.{left}",
        shown,
        time[FULL],
        dict.fromkeys(terms.SIZES, 0),
        frames.provenance(rows),
        frame(uncertain)[0],
    )


def _across(rows: pd.DataFrame) -> str:
    """Within what intervals hold; that of a time of one start holds within it."""
    counts = rows.loc[rows["status"] == "ok", "starts"].astype(int)
    least, most = counts.min(), counts.max()
    if counts.empty or most == 1:
        return "within one run"
    span = most if least == most else f"{least} to {most}"
    return f"across {span} starts of the measuring process"


def call_table(time: pd.DataFrame) -> Table | None:
    """Eager calls beside replayed graphs, cold beside warm; None without a GPU's times."""
    pairs = {"ours": "ours-graph", "torch.nn": "torch.nn-graph"}
    ok = time[(time["status"] == "ok") & time["host_ms"].notna()]
    setting = [name for name in terms.SETTING if name != "mode"]
    keys = ["case_id", "cell", "pass", *setting, *terms.SIZES]
    rows = []
    for values, group in ok.groupby(keys, dropna=False, sort=False):
        by_name = group.drop_duplicates("provider").set_index("provider")
        for eager, graph in pairs.items():
            if not {eager, graph} <= set(by_name.index):
                continue
            row = dict(zip(keys, values, strict=True)) | {"provider": eager}
            for name, word in ((eager, "eager"), (graph, "graph")):
                for column in ("median_ms", "warm_ms", "host_ms"):
                    row[f"{word}_{column}"] = by_name.loc[name, column]
            row["host_share"] = row["eager_host_ms"] / row["eager_median_ms"]
            rows.append(row | joined_origin(group))
    if not rows:
        return None
    full = pd.DataFrame(rows)
    shown = named(full)[["provider", "cell", "pass", "number", *terms.SIZES]].assign(
        setting=list(map(terms.setting_words, full.drop(columns="number").to_dict("records"))),
        **{
            "eager": full["eager_median_ms"],
            "host's share": [f"{share:.0%}" for share in full["host_share"]],
            "graph": full["graph_median_ms"],
            "eager, warm": full["eager_warm_ms"],
            "graph, warm": full["graph_warm_ms"],
        },
    )
    fixed = ("setting", "number", *terms.SIZES)
    shown, same = drop_constant_columns(shown.head(MOST_ROWS), fixed)
    milliseconds = dict.fromkeys(("eager", "graph", "eager, warm", "graph, warm"), 3)
    return Table(
        "calls",
        "Time in ms of a call launched by Python and of the same call replayed from a CUDA graph, "
        "with the L2 cache emptied before it, and warm: right after a call with the same inputs. "
        "The host's share is the part of an eager call's time after which Python gets control "
        f"back; from {LAUNCH_BOUND:.0%} on the time is the host's{'; ' if same else ''}{same}.",
        shown,
        full,
        dict.fromkeys(terms.SIZES, 0) | milliseconds,
        frames.provenance(ok),
    )


def speedup_table(time: pd.DataFrame) -> Table | None:
    """Speed over torch.nn: geometric mean over shapes, and the least and the most."""
    rows = []
    keys = ["cell", "pass", *terms.SETTING, "provider"]
    for values, group in speedups(time).groupby(keys, dropna=False, sort=False):
        ok = group[group["speedup"].notna()]
        if ok.empty:
            continue
        best, worst = ok.loc[ok["speedup"].idxmax()], ok.loc[ok["speedup"].idxmin()]
        row = dict(zip(keys, values, strict=True)) | {
            "shapes": len(ok),
            "too_few": int((group["beside"] & group["few"]).sum()),
            "failed": int((~group["status"].isin(["ok", "unsupported"])).sum()),
            "unsupported": int((group["status"] == "unsupported").sum()),
            "geomean": float(np.exp(np.log(ok["speedup"].astype(float)).mean())),
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
    counts = {"shapes": "shapes", "too_few": "too few", "failed": "failed"}
    counts["unsupported"] = "unsupported"
    names = counts | {"geomean": "mean", "least": "least", "most": "most"}
    shown = named(full).assign(setting=settings).rename(columns=names)
    shown = shown[["provider", "cell", "pass", "setting", *names.values()]]
    if not full["too_few"].any():
        shown = shown.drop(columns="too few")
    shown, same = drop_constant_columns(shown.head(MOST_ROWS), ("setting", "failed", "unsupported"))
    return Table(
        "speedup",
        "Speed over torch.nn under the same clock (paired by visits where the two took turns, else "
        "the ratio of medians), above 1 is faster: geometric mean over shapes, the least and the "
        "most. The shapes are a chosen grid and no sample of anything, so the mean has a range and "
        f"no interval{'; ' if same else ''}{same}.",
        shown,
        full,
        dict.fromkeys(counts.values(), 0) | dict.fromkeys(("mean", "least", "most"), 3),
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
    made = (
        time_table(time), call_table(time), speedup_table(time), step_table(time), growth(time)
    )  # fmt: skip
    return [table for table in made if table is not None]
