"""Timings of one case in several starts of the measuring process, as one record."""

import math
from collections.abc import Callable, Sequence
from statistics import geometric_mean
from typing import Any

from bench.measure.statistics import CONFIDENCE
from bench.records import store
from bench.report import frames

# What is inversely proportional to the median.
RATES = ("tokens_per_s", "tflops", "gbps", "floor_share")


def question(record: store.Record) -> tuple[Any, ...]:
    """The record's key with its clock as the mode, which some failures lack; the start is last."""
    return store.key(record | {"mode": frames.clock(record)})


def pooled(records: Sequence[store.Record]) -> list[store.Record]:
    """The records; those that differ only in their start are joined into one.

    Its ``starts`` says of how many. The median is the geometric mean of the starts' medians, and
    its interval :func:`t_interval`, which holds across starts; the same for ``versus``. Errors and
    memory are the largest. If the case failed in a start, that failure stands for all.
    """
    groups: dict[tuple[Any, ...], list[store.Record]] = {}
    for record in store.latest(records, question):
        groups.setdefault(question(record)[:-1], []).append(record)
    return [found[0] if len(found) == 1 else _pool(found) for found in groups.values()]


def _pool(found: list[store.Record]) -> store.Record:
    import numpy as np

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
    p20, p80 = (float(value) for value in np.percentile(joined["samples_ms"], (20, 80)))
    rates = {name: first[name] and first[name] / scale for name in RATES}
    values = {name: _all([record[name] for record in found], join) for name, join in JOINS.items()}
    record = first | joined | rates | values | {
        "starts": len(found), "n": len(joined["samples_ms"]), "median_ms": median,
        "ci_low_ms": low, "ci_high_ms": high, "p20_ms": p20, "p80_ms": p80,
        "us_per_step": first["us_per_step"] * scale,
    }  # fmt: skip
    versus = [record["versus"] for record in found]
    record["versus"] = None  # that of one start holds for no other
    if all(versus):
        ratio, low, high = t_interval([each["ratio"] for each in versus])
        record["versus"] = first["versus"] | {"ratio": ratio, "low": low, "high": high}
    return record


def _all(values: Sequence[Any], join: Callable[[Sequence[Any]], Any]) -> Any:
    """The values of all starts as one; None if a start lacks it."""
    return None if None in values else join(values)


def _largest(errors: Sequence[dict[str, dict[str, float | None]]]) -> dict[str, Any]:
    """Per tensor and metric the largest of the starts' errors."""
    return {
        tensor: {
            metric: _all([each.get(tensor, {}).get(metric) for each in errors], max)
            for metric in metrics
        }
        for tensor, metrics in errors[0].items()
    }


# How a field of several starts becomes one.
JOINS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "converged": all,
    "settled": all,
    "errors": _largest,
    "host_ms": geometric_mean,
    "warm_ms": geometric_mean,
    "peak_bytes": max,
    "checked_calls": sum,
}


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of two or more values and its 95 % interval by Student's t.

    It holds 95 % if the logarithms are normal. Of starts that fall into two equal groups it holds
    75 % at 3 values and 94 % at 5; with a slow mode in one start of ten, which few values show, 33
    to 57 % at 3 to 8.
    """
    import numpy as np
    from scipy.stats import sem, t

    logs = np.log(values)
    half = t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * sem(logs)
    mean = float(logs.mean())
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
