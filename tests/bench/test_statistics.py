"""Intervals cover what they claim, also under effects that move a whole visit or a whole start."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from bench.measure import statistics
from bench.measure.statistics import MIN_VALUES, MIN_VISITS, half_width, visit_medians
from bench.report import compare

PER_VISIT = 5  # samples


def test_order_statistics_cover_what_they_claim():
    for n in range(1, 500):
        j = statistics.rank(n)
        assert (j >= 1) == (n >= MIN_VALUES)
        assert 1 - 2 * binom.cdf(j - 1, n, 0.5) >= 0.95, n
        assert 1 - 2 * binom.cdf(j, n, 0.5) < 0.95, f"{n}: a narrower interval would do"


def test_why_eight_visits():
    """Their extremes miss the median in 1 case of 128; those of six, 4 times as often."""
    assert round(1 - 2 * 0.5**MIN_VISITS, 3) == 0.992
    assert statistics.median_interval([3, 1, 4, 8, 5, 2, 7, 6]) == (1, MIN_VISITS)


def test_visits_that_resemble_each_other_count_less():
    """The ranks go outwards by the correlation of neighbours, which depends on the order."""
    ordered = np.arange(1.0, 41)
    j = statistics.rank(40)
    alternating = np.stack((ordered[:20], ordered[:19:-1]), 1).ravel()  # low, high, low, high
    assert statistics.median_interval(alternating.tolist()) == (j, 41 - j)
    assert statistics.median_interval(ordered.tolist()) == (1, 40)
    assert half_width(alternating.tolist()) == pytest.approx((41 - 2 * j) / 2 / 20.5)
    assert half_width(ordered.tolist()) == pytest.approx(39 / 2 / 20.5)
    assert statistics.median_interval([2.0] * 40) == (2, 2)
    # Three high, three low: of 29 products of neighbours 20 are 1 and 9 are -1, so r = 11 / 30, and
    # 0.449 with its bias; 15 - (15 - 10) * sqrt(1.449 / 0.551) = 6.9, and 7.7 without the bias.
    values = np.array([1, 1, 1, -1, -1, -1] * 5) + 1e-6 * np.arange(30)
    assert statistics.rank(30) == 10
    assert statistics.median_interval(values.tolist()) == (np.sort(values)[5], np.sort(values)[-6])


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
    assert found["ratio"] == pytest.approx(2)
    assert (found["low"], found["high"]) == pytest.approx((2, 2))
    # The k-th visits are neighbours, also where one provider has more of them.
    assert statistics.paired_ratio([1, 2, 3], [1, 2, 3, 9, 9])["ratio"] == 1
    assert statistics.paired_ratio([1, 2, 3, 9, 9], [1, 2, 3])["ratio"] == 1


def test_summary_is_over_visits():
    steady = statistics.summary([1.0, 1.001] * 20, [5] * 8, target=0.01)
    assert steady["converged"] and steady["n"] == 40
    assert not statistics.summary([1.0, 1.001] * 20, [40], target=0.01)["converged"]
    assert not statistics.summary([1.0] * 35, [5] * 7, target=0.01)["converged"]
    assert statistics.summary([1.0] * 40, [5] * 8, target=0.01)["converged"]
    # A visit of many samples counts once.
    assert statistics.summary([1.0] * 5 + [2.0, 3.0], [5, 1, 1], target=0.01)["median_ms"] == 2
    # Samples agree within a visit, visits do not agree with each other.
    moved = [float(value) for value in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8)]
    found = statistics.summary(moved, [2] * 8, target=0.01)
    assert (found["ci_low_ms"], found["median_ms"], found["ci_high_ms"]) == (1, 4.5, 8)


MOST = 60  # visits
RUNS = 500


def simulate(
    draw: np.random.Generator, target: float, visit: float, noise: float, rho: float
) -> tuple[np.ndarray, float]:
    """In which shares of runs the median's and the paired ratio's interval hold 1, and the mean
    number of visits, of two providers sampled by the stop rule; with a relative effect of each
    visit, correlated by rho between neighbours, and one of each sample."""
    effects = draw.normal(0, visit, (MOST, RUNS, 2, 1))
    for before, now in itertools.pairwise(effects):
        now[:] = rho * before + np.sqrt(1 - rho**2) * now
    held, visits = np.zeros(2), []
    for run in range(RUNS):
        samples = effects[:, run] + draw.normal(0, noise, (MOST, 2, PER_VISIT))
        medians = np.median(np.exp(samples), axis=2).T
        n = next(
            n for n in range(MIN_VISITS, MOST + 1)
            if n == MOST or all(half_width(each) <= target for each in medians[:, :n])
        )  # fmt: skip
        mine, other = medians[:, :n]
        ratio = statistics.paired_ratio(mine, other)
        intervals = statistics.median_interval(mine), (ratio["low"], ratio["high"])
        held += [low <= 1 <= high for low, high in filter(None, intervals)]
        visits.append(n)
    return held / RUNS, float(np.mean(visits))


@pytest.mark.parametrize(
    ("target", "visit", "noise", "rho", "least"),
    [
        (0.01, 0.005, 0.003, 0.0, 0.93),
        (0.005, 0.005, 0.003, 0.0, 0.93),
        (0.02, 0.03, 0.05, 0.0, 0.93),
        (0.0075, 0.01, 0.0, 0.5, 0.9),  # by the ranks for independent visits 0.8
    ],
)
def test_the_stop_rule_keeps_coverage(
    target: float, visit: float, noise: float, rho: float, least: float
):
    """Both intervals hold the truth, though sampling stops when the interval is narrow, which
    favours intervals that are too narrow. A share of 500 runs has a standard error of 0.01."""
    draw = np.random.default_rng(16)
    covered, visits = simulate(draw, target, visit, noise, rho)
    assert (covered >= least).all(), covered
    assert visits < MOST, "the rule did stop"


def test_one_long_visit_would_not_cover():
    """The same simulation catches the rule that counts samples instead of visits."""
    draw = np.random.default_rng(16)
    held = 0
    for _ in range(300):
        samples = np.exp(draw.normal(0, 0.005) + draw.normal(0, 0.003, 20))
        low, high = statistics.median_interval(list(samples)) or (0.0, 0.0)
        held += low <= 1 <= high
    assert held / 300 < 0.6


def verdicts(
    draw: np.random.Generator,
    cases: int,
    starts: int,
    effect: float,
    threshold: float,
    scale: float = 1.0,
    groups: bool = False,
) -> list[str]:
    """Those of two runs, the second's times ``scale`` times the first's.

    Each start of the process moves a case's time by ``effect``: normally, or into one of two groups
    with a twentieth of that within each.
    """
    moved = draw.normal(0, effect, (2, cases, starts))
    if groups:
        moved = moved / 20 + effect * draw.choice((-1, 1), moved.shape)
    moved[1] += np.log(scale)
    runs = [
        [[{"status": "ok", "n": 40, "median_ms": ms} for ms in case] for case in run]
        for run in np.exp(moved).tolist()
    ]
    question = "case", "provider", "event"
    pairs = [compare.pair(question, *both) for both in zip(*runs, strict=True)]
    return [pair.verdict for pair in compare.decided(pairs, threshold)]


@pytest.mark.parametrize(("starts", "groups"), [(3, False), (3, True), (4, True)])
def test_compare_seldom_finds_a_difference_where_there_is_none(starts: int, groups: bool):
    """Of two equal runs of 25 cases, with an effect of 2 % of each start, at most one in twenty has
    a false "slower" or "faster", even with no threshold at all. By each ratio's own standard error,
    of starts in two groups .56 have one at 3 starts and .18 at 4."""
    draw, wrong, trials = np.random.default_rng(16), 0, 100
    for _ in range(trials):
        found = verdicts(draw, 25, starts, 0.02, threshold=0, groups=groups)
        wrong += bool({compare.SLOWER, compare.FASTER} & set(found))
    assert wrong / trials <= 0.05


def test_compare_finds_the_difference_that_is_there():
    draw = np.random.default_rng(16)
    assert set(verdicts(draw, 20, 5, 0.005, 0.05, scale=1.2)) == {compare.SLOWER}
    assert set(verdicts(draw, 20, 5, 0.005, 0.05, scale=1 / 1.2)) == {compare.FASTER}
    assert set(verdicts(draw, 20, 5, 0.005, 0.05)) == {compare.SAME}


def test_same_is_seldom_claimed_of_a_change_as_large_as_the_threshold():
    draw = np.random.default_rng(16)
    found = [verdicts(draw, 25, 5, 0.005, 0.05, scale=1.05) for _ in range(60)]
    # The share of 1,500 pairs has a standard error below .006.
    assert np.mean(np.array(found) == compare.SAME) <= 0.06
