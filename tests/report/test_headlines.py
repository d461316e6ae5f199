"""Which of two clocks the headline is by: separate calls, or graphs replayed."""

import re
from pathlib import Path

from bench.records import store
from bench.report.pages import facts
from bench.report.runs import Run
from tests.helpers import synthetic

# Median times in ms.
CALLED = {"torch.nn": 3.0, "ours": 2.0}
REPLAYED = {"torch.nn-graph": 2.5, "ours-graph": 1.0}


def records(times: dict[str, float], **axes: object) -> list[store.Record]:
    return [
        synthetic.timed(case, name, median_ms=ms, ci_low_ms=ms, ci_high_ms=ms, samples_ms=[ms] * 12)
        for case in synthetic.cases(**axes)
        for name, ms in times.items()
    ]


def headline(found: list[store.Record]) -> str:
    run = Run("synthetic", Path("synthetic"), found)
    (line,) = [said for said in facts.headlines(run) if "times the speed" in said]
    return line


def said(line: str) -> list[tuple[str, str, str]]:
    """Whose speed over whom, in this order."""
    return re.findall(r"`([\w.-]+)` runs at ([\d.]+)[^`]* times the speed of `([\w.-]+)`", line)


def test_graphs_come_first_where_they_were_measured_at_every_case():
    sizes = {"H": [256, 512]}
    line = headline(records(CALLED, **sizes) + records(REPLAYED, **sizes))
    assert said(line) == [
        ("ours-graph", "2.50", "torch.nn-graph"),
        ("ours", "1.50", "torch.nn"),
    ]


def test_graphs_come_second_where_one_case_lacks_them():
    found = records(CALLED, H=[256, 512]) + records(REPLAYED, H=[256])
    assert [who for who, *_ in said(headline(found))] == ["ours", "ours-graph"]


def test_a_graph_without_torchs_own_is_no_comparison():
    alone = {"ours-graph": REPLAYED["ours-graph"]}
    found = records(CALLED, H=[256, 512]) + records(REPLAYED, H=[256]) + records(alone, H=[512])
    assert [who for who, *_ in said(headline(found))] == ["ours", "ours-graph"]
    assert [who for who, *_ in said(headline(records(CALLED) + records(alone)))] == ["ours"]


def test_graphs_of_another_setting_say_nothing_of_this_one():
    found = records(CALLED, dtype=["bf16"]) + records(REPLAYED, dtype=["fp16"])
    assert [who for who, *_ in said(headline(found))] == ["ours"]
