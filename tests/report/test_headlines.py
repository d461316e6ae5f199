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
from bench.report.speed import tables
from bench.report.speed import topic as speed
from bench.report.starts import pooled
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


def lines(found: list[store.Record]) -> list[str]:
    return speed.headlines(Run("synthetic", Path("synthetic"), found))


def test_a_headline_says_in_how_many_shapes_of_all_settings_ours_is_slower():
    """The headline is of the setting with most shapes, and others may be worse."""
    slow = {"torch.nn": 1.0, "ours": 2.0}
    slow_graphs = {"torch.nn-graph": 1.0, "ours-graph": 2.0}
    fast = records(CALLED | REPLAYED, H=[128, 256, 512])
    (line,) = lines(fast)
    assert "slower" not in line
    (line,) = lines(fast + records(slow, H=BOTH, dtype=["fp16"]))
    assert line.endswith("; over all number types and settings `ours` is slower in 2 of 5 shapes.")
    many = lines(
        fast + records(slow | slow_graphs, H=256, dtype=["fp16"])
        + records(slow, H=[256], B=[1], dtype=["fp16"])
        + records(slow, H=BOTH, **{"pass": "fwd+bwd"})
        + records(slow, H=BOTH, cell="gru")
    )  # fmt: skip
    (line,) = [line for line in many if line.startswith("LSTM, forward:")]
    assert line.endswith(
        "; over all number types and settings `ours-graph` is slower in 1 of 4 shapes, "
        "`ours` is slower in 2 of 5 shapes."
    )
    # By the host's clock too, and of what has a ratio only.
    (line,) = lines(
        [r | {"mode": "host"} for r in records(slow, H=BOTH) + records({"ours": 9.0}, H=[64])]
    )
    assert line.endswith("`ours` is slower in 2 of 2 shapes.")


def test_a_headline_says_if_calls_and_graphs_are_of_different_shapes():
    words = "the two are not of the same shapes"
    (line,) = lines(records(CALLED | REPLAYED, H=BOTH))
    assert words not in line
    for called, replayed in (([256, 512], [256]), ([256], [256, 512])):
        (line,) = lines(records(CALLED, H=called) + records(REPLAYED, H=replayed))
        assert words in line
    (line,) = lines(records(CALLED))
    assert words not in line


def test_the_protocol_and_the_caption_say_what_kind_of_interval_a_time_has():
    one = records(CALLED, H=[256])
    several = [r | {"start": k} for r in records(CALLED, H=[512]) for k in range(3)]
    others = [r | {"start": k} for r in records(CALLED, H=[1024]) for k in range(2)]
    broken = synthetic.failed(next(synthetic.cases(H=[512])), "reference", "oom", "no memory")
    for found, how, across in (
        (one, None, "within one run"),
        (several, "2 of 2", "across 3 starts of the measuring process"),
        ([*several, broken], "2 of 2", "across 3 starts of the measuring process"),
        ([*one, *several], "2 of 4", "across 1 to 3 starts of the measuring process"),
        ([*several, *others], "4 of 4", "across 2 to 3 starts of the measuring process"),
    ):
        run = Run("synthetic", Path("synthetic"), pooled(found))
        (line,) = [said for said in speed.protocol(run) if "order statistics" in said]
        assert ("Student's t" in line) == (how is not None)
        assert how is None or f"{how} are of several starts" in line
        assert f"interval {across}:" in tables.time_table(run.time).caption


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
