"""Statistics of samples: medians, their intervals, and whether enough were taken. No torch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# With 5 samples, the smallest and the largest enclose the median with a probability of only
# 1 - 2 * 0.5**5 = 0.9375.
MIN_SAMPLES = 6
RESAMPLES = 2000


def interval(samples: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The median's 95 % percentile-bootstrap interval; None for fewer than two samples."""
    return _bootstrap(np.median, samples, seed=seed)


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], seed: int = 0
) -> tuple[float, float] | None:
    """The same interval of median(ours) / median(theirs), each resampled independently."""

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    return _bootstrap(ratio, ours, theirs, seed=seed)


def _bootstrap(
    statistic: Callable[..., Any], *samples: Sequence[float], seed: int
) -> tuple[float, float] | None:
    from scipy.stats import bootstrap

    if min(map(len, samples)) < 2:
        return None
    found = bootstrap(
        tuple(np.asarray(each, float) for each in samples),
        statistic,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def block_medians(samples: Sequence[float], blocks: Sequence[int]) -> list[float]:
    """The median of each visit's samples; ``blocks`` are the visits' numbers of samples."""
    ends = np.cumsum(blocks)
    return [float(np.median(samples[end - n : end])) for n, end in zip(blocks, ends, strict=True)]


def paired_ratio(
    mine: tuple[Sequence[float], Sequence[int]],
    other: tuple[Sequence[float], Sequence[int]],
    seed: int = 0,
) -> dict[str, Any]:
    """The ratio of two providers' times, paired by visit so that drift of the machine cancels.

    Args:
        mine, other: samples, and the number in each visit; k-th visits are close in time.

    Returns:
        ``ratio``, the median over visits of mine / other (of the visits' medians); ``low`` and
        ``high``, its bootstrap interval (None with one visit in common); ``visits``, their number.
    """
    a, b = block_medians(*mine), block_medians(*other)
    ratios = [x / y for x, y in zip(a, b, strict=False)]
    low, high = interval(ratios, seed) or (None, None)
    return {"ratio": float(np.median(ratios)), "low": low, "high": high, "visits": len(ratios)}


def half_width(samples: Sequence[float]) -> float:
    """Relative half-width of the median's 95 % interval by order statistics: the stop rule.

    Quick enough to compute after every visit; infinite below ``MIN_SAMPLES`` samples.

    The interval from the j-th smallest to the j-th largest of n covers the median unless fewer
    than j samples fall on one side, a binomial event; the normal approximation gives
    j = n/2 - 1.96 * sqrt(n) / 2, rounded down, at least 1 (Conover, Practical Nonparametric
    Statistics, 3.2).
    """
    n = len(samples)
    if n < MIN_SAMPLES:
        return float("inf")
    ordered = np.sort(np.asarray(samples, float))
    j = rank(n)
    return float((ordered[n - j] - ordered[j - 1]) / 2 / np.median(ordered))


def rank(n: int) -> int:
    """The j of ``half_width``, counted from 1."""
    return max(1, int(np.floor(n / 2 - 1.96 * np.sqrt(n) / 2)))


def summary(samples: Sequence[float], target: float, seed: int = 0) -> dict[str, Any]:
    """A record's statistics of its samples, in ms; ``target`` is the relative half-width wanted."""
    p20, median, p80 = (float(value) for value in np.percentile(samples, (20, 50, 80)))
    found = interval(samples, seed)
    low, high = found or (None, None)
    return {
        "n": len(samples),
        "median_ms": median,
        "p20_ms": p20,
        "p80_ms": p80,
        "ci_low_ms": low,
        "ci_high_ms": high,
        "converged": (
            found is not None
            and len(samples) >= MIN_SAMPLES
            and (found[1] - found[0]) / 2 <= target * median
        ),
    }
