"""Settings shared by all tests: the interpreter, the seed, and which tests need a GPU."""

import os
import random
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

# Whether a kernel is interpreted is decided when it is imported, so this runs before any test
# module does. Tests that compile for a GPU do so in a process of their own, without it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

DEFAULT_SEED = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=DEFAULT_SEED, help="seed of every random number in the tests"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse to begin where no kernel could be interpreted; one seed for hypothesis too.

    Hypothesis draws from the tests' seed unless it was given its own.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        from kernels.autograd import interpreter_fault  # after the variable is set, see above

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
    """A seed of this test's own, so that its numbers do not depend on which tests ran before."""
    return zlib.crc32(f"{request.config.getoption('--seed')} {request.node.nodeid}".encode())


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> Iterator[None]:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield
