"""Timings of one case in several starts of the measuring process, as one record."""

import math
from collections.abc import Sequence
from typing import Any

from bench.measure.statistics import CONFIDENCE
from bench.records import store

# What is inversely proportional to the median.
RATES = ("tokens_per_s", "tflops", "gbps", "floor_share")


def pooled(records: Sequence[store.Record]) -> list[store.Record]:
    """The records; those that differ only in their start are joined into one.

    Its ``starts`` says of how many. The median is the geometric mean of the starts' medians, and
    its interval Student's t interval of their logarithms, which holds across starts; the same for
    ``versus``. If the case failed in a start, that failure stands for all.
    """
    groups: dict[tuple[Any, ...], list[store.Record]] = {}
    for record in records:
        groups.setdefault(store.key(record)[:-1], []).append(record)
    return [found[0] if len(found) == 1 else _pool(found) for found in groups.values()]


def _pool(found: list[store.Record]) -> store.Record:
    first = min(found, key=lambda record: record["start"] or 0)
    failed = [record for record in found if record["status"] != "ok"]
    if failed or first["kind"] != "time":
        return failed[0] if failed else first
    median, low, high = t_interval([record["median_ms"] for record in found])
    scale = median / first["median_ms"]
    joined = {
        name: [value for record in found for value in record[name]]
        for name in ("samples_ms", "blocks")
    }
    rates = {name: first[name] and first[name] / scale for name in RATES}
    record = first | joined | rates | {
        "starts": len(found), "n": len(joined["samples_ms"]), "median_ms": median,
        "ci_low_ms": low, "ci_high_ms": high, "us_per_step": first["us_per_step"] * scale,
        "converged": all(record["converged"] for record in found),
    }  # fmt: skip
    versus = [record["versus"] for record in found]
    record["versus"] = None  # that of one start holds for no other
    if all(versus):
        ratio, low, high = t_interval([each["ratio"] for each in versus])
        record["versus"] = first["versus"] | {"ratio": ratio, "low": low, "high": high}
    return record


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of two or more values and its 95 % interval by Student's t."""
    import numpy as np
    from scipy.stats import sem, t

    logs = np.log(values)
    half = t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * sem(logs)
    mean = float(logs.mean())
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
