"""`bench.gpu.floor`: what is measured, kept or left out, and microbenchmarks that fail."""

import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from typer.testing import CliRunner

from bench.cli import app
from bench.gpu import floor, microbenchmarks
from bench.gpu.microbenchmark_launches import Chain
from bench.gpu.microbenchmarks import MICROBENCHMARKS, Microbenchmark, summarize
from bench.records import environment, files, limits, store
from bench.records.failed_checks import FAIL
from bench.records.provenance import ROOT
from bench.sweep.pool import Outcome, Pool, Unit, attempt
from kernels.plan.devices import DEVICES

CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels are not interpreted here"
)
NAMES = [each.name for each in MICROBENCHMARKS]


def test_all_of_it_takes_less_than_a_minute():
    planned = microbenchmarks.START_SECONDS + sum(each.seconds for each in MICROBENCHMARKS)
    assert planned <= floor.MAX_SECONDS == 60
    assert NAMES[:4] == ["barrier", "flag", "release", "chain"]  # no other tool measures these


def test_an_entry_has_its_interval_and_samples():
    taken = [3.0, 1.0, 2.0, 5.0, 4.0, 2.5, 3.5]
    found = summarize(taken, programs=8)
    assert (found["ms_low"], found["ms"], found["ms_high"]) == (1.0, 3.0, 5.0)
    assert found["samples_ms"] == taken and found["programs"] == 8
    few = summarize([4.0], "clocks")
    assert few["clocks"] == 4.0 and few["clocks_low"] is None


@pytest.fixture
def deaths(monkeypatch) -> dict[str, Outcome]:
    """Run units in this process; one named in the returned dict gets its outcome from there."""
    found: dict[str, Outcome] = {}

    def run(units: list[Unit], deadline: float) -> list[tuple[Unit, Outcome]]:
        return [(unit, found.get(unit.name) or attempt(unit.call)) for unit in units]

    pool = SimpleNamespace(run=run)
    monkeypatch.setattr(floor, "Pool", lambda workers: contextlib.nullcontext(pool))
    return found


@pytest.fixture
def card(monkeypatch, deaths) -> dict[str, Any]:
    """The facts of a simulated card with one SM: short runs in the interpreter, fake times."""
    products = tuple((*each[:3], 8) for each in microbenchmarks.PRODUCTS)
    for name, value in (
        ("SAMPLES", 2), ("STEPS", 3), ("CHAIN_STEPS", 2), ("HOPS", 5), ("LATENCY_LINES", 8),
        ("LAUNCHES", (1, 2)), ("COPY_BYTES", 64 << 10), ("GATHER_BYTES", (64 << 10,)),
        ("GATHER_TOTAL", 64 << 10), ("PRODUCTS", products),
    ):  # fmt: skip
        monkeypatch.setattr(microbenchmarks, name, value)
    turn = itertools.count(1)

    def elapsed_ms(call: Callable[[], None]) -> float:
        call()
        return float(10**6 - next(turn) ** 2)  # falls, so the long run, timed first, takes longer

    facts = {
        "name": "NVIDIA H100 80GB HBM3", "architecture": "sm_90", "multiprocessors": 1,
        "shared_bytes": 1000, "shared_total": 2000,
    }  # fmt: skip

    def describe_card() -> dict[str, Any]:
        seconds = {each.name: each.seconds for each in microbenchmarks.MICROBENCHMARKS}
        return {"card": facts, "device": environment.device_facts(), "seconds": seconds}

    counted = Chain.__call__

    def count(chain: Chain, steps: int) -> None:
        counted(chain, steps)
        chain.clocks.fill_(7 * 16 * steps)  # the interpreter's clock does not advance

    monkeypatch.setattr(microbenchmarks, "elapsed_ms", elapsed_ms)
    monkeypatch.setattr(Chain, "__call__", count)
    monkeypatch.setattr(floor, "describe_card", describe_card)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 30, 1 << 30))
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr("torch.cuda.graph", lambda graph: contextlib.nullcontext())
    return facts


def measure(folder: Path, seconds: float = 1e6) -> dict[str, Any]:
    problems = floor.run(folder, seconds)
    found = json.loads((folder / files.FLOOR).read_text())
    assert found["problems"] == problems
    assert floor.is_complete(folder) == (not problems)
    return found


@interpreted
def test_every_bound_is_measured_and_written(tmp_path: Path, card):
    found = measure(tmp_path)
    assert found["problems"] == {}
    assert [e["stored_bytes"] for e in found["barrier"]] == [3584, 0]
    assert [each["pairs"] for each in found["flag"]] == [1]
    assert [each["stored_bytes"] for each in found["release"]] == [0, 512, 4096]
    assert [(e["n"], e["clocks"]) for e in found["chain"]] == [(16, 7), (32, 7), (64, 7)]
    assert [each["how"] for each in found["launch"]] == ["graph", "stream"]
    assert [(e["words"], e["readers"]) for e in found["gather"]] == [
        (4096, 1), (8192, 1), (16384, 1),
    ]  # fmt: skip
    assert len(found["copy"]) == len(microbenchmarks.COPIES) and len(found["multiply"]) == 4
    assert found["device"]["name"] and found["software"]["triton"] and found["card"] == card
    bounds = limits.load_limits(tmp_path)
    assert bounds is not None and (bounds.shared_bytes, bounds.multiprocessors) == (1000, 1)
    assert limits.read(tmp_path / files.LIMITS) == limits.read(tmp_path / files.FLOOR)
    (tmp_path / files.LIMITS).unlink()
    assert measure(tmp_path)["problems"] == {} and limits.load_limits(tmp_path) == bounds


