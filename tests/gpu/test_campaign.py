"""A campaign: failed checks and steps, its end, minutes in simulated time, and a rehearsal."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner

from bench.cases.presets import load_preset
from bench.cli import app
from bench.cli import campaign as command_line
from bench.error import studies
from bench.gpu import campaign, floor, run_checks
from bench.gpu.campaign import Campaign, Outputs
from bench.gpu.run_checks import ResultFile, Row
from bench.gpu.value_checks import kernel_cells
from bench.records import archive, environment, files, provenance, store
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS, Suspect, to_json
from bench.records.provenance import ROOT
from bench.sweep.plan import default_run, record_file
from bench.sweep.process import TookTooLong
from tests.helpers import simulated_campaign, synthetic
from tests.helpers.results_tree import make_records, records_in

DEVICE = provenance.slug(environment.probe().name)
OUTPUTS = Outputs(
    lambda: None, lambda total: nullcontext(print), lambda *_: nullcontext(lambda *_: None)
)


def make_campaign(folder: Path, outputs: Outputs = OUTPUTS) -> Campaign:
    return Campaign(folder, time.monotonic() + 3600, {}, outputs, timeout=60)


def rows_of(*states: str) -> list[Row]:
    suspects = to_json([Suspect("values: lstm", "lstm", "forward", "persistent", "bf16")])
    return [
        Row("values", f"{i}", state, "why", suspects=suspects if state == FAIL else [])
        for i, state in enumerate(states)
    ]


def call(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *states: str,
    sweep: Callable[..., Any] = lambda *_: None,
    **options: Any,
) -> list[float]:
    """Run a campaign of eight minutes whose checks have these outcomes; most steps do nothing.

    Returns the seconds that the checks were given.
    """
    given: list[float] = []

    def run(checks: Any, file: ResultFile, seconds: float, *_: Any) -> list[Row]:
        given.append(seconds)
        file.write(rows_of(*states))
        return rows_of(*states)

    monkeypatch.setattr(run_checks, "run", run)
    monkeypatch.setattr(Campaign, "sweep", sweep)
    for step in ("measure_floor", "run_studies"):
        monkeypatch.setattr(Campaign, step, lambda *_: None)
    options = {"out": folder, "archive_file": None, "resume": None} | options
    command_line.command(8, rehearse=True, seconds=0.1, target=0.1, timeout=60, **options)
    return given


@pytest.fixture
def still_clock(monkeypatch) -> None:
    """A clock that shows 1000 seconds."""
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    for module in (campaign, command_line):
        monkeypatch.setattr(module, "time", clock)


def test_the_paper_grid_completes_the_campaigns():
    first, rest = load_preset("campaign"), load_preset("paper")
    for kind in ("time", "error"):
        assert set(first.cases(kind)) <= set(rest.cases(kind))
    # ours-graph against torch.nn-graph is measured in the first hour only
    assert set(first.providers) - set(rest.providers) == {"ours-graph"}


# --- arguments


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--rehearse needs --out or --archive"),
        (["--out", "x", "--archive", "x.tar.gz"], "accepted: one of them"),
        (["--archive", "card.tgz"], "accepted: a name that ends in .tar.gz"),
    ],
)
def test_options_that_name_no_single_place_for_results_are_refused(words: list[str], message: str):
    found = CliRunner().invoke(app, ["campaign", "--rehearse", *words])
    assert isinstance(found.exception, ValueError) and message in str(found.exception)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e9"])
@pytest.mark.parametrize("name", ["campaign", "sweep", "error", "resources", "quick", "check-gpu"])
def test_minutes_in_which_nothing_is_measured_are_refused(name: str, minutes: str):
    found = CliRunner().invoke(app, [name, "--max-minutes", minutes])
    assert isinstance(found.exception, ValueError)
    assert "accepted: a number above 0, at most 30000" in str(found.exception)


# --- failures


def test_a_step_that_fails_stops_no_other(tmp_path: Path, monkeypatch, capsys):
    done: list[str] = []

    def sweep(self: Campaign, preset: str, kind: str, *_: Any) -> None:
        assert self.results == tmp_path / "here"  # the caller's folder, not the checkout's
        done.append(kind)
        raise RuntimeError(f"the {kind} failed")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit) as ended:
        call(Path("here"), monkeypatch, PASS, sweep=sweep)
    assert ended.value.exit_code == 1 and done == ["time", "error"]
    printed = capsys.readouterr()
    assert "campaign goes on: the time failed" in printed.err
    assert "nothing has been measured yet" in printed.out  # the report step ran after the failures


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ((PASS, FAIL, NOT_DONE), "values: 1; not measured therefore: lstm forward persistent bf16"),
        ((NOT_DONE, LEFT_OUT), "check-gpu: no value was checked"),
    ],
)
def test_suspect_kernels_are_not_measured_and_the_rest_is(
    states: tuple[str, ...], message: str, tmp_path: Path, monkeypatch, capsys
):
    seen: list[Any] = []

    def sweep(self: Campaign, *_: Any) -> None:
        seen.append(self.settings["suspects"])

    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, *states, sweep=sweep)
    assert ended.value.exit_code == 1 and message in capsys.readouterr().err
    suspects = rows_of(FAIL)[0].suspects if FAIL in states else []
    assert seen and all(each == suspects for each in seen)


def test_checks_that_are_not_done_stop_nothing_and_are_left_for_the_next_call(
    tmp_path: Path, monkeypatch, capsys, still_clock
):
    (seconds,) = call(tmp_path, monkeypatch, PASS, NOT_DONE, LEFT_OUT)
    assert "1 of 3 checks left for the next call" in capsys.readouterr().out
    # A quarter of eight minutes, less what the first report may take.
    assert seconds == (480 - 1.5 * campaign.FIRST_REPORT_SECONDS) / 4
    assert call(tmp_path, monkeypatch, PASS, PASS, LEFT_OUT)
    assert "left for the next call" not in capsys.readouterr().out


def test_what_was_measured_before_a_check_failed_no_longer_counts(tmp_path, monkeypatch, capsys):
    """Only records of its cell, loop and mode, and each only once."""
    run_id = default_run("campaign")
    path = record_file(tmp_path / DEVICE, run_id)
    with store.Writer(path) as writer:
        for cell, provider, mode in (
            ("lstm", "ours", "persistent"), ("lstm", "ours-gemm", "gemm"),
            ("lstm", "torch.nn", None), ("gru", "ours", "persistent"),
        ):  # fmt: skip
            record = synthetic.timed(next(synthetic.cases(cell=cell)), provider)
            writer.append(record | {"plan": mode and {"mode": mode}, "run_id": run_id})
    monkeypatch.setattr(Campaign, "report", lambda self: None)
    for expected in ("1 records of earlier calls no longer count", ""):
        with pytest.raises(typer.Exit):
            call(tmp_path, monkeypatch, PASS, FAIL)
        assert expected in capsys.readouterr().out
        left = {
            (record["cell"], record["provider"]): (record["status"], record["reason"])
            for record in store.latest(store.read(path))
        }
        status, reason = left.pop(("lstm", "ours"))
        assert status == "incorrect" and "a check of these kernels failed: values: lstm" in reason
        assert set(left.values()) == {("ok", None)} and len(left) == 3
    assert len(list(store.read(path))) == 5


def test_no_suspect_cell_is_trained_and_a_study_that_takes_too_long_is_left(
    tmp_path, monkeypatch, capsys
):
    called: list[tuple[Any, ...]] = []

    @contextmanager
    def calls_elsewhere(calls: Any, seconds: float) -> Iterator[Iterator[Path]]:
        (call,) = calls
        called.append((call.func, *call.args))
        if call.func is studies.repeatability:
            raise TookTooLong
        yield iter([Path("file.json")])

    monkeypatch.setattr(campaign, "calls_elsewhere", calls_elsewhere)
    made = make_campaign(tmp_path)
    made.suspects = (Suspect("values: lstm", "lstm"),)
    made.run_studies()
    assert called == [
        (studies.activations, made.folder),
        (studies.repeatability, made.folder),
        (studies.training, made.folder, ("gru", "rnn_relu", "rnn_tanh")),
    ]
    assert not made.failures and capsys.readouterr().out.count("left for the next call") == 1


# --- the floor, and states of earlier calls


def test_the_floor_is_measured_until_nothing_of_it_is_missing(tmp_path: Path, monkeypatch):
    run = Mock(side_effect=[{"copy": "left out: late"}, {"flag": "failed: x"}])
    monkeypatch.setattr(floor, "run", run)
    made = make_campaign(tmp_path)
    made.measure_floor()
    run.assert_called_with(made.folder, 60)  # a minute at most
    complete: dict[str, Any] = {"code": provenance.code_hash(), "problems": {}}
    for changes in ({"problems": {"chain": "-"}}, {"code": "another"}):
        store.write_state(made.folder / files.FLOOR, complete | changes)
        assert not floor.is_complete(made.folder)
    with pytest.raises(RuntimeError, match=r"floor: flag: failed: x$"):
        made.measure_floor()
    store.write_state(made.folder / files.FLOOR, complete)
    made.measure_floor()
    assert run.call_count == 2


def test_a_state_file_that_cannot_be_read_is_named_and_ignored(tmp_path: Path, capsys):
    path = tmp_path / files.CHECKS
    for content in ('{"a": ', "[1]", "\xff"):
        path.write_text(content, encoding="latin-1")
        assert ResultFile(tmp_path, {"code": "abc"}).rows() == []
        assert f"{path} cannot be read and is ignored" in capsys.readouterr().err
    assert store.read_state(tmp_path / "none.json") == {} and "none" not in capsys.readouterr().err


# --- how it ends


@pytest.mark.parametrize("archived", [False, True])
def test_an_interrupted_campaign_says_so_and_still_reports(
    archived: bool, tmp_path: Path, monkeypatch, capsys
):
    def interrupted(self: Campaign, *_: Any) -> None:
        make_records(self.results, "a", device=self.folder.name)
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.report.build.main", lambda folder: print("reported"))
    file = tmp_path / "x.tar.gz"
    options = {"out": None, "archive_file": file} if archived else {}
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, PASS, sweep=interrupted, **options)
    assert ended.value.exit_code == 130
    printed = capsys.readouterr().out
    assert "interrupted; nothing finished is lost, the same command resumes\n" in printed
    # A call with an archive makes no report.
    assert ("reported\n" in printed) != archived and file.exists() == archived
    if archived:
        archive.restore(file, tmp_path)
    assert records_in(tmp_path, device=DEVICE) == ["a"]


def test_an_interrupted_report_is_not_made_again(tmp_path: Path, monkeypatch, capsys):
    def interrupted(*_: Path) -> None:
        print("half a report")
        raise KeyboardInterrupt

    report = Mock(side_effect=interrupted)
    make_records(tmp_path, device=DEVICE)
    monkeypatch.setattr("bench.report.build.main", report)
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, PASS)
    assert ended.value.exit_code == 130 and report.call_count == 1
    printed = capsys.readouterr().out
    assert "nothing finished is lost" in printed and "half a report" not in printed


def test_time_is_kept_for_the_report(tmp_path: Path, still_clock):
    reporting = Outputs(OUTPUTS.save, OUTPUTS.show_checks, OUTPUTS.show_sweep, lambda folder: None)

    def left(seconds: float, outputs: Outputs = reporting) -> float:
        return Campaign(tmp_path, 1000.0 + seconds, {}, outputs, timeout=60).seconds_left()

    assert left(600) == 510
    make_campaign(tmp_path).remember(report_seconds=10.0)
    assert left(600) == 585 and left(4) == 2
    assert left(600, OUTPUTS) == 600 - campaign.END_SECONDS


@pytest.mark.parametrize(
    "minutes",
    [3.0, 9.0, *(pytest.param(m, marks=pytest.mark.slow) for m in (2.0, 4.5, 6.0, 15.0, 60.0))],
)
def test_a_call_gets_as_much_done_as_documented_within_its_minutes(minutes: float, tmp_path: Path):
    done = simulated_campaign.run(minutes, tmp_path / "card.tar.gz")
    assert 0.9 * minutes * 60 <= done.seconds <= minutes * 60
    assert done.first_contact > 5
    if minutes in (3.0, 6.0, 9.0):
        text = (ROOT / "bench" / "README.md").read_text()
        assert simulated_campaign.row(minutes, done) in text.splitlines()


def test_a_second_call_resumes_where_the_first_ended(tmp_path: Path):
    first, second = (simulated_campaign.run(3.0, tmp_path / "card.tar.gz") for _ in range(2))
    assert second.checks > first.checks
    assert second.first_contact == 20 and second.campaign > 0


@pytest.mark.slow
def test_a_rehearsal_goes_from_end_to_end_and_resumes(tmp_path: Path):
    def run(*words: str) -> str:
        # An hour, so that no step reaches its time limit on a busy machine.
        brief = ("--seconds", "0.05", "--target", "0.5", "--max-minutes", "60")
        command = [sys.executable, "-m", "bench", "campaign", "--rehearse", *brief, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    file = tmp_path / "first" / "card.tar.gz"
    run("--archive", str(file))
    assert [path.name for path in file.parent.iterdir()] == ["card.tar.gz"]
    again = run("--out", str(tmp_path / "second"), "--resume", str(file))
    for line in ("activations: measured before", "none new"):
        assert line in again
    folder = tmp_path / "second" / DEVICE
    outcomes: dict[str, list[str]] = {}
    for row in store.read_state(folder / files.CHECKS)["rows"]:
        outcomes.setdefault(row["check"], []).append(row["outcome"])
    # Two comparisons of each cell in fp32, fp16 and bf16; what needs a GPU is left out.
    assert outcomes.pop("values") == [PASS] * 6 * len(kernel_cells())
    assert outcomes.pop("repetitions") == [PASS] * 2
    assert outcomes.pop("missing program") == [PASS, LEFT_OUT] * 2
    left_out = {"streams": 2, "graph": 3, "far offsets": 1, "sanitizer": 2}
    assert outcomes == {check: [LEFT_OUT] * count for check, count in left_out.items()}
    records = list(store.read(folder / "records"))
    kinds = {(record["kind"], record["status"]) for record in records}
    assert {("time", "ok"), ("error", "ok")} <= kinds <= {*kinds, ("time", "unsupported")}
    assert any(record["provider"] == "ours" and record["interpreted"] for record in records)
    assert (folder / "data.zip").exists() and any((folder / "figures").glob("*.pdf"))
    page = (folder / "README.md").read_text()
    assert "Are the kernels right here?" in page and "tables/checks.tex" in page
