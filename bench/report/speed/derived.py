"""What is computed from time records: speed over torch.nn, and growth with the steps T."""

import math
from collections.abc import Sequence
from statistics import linear_regression
from typing import Any

import numpy as np
import pandas as pd

from bench.measure.statistics import MIN_VALUES, MIN_VISITS
from bench.report import terms

LAUNCH_BOUND = 0.9  # share of a call's time in which the host is still launching it


def speedups(time: pd.DataFrame) -> pd.DataFrame:
    """Each record's speed over torch.nn at the same case and clock, with its interval.

    ``speedup`` is over torch.nn, or torch.nn-graph for times of replayed graphs: one over the
    paired ratio by visits that the record holds where both took turns (``versus``), else torch.nn's
    median over the provider's, which has no interval, because nothing says how much the machine
    changed between the two. Nor has one of fewer than ``MIN_VISITS`` visits; a time of too few
    samples (``too_few``) enters no ratio, nor has one that is not ``beside`` torch.nn's.
    ``algorithm`` is cuDNN's, as predicted for torch.nn.
    """
    base = ["reason", "median_ms", "algorithm", "visits", "n"]
    both = with_baseline(time, base).drop(columns="algorithm")
    both = both.rename(columns={"base_algorithm": "algorithm"})
    both = both.assign(speedup_low=math.nan, speedup_high=math.nan)
    both["speedup"] = both["base_median_ms"].astype(float) / both["median_ms"].astype(float)
    # Where the two took turns, the record has the ratio of paired visits, in which drifts cancel.
    paired = both["paired"]
    enough = (both[["visits", "base_visits"]] >= MIN_VISITS).all(axis="columns")
    for column, name, which in (
        ("speedup", "ratio", paired),
        ("speedup_low", "high", paired & enough),
        ("speedup_high", "low", paired & enough),
    ):
        inverse = both.loc[which, "versus"].map(lambda found, name=name: found[name])
        both.loc[which, column] = 1 / inverse.astype(float)
    both["few"] = too_few(both["n"]) | too_few(both["base_n"])
    both.loc[both["few"] | ~both["beside"], ["speedup", "speedup_low", "speedup_high"]] = math.nan
    return both.drop(columns="versus")


def with_baseline(rows: pd.DataFrame, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of all but torch.nn, with what torch.nn's of the same case and clock say.

    ``base_status``, ``base_state`` and a ``base_`` column for each of ``columns``. ``beside`` is
    whether both were measured with the same code and versions, ``apart`` whether both were but with
    different ones: these have no ratio. ``paired`` is whether ``versus`` is the ratio of the two.
    """
    keys = ["case_id", "mode"]
    is_base = rows["provider"] == rows["mode"].map(terms.BASELINES)
    base = rows[is_base].drop_duplicates(keys, keep="last").set_index(keys)
    base = base[["status", "state", *columns]].add_prefix("base_")
    both = rows[~is_base].join(base, on=keys)
    measured = both["status"].eq("ok") & both["base_status"].eq("ok")
    alike = both["state"] == both["base_state"]
    over = both["versus"].map(
        lambda found: found["provider"] if isinstance(found, dict) and found["ratio"] else None
    )
    return both.assign(
        beside=measured & alike,
        apart=measured & ~alike,
        paired=measured & alike & over.eq(both["mode"].map(terms.BASELINES)),
    )


def other_code(noun: str, both: pd.DataFrame) -> list[str]:
    """The caveat on the rows of ``with_baseline`` that have no ratio for being ``apart``."""
    count = int(both["apart"].sum())
    why = "because torch.nn was measured with other code or versions"
    return [f"No ratio for {terms.plural(count, noun)}, {why}."] if count else []


def too_few(samples: Any) -> Any:
    """Whether a time is of so few samples that it has no interval; the least number is 8 visits."""
    return samples < MIN_VALUES


def host_share(time: pd.DataFrame) -> pd.Series:
    """The share of each call's time after which it returns to the host; NaN where not measured.

    From ``LAUNCH_BOUND`` on the host, which launches the kernels, determines the time.
    """
    return time["host_ms"].astype(float) / time["median_ms"].astype(float)


def growth_table(time: pd.DataFrame) -> pd.DataFrame:
    """How time and memory grow with T: per curve the cost of one more step and the exponent.

    Fits over at least three T: ``us_per_step_fit`` and ``bytes_per_step_fit`` are slopes of
    straight lines, ``time_exponent`` and ``memory_exponent`` slopes between the logarithms (1 is
    proportional to T; 0 does not grow).
    """
    keys = ["cell", "pass", *terms.SETTING, "provider", "B", "H"]
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
        row["us_per_step_fit"] = 1e3 * linear_regression(steps, times).slope
        row["time_exponent"] = linear_regression(np.log(steps), np.log(times)).slope
        memory = np.array([point["peak_bytes"] or 0 for point in points.values()], float)
        held = memory > 0
        if held.sum() >= 3:
            steps, memory = steps[held], memory[held]
            row["bytes_per_step_fit"] = linear_regression(steps, memory).slope
            row["memory_exponent"] = linear_regression(np.log(steps), np.log(memory)).slope
        rows.append(row)
    extra = ["T_from", "T_to", "points", "us_per_step_fit", "time_exponent"]
    return pd.DataFrame(rows, columns=[*keys, *extra, "bytes_per_step_fit", "memory_exponent"])
