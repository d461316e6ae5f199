"""Triton's interpreter with a NumPy that it cannot run with: refused before any measurement."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import kernels
from bench.cli import app
from bench.error import studies
from bench.measure import interpreter
from kernels import planning

ROOT = Path(__file__).parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no interpreter")
SENTENCE = (
    "Triton 3.6.0's interpreter cannot run with NumPy 2.5.2 (2.4 and later): install Triton 3.7 or "
    "later, or numpy<2.4; compiled kernels, on a GPU, need no interpreter"
)
# The code of a process in which NumPy and Triton have those versions.
PAIR = "import sys, numpy, triton; numpy.__version__, triton.__version__ = '2.5.2', '3.6.0'\n"
BENCH = PAIR + "import runpy; runpy.run_module('bench', run_name='__main__')\n"
TESTS = PAIR + "import pytest; sys.exit(pytest.main(sys.argv[1:]))\n"
KERNELS = PAIR + "import torch, kernels; kernels.GRU(2, 3)(torch.zeros(1, 1, 2))\n"


def run(code: str, *words: object, interpreted: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


# Observed with each of these pairs installed.
@pytest.mark.parametrize(
    ("triton", "numpy", "works"),
    [
        ("3.6.0", "2.3.5", True),
        ("3.6.0", "2.4.0", False),
        ("3.6.0", "2.5.0", False),
        ("3.7.0", "2.4.0", True),
        ("3.7.1", "2.5.0", True),
        # Other forms of versions.
        ("3.6.0+git9844da95", "2.10.1", False),
        ("3.10.0", "2.4.0rc1", True),
        ("3.5.1", "2.4.0.dev0", False),
        ("3.6.0", "1.26.4", True),
    ],
)
def test_versions_that_do_not_run_together_are_refused(
    monkeypatch, triton: str, numpy: str, works: bool
):
    monkeypatch.setattr("triton.__version__", triton)
    monkeypatch.setattr("numpy.__version__", numpy)
    if works:
        interpreter.check()
        return
    with pytest.raises(RuntimeError, match=f"Triton {re.escape(triton)}.*NumPy {numpy}"):
        interpreter.check()


@NO_GPU
def test_kernels_are_not_interpreted_with_a_fault(monkeypatch):
    monkeypatch.setattr(planning, "INTERPRETER_FAULT", SENTENCE)
    with pytest.raises(RuntimeError, match=re.escape(SENTENCE)):
        kernels.GRU(2, 3)(torch.zeros(1, 1, 2))
    # A meta tensor needs no interpreter.
    y, _ = kernels.GRU(2, 3, device="meta")(torch.zeros(1, 1, 2, device="meta"))
    assert y.shape == (1, 1, 3)


@pytest.mark.slow
@NO_GPU
def test_the_first_call_of_a_kernel_fails():
    done = run(KERNELS, interpreted=True)
    assert done.stderr.strip().splitlines()[-1] == f"RuntimeError: {SENTENCE}"


@pytest.fixture
def _wrong_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.__version__", "3.6.0")
    monkeypatch.setattr("numpy.__version__", "2.5.2")


@NO_GPU
@pytest.mark.usefixtures("_wrong_pair")
@pytest.mark.parametrize(
    "words",
    [
        ["quick", "--results"],
        ["error", "--results"],
        ["sweep", "--kind", "error", "--results"],
        ["sweep", "--kind", "time,error", "--results"],
        ["campaign", "--rehearse", "--out"],
        ["check-gpu", "--rehearse", "--out"],
    ],
    ids=" ".join,
)
def test_a_command_that_interprets_kernels_fails_before_it_measures(words, tmp_path: Path):
    fault = CliRunner().invoke(app, [*words, str(tmp_path / "results")]).exception
    assert isinstance(fault, RuntimeError) and str(fault) == SENTENCE
    assert not (tmp_path / "results").exists()


@NO_GPU
@pytest.mark.slow
def test_the_fault_is_one_line_and_an_exit_code(tmp_path: Path):
    done = run(BENCH, "quick", "--results", tmp_path / "results")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {SENTENCE}"


@NO_GPU
@pytest.mark.usefixtures("_wrong_pair")
@pytest.mark.parametrize("study", [studies.repeatability, studies.activations, studies.training])
def test_a_study_of_error_fails_before_it_writes(study: Callable[[Path], Path], tmp_path: Path):
    with pytest.raises(RuntimeError, match=re.escape(SENTENCE)):
        study(tmp_path / "results")
    assert not (tmp_path / "results").exists()


@NO_GPU
def test_commands_that_interpret_nothing_run(tmp_path: Path):
    done = run(BENCH, "sweep", "--kind", "error", "--dry-run", "--results", tmp_path)
    assert done.returncode == 0 and "cases to measure" in done.stdout, done.stderr
    done = run(BENCH, "plan", "--hidden", 64)
    assert done.returncode == 0, done.stderr


@NO_GPU
def test_pytest_fails_before_any_test():
    done = run(TESTS, "-q", "tests/kernels/test_slstm.py", "tests/kernels/test_plan.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.strip() == f"ERROR: {SENTENCE}"
    assert "passed" not in done.stdout and "failed" not in done.stdout


@NO_GPU
def test_the_prepared_interpreter_gives_the_same_values_in_fewer_patches_of_the_language(seed: int):
    """In a process of its own, since the tests' own interpreter is prepared."""
    code = (
        "import torch, kernels\n"
        "from triton.runtime import interpreter as triton_interpreter\n"
        "from bench.measure import interpreter\n"
        f"torch.manual_seed({seed})\n"
        "layer, x = kernels.RNN(2, 3), torch.randn(2, 1, 2)\n"
        "calls, patch = [], triton_interpreter._patch_lang\n"
        "triton_interpreter._patch_lang = lambda fn: (calls.append(fn), patch(fn))[1]\n"
        "def run():\n"
        "    layer.zero_grad()\n"
        "    calls.clear()\n"
        "    layer(x)[0].sum().backward()\n"
        "    return [p.grad.clone() for p in layer.parameters()], len(calls)\n"
        "before, many = run()\n"
        "interpreter.prepare()\n"
        "interpreter.prepare()\n"
        "run()\n"
        "after, few = run()\n"
        "assert all(map(torch.equal, before, after))\n"
        "assert few < many, (few, many)\n"
    )
    done = run(code, interpreted=True)
    assert done.returncode == 0, done.stderr
