"""Settings shared by all tests: the interpreter, the seed, and which tests need a GPU."""

import os
import random
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

# One thread in each process, set before torch starts any: the tests' tensors are small, and two
# processes of two threads each on two cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

# Triton decides at import whether a kernel is interpreted, so this comes before any test module.
# Tests that compile for a GPU do so in child processes without it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from bench.measure.interpreter import patch_once_per_module, round_to_nearest

DEFAULT_SEED = 0
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=DEFAULT_SEED, help="seed of every random number in the tests"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Stop where the interpreter cannot run; give hypothesis the tests' seed unless it has one."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        from kernels.planning import interpreter_fault  # after TRITON_INTERPRET is set above

        if fault := interpreter_fault():
            raise pytest.UsageError(fault)
    if getattr(config.option, "hypothesis_seed", 0) is None:
        config.option.hypothesis_seed = str(config.getoption("--seed"))


def pytest_report_header(config: pytest.Config) -> str:
    where = "GPU" if torch.cuda.is_available() else "CPU"
    how = "interpreted" if os.environ.get("TRITON_INTERPRET") == "1" else "compiled"
    return (
        f"rnnbench: seed {config.getoption('--seed')} (--seed changes it), {where}, "
        f"torch {torch.__version__}, kernels {how}"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none here"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed, so that its numbers do not depend on which tests ran before."""
    return zlib.crc32(f"{request.config.getoption('--seed')} {request.node.nodeid}".encode())


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """The files in git, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git to know what belongs here")
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in done.stdout.split("\0")[:-1]]


@pytest.fixture(scope="session")
def committed_results(tracked: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `results` as it is in git's index.

    The folder itself may hold more, or a page that is half made: ``make bench`` adds to it what
    this machine measures.
    """
    copy = tmp_path_factory.mktemp("committed")
    names = "\0".join(str(path) for path in tracked if path.parts[0] == "results")
    checkout = ["git", "checkout-index", "-z", "--stdin", f"--prefix={copy}{os.sep}"]
    subprocess.run(checkout, input=names, text=True, cwd=ROOT, check=True)
    return copy / "results"


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="session", autouse=True)
def _quick_interpreter() -> None:
    """Interpret in half the time; overflow of integers is checked only where a test turns it on."""
    patch_once_per_module()


@pytest.fixture
def on_the_kernels_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New tensors are where the kernels run, and torch's own layers multiply in full float32."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        yield
        return
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    with torch.device("cuda"):
        yield


@pytest.fixture
def rounding_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter rounds to bfloat16 as a GPU does, and as the processes that measure do."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        from triton.runtime.interpreter import InterpreterBuilder

        monkeypatch.setattr(InterpreterBuilder, "cast_impl", InterpreterBuilder.cast_impl)
        round_to_nearest()


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """New floating-point tensors hold NaN, so that an element that nothing wrote is noticed."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch fills them then
    yield
    torch.use_deterministic_algorithms(before)
