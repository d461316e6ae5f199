"""Which times have a ratio to torch.nn's: both measured, by the same code and versions."""

import math
from pathlib import Path

import numpy as np
import pytest

from bench.records import store
from bench.report import frames, runs
from bench.report.runs import Run
from bench.report.speed import derived, energy, tables
from bench.report.speed import topic as speed
from bench.report.speed.steps import step_table
from tests.helpers.synthetic import cases, energetic, failed, save, timed

VERSUS = {"provider": "torch.nn", "ratio": 0.5, "low": 0.4, "high": 0.8}
CASES = list(cases(H=[64, 128, 256]))
OLD = {"code": "0" * 12, "time": "2026-01-01T00:00:00+00:00"}
NEW = {"code": "1" * 12, "time": "2026-02-01T00:00:00+00:00"}


def run(records: list[store.Record]) -> Run:
    return Run("card", Path(), records)


@pytest.mark.parametrize("status", ["incorrect", "oom", "unsupported", "timeout", None])
def test_a_time_that_torch_nn_has_not_is_compared_with_nothing(status: str | None):
    """Though the record holds a ratio: torch.nn took its turns and was refused afterwards."""
    first, second, _ = CASES
    records = [
        timed(first, "torch.nn"),
        timed(first, "ours", versus=VERSUS),
        timed(second, "ours", versus=VERSUS),
        *([failed(second, "torch.nn", status, "no")] if status else []),
    ]
    found = derived.speedups(frames.flat(records)).set_index("H")
    columns = ["speedup", "speedup_low", "speedup_high"]
    assert list(found.loc[first.H, columns]) == [2.0, 1.25, 2.5]
    assert found.loc[second.H, columns].isna().all()
    table = tables.speedup_table(run(records).time)
    assert table is not None
    assert list(table.full["too_few"]) == [0] and list(table.full["shapes"]) == [1]
    steps = step_table(run(records).time)
    assert steps is not None and list(steps.full["H"]) == [first.H]


def test_a_failure_has_no_ratio():
    records = [timed(CASES[0], "torch.nn"), timed(CASES[0], "ours", versus=VERSUS)]
    records[1] |= {"status": "incorrect", "reason": "wrong", "median_ms": None}
    assert derived.speedups(frames.flat(records))["speedup"].isna().all()


def test_a_ratio_to_another_than_the_clocks_baseline_does_not_count():
    records = [
        timed(CASES[0], "torch.nn-graph", median_ms=3.0),
        timed(CASES[0], "ours-graph", median_ms=1.0, versus=VERSUS),
    ]
    (row,) = derived.speedups(frames.flat(records)).to_dict("records")
    assert row["speedup"] == 3.0 and math.isnan(row["speedup_low"])


def test_too_few_samples_are_counted_and_no_other_lack_of_a_ratio_is():
    records = [timed(case, name) for case in CASES for name in ("torch.nn", "ours")]
    few = {"n": 5, "samples_ms": [1.0] * 5, "blocks": [5]}
    records[1] |= few
    records[3] |= NEW
    table = tables.speedup_table(run(records).time)
    assert table is not None
    assert list(table.full["too_few"]) == [1] and list(table.full["shapes"]) == [1]


def test_the_mean_of_ratios_is_geometric():
    """Half the speed at one shape and twice at another are no gain."""
    speeds = (0.5, 2.0, 8.0)
    records = [timed(case, "torch.nn", median_ms=8.0) for case in CASES]
    records += [
        timed(case, "ours", median_ms=8.0 / s) for case, s in zip(CASES, speeds, strict=True)
    ]
    table = tables.speedup_table(run(records).time)
    assert table is not None
    (row,) = table.full.to_dict("records")
    assert row["geomean"] == pytest.approx(2.0)
    assert (row["least"], row["most"]) == (0.5, 8.0)


def test_providers_that_are_compared_are_of_one_state(tmp_path: Path):
    """Of the state with most records of all providers, though torch.nn has more in another."""
    old = [timed(case, "torch.nn", median_ms=2.0, **OLD) for case in CASES]
    new = [timed(case, "torch.nn", median_ms=1.0, **NEW) for case in CASES[:2]]
    even = VERSUS | {"ratio": 1.0, "low": 0.9, "high": 1.1}
    ours = [timed(case, "ours", median_ms=1.0, versus=even, **NEW) for case in CASES[:2]]
    alone = [timed(case, "reference", **OLD) for case in CASES[:2]]
    alone.append(failed(CASES[2], "reference", "timeout", "no answer", **NEW))
    (found,) = runs.load([save(tmp_path / "card", [*old, *new, *ours, *alone])])
    kept = {(r["provider"], r["code"], r["H"]) for r in found.records}
    assert kept == {
        *((name, NEW["code"], case.H) for name in ("torch.nn", "ours") for case in CASES[:2]),
        # Its one record of that state is a failure.
        *(("reference", OLD["code"], case.H) for case in CASES[:2]),
    }
    words = "measured with other code or versions"
    assert found.aside == {f"time of torch.nn: {words}": 3, f"time of reference: {words}": 1}
    table = step_table(found.time)
    assert table is not None
    for row in table.full.to_dict("records"):
        assert row["base_us_per_step"] == pytest.approx(1e3 / row["T"]) and row["speedup"] == 1.0
    # Another kind has a state of its own.
    joules = [energetic(case, name, **OLD) for case in CASES for name in ("torch.nn", "ours")]
    kept_records, _ = runs.latest_consistent([*old, *new, *ours, *joules])
    assert {r["code"] for r in kept_records if r["kind"] == "energy"} == {OLD["code"]}


@pytest.mark.parametrize(
    "other",
    [
        {"code": "1" * 12},
        {"software": {"torch": "2.12.0", "triton": "3.7.1"}},
        {"software": {"torch": "2.13.0", "triton": "3.6.0"}},
        {"device": {"name": "x", "kind": "cuda", "driver": "000.00", "cudnn": 91900}},
        {"device": {"name": "x", "kind": "cuda", "driver": "111.00", "cudnn": 92000}},
    ],
)
def test_no_ratio_is_of_two_states_and_the_page_counts_them(other: dict):
    records = [timed(case, name) for case in CASES for name in ("torch.nn", "ours")]
    records = [r | {"versus": VERSUS} if r["provider"] == "ours" else r for r in records]
    words = "because torch.nn was measured with other code or versions"
    assert not any(words in line for line in speed.caveats(run(records)))
    records[0] |= other
    found = derived.speedups(run(records).time)
    assert list(np.isnan(found.sort_values("H")["speedup"])) == [True, False, False]
    assert f"No ratio for 1 time, {words}." in speed.caveats(run(records))

    joules = [energetic(case, name) for case in CASES for name in ("torch.nn", "ours")]
    assert not energy.caveats(run(joules))
    joules[0] |= other
    rows = energy.rows(run(joules))
    assert list(rows.loc[rows["provider"] == "ours", "ratio"].isna()) == [True, False, False]
    assert energy.caveats(run(joules)) == [f"No ratio for 1 energy measurement, {words}."]
