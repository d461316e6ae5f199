"""The report's table, figure and sentences of energy."""

from pathlib import Path

import pytest

from bench.records import store
from bench.report import frames
from bench.report.pages import cite
from bench.report.runs import Run
from bench.report.speed import energy
from tests.helpers import synthetic

PROVIDERS = ("torch.nn", "ours", "torch.nn-graph", "ours-graph")


def run(records: list[store.Record]) -> Run:
    return Run("a card", Path("nowhere"), records)


def records(*providers: str, **axes: object) -> list[store.Record]:
    return [synthetic.energetic(c, p) for c in synthetic.cases(**axes) for p in providers]


def test_a_row_is_per_step_and_per_token_beside_torch_nns_of_the_same_clock():
    made = records(*PROVIDERS, B=16, T=512, H=[256, 1024])
    (table,) = energy.tables(run(made))
    assert list(table.shown["provider"]) == ["ours", "ours-graph"] * 2
    joules = {(r["H"], r["provider"]): r["energy"]["joules"] for r in made}
    of_graph = {(r["H"], r["provider"]): r["versus"] for r in made}[1024, "ours-graph"]
    row = table.shown.iloc[3]
    assert row["H"] == 1024
    for column, name in (("mJ per step [95 %]", "ours-graph"), ("torch.nn", "torch.nn-graph")):
        middle, low, high = (float(word.strip("[],")) for word in row[column].split())
        assert middle == pytest.approx(1e3 * joules[1024, name] / 512, rel=0.005)
        assert low < middle < high
    assert row["µJ per token"] == pytest.approx(1e6 * joules[1024, "ours-graph"] / (16 * 512))
    assert row["over torch.nn [95 %]"].startswith(f"{of_graph['ratio']:.3f}")
    assert 0 < row["above idle"] < 1e3 * joules[1024, "ours-graph"] / 512
    assert row["W"] == pytest.approx(370, rel=0.01) and row["W idle"] == 90
    assert len(table.full) == len(made)


def test_milliseconds_of_a_call_are_the_median_over_windows():
    (record,) = records("ours", H=512)
    record["energy"] |= {"calls": [10] * 9, "seconds": [0.1 * k for k in range(1, 10)]}
    (row,) = energy.rows(run([record])).to_dict("records")
    assert row["ms_per_call"] == pytest.approx(50.0)  # 0.5 s over 10 calls
    assert row["watts"] == pytest.approx(
        sorted(j * 10 / s for j, s in zip(
            record["energy"]["windows"], record["energy"]["seconds"], strict=True))[4]
    )  # fmt: skip


@pytest.mark.parametrize("status", ["incorrect", "error", None])
def test_an_energy_that_torch_nn_has_not_is_compared_with_nothing(status: str | None):
    """Though the record holds a ratio, by windows."""
    (case,) = synthetic.cases(H=512)
    mine = records("ours", H=[256, 512]) + records("torch.nn", H=256)
    if status:
        mine.append(synthetic.failed(case, "torch.nn", status, "no", kind="energy"))
    assert all(r["versus"] for r in mine if r["provider"] == "ours")
    (table,) = energy.tables(run(mine))
    shown = dict(zip(table.shown["H"], table.shown["over torch.nn [95 %]"], strict=True))
    assert shown[512] == "" and shown[256] != ""
    full = table.full[table.full["provider"] == "ours"].set_index("H")
    assert full.loc[512, list(energy.RATIO)].isna().all() and full.loc[256, "ratio"] > 0
    (headline,) = energy.headlines(run(mine))
    assert "(1 case)" in headline


def test_a_row_has_torch_nns_energy_only_of_the_same_code():
    mine, theirs = records("ours", "torch.nn", H=512)
    theirs["code"] = "1" * 12
    (table,) = energy.tables(run([mine, theirs]))
    assert dict(zip(table.shown["provider"], table.shown["torch.nn"] == "", strict=True)) == {
        "ours": True,
        "torch.nn": False,
    }


def test_the_protocol_says_which_energies_have_no_interval():
    found = records("ours", "torch.nn", H=[256, 512])
    (how,) = energy.protocol(run(found))
    assert how.endswith("95 % interval, within one run.")
    found[0]["energy"] |= {"low": None, "high": None, "windows": found[0]["energy"]["windows"][:1]}
    (how,) = energy.protocol(run(found))
    assert "1 or 9 windows" in how and how.endswith("; 1 of 4 are of too few windows for one.")


def test_a_baseline_has_a_row_of_its_own_where_nothing_else_was_measured():
    (case,) = synthetic.cases(H=512)
    why = "CounterFault: the energy counter was 7.000 J for 2.0 s"
    bad = synthetic.failed(case, "ours-graph", "error", why, kind="energy")
    (table,) = energy.tables(run([*records("torch.nn", "ours", "torch.nn-graph", H=512), bad]))
    assert list(table.shown["provider"]) == ["ours", "torch.nn-graph"]
    assert table.shown["over torch.nn [95 %]"].iloc[1] == ""
    assert set(table.full["status"]) == {"ok", "error"}
    (alone,) = energy.tables(run(records("ours", H=512)))
    assert alone.shown["torch.nn"].iloc[0] == ""
    assert alone.shown["over torch.nn [95 %]"].iloc[0] == ""


def test_a_failure_has_the_clock_it_would_have_had():
    (case,) = synthetic.cases()
    for name, clock in (("ours-graph", "graph"), ("ours", "event")):
        record = synthetic.failed(case, name, "unsupported", "no counter", kind="energy")
        assert frames.clock(record) == clock


def test_sentences_name_the_pair_and_what_is_missing():
    measured = run(records(*PROVIDERS, H=[256, 1024]))
    (headline,) = energy.headlines(measured)
    assert "`ours-graph` takes" in headline and "joules of `torch.nn-graph` (2 cases)" in headline
    (eager,) = energy.headlines(run(records("torch.nn", "ours", H=256)))
    assert "`ours` takes" in eager and "(1 case)" in eager
    (how,) = energy.protocol(measured)
    assert "9 windows" in how and energy.missing(measured) == []
    assert how in cite.methods(measured)
    nothing = run([synthetic.timed(next(synthetic.cases()), "ours")])
    assert not list(energy.tables(nothing)) and not list(energy.jobs(nothing))
    assert not list(energy.headlines(nothing)) and not list(energy.protocol(nothing))
    assert "--kind energy" in energy.missing(nothing)[0]


def test_a_figure_for_each_clock_along_the_hidden_size(tmp_path):
    jobs = list(energy.jobs(run(list(synthetic.energy_records()))))
    names = [path.name for job in jobs for path in job(tmp_path)]
    for mode in ("event", "graph"):
        assert f"energy-H-layer-1dir-bf16-{mode}.png" in names
    assert len(names) == 6