@pytest.fixture
def fake(monkeypatch, card) -> Callable[..., None]:
    """A function that replaces the microbenchmarks by a, b and c, which measure nothing.

    Each yields two entries after ``spent`` seconds each; ``fault`` raises after its first.
    """

    def replace(fault: str = "", seconds: float = 1.0, spent: float = 0.0) -> None:
        def entries(name: str, *_: Any) -> Iterator[dict[str, Any]]:
            for k in range(2):
                time.sleep(spent)
                yield {"k": k}
                if name == fault:
                    raise RuntimeError("an illegal memory access was encountered\nmore")

        made = [Microbenchmark(n, seconds, partial(entries, n)) for n in "abc"]
        monkeypatch.setattr(microbenchmarks, "MICROBENCHMARKS", made)

    return replace


def test_what_does_not_fit_the_time_is_left_out_or_keeps_what_it_has(tmp_path: Path, fake):
    fake(seconds=1e5)
    assert measure(tmp_path, seconds=1.5e5)["problems"] == {}
    found = measure(tmp_path / "x", seconds=9e4)
    assert found["problems"]["a"].startswith("left out: it may take 100000 s, and ")
    assert found["problems"].keys() == {"a", "b", "c"} and "a" not in found
    fake(seconds=-1e9, spent=0.01)
    found = measure(tmp_path / "y", seconds=0.0)
    assert found["a"] == [{"k": 0}]
    assert found["problems"]["a"] == "ended after 1 variants: the time was up"


def test_a_failure_costs_only_itself_and_is_measured_again(tmp_path: Path, fake, card, deaths):
    fake(fault="b")
    deaths["c"] = Outcome(FAIL, "the process died (signal SIGSEGV)")
    found = measure(tmp_path)
    assert (found["a"], found["b"], found["c"]) == ([{"k": 0}, {"k": 1}], [{"k": 0}], [])
    assert found["problems"] == {
        "b": "failed: RuntimeError: an illegal memory access was encountered\nmore",
        "c": "failed: the process died (signal SIGSEGV)",
    }
    deaths.clear()
    fake(fault="a")  # "a" was measured before and is not repeated
    found = measure(tmp_path)
    assert found["problems"] == {} and found["b"] == found["c"] == [{"k": 0}, {"k": 1}]
    card["name"] = "another card"  # so everything is measured again
    assert measure(tmp_path)["problems"].keys() == {"a"}


def test_a_call_that_is_killed_leaves_no_complete_floor(tmp_path: Path, fake, monkeypatch):
    fake()
    monkeypatch.setattr(environment, "sensors", Mock(side_effect=[{}, {}, KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        floor.run(tmp_path, 1e6)
    found = store.read_state(tmp_path / files.FLOOR)
    assert "a" in found and found["problems"].keys() == {"b", "c"}
    assert not floor.is_complete(tmp_path)


def test_a_process_that_cannot_start_is_an_error(tmp_path: Path, deaths):
    deaths["card"] = Outcome(FAIL, "the process died (exit code 1)")
    with pytest.raises(RuntimeError, match="floor was not measured: the process died"):
        floor.run(tmp_path, 60.0)


@interpreted
def test_a_failure_in_another_process_comes_back_with_what_was_measured():
    """Without a GPU no kernel can be launched."""
    unit = Unit("barrier", partial(floor.measure, "barrier", 1, float("inf")))
    with Pool(1, {"TRITON_INTERPRET": "0"}) as pool:
        ((_, outcome),) = pool.run([unit], time.monotonic() + 600)
    assert outcome.state == FAIL and outcome.found == ([], "")
    assert "driver" in outcome.detail


@pytest.mark.parametrize(("why", "code"), [("left out: late", 0), ("failed: x", 1)])
def test_the_command_prints_problems_and_fails_on_failures(why, code, tmp_path, monkeypatch):
    monkeypatch.setattr(floor, "run", lambda folder, seconds: {"a": why})
    found = CliRunner().invoke(app, ["floor", str(tmp_path)])
    assert (found.exit_code, found.stderr) == (code, f"a: {why}\n")
    assert str(tmp_path / files.FLOOR) in found.stdout


def test_seconds_in_which_nothing_is_measured_are_refused(tmp_path: Path):
    found = CliRunner().invoke(app, ["floor", str(tmp_path), "--max-seconds", "nan"])
    assert "max-seconds is nan; accepted: a number above 0" in str(found.exception)


@pytest.mark.slow
@interpreted
def test_without_a_gpu_the_command_checks_every_kernel(tmp_path: Path):
    command = [sys.executable, "-m", "bench", "floor", str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "every kernel of the floor computes what it should" in found.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_the_floor_of_this_gpu_is_plausible(tmp_path: Path):
    began = time.monotonic()
    assert floor.run(tmp_path, floor.MAX_SECONDS) == {}
    assert time.monotonic() - began < floor.MAX_SECONDS
    bounds = limits.read(tmp_path / files.LIMITS)
    assert all(0.05 < us < 20 for us in bounds.loaded_barrier_us.values())
    assert all(4 < clocks < 200 for clocks in bounds.product_clocks.values())
    assert bounds.gather_gbps is not None and 10 < bounds.gather_gbps < 1000
    assert bounds.hbm_gbps is not None and 100 < bounds.hbm_gbps < 20000


@interpreted
def test_the_card_is_the_one_that_kernels_are_planned_for():
    facts = floor.card_facts(CPU)
    assert facts.pop("name") == environment.machine().name
    h100 = dataclasses.asdict(DEVICES["h100"])
    assert facts == {name: h100[name] for name in facts} and len(facts) == 4
