"""The table of steps: ours beside torch.nn, what the plan expected, and the floor."""

import dataclasses
import json
from pathlib import Path

import pytest

from bench.cases.roofline import bytes_moved, floor_ms
from bench.records import files, limits, store
from bench.report.runs import Run
from bench.report.speed.steps import step_table
from bench.report.speed.tables import time_table
from tests.helpers.synthetic import cases, failed, floor, timed

PLAN = {"mode": "persistent", "cost": {"floor_us": 2.0}}
BOTH = PLAN | {"backward": {"mode": "gemm", "cost": {"floor_us": 3.5}}}
LSTM = list(cases(H=[256, 512], T=512))


def run(records: list[store.Record], folder: Path = Path()) -> Run:
    return Run("card", folder, records)


@pytest.mark.parametrize(
    ("plan", "axes", "expected"),
    [
        (PLAN, {}, 2.0),
        (BOTH, {"pass": "fwd+bwd"}, 5.5),
        (BOTH, {"layers": 2}, 11.0),
        (None, {}, None),
    ],
)
def test_a_row_has_both_times_their_ratio_and_what_the_plan_expected(plan, axes, expected):
    (case,) = cases(**axes)
    ours = timed(case, "ours-graph", plan=plan, median_ms=2.0, us_per_step=2e3 / case.T)
    theirs = timed(case, "torch.nn-graph", median_ms=5.0, us_per_step=5e3 / case.T)
    table = step_table(run([ours, theirs]).time)
    assert table is not None
    (row,) = table.full.to_dict("records")
    assert row["us_per_step"] == 2e3 / case.T and row["base_us_per_step"] == 5e3 / case.T
    assert row["speedup"] == 2.5 and row["algorithm"] == theirs["algorithm"]
    assert row["expected_us"] == pytest.approx(expected, nan_ok=expected is None)
    assert ("loop, expected" in table.shown) == (expected is not None)


def test_graphs_are_compared_where_they_were_measured_and_calls_elsewhere():
    calls = [timed(case, name) for case in LSTM for name in ("ours", "torch.nn")]
    graphs = [timed(LSTM[0], name) for name in ("ours-graph", "torch.nn-graph")]
    for records, provider, count in ((calls, "ours", 2), (calls + graphs, "ours-graph", 1)):
        table = step_table(run(records).time)
        assert table is not None and set(table.full["provider"]) == {provider}
        assert len(table.full) == count and provider in table.shown


def test_what_only_one_of_them_measured_is_no_row():
    alone = [timed(LSTM[0], "ours"), failed(LSTM[0], "torch.nn", "oom", "out of memory")]
    assert step_table(run(alone).time) is None
    assert step_table(run([timed(LSTM[0], "torch.nn")]).time) is None


def test_a_floor_is_of_todays_formula_and_the_limits_of_the_folder(tmp_path: Path):
    records = [timed(case, "ours", floor_share=None if k else 0.25) for k, case in enumerate(LSTM)]
    before = run(records, tmp_path).time
    assert before["floor_share"].notna().sum() == 1 and before["floor_share"].max() == 0.25
    moved = [
        bytes_moved(case) / r["median_ms"] / 1e6 for case, r in zip(LSTM, records, strict=True)
    ]
    assert sorted(before["gbps"]) == pytest.approx(sorted(moved))
    rates = limits.of_floor(json.loads(json.dumps(floor())))
    store.write_state(tmp_path / files.LIMITS, dataclasses.asdict(rates))
    expected = [
        floor_ms(case, rates) / r["median_ms"] for case, r in zip(LSTM, records, strict=True)
    ]
    found = run(records, tmp_path).time
    assert sorted(found["floor_share"]) == sorted(expected)


def test_cases_that_nothing_has_measured_yet_fill_no_table_with_blanks():
    measured = [timed(case, name) for case in LSTM for name in ("ours", "torch.nn")]
    more = list(cases(H=[64, 128, 256, 512, 1024, 2048], T=1024, B=1))
    absent = [failed(case, "flashrnn-fused", "unsupported", "not installed") for case in more]
    assert list(time_table(run(measured + absent).time).shown["H"]) == [256, 512]
