"""The GPU campaign: rehearsed from end to end, resumed, archived, and what a failed check costs."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.presets import load_preset
from bench.cli import app, campaign
from bench.gpu import run_checks
from bench.gpu.pool import FAIL, LEFT_OUT, NOT_DONE, PASS
from bench.gpu.run_checks import ResultFile
from bench.records import archive, environment, failed_checks, files, provenance, schema, store
from bench.records.provenance import ROOT
from bench.sweep import process, toolchain
from bench.sweep.plan import default_run, record_file
from tests.helpers import synthetic

CPU = torch.device("cpu")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "campaign", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


# --- what is kept


def make_records(results: Path, *lines: str, name: str = "campaign-1") -> None:
    """Add records to a device's folder, and what a report would make."""
    path = results / "card" / "records" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    (results / "card" / "README.md").write_text("page")
    (results / "index.html").write_text("page of all")


def records_in(results: Path, name: str = "campaign-1") -> list[str]:
    return (results / "card" / "records" / f"{name}.jsonl").read_text().split()


def files_below(tree: Path) -> dict[str, bytes]:
    return {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_an_archive_brings_home_what_was_measured_and_no_page(tmp_path: Path):
    tree, file = tmp_path / "tree", tmp_path / "out" / "card.tar.gz"
    make_records(tree, "a", "b")
    (tree / "card" / "records" / "old.jsonl.gz").write_bytes(b"compressed")
    (tree / "card" / "check_gpu.json").write_text("{}")
    assert str(file) in archive.pack(tree, file)
    assert archive.restore(file, tmp_path / "home") == [tmp_path / "home" / "card"]
    kept = {"card/records/campaign-1.jsonl", "card/records/old.jsonl.gz", "card/check_gpu.json"}
    home, measured = files_below(tmp_path / "home"), files_below(tree)
    assert home == {name: data for name, data in measured.items() if name in kept}
    assert [path.name for path in file.parent.iterdir()] == ["card.tar.gz"]


def test_a_byte_that_changed_anywhere_is_noticed(tmp_path: Path):
    make_records(tmp_path / "tree", *(f"record-{k}" for k in range(500)))
    file = tmp_path / "card.tar.gz"
    archive.pack(tmp_path / "tree", file)
    whole = file.read_bytes()
    # But for gzip's header, which holds a time, a system and flags that nobody reads.
    for at in (0, 1, 2, *range(10, len(whole), len(whole) // 60), len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="cannot be unpacked"):
            archive.restore(file, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_records_of_two_archives_are_joined_and_states_replaced(tmp_path: Path):
    home = tmp_path / "home"
    make_records(home, "a", "b")
    (home / "card" / "records" / "campaign-1.jsonl").open("a").write("half a rec")  # killed
    (home / "card" / "limits.json").write_text("old")
    make_records(tmp_path / "tree", "b", "c")
    make_records(tmp_path / "tree", "d", name="other")
    (tmp_path / "tree" / "card" / "limits.json").write_text("new")
    archive.pack(tmp_path / "tree", tmp_path / "x.tar.gz")
    for _ in range(2):  # the second time changes nothing
        archive.restore(tmp_path / "x.tar.gz", home)
        assert records_in(home) == ["a", "b", "c"] and records_in(home, "other") == ["d"]
        assert (home / "card" / "limits.json").read_text() == "new"


def test_compressed_records_are_joined_too(tmp_path: Path):
    """Of one name in both places."""
    home, tree = tmp_path / "home", tmp_path / "tree"
    for place, lines in ((tree, "a b"), (home, "b c")):
        make_records(place, *lines.split())
        plain = place / "card" / "records" / "campaign-1.jsonl"
        plain.with_name("campaign-1.jsonl.gz").write_bytes(store.compressed(plain.read_bytes()))
        plain.unlink()
    archive.pack(tree, tmp_path / "x.tar.gz")
    archive.restore(tmp_path / "x.tar.gz", home)
    (packed,) = home.rglob("*.gz")
    assert list(store.lines(packed)) == [b"b\n", b"c\n", b"a\n"]


def test_a_kill_while_packing_leaves_a_whole_archive(tmp_path: Path, monkeypatch):
    tree, file = tmp_path / "tree", tmp_path / "x.tar.gz"
    make_records(tree, "a")
    archive.pack(tree, file)
    make_records(tree, "b")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for module, name in ((os, "replace"), (os, "fsync"), (tarfile, "open")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, killed)
            archive.pack(tree, file)
        archive.restore(file, tmp_path / name)
        assert records_in(tmp_path / name) == ["a"]


def pack_of(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """An archive of these members; None makes a link to /etc/passwd."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return path


def test_what_is_no_archive_of_a_campaign_is_refused_in_one_sentence(tmp_path: Path):
    make_records(tmp_path / "tree", "a" * 400)
    archive.pack(tmp_path / "tree", tmp_path / "right.tar.gz")
    whole = (tmp_path / "right.tar.gz").read_bytes()
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.tar.gz").touch()
    (tmp_path / "folder.tar.gz").mkdir()
    for file in (
        tmp_path / "none.tar.gz", tmp_path / "torn.tar.gz", tmp_path / "empty.tar.gz",
        tmp_path / "folder.tar.gz",
        pack_of(tmp_path / "other.tar.gz", ("file.txt", b"x")),
        pack_of(tmp_path / "up.tar.gz", ("../card/records/x.jsonl", b"x\n")),
        pack_of(tmp_path / "link.tar.gz", ("card/records/x.jsonl", None)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"archive is .*; accepted: a file that") as refused:
            archive.restore(file, tmp_path / "deep" / "home")
        assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "deep").exists() and not (tmp_path / "card").exists()


def test_the_report_takes_an_archive(tmp_path: Path, monkeypatch):
    make_records(tmp_path / "tree", "a")
    archive.pack(tmp_path / "tree", tmp_path / "card.tar.gz")
    reported: list[Path] = []
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("bench.report.build.main", lambda *folders: reported.extend(folders))
    found = CliRunner().invoke(app, ["report", str(tmp_path / "card.tar.gz"), str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert reported == [tmp_path / "results" / "card", tmp_path]
    assert records_in(tmp_path / "results") == ["a"]


def test_a_call_that_is_ended_leaves_what_it_had_and_the_next_goes_on(tmp_path: Path, capsys):
    file = tmp_path / "out" / "card.tar.gz"
    with pytest.raises(SystemExit), archive.workspace(tmp_path, file, None) as (inside, _):
        make_records(inside, "a")
        process._exit(signal.SIGTERM, None)
    assert "python -m bench report" in capsys.readouterr().out
    with archive.workspace(tmp_path, file, None) as (inside, save):
        assert records_in(inside) == ["a"]
        make_records(inside, "b")
        save()
        archive.restore(file, tmp_path / "saved")
        assert records_in(tmp_path / "saved") == ["a", "b"]
    # Another file that begins with the first, and then goes on by itself.
    other = tmp_path / "other.tar.gz"
    for expected, new in ((["a", "b"], "c"), (["a", "b", "c"], "d")):
        with archive.workspace(tmp_path, other, file) as (inside, _):
            assert records_in(inside) == expected
            make_records(inside, new)
    with archive.workspace(tmp_path / "plain", None, other) as (inside, _):
        assert inside == tmp_path / "plain" and records_in(inside) == ["a", "b", "c", "d"]


def test_a_call_that_measured_nothing_leaves_no_archive(tmp_path: Path, capsys):
    with archive.workspace(tmp_path, tmp_path / "x.tar.gz", None):
        pass
    assert "nothing was measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


# --- the campaign


def test_the_paper_grid_completes_the_campaigns():
    first, rest = load_preset("campaign"), load_preset("paper")
    for kind in ("time", "error"):
        assert set(first.cases(kind)) <= set(rest.cases(kind))
    # ours-graph beside torch.nn-graph is asked of the first hour only
    assert set(first.providers) - set(rest.providers) == {"ours-graph"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path):
    done = run("--out", str(tmp_path / "out"))
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "campaign needs a GPU" in done.stderr and "Traceback" not in done.stderr
    done = run("--rehearse")
    assert done.returncode == 2 and "--rehearse needs --out or --archive" in done.stderr


def test_results_and_an_archive_together_are_refused(tmp_path: Path):
    words = ["campaign", "--rehearse", "--out", str(tmp_path), "--archive", str(tmp_path / "x")]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, ValueError) and "accepted: one of them" in str(
        found.exception
    )


def rows_of(*states: str) -> list[run_checks.Row]:
    doubt = failed_checks.Suspect("values: lstm", "lstm", "forward", "persistent", "bf16")
    return [
        run_checks.Row(
            "values", f"{i}", state, "why",
            suspects=failed_checks.to_json([doubt]) if state == FAIL else [],
        )
        for i, state in enumerate(states)
    ]  # fmt: skip


def call(
    tmp_path: Path,
    monkeypatch,
    *states: str,
    measure: Callable[..., Any] = lambda *_: None,
    **options: Any,
) -> list[float]:
    """One campaign of eight minutes whose checks end so; the seconds that they were given.

    Most other steps do nothing.
    """
    given: list[float] = []

    def run(checks: Any, file: ResultFile, seconds: float, *_: Any) -> list[run_checks.Row]:
        given.append(seconds)
        file.write(rows_of(*states))
        return rows_of(*states)

    monkeypatch.setattr(run_checks, "run", run)
    monkeypatch.setattr(campaign.Campaign, "measure", measure)
    for step in ("floor", "studies"):
        monkeypatch.setattr(campaign.Campaign, step, lambda *_: None)
    words = {"out": tmp_path, "archive_": None, "resume": None} | options
    campaign.command(8, rehearse=True, seconds=0.1, target=0.1, timeout=60, **words)
    return given


def stands_still(monkeypatch) -> None:
    monkeypatch.setattr(campaign, "time", SimpleNamespace(monotonic=lambda: 1000.0))


def state(tmp_path: Path) -> dict[str, Any]:
    found = list(tmp_path.rglob(files.CAMPAIGN))
    return json.loads(found[0].read_text()) if found else {}


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e9"])
@pytest.mark.parametrize("name", ["campaign", "sweep", "error", "resources", "quick", "check-gpu"])
def test_minutes_in_which_nothing_is_measured_are_refused(name: str, minutes: str):
    found = CliRunner().invoke(app, [name, "--max-minutes", minutes])
    assert isinstance(found.exception, ValueError)
    assert "accepted: a number above 0, at most 30000" in str(found.exception)


@pytest.mark.parametrize("archived", [False, True])
def test_an_interrupted_campaign_says_so_and_still_reports(
    archived: bool, tmp_path: Path, monkeypatch, capsys
):
    def interrupted(self: campaign.Campaign, *_: Any) -> None:
        make_records(self.results, "a")
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign.Campaign, "report", lambda self: print("reported"))
    file = tmp_path / "x.tar.gz"
    options = {"out": None, "archive_": file} if archived else {}
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, PASS, measure=interrupted, **options)
    assert ended.value.exit_code == 130
    printed = capsys.readouterr().out
    assert "interrupted; nothing finished is lost, the same command goes on\n" in printed
    # What leaves an archive is reported on elsewhere.
    assert ("reported\n" in printed) != archived and file.exists() == archived
    if archived:
        archive.restore(file, tmp_path)
    assert records_in(tmp_path) == ["a"]


def test_an_interrupted_report_is_not_made_again(tmp_path: Path, monkeypatch, capsys):
    def report(*_: Path) -> None:
        reports.append(0)
        print("half a report")
        raise KeyboardInterrupt

    def measures(self: campaign.Campaign, *_: Any) -> None:
        path = self.folder / "records" / "campaign-1.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.touch()

    reports: list[int] = []
    monkeypatch.setattr("bench.report.build.main", report)
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, PASS, measure=measures)
    assert ended.value.exit_code == 130 and reports == [0]
    assert "nothing finished is lost" in capsys.readouterr().out


def test_a_failed_check_costs_what_it_concerns_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch, capsys
):
    asked: list[Any] = []

    def measures(self: campaign.Campaign, *_: Any) -> None:
        asked.append(self.settings["suspects"])

    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, PASS, FAIL, NOT_DONE, measure=measures)
    assert ended.value.exit_code == 1
    printed = capsys.readouterr().err
    assert "values: 1; not measured therefore: lstm forward persistent bf16" in printed
    assert asked and all(each == rows_of(FAIL)[0].suspects for each in asked)


def test_checks_that_are_not_done_stop_nothing_and_are_gone_on_with(tmp_path, monkeypatch, capsys):
    stands_still(monkeypatch)
    (seconds,) = call(tmp_path, monkeypatch, PASS, NOT_DONE, LEFT_OUT)
    assert "1 of 3 checks left for the next call" in capsys.readouterr().out
    # A quarter of eight minutes, less what the first report may take.
    assert seconds == (480 - 1.5 * campaign.FIRST_REPORT_SECONDS) / 4
    assert call(tmp_path, monkeypatch, PASS, PASS, LEFT_OUT)
    assert "left for the next call" not in capsys.readouterr().out


def test_without_one_value_checked_nothing_vouches_for_the_kernels(tmp_path, monkeypatch, capsys):
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, NOT_DONE, LEFT_OUT)
    assert ended.value.exit_code == 1
    assert "check-gpu: not one value was checked" in capsys.readouterr().err


def timed(cell: str, provider: str, plan: dict[str, Any] | None) -> schema.Record:
    case = next(synthetic.cases(cell=cell))
    return synthetic.timed(case, provider) | {"plan": plan, "run_id": default_run("campaign")}


def test_what_was_measured_before_a_check_failed_no_longer_counts(tmp_path, monkeypatch, capsys):
    """Its cell, loop and mode; once."""
    plan = {"mode": "persistent"}
    records = [
        timed("lstm", "ours", plan), timed("lstm", "ours-gemm", {"mode": "gemm"}),
        timed("lstm", "torch.nn", None), timed("gru", "ours", plan),
    ]  # fmt: skip
    folder = tmp_path / provenance.slug(environment.probe().name)
    path = record_file(folder, default_run("campaign"))
    with store.Writer(path) as writer:
        for record in records:
            writer.append(record)
    monkeypatch.setattr(campaign.Campaign, "report", lambda self: None)
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


def test_a_wrong_cell_is_not_trained_either(tmp_path, monkeypatch):
    asked: dict[str, Any] = {}

    def run_module(module: str, folder: Path, *words: str, seconds: float) -> str:
        asked[module] = words
        return "file.json"

    monkeypatch.setattr(process, "run_module", run_module)
    made = campaign.Campaign(tmp_path, time.monotonic() + 3600, {}, lambda: None, reports=False)
    made.suspects = (failed_checks.Suspect("values: lstm", "lstm"),)
    made.studies()
    assert asked == {
        "bench.error.activations": (), "bench.error.repeatability": (),
        "bench.error.training": ("gru,rnn_relu,rnn_tanh",),
    }  # fmt: skip


def test_a_study_that_takes_too_long_is_left_and_no_failure(tmp_path, monkeypatch, capsys):
    def run_module(module: str, *_: Any, **__: Any) -> str:
        raise process.TookTooLong(f"{module} took more than 100 s")

    monkeypatch.setattr(process, "run_module", run_module)
    made = campaign.Campaign(tmp_path, time.monotonic() + 3600, {}, lambda: None, reports=False)
    made.studies()
    assert not made.failures and capsys.readouterr().out.count("left for the next call") == 3


@pytest.mark.parametrize("name", [files.CAMPAIGN, files.CHECKS, files.FLOOR])
def test_a_state_that_cannot_be_read_is_named_and_counts_as_not_there(
    name: str, tmp_path: Path, monkeypatch, capsys
):
    for content in ('{"a": ', "[1]", "\xff"):
        path = tmp_path / name
        path.write_text(content, encoding="latin-1")
        assert store.read_state(path) == {}
        assert f"{path} cannot be read and counts as not there" in capsys.readouterr().err
    assert ResultFile(tmp_path, {"code": "abc"}).rows() == []
    assert store.read_state(tmp_path / "none.json") == {} and "none" not in capsys.readouterr().err


def test_a_second_call_on_the_same_archive_is_refused(tmp_path: Path):
    file = tmp_path / "card.tar.gz"
    with archive.workspace(tmp_path, file, None) as (inside, _):
        make_records(inside, "a")
        second = "with archive.workspace(Path('.'), Path(sys.argv[1]), None): pass"
        code = f"import sys; from pathlib import Path; from bench.records import archive\n{second}"
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True
        )
        assert "is being written by another process; give this one another --archive" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["card.tar.gz"]


def test_an_archive_that_report_would_not_take_is_refused(tmp_path: Path):
    words = ["campaign", "--rehearse", "--archive", str(tmp_path / "card.tgz")]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, ValueError)
    assert "accepted: a name that ends in .tar.gz" in str(found.exception)


@pytest.mark.parametrize(
    ("found", "again"),
    [
        (None, True),
        ({"code": provenance.code_hash(), "problems": {}, "running": None}, False),
        # Ended while it was at one: by Ctrl-C, a crash, or for taking too long.
        ({"code": provenance.code_hash(), "problems": {}, "running": "flag"}, True),
        ({"code": provenance.code_hash(), "problems": {"chain": "-"}, "running": None}, True),
        ({"code": "another", "problems": {}, "running": None}, True),
    ],
)
def test_the_floor_is_measured_until_nothing_of_it_is_missing(
    found: dict[str, Any] | None, again: bool, tmp_path: Path, monkeypatch
):
    asked: list[Any] = []

    def run_module(module: str, folder: Path, *words: str, seconds: float) -> str:
        asked.append((module, *words, seconds))
        return "floor.json"

    monkeypatch.setattr(process, "run_module", run_module)
    made = campaign.Campaign(tmp_path, time.monotonic() + 3600, {}, lambda: None, reports=False)
    if found is not None:
        made.folder.mkdir()
        (made.folder / files.FLOOR).write_text(json.dumps(found))
    made.floor()
    # At most a minute, and then time to end.
    assert asked == ([("bench.gpu.floor", "--max-seconds", "60", 80.0)] if again else [])


def test_a_step_that_fails_stops_no_other(tmp_path: Path, monkeypatch, capsys):
    done: list[str] = []

    def measure(self: campaign.Campaign, preset: str, kind: str, *_: Any) -> None:
        done.append(kind)
        raise RuntimeError(f"the {kind} failed")

    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, PASS, measure=measure)
    assert ended.value.exit_code == 1 and done == ["time", "error"]
    printed = capsys.readouterr()
    assert "campaign goes on: the time failed" in printed.err
    assert "nothing has been measured yet" in printed.out  # the report, after all


def test_a_relative_folder_is_the_callers_and_not_the_checkouts(tmp_path: Path, monkeypatch):
    """What measures runs in the checkout."""
    folders: list[Path] = []

    def measure(self: campaign.Campaign, *_: Any) -> None:
        folders.append(self.results)

    monkeypatch.chdir(tmp_path)
    call(tmp_path, monkeypatch, PASS, measure=measure, out=Path("here"))
    assert set(folders) == {tmp_path / "here"}


# --- graphs


def test_nothing_is_done_for_the_first_time_inside_a_capture(monkeypatch):
    """What compiles or starts a library at its first call has done so before, in that very mode."""
    from bench.cases.problem import make_problem
    from bench.measure.runner import Runner
    from bench.providers import Call, Provider

    capturing: list[bool] = []

    @contextlib.contextmanager
    def graph(_: Any):
        capturing.append(True)
        yield
        capturing.pop()

    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name, value in (
        ("Stream", lambda: stream), ("current_stream", lambda: stream),
        ("stream", lambda _: contextlib.nullcontext()), ("synchronize", lambda *_: None),
        ("CUDAGraph", lambda: SimpleNamespace(replay=lambda: None)), ("graph", graph),
    ):  # fmt: skip
        monkeypatch.setattr(f"torch.cuda.{name}", value)
    case = make_case(**DEFAULTS | {"T": 2, "B": 2, "H": 4, "I": 3, "pass": "fwd+bwd"})
    known: set[str] = set()

    def build(problem: Any) -> Call:
        w = problem.inputs["w_hh_l0"].detach()

        def forward() -> dict[str, torch.Tensor]:
            for what in ("compile the kernel", "start cuBLAS"):
                assert what in known or not capturing, f"{what} inside a capture"
                known.add(what)
            return {name: w.sum() * torch.ones_like(x) for name, x in problem.upstream.items()}

        return Call(forward, {"w": w})

    provider = Provider("p", build, lambda case, machine: None, lambda: None, graph=True)
    card = environment.Machine("cuda", "a card", (9, 0), 132)
    runner = Runner(provider, make_problem(case), card)
    runner.prepare()
    assert known and not capturing
    known.clear()
    with pytest.raises(AssertionError, match="inside a capture"), graph(None):
        runner._step()  # the test can fail
    capturing.clear()


def test_ours_in_a_graph_is_warmed_up_in_the_mode_that_is_captured(monkeypatch):
    import kernels
    from bench.cases.problem import make_problem
    from bench.providers import load

    asked = []

    def layers(*_: Any, mode: str, **rest: Any) -> Any:
        asked.append(mode)
        raise StopIteration

    monkeypatch.setattr(kernels, "layers", layers)
    problem = make_problem(make_case(**DEFAULTS | {"T": 2, "B": 2, "H": 16, "I": 16}))
    call = load()["ours-graph"].build(problem)
    for _ in range(3):
        with pytest.raises(StopIteration):
            call.forward()
    assert asked == ["auto-graph"] * 3


# --- the card's facts


class NVMLError(Exception):
    pass


def nvml(**refused: bool) -> Any:
    """NVML of a card, without the facts that are refused."""

    def tells(name: str, value: Any) -> Callable[..., Any]:
        def answer(*_: Any) -> Any:
            if refused.get(name):
                raise NVMLError(name)
            return value

        return answer

    facts = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetHandleByUUID": 0, "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30),
        "nvmlSystemGetDriverVersion": "570.1", "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetTemperature": 40, "nvmlDeviceGetPowerUsage": 100_000,
    }  # fmt: skip
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0}
    calls = {name: tells(name, value) for name, value in facts.items()}
    return SimpleNamespace(NVMLError=NVMLError, **constants, **calls)


def test_a_card_that_refuses_facts_is_still_a_card(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    found = environment.probe()
    assert found.is_cuda and found.capability == (9, 0) and found.memory_bytes == 80 << 30
    assert provenance.slug(found.name) == "nvidia-h100-80gb-hbm3"
    # This version of NVML has no throttle reasons; that costs no sample.
    assert environment.sensors() | {"load": 0} == {
        "load": 0, "sm_mhz": 1980, "memory_mhz": 1980, "temperature_c": 40, "power_w": 100.0,
        "throttle": None,
    }  # fmt: skip
    for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetHandleByIndex", "nvmlInit"):
        monkeypatch.setitem(sys.modules, "pynvml", nvml(**{name: True}))
        assert not environment.probe().is_cuda  # nobody else tells of a card here
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not environment.probe().is_cuda


# --- what Triton needs to start


def test_a_missing_compiler_is_one_sentence(tmp_path: Path, monkeypatch):
    toolchain.check.cache_clear()
    toolchain.check()  # as long as this machine has one
    for name, value, told in (
        ("PATH", str(tmp_path), "neither CC, gcc nor clang names one; install gcc or set CC"),
        ("CC", "no-such-cc", "CC is 'no-such-cc'"),
        ("CC", "false", "false cannot compile a line with Python.h"),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("CC", raising=False)
            patch.setenv(name, value)
            toolchain.check.cache_clear()
            with pytest.raises(RuntimeError, match="Triton compiles C when it starts") as raised:
                toolchain.check()
        assert told in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.setattr(toolchain, "headers", lambda: str(tmp_path))
    toolchain.check.cache_clear()
    with pytest.raises(RuntimeError, match=r"Python\.h: install the headers of Python 3"):
        toolchain.check()
    toolchain.check.cache_clear()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "cache"))
    with pytest.raises(RuntimeError, match="set TRITON_CACHE_DIR to another folder"):
        toolchain.check_cache()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    toolchain.check_cache()
    with pytest.raises(RuntimeError, match="--out or --archive takes another place"):
        campaign.command(8, file / "out", None, None, True, 0.1, 0.1, 60)


def test_triton_looks_for_its_compiler_there():
    """Where ours looks is where Triton does; its code moves from version to version."""
    import inspect

    from triton.runtime import build

    source = inspect.getsource(build)
    for word in ('environ.get("CC")', 'which("gcc")', 'which("clang")', "posix_prefix"):
        assert word in source


def test_time_is_kept_for_the_report(tmp_path: Path, monkeypatch):
    stands_still(monkeypatch)

    def made(seconds: float, **options: Any) -> campaign.Campaign:
        return campaign.Campaign(tmp_path, 1000.0 + seconds, {}, lambda: None, **options)

    first = made(600)
    assert first.seconds_left() == 510
    first.remember(report_seconds=10.0)
    assert made(600).seconds_left() == 585
    assert made(4).seconds_left() == 2
    assert made(600, reports=False).seconds_left() == 600 - campaign.END_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_rehearsal_goes_from_end_to_end_and_resumes(tmp_path: Path):
    brief = ("--rehearse", "--seconds", "0.05", "--target", "0.5", "--max-minutes", "5")
    file = tmp_path / "first" / "card.tar.gz"
    done = run(*brief, "--archive", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["card.tar.gz"]
    again = run(*brief, "--out", str(tmp_path / "second"), "--resume", str(file))
    assert again.returncode == 0, again.stdout + again.stderr
    for line in (" 0 not done", "activations: measured before", "none new"):
        assert line in again.stdout
    folder = tmp_path / "second" / provenance.slug(environment.probe().name)
    records = list(store.read(folder / "records"))
    kinds = {(record["kind"], record["status"]) for record in records}
    assert {("time", "ok"), ("error", "ok")} <= kinds <= {*kinds, ("time", "unsupported")}
    assert any(record["provider"] == "ours" and record["interpreted"] for record in records)
    assert (folder / "data.zip").exists() and any((folder / "figures").glob("*.pdf"))
    page = (folder / "README.md").read_text()
    assert "Are the kernels right here?" in page and "tables/checks.tex" in page
