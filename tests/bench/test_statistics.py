"""Intervals cover what they claim, also under effects that move a whole visit or a whole start."""

import numpy as np
import pytest
from scipy.stats import binom

from bench.measure import statistics
from bench.measure.statistics import MIN_VALUES, MIN_VISITS, half_width, visit_medians
from bench.report import compare
from tests.helpers import synthetic

PER_VISIT = 5  # samples


def test_order_statistics_cover_what_they_claim():
    for n in range(1, 500):
        j = statistics.rank(n)
        assert (j >= 1) == (n >= MIN_VALUES)
        assert 1 - 2 * binom.cdf(j - 1, n, 0.5) >= 0.95, n
        assert 1 - 2 * binom.cdf(j, n, 0.5) < 0.95, f"{n}: a narrower interval would do"


def test_an_interval_of_few_values_is_none_and_not_a_guess():
    assert statistics.median_interval([1.0] * (MIN_VALUES - 1)) is None
    assert half_width([1.0] * (MIN_VALUES - 1)) == float("inf")
    assert statistics.median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == (1.0, 6.0)
    assert half_width([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]) == 0.5  # n = 8: j = 1
    few = statistics.paired_ratio([1.0] * 5, [2.0] * 7)
    assert few == {"ratio": 0.5, "low": None, "high": None, "visits": 5}


def test_drift_cancels_in_a_ratio_of_neighbours():
    drift = np.linspace(1.0, 2.0, 30)  # the machine slows down while both take turns
    assert visit_medians([1, 2, 3, 10, 20], [3, 2]) == [2, 15]
    found = statistics.paired_ratio(list(2 * drift), list(drift))
    assert found["ratio"] == found["low"] == found["high"] == pytest.approx(2)


def test_summary_is_over_visits():
    steady = statistics.summary([1.0, 1.001] * 20, [5] * 8, target=0.01)
    assert steady["converged"] and steady["n"] == 40
    assert not statistics.summary([1.0, 1.001] * 20, [40], target=0.01)["converged"]
    # Samples agree within a visit, visits do not agree with each other.
    moved = [float(value) for value in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8)]
    found = statistics.summary(moved, [2] * 8, target=0.01)
    assert (found["ci_low_ms"], found["median_ms"], found["ci_high_ms"]) == (1, 4.5, 8)


def simulate(draw: np.random.Generator, target: float, visit: float, noise: float) -> list[bool]:
    """Whether the median's and the paired ratio's interval hold 1, of two providers sampled by the
    stop rule, with a relative effect of each visit and one of each sample."""
    most = 150  # visits
    effects = draw.normal(0, visit, (2, most, 1)) + draw.normal(0, noise, (2, most, PER_VISIT))
    medians = np.median(np.exp(effects), axis=2)
    visits = next(
        n for n in range(MIN_VISITS, most + 1)
        if n == most or max(map(half_width, medians[:, :n])) <= target
    )  # fmt: skip
    mine, other = medians[:, :visits]
    ratio = statistics.paired_ratio(mine, other)
    intervals = statistics.median_interval(mine), (ratio["low"], ratio["high"])
    return [low <= 1 <= high for low, high in filter(None, intervals)]


@pytest.mark.parametrize(
    ("target", "visit", "noise"),
    [(0.01, 0.005, 0.003), (0.005, 0.005, 0.003), (0.02, 0.03, 0.05)],
)
def test_the_stop_rule_keeps_coverage(target: float, visit: float, noise: float):
    """Both intervals hold the truth in at least 90 of 100 runs, though sampling stops when the
    interval is narrow, which favours intervals that are too narrow."""
    draw = np.random.default_rng(16)
    covered = np.mean([simulate(draw, target, visit, noise) for _ in range(200)], axis=0)
    assert (covered >= 0.9).all(), covered


def test_one_long_visit_would_not_cover():
    """The same simulation catches the rule that counts samples instead of visits."""
    draw = np.random.default_rng(16)
    held = 0
    for _ in range(300):
        samples = np.exp(draw.normal(0, 0.005) + draw.normal(0, 0.003, 20))
        low, high = statistics.median_interval(list(samples)) or (0.0, 0.0)
        held += low <= 1 <= high
    assert held / 300 < 0.6


RECORD = synthetic.timed(next(synthetic.cases()), "ours")


def run(
    draw: np.random.Generator, cases: int, starts: int, effect: float, scale: float = 1.0
) -> list[list[dict]]:
    """Records of some cases: each start of the process moves the times by ``effect``."""
    moved = scale * np.exp(draw.normal(0, effect, (cases, starts)))
    return [
        [RECORD | {"median_ms": value, "start": k} for k, value in enumerate(case)]
        for case in moved.tolist()
    ]


@pytest.mark.parametrize("starts", [3, 5])
def test_compare_seldom_finds_a_difference_where_there_is_none(starts: int):
    """Of two equal runs of 25 cases, with an effect of 2 % of each start, at most one in ten has
    a false "slower" or "faster", even with no threshold at all."""
    draw, wrong, trials = np.random.default_rng(16), 0, 20
    for _ in range(trials):
        runs = zip(run(draw, 25, starts, 0.02), run(draw, 25, starts, 0.02), strict=True)
        verdicts = {p.verdict for p in compare.decided([compare.pair(*both, 0.0) for both in runs])}
        wrong += bool(verdicts & {compare.SLOWER, compare.FASTER})
    assert wrong / trials <= 0.1


def test_compare_finds_the_difference_that_is_there():
    draw = np.random.default_rng(16)
    before, after = run(draw, 20, 5, 0.005), run(draw, 20, 5, 0.005, scale=1.2)
    slower = [compare.pair(*both, 0.05) for both in zip(before, after, strict=True)]
    assert {p.verdict for p in compare.decided(slower)} == {compare.SLOWER}
    again = run(draw, 20, 5, 0.005)
    same = [compare.pair(*both, 0.05) for both in zip(before, again, strict=True)]
    assert {p.verdict for p in compare.decided(same)} == {compare.SAME}
