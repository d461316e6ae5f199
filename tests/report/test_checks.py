"""What the page says of check-gpu's outcomes."""

from pathlib import Path

from bench.gpu.run_checks import ResultFile, Row
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS, Suspect, to_json
from bench.report.device import checks
from bench.report.pages import device_page
from bench.report.runs import Run
from bench.report.style import typeset


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
    assert failed.endswith("Not measured therefore: gru forward persistent.")
    assert "many" not in found.full.to_csv()  # the account is in check_gpu.json
    assert "were not done: sanitizer (memcheck lstm)" in unfinished
    shown = device_page.sections([], [found])
    assert [section["title"] for section in shown] == ["Are the kernels right here?"]
