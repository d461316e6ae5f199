"""The floor's microbenchmarks: what their checks find, and what their kernels compile to."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import microbenchmark_launches as launches
from bench.gpu.microbenchmark_kernels import PAIRS, RING, SAVED_BLOCK, SAVED_WORDS
from bench.gpu.microbenchmark_launches import Barrier, Chain, Flags, Latency, Release
from bench.records.provenance import ROOT
from kernels.plan import Problem, forward_plan
from kernels.plan.devices import DEVICES

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
interpreted = pytest.mark.skipif(DEVICE.type == "cuda", reason="kernels are not interpreted here")


@interpreted
def test_a_wait_that_gives_up_is_found(monkeypatch):
    """The interpreter runs programs one after another, so the first of two gets no answer."""
    monkeypatch.setattr(launches, "MAX_POLLS", 3)
    with pytest.raises(RuntimeError, match="among 2 programs in 1 groups was not completed"):
        Barrier(2, 1, CPU).check(2)
    with pytest.raises(RuntimeError, match="flags between 1 pairs of programs were not seen"):
        flags = Flags(1, CPU)
        flags.answered = False
        flags.check(2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Barrier(1, 2, DEVICE, (128, 256)), "was not completed"),
        (lambda: Release(2, 128, DEVICE), "its counter differs"),
        (lambda: Flags(1, DEVICE), "were not seen"),
        (lambda: Latency(16, DEVICE), "ended at the wrong word"),
        (lambda: Chain(1, 16, 4, DEVICE), "sum of 5 products 64 x 16 is wrong"),
    ],
)
def test_a_run_of_a_step_too_few_is_found(made: Callable[[], Any], message: str, monkeypatch):
    run, kind = made(), type(made())
    whole = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, steps: whole(self, steps - 1))
    with pytest.raises(RuntimeError, match=message):
        run.check(5)


@pytest.mark.parametrize("steps", [1, RING, RING + 3])
def test_every_word_that_was_stored_is_checked(steps: int):
    stored = launches.ring(2, 3, CPU)
    for step in range(steps):
        stored[step % RING] = step
    launches.check_ring(stored, steps, "it")
    stored[(steps - 1) % RING, 1, 2] += 1
    with pytest.raises(RuntimeError, match="it stored wrong values"):
        launches.check_ring(stored, steps, "it")


def test_a_program_stores_as_much_as_in_a_real_step():
    plan = forward_plan(Problem(4, 16, 1024, 1, "bfloat16"), DEVICES["h100"])
    assert plan.units * plan.block_b == PAIRS
    assert SAVED_WORDS % SAVED_BLOCK == 0


@pytest.mark.slow
def test_the_kernels_compile_for_an_h100():
    """Each timed instruction is where its clock or loop is, and nothing is spilled."""
    command = [sys.executable, "-m", "tests.helpers.compile_microbenchmarks"]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(Path.home())}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
