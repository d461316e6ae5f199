"""check-gpu: which checks there are, exit codes, what is printed and kept, and resuming."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench.cli import app
from bench.cli.check_gpu import MOST_REPORTS, UNFINISHED, show_progress
from bench.gpu import run_checks
from bench.gpu.run_checks import TRIES, Check, ResultFile, Row
from bench.gpu.value_checks import kernel_cells
from bench.records import files, store
from bench.records.failed_checks import FAIL, NOT_DONE, PASS, Suspect
from bench.records.provenance import ROOT
from bench.sweep.pool import Pool, Unit
from tests.helpers.pool_tasks import dies, fails, fails_with_suspect, gives, is_not_done

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
LONG = 3600.0  # longer than any test; pytest's own limit comes first
KEY = {"code": "abc", "device": "card"}


def checks_of(**calls: Any) -> list[Check]:
    """Checks of values, by their names."""
    suspects = (Suspect("", "lstm"),)
    return [
        Check("values", name, Unit(f"values: {name}", call), suspects)
        for name, call in calls.items()
    ]


def run(checks: list[Check], file: ResultFile | None = None, seconds: float = LONG) -> list[Row]:
    with Pool(2) as processes, show_progress(len(checks)) as show:
        return run_checks.run(checks, file, seconds, processes, show)


@NO_GPU
@pytest.mark.parametrize("command", ["check-gpu", "campaign"])
def test_a_command_that_needs_a_gpu_says_so_in_a_line(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bench", command, "--out", str(tmp_path / "out")]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2 and not (tmp_path / "out").exists()
    assert found.stderr.count("\n") == 1
    assert f"{command} needs a GPU" in found.stderr and "--rehearse" in found.stderr


@pytest.mark.gpu
@pytest.mark.slow
def test_this_gpu_passes() -> None:
    found = CliRunner().invoke(app, ["check-gpu"])
    assert found.exit_code in (0, UNFINISHED), found.output


FINE = partial(gives, "fine")


@pytest.mark.parametrize(
    ("calls", "code"), [((FINE,), 0), ((fails, is_not_done), 1), ((FINE, is_not_done), UNFINISHED)]
)
@NO_GPU
def test_exit_codes(calls: Any, code: int, tmp_path: Path, monkeypatch) -> None:
    checks = checks_of(**{str(index): call for index, call in enumerate(calls)})
    monkeypatch.setattr(run_checks, "all_checks", lambda *_: checks)
    found = CliRunner().invoke(app, ["check-gpu", "--rehearse", "--out", str(tmp_path)])
    assert found.exit_code == code, found.output
    stored = store.read_state(tmp_path / files.CHECKS)
    assert stored["key"]["rehearsal"] and stored["software"]["torch"] == torch.__version__
    assert stored["device"]["kind"] == "cpu" and len(stored["rows"]) == len(calls)


def test_the_next_call_runs_what_is_left(tmp_path: Path) -> None:
    file = ResultFile(tmp_path, KEY)
    checks = checks_of(right=partial(gives, "first"), wrong=fails, late=is_not_done)
    rows = run(checks, file)
    assert [row.outcome for row in rows] == [PASS, FAIL, NOT_DONE]
    assert [row.name for row in run_checks.unfinished(rows)] == ["values: late"]
    rows = run(checks, file, seconds=-1)
    assert [row.outcome for row in rows] == [PASS, FAIL, NOT_DONE]
    assert rows[2].tries == 1  # no time was left for a second try
    right = {"right": partial(gives, "second"), "wrong": partial(gives, "right this time")}
    checks = checks_of(**right, late=is_not_done)
    rows = run(checks, file)
    # A failed check is not repeated with the same code, since it might pass by chance.
    assert [(row.outcome, row.detail) for row in rows[:2]] == [
        (PASS, "first"), (FAIL, "AssertionError: a wrong value"),
    ]  # fmt: skip
    assert rows[2].tries == TRIES and not run_checks.unfinished(rows) and file.rows() == rows
    mended = ResultFile(tmp_path, KEY | {"code": "mended"})
    assert mended.rows() == []
    assert run(checks, mended)[1].outcome == PASS


def test_a_failure_is_printed_whole_and_kept_whole(tmp_path: Path, capsys) -> None:
    file, many = ResultFile(tmp_path, KEY), MOST_REPORTS + 1
    rows = run(checks_of(**{str(i): partial(fails_with_suspect, i) for i in range(many)}), file)
    printed = capsys.readouterr().err
    for i, row in enumerate(rows):
        assert f"FAIL values: {i}: y is wrong" in printed
        assert row.report == f"all about {i}\n[in] many lines" and f"report {i}" not in row.detail
    # Few reports are printed, so that the summary stays visible; the file has all.
    assert sum(f"all about {i}\n[in] many lines" in printed for i in range(many)) == many - 1
    suspect = Suspect("values", "gru", "forward", "gemm", "bf16")
    assert run_checks.suspects(file.rows()) == (suspect,) * many
    # A check that dies or raises names no suspects itself.
    rows = run(checks_of(dies=dies, raises=fails))
    assert run_checks.suspects(rows) == (Suspect("", "lstm"),) * 2
    assert "a wrong value" in rows[1].report and "Traceback" in rows[1].report


def test_every_check_of_a_cell_names_the_kernels_that_its_failure_makes_suspect() -> None:
    for check in run_checks.all_checks(rehearse=False, cuda=True):
        if check.kind in ("values", "repetitions", "streams", "graph", "sanitizer", "small case"):
            (suspect,) = check.suspects
            assert suspect.cell in check.what.split() and suspect.check == check.unit.name
            assert suspect.mode is None or suspect.mode in ("persistent", "stepwise", "gemm")
        else:  # a barrier that gives up, and tensors larger than any case of a preset
            assert check.kind in ("missing program", "far offsets")
            assert not check.suspects


def test_the_most_informative_checks_come_first_and_names_are_unique() -> None:
    checks = run_checks.all_checks(rehearse=False, cuda=True)
    names = [check.unit.name for check in checks]
    assert len(set(names)) == len(names)
    kinds = [check.kind for check in checks]
    firsts = names[: len(kernel_cells())]
    for cell, name in zip(kernel_cells(), firsts, strict=True):
        assert f"{cell} bf16 both T=50 B=32 H=512 persistent" in name
    assert kinds[len(firsts)] == "missing program"
    last_graph = len(names) - 1 - kinds[::-1].index("graph")
    assert last_graph < names.index(next(name for name in names if "fp16" in name))
    for index, check in enumerate(checks):  # so that no two units wait for each other
        assert set(check.unit.after) <= set(names[:index])
    assert checks[-1].unit.exclusive and sum(check.unit.exclusive for check in checks) == 1
    for cell in kernel_cells():  # compiled before the sanitizer's time limit starts
        name = f"sanitizer: memcheck {cell}"
        assert checks[names.index(name)].unit.after == (f"small case: {cell}",)
