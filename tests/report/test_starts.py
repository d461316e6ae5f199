"""Cases timed in several starts of the measuring process."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bench.records import store
from bench.report import frames, starts
from bench.report.speed import derived, tables
from tests.helpers import synthetic

CASE = next(synthetic.cases())
MEDIANS = (1.0, 1.1, 1.05)


def timed(provider: str = "ours", **values: object) -> list[store.Record]:
    return [
        synthetic.timed(CASE, provider, median_ms=median, start=k, **values)
        for k, median in enumerate(MEDIANS)
    ]


def test_starts_become_one_time_with_an_interval_across_them():
    (record,) = starts.pooled(timed())
    interval = ttest_1samp([math.log(m) for m in MEDIANS], 0).confidence_interval()
    assert record["median_ms"] == pytest.approx(math.prod(MEDIANS) ** (1 / 3))
    assert record["ci_low_ms"] == pytest.approx(math.exp(interval.low))
    assert record["ci_high_ms"] == pytest.approx(math.exp(interval.high))
    assert record["starts"] == 3 and record["n"] == 48 and record["blocks"] == [2] * 24
    for name in ("us_per_step", "tokens_per_s"):
        (alone,) = timed()[:1]
        ratio = record["median_ms"] / alone["median_ms"]
        wanted = alone[name] * (ratio if name == "us_per_step" else 1 / ratio)
        assert record[name] == pytest.approx(wanted), name


def test_one_start_stays_as_it_is():
    found = [*timed()[:1], synthetic.failed(CASE, "reference", "oom", "too large")]
    assert starts.pooled(found) == found


def test_a_ratio_over_starts_has_its_own_interval():
    ratios = (0.5, 0.6, 0.55)
    records = [
        record | {"versus": {"provider": "torch.nn", "ratio": r, "low": r / 1.01, "high": r * 1.01}}
        for record, r in zip(timed(), ratios, strict=True)
    ]
    rows = frames.flat(starts.pooled([*records, *timed("torch.nn")]))
    (row,) = derived.speedups(rows).to_dict("records")
    assert row["speedup"] == pytest.approx(math.prod(ratios) ** (-1 / 3))
    assert row["speedup_low"] < 1.6 < 2.1 < row["speedup_high"], "as wide as starts differ"
    assert "across 3 starts of the measuring process" in tables.time_table(rows).caption


def test_a_failure_in_one_start_is_not_hidden_by_the_others():
    records = timed()
    records[1] = synthetic.failed(CASE, "ours", "error", "died", mode="event", start=1)
    (record,) = starts.pooled(records)
    assert (record["status"], record["reason"]) == ("error", "died")


def test_a_ratio_of_one_start_does_not_stand_for_all():
    """A start in which torch.nn failed has none."""
    records = timed()
    records[0]["versus"] = {"provider": "torch.nn", "ratio": 0.5, "low": 0.49, "high": 0.51}
    (record,) = starts.pooled(records)
    assert record["versus"] is None


def test_a_failure_without_a_mode_is_not_hidden_by_the_others():
    """It stands for its clock's; measured again later, it no longer counts."""
    died = synthetic.failed(CASE, "ours", "timeout", "no answer", start=1)
    (record,) = starts.pooled([*timed()[:1], died, *timed()[2:]])
    assert record["status"] == "timeout"
    later = timed(time="2026-01-02T00:00:00+00:00")[1]
    (record,) = starts.pooled([*timed()[:1], died, *timed()[2:], later])
    assert (record["status"], record["starts"]) == ("ok", 3)


def test_everything_beside_a_pooled_median_is_of_all_starts():
    metrics = dict.fromkeys(("max_abs", "mean_abs", "rel_l2"), 1.0)
    records = [
        record
        | {
            "samples_ms": [k + 1.0, k + 2.0], "host_ms": 2.0**k, "warm_ms": 3.0**k,
            "peak_bytes": (5, 7, 6)[k], "checked_calls": k, "settled": k != 2, "converged": k != 1,
            "errors": {
                "y": metrics | {"rel_l2": (2.0, 4.0, 3.0)[k]},
                "dx": metrics | {"max_abs": (9.0, 8.0, 7.0)[k]},
            },
        }
        for k, record in enumerate(timed())
    ]  # fmt: skip
    (found,) = starts.pooled(records)
    assert found["errors"] == {"y": metrics | {"rel_l2": 4.0}, "dx": metrics | {"max_abs": 9.0}}
    assert (found["host_ms"], found["warm_ms"]) == pytest.approx((2.0, 3.0))
    percentiles = np.percentile([1, 2, 2, 3, 3, 4], (20, 80))
    assert (found["p20_ms"], found["p80_ms"]) == pytest.approx(tuple(percentiles))
    assert (found["peak_bytes"], found["checked_calls"]) == (7, 3)
    assert found["settled"] is False and found["converged"] is False
    (found,) = starts.pooled([records[0], records[1] | dict.fromkeys(starts.JOINS)])
    assert {found[name] for name in starts.JOINS} == {None}, "what a start lacks is unknown"
