"""The GPU check, rehearsed on the CPU: its exit codes, and that a wrong value fails it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench import check_gpu
from bench.__main__ import app
from bench.cases import CELLS

ROOT = Path(__file__).parents[1]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@NO_GPU
def test_without_a_gpu_it_says_so() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "bench", "check-gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "needs a GPU and finds none here; --rehearse" in found.stderr


@NO_GPU
@pytest.mark.slow
def test_the_rehearsal_runs_every_check(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["check-gpu", "--rehearse", "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert " 0 failed" in found.output
    told = json.loads((tmp_path / check_gpu.FILE).read_text())
    assert told["rehearsal"] and told["software"]["torch"] == torch.__version__
    outcomes: dict[str, list[Any]] = {}
    for row in told["rows"]:
        outcomes.setdefault(row["check"], []).append(row["ok"])
    cells = [cell for cell in CELLS.values() if cell.kernels]
    # Two comparisons of each cell in fp32, fp16 and bf16; what needs a GPU is left out.
    assert outcomes.pop("values") == [True] * 6 * len(cells)
    assert outcomes.pop("repetitions") == [True] * 2
    assert outcomes.pop("missing program") == [True, None] * 2
    assert outcomes == {
        "streams": [None] * 2,
        "graph": [None] * 2,
        "far offsets": [None],
        "sanitizer": [None] * 2,
    }


@NO_GPU
def test_a_wrong_value_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = check_gpu.ours

    def wrong(value: check_gpu.Value, *rest: Any) -> dict[str, Any]:
        found = right(value, *rest)
        return found | {"dgx": found["dgx"] * 1.5} if value.cell == "gru" else found

    def one(rehearse: bool, cuda: bool, seconds: float, tell: Any) -> None:
        for cell in ("rnn_tanh", "gru"):
            for row in check_gpu.value_rows(cell, "fp16", "none", rehearse, cuda):
                tell(row)

    monkeypatch.setattr(check_gpu, "ours", wrong)
    monkeypatch.setattr(check_gpu, "run", one)
    found = CliRunner().invoke(app, ["check-gpu", "--rehearse"])
    assert found.exit_code == 1
    assert "2 passed, 2 failed, 0 left out" in found.output
    assert "dgx is off by 0.5 of its norm" in found.output


@NO_GPU
def test_bits_that_differ_fail_the_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    (lstm, _), calls = check_gpu.exact_cases(rehearse=True), []
    right = check_gpu.ours

    def drifts(*args: Any) -> dict[str, Any]:
        found = right(*args)
        calls.append(found)
        return found | {"y": torch.nextafter(found["y"], found["y"] + 1)} if calls[1:] else found

    monkeypatch.setattr(check_gpu, "ours", drifts)
    row = check_gpu.attempt("repetitions", lstm.name, lambda: check_gpu.repeat(lstm, "cpu", 1))
    assert row.ok is False and "1 tensors differed in 1 repetitions" in row.detail


def test_what_is_out_of_time_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[check_gpu.Row] = []
    monkeypatch.setattr(check_gpu, "all_values", lambda *_: None)
    check_gpu.run(rehearse=True, cuda=False, seconds=-1.0, tell=rows.append)
    assert rows and {row.ok for row in rows} == {False}
    assert {row.detail for row in rows} == {"not begun in time"}


@pytest.mark.parametrize("cell", [cell.name for cell in CELLS.values() if cell.kernels])
def test_real_sizes_cover_every_way_to_run(cell: str) -> None:
    cases = [
        value
        for dtype, precision in check_gpu.NUMBERS
        for value in check_gpu.values(cell, dtype, precision, rehearse=False, cuda=True)
    ]
    assert {value.direction for value in cases} == {"forward", "reverse", "both"}
    assert {value.mode for value in cases} == {"auto", "persistent", "stepwise", "gemm"}
    assert {value.masks for value in cases} == {False, True}
    assert max(value.H for value in cases) == 2048


@pytest.mark.gpu
@pytest.mark.slow
def test_this_gpu_passes() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "bench", "check-gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
