"""Statistics of samples: medians, their intervals, and whether enough were taken. No torch.

The unit is a visit: a provider's few samples before the next provider takes its turn. What changes
from visit to visit (a clock, another process, where memory lies) moves all samples of a visit
together, so an interval over single samples would be too narrow; all intervals here are over the
visits' medians. They hold within one run of one process: see ``bench.report.compare`` for what a
new start of the process changes.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# A case's visits of each provider, whatever the time budget. Their smallest and largest median
# enclose the median of the distribution with a probability of 1 - 2 * 0.5**8 = 0.992.
MIN_VISITS = 8
# Fewer values have no 95 % interval: at 5 the extremes' probability is 1 - 2 * 0.5**5 = 0.9375.
MIN_VALUES = 6


@functools.cache
def rank(n: int) -> int:
    """The j for which the j-th smallest and j-th largest of n values enclose the median.

    The interval misses only if fewer than j values fall on one side, a binomial event; j is the
    largest that keeps its probability at 5 % (Conover, Practical Nonparametric Statistics, 3.2).
    It needs no assumption on the distribution. 0 if even the extremes miss more often.
    """
    from scipy.stats import binom

    return int(np.searchsorted(binom.cdf(np.arange(n), n, 0.5), (1 - CONFIDENCE) / 2, "right"))


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median of what ``values`` are drawn from; None for fewer than 6.

    Where neighbours resemble each other (a clock that drifts, another process that comes and goes)
    n values say less than n independent ones, and the interval is wider than by :func:`rank`: the
    ranks' distance from the middle grows by sqrt((1 + r) / (1 - r)), as the standard error of a
    mean does at a correlation of r between neighbours, r**2 between next but one and so on. r is
    the values' own, from 0 to 0.9, less its bias of -(1 + 4 r) / n (Tjøstheim and Paulsen, Bias of
    some commonly-used time series estimates, 1983).

    Args:
        values: in the order in which they were taken.
    """
    n = len(values)
    j = rank(n)
    if j < 1:
        return None
    taken = np.asarray(values, float)
    ordered = np.sort(taken)
    apart = taken - (ordered[n // 2] + ordered[~(n // 2)]) / 2
    spread = float(apart @ apart)
    r = float(apart[1:] @ apart[:-1]) / spread if spread else 0.0
    r = min(max(r + (1 + 4 * r) / n, 0.0), 0.9)
    j = max(1, math.floor(n / 2 - (n / 2 - j) * math.sqrt((1 + r) / (1 - r))))
    return float(ordered[j - 1]), float(ordered[-j])


def half_width(values: Sequence[float]) -> float:
    """Half the interval's width over the median: the stop rule. Infinite for fewer than 6.

    Args:
        values: in the order in which they were taken.
    """
    found = median_interval(values)
    return float("inf") if found is None else (found[1] - found[0]) / 2 / float(np.median(values))


def visit_medians(samples: Sequence[float], visits: Sequence[int]) -> list[float]:
    """The median of each visit's samples; ``visits`` are their numbers of samples."""
    ends = np.cumsum(visits)
    return [float(np.median(samples[end - n : end])) for n, end in zip(visits, ends, strict=True)]


def paired_ratio(mine: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The ratio of two providers' times, paired by visit so that drift of the machine cancels.

    Args:
        mine, other: medians of visits; the k-th ones are close in time.

    Returns:
        ``ratio``, the median over visits of mine / other; ``low`` and ``high``, its interval (None
        for fewer than 6 visits in common); ``visits``, their number.
    """
    ratios = [x / y for x, y in zip(mine, other, strict=False)]
    low, high = median_interval(ratios) or (None, None)
    return {"ratio": float(np.median(ratios)), "low": low, "high": high, "visits": len(ratios)}


def summary(samples: Sequence[float], visits: Sequence[int], target: float) -> dict[str, Any]:
    """A record's statistics of its samples, in ms; ``target`` is the relative half-width wanted.

    The median is that of the visits' medians, as is its interval; the percentiles are of all
    samples.
    """
    medians = visit_medians(samples, visits)
    p20, p80 = (float(value) for value in np.percentile(samples, (20, 80)))
    low, high = median_interval(medians) or (None, None)
    return {
        "n": len(samples),
        "median_ms": float(np.median(medians)),
        "p20_ms": p20,
        "p80_ms": p80,
        "ci_low_ms": low,
        "ci_high_ms": high,
        "converged": len(visits) >= MIN_VISITS and half_width(medians) <= target,
    }
