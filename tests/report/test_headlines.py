"""The sentences of a device's page on speed by two clocks, and on checks that failed."""

import re
from pathlib import Path

import pytest

from bench.gpu.run_checks import ResultFile, Row
from bench.records import store
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS, Suspect, to_json
from bench.report.device import checks
from bench.report.pages import device_page
from bench.report.runs import Run
from bench.report.speed import topic as speed
from bench.report.style import typeset
from tests.helpers import synthetic

# Median times in ms.
CALLED = {"torch.nn": 3.0, "ours": 2.0}
REPLAYED = {"torch.nn-graph": 2.5, "ours-graph": 1.0}
UNPAIRED = {"ours-graph": 1.0}
BOTH = [256, 512]


def records(times: dict[str, float], **axes: object) -> list[store.Record]:
    return [
        synthetic.timed(case, name, median_ms=ms, ci_low_ms=ms, ci_high_ms=ms, samples_ms=[ms] * 12)
        for case in synthetic.cases(**axes)
        for name, ms in times.items()
    ]


@pytest.mark.parametrize(
    ("found", "providers"),
    [
        (records(CALLED, H=BOTH) + records(REPLAYED, H=BOTH), ["ours-graph", "ours"]),
        (records(CALLED, H=BOTH) + records(REPLAYED, H=[256]), ["ours", "ours-graph"]),
        (  # graphs of ours without torch's are not compared
            records(CALLED, H=BOTH) + records(REPLAYED, H=[256]) + records(UNPAIRED, H=[512]),
            ["ours", "ours-graph"],
        ),
        (records(CALLED) + records(UNPAIRED), ["ours"]),
        # graphs measured in another setting do not count
        (records(CALLED, dtype=["bf16"]) + records(REPLAYED, dtype=["fp16"]), ["ours"]),
    ],
)
def test_graphs_come_first_where_they_were_measured_at_every_case(found, providers):
    run = Run("synthetic", Path("synthetic"), found)
    (line,) = [said for said in speed.headlines(run) if "times the speed" in said]
    ratios = re.findall(r"`([\w.-]+)` runs at ([\d.]+)[^`]* times the speed of `([\w.-]+)`", line)
    wanted = {"ours": ("1.50", "torch.nn"), "ours-graph": ("2.50", "torch.nn-graph")}
    assert ratios == [(name, *wanted[name]) for name in providers]


def test_the_page_shows_what_failed_and_what_was_not_done(tmp_path: Path) -> None:
    run = Run("a card", tmp_path, [])
    assert checks.tables(run) == [] and checks.caveats(run) == []
    suspects = to_json([Suspect("x", "gru", "forward", "persistent")])
    rows = [
        Row("values", "lstm bf16", PASS, "at most 10%"),
        Row("values", "gru bf16", FAIL, "y is off | by 1", report="many\nlines", suspects=suspects),
        Row("sanitizer", "memcheck lstm", NOT_DONE, "did not end within 120 s"),
        Row("far offsets", "rnn_tanh bf16", LEFT_OUT, "needs 48 GB"),
    ]
    ResultFile(tmp_path, {"code": "abc", "device": "a card"}).write(rows)
    (found,) = checks.tables(run)
    assert list(found.full["outcome"]) == [PASS, FAIL, NOT_DONE, LEFT_OUT]
    text = typeset.markdown(found)
    assert "memcheck lstm: did not end within 120 s (not done)" in text
    assert "rnn_tanh bf16: needs 48 GB (left out)" in text
    assert typeset.write(found, tmp_path / "tables")
    failed, unfinished = checks.caveats(run)
    assert failed.startswith("1 of 4 checks") and "failed: values (gru bf16)" in failed
    assert failed.endswith("Therefore not measured: gru forward persistent.")
    assert "many" not in found.full.to_csv()  # the full report is only in check_gpu.json
    assert "were not done: sanitizer (memcheck lstm)" in unfinished
    shown = device_page.sections([], [found])
    assert [section["title"] for section in shown] == ["Are the kernels right here?"]
