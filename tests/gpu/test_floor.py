"""The floor's microbenchmarks: what they compute, what they compile to, what of them is kept."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu import (
    floor,
    microbenchmark_kernels,
    microbenchmark_launches,
    microbenchmarks,
)
from bench.gpu.microbenchmarks import MICROBENCHMARKS, Microbenchmark
from bench.records import environment, files, limits, store
from bench.records.provenance import ROOT
from bench.sweep import process
from kernels.plan import Problem, forward_plan
from kernels.plan.devices import DEVICES

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
interpreted = pytest.mark.skipif(DEVICE.type == "cuda", reason="kernels are not interpreted here")
NAMES = [each.name for each in MICROBENCHMARKS]


# --- what the kernels compute


@pytest.mark.parametrize("each", MICROBENCHMARKS, ids=NAMES)
def test_the_kernels_compute_what_they_should(each: Microbenchmark):
    each.check(DEVICE)


@interpreted
def test_a_barrier_that_nobody_completes_is_seen(monkeypatch):
    """The interpreter runs programs one after another, so the first of two waits in vain."""
    monkeypatch.setattr(microbenchmark_launches, "MAX_POLLS", 3)
    with pytest.raises(RuntimeError, match="among 2 programs in 1 groups was not completed"):
        microbenchmark_launches.Barrier.among(2, 1, CPU).check(2)


@interpreted
def test_a_flag_that_nobody_answers_is_seen(monkeypatch):
    monkeypatch.setattr(microbenchmark_launches, "MAX_POLLS", 3)
    with pytest.raises(RuntimeError, match="flags between 1 pairs of programs were not seen"):
        dataclasses.replace(microbenchmark_launches.Flags.between(1, CPU), answered=False).check(2)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: microbenchmark_launches.Barrier.among(1, 2, DEVICE, (128, 256)),
            "was not completed",
        ),
        (lambda: microbenchmark_launches.Release.by(2, 128, DEVICE), "counted otherwise"),
        (lambda: microbenchmark_launches.Flags.between(1, DEVICE), "were not seen"),
        (lambda: microbenchmark_launches.Latency.over(16, DEVICE), "ended elsewhere"),
        (
            lambda: microbenchmark_launches.Chain.by(1, 16, 4, DEVICE),
            "sum of 5 products 64 x 16 is wrong",
        ),
    ],
)
def test_a_step_too_few_is_seen(made: Callable[[], Any], message: str, monkeypatch):
    run, kind = made(), type(made())
    whole = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, steps: whole(self, steps - 1))
    with pytest.raises(RuntimeError, match=message):
        run.check(5)


@pytest.mark.parametrize("steps", [1, microbenchmark_kernels.RING, microbenchmark_kernels.RING + 3])
def test_every_word_that_was_stored_is_checked(steps: int):
    stored = microbenchmark_launches.ring(2, 3, CPU)
    for step in range(steps):
        stored[step % microbenchmark_kernels.RING] = step
    microbenchmark_launches.check_ring(stored, steps, "it")
    stored[(steps - 1) % microbenchmark_kernels.RING, 1, 2] += 1
    with pytest.raises(RuntimeError, match="what it stored is not what it should be"):
        microbenchmark_launches.check_ring(stored, steps, "it")


def test_a_program_stores_as_much_as_in_a_real_step():
    plan = forward_plan(Problem(4, 16, 1024, 1, "bfloat16"), DEVICES["h100"])
    assert plan.units * plan.block_b == microbenchmark_kernels.PAIRS
    assert microbenchmark_kernels.SAVED_WORDS % microbenchmark_kernels.SAVED_BLOCK == 0


# --- what they compile to

COMPILED = """
import re, subprocess, tempfile, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bench.compiler import compile_kernel
from bench.gpu import microbenchmark_kernels as k, microbenchmarks as m

def compiled(kernel, constants, warps, **types):
    signature = {
        name: "constexpr" if name in constants else types.get(name)
        or ("*i32" if name.endswith("_ptr") else "i32") for name in kernel.arg_names
    }
    at = {name: (kernel.arg_names.index(name),) for name in signature}
    attributes = {at[n]: [["tt.divisibility", 16]] for n, t in signature.items() if t[0] == "*"}
    source = ASTSource(kernel, signature, {at[n]: v for n, v in constants.items()}, attributes)
    options = {"num_warps": warps}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm

def sass(asm):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        tool = compile_kernel._tool("cuobjdump")
        listing = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True).stdout
    code = compile_kernel.sass(listing)
    span = compile_kernel.time_loop(code)
    assert not re.search("LDL|STL", listing), "a spill"
    return [text for at, text in code if at in span], [text for _, text in code]

def count(texts, what):
    return sum(bool(re.search(what, text)) for text in texts)

def order(texts, *whats):
    "Each is there, after the one before."
    rest = iter(texts)
    for what in whats:
        assert any(re.search(what, text) for text in rest), (what, texts)

stores = {"BEFORE": k.STATE_WORDS, "AFTER": k.SAVED_WORDS, "RING": k.RING}
loop, _ = sass(compiled(k.barrier_loop, stores, 4, error_ptr="*i64"))
order(loop, "LDG.E.STRONG.GPU", "STG", "BAR.SYNC", "MEMBAR.ALL.GPU", "RED.*ADD.*STRONG.GPU", "STG")
assert count(loop, "MEMBAR") == 1, loop
bare, _ = sass(compiled(k.barrier_loop, stores | {"BEFORE": 0, "AFTER": 0}, 4, error_ptr="*i64"))
assert count(bare, "STG") == 1, bare  # of a failure
for words in m.RELEASED_WORDS:
    constants = {"WORDS": words, "RING": k.RING}
    loop, _ = sass(compiled(k.release_loop, constants, 4, clocks_ptr="*i64"))
    order(loop, *["STG"] * bool(words), "BAR.SYNC", "CLOCK", "MEMBAR.ALL.GPU", "RED", "CLOCK")
loop, every = sass(compiled(k.flag_loop, {"LINES": k.FLAG_LINES}, 1))
assert count(every, "LDG.E.STRONG.GPU") == 4 and count(every, "STG.E.STRONG.GPU") == 2, every
assert not count(every, "MEMBAR|ATOM|RED"), every
_, every = sass(compiled(k.latency_loop, {}, 1))
assert count(every, "LDG.E.STRONG.GPU") >= 1 and not count(every, r"LDG\\.E R"), every
for n, warps in m.CHAINS:
    constants = {"ROWS": k.CHAIN_ROWS, "N": n, "K": k.CHAIN_COLUMNS}
    types = {"left_ptr": "*bf16", "right_ptr": "*bf16", "total_ptr": "*fp32", "clocks_ptr": "*i64"}
    loop, every = sass(compiled(k.chain_loop, constants, warps, **types))
    # Two groups of four warps share the sequences; the left operand is a descriptor of shared
    # memory, and nothing is loaded or stored anew.
    product = rf"HGMMA.64x{n * 4 // warps}x16.F32.BF16 R\\d+, gdesc"
    assert count(loop, product) == count(every, "HGMMA") == k.CHAIN_COLUMNS // k.CHAIN_K, loop
    assert not count(loop, "LDG|LDS|STS|CLOCK"), loop
    order(every, "CLOCK", product, "CLOCK")
for words, warps, _ in m.GATHERS:
    loop, _ = sass(compiled(k.gather_loop, {"BLOCK": words}, warps))
    reads = count(loop, r"LDG.E.128.STRONG.GPU")  # of one block or, unrolled, of several
    assert reads and reads % (words // (warps * 32 * 4)) == 0, loop
    assert reads == count(loop, "LDG"), loop
for words, warps in m.COPIES:
    _, every = sass(compiled(k.copy_block, {"BLOCK": words}, warps))
    assert count(every, "LDG.E.128") == count(every, "STG.E.128") == words // (warps * 32 * 4)
compiled(k.nothing, {}, 1)
print("compiled with", triton.__version__)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_there():
    """The instruction that each is to measure stands where its clock or its loop is, and nothing
    is spilled: the release between two clocks, the products from shared memory in a chain.
    """
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(Path.home())}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


# --- measuring


def test_all_of_it_takes_less_than_a_minute():
    planned = microbenchmarks.START_SECONDS + sum(each.seconds for each in MICROBENCHMARKS)
    assert planned <= floor.MAX_SECONDS == 60
    assert NAMES[:4] == ["barrier", "flag", "release", "chain"]  # what nothing else tells


def test_an_entry_tells_its_interval_and_samples():
    found = microbenchmarks.entry([1.0, 2.0, 3.0], programs=8)
    assert found["ms"] == 2.0 and found["ms_low"] <= 2.0 <= found["ms_high"]
    assert found["samples_ms"] == [1.0, 2.0, 3.0] and found["programs"] == 8
    assert microbenchmarks.entry([4.0], "clocks")["clocks"] == 4.0


@pytest.fixture
def card(monkeypatch) -> dict[str, Any]:
    """A card of one multiprocessor played by the interpreter, whose runs are short."""
    bf16, fp16 = ("bf16", torch.bfloat16, "none", 8), ("fp16", torch.float16, "none", 8)
    tf32, ieee = ("tf32", torch.float32, "tf32", 8), ("ieee", torch.float32, "ieee", 8)
    for name, value in (
        ("SAMPLES", 2), ("STEPS", 3), ("CHAIN_STEPS", 2), ("HOPS", 5), ("LATENCY_LINES", 8),
        ("LAUNCHES", (1, 2)), ("COPY_BYTES", 64 << 10), ("GATHER_BYTES", (64 << 10,)),
        ("GATHER_TOTAL", 64 << 10), ("PRODUCTS", (bf16, fp16, tf32, ieee)),
    ):  # fmt: skip
        monkeypatch.setattr(microbenchmarks, name, value)
    turn = iter(range(1, 10**6))

    def milliseconds(call: Callable[[], None]) -> float:
        call()
        return float(10**6 - next(turn) ** 2)  # so that the long run, asked first, seems longer

    facts = {
        "name": "NVIDIA H100 80GB HBM3", "architecture": "sm_90", "multiprocessors": 1,
        "shared_bytes": 1000, "shared_total": 2000,
    }  # fmt: skip
    monkeypatch.setattr(microbenchmarks, "milliseconds", milliseconds)
    # The interpreter's clocks stand still.
    counted = microbenchmark_launches.Chain.__call__

    def count(chain: microbenchmark_launches.Chain, steps: int) -> None:
        counted(chain, steps)
        chain.clocks.fill_(7 * 16 * steps)

    monkeypatch.setattr(microbenchmark_launches.Chain, "__call__", count)
    monkeypatch.setattr(floor, "card_facts", lambda device: facts)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 30, 1 << 30))
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr("torch.cuda.graph", lambda graph: contextlib.nullcontext())
    return facts


def measure(folder: Path, seconds: float = 1e6, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    assert floor.measure(folder, CPU, time.monotonic() + seconds, skip)
    return json.loads((folder / files.FLOOR).read_text())


@interpreted
def test_every_bound_is_measured_and_written(tmp_path: Path, card):
    found = measure(tmp_path)
    assert found["problems"] == {} and found["running"] is None
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


def fake(*names: str, seconds: float = 1.0, fault: str = "", spent: float = 0.0) -> list[Any]:
    """Microbenchmarks that measure nothing; the one named ``fault`` raises after an entry."""

    def entries(name: str) -> Iterator[dict[str, Any]]:
        for k in range(2):
            time.sleep(spent)
            yield {"k": k}
            if name == fault:
                raise RuntimeError("an illegal memory access was encountered\nmore")

    def each(name: str) -> Microbenchmark:
        return Microbenchmark(name, seconds, lambda d: None, lambda d, m: entries(name))

    return [each(name) for name in names]


@pytest.fixture
def plain(monkeypatch):
    """Nothing of what ``fake`` measures can be summed up."""
    monkeypatch.setattr(
        floor, "write", lambda folder, found: store.write_state(folder / files.FLOOR, found)
    )


def test_what_does_not_fit_the_time_is_left_out_and_said(tmp_path: Path, monkeypatch, card, plain):
    monkeypatch.setattr(microbenchmarks, "MICROBENCHMARKS", fake("a", "b", seconds=1e5))
    found = measure(tmp_path, seconds=1.5e5)
    assert found["problems"] == {}
    found = measure(tmp_path / "x", seconds=9e4)
    assert found["problems"]["a"].startswith("left out: it may take 100000 s, and ")
    assert found["problems"]["b"].startswith("left out") and "a" not in found


def test_one_that_takes_too_long_keeps_what_it_has(tmp_path: Path, monkeypatch, card, plain):
    slow = fake("a", "b", seconds=-1e9, spent=0.01)
    monkeypatch.setattr(microbenchmarks, "MICROBENCHMARKS", slow)
    found = measure(tmp_path, seconds=0.0)
    assert found["a"] == [{"k": 0}]
    assert found["problems"]["a"] == "ended after 1 variants: the time was up"


def test_a_failure_costs_only_itself_and_is_tried_again(tmp_path: Path, monkeypatch, card, plain):
    monkeypatch.setattr(microbenchmarks, "MICROBENCHMARKS", fake("a", "b", "c", fault="b"))
    found = measure(tmp_path)
    assert found["a"] == found["c"] == [{"k": 0}, {"k": 1}]
    assert found["problems"] == {
        "b": "failed: RuntimeError: an illegal memory access was encountered\nmore"
    }
    whole = fake("a", "b", "c", fault="a")  # what is there is not measured anew
    monkeypatch.setattr(microbenchmarks, "MICROBENCHMARKS", whole)
    assert measure(tmp_path, skip=("b",))["problems"].keys() == {"b"}
    found = measure(tmp_path)
    assert found["problems"] == {} and found["b"] == [{"k": 0}, {"k": 1}]
    card["name"] = "another card"  # whose numbers are others
    assert measure(tmp_path)["problems"].keys() == {"a"}


def test_a_gpu_that_a_failure_left_unusable_ends_the_process(
    tmp_path: Path, monkeypatch, card, plain
):
    monkeypatch.setattr(microbenchmarks, "MICROBENCHMARKS", fake("a", "b", "c", fault="b"))
    monkeypatch.setattr(floor, "usable", lambda device: False)
    assert not floor.measure(tmp_path, CPU, time.monotonic() + 1e6, ())
    found = floor.read(tmp_path)
    assert found["running"] == "b" and found["problems"].keys() == {"b"} and "c" not in found


def test_a_process_that_dies_costs_only_what_it_was_at(tmp_path: Path, monkeypatch, plain):
    """Four processes: unusable in a, killed in b, hanging in c, and one for the rest."""
    found: dict[str, Any] = {"problems": {}, "running": "d"}  # of a call that was killed
    store.write_state(tmp_path / files.FLOOR, found)
    skipped = []

    def run_call(call: Any, seconds: float) -> bool:
        skipped.append(call.args[-1])
        assert floor.read(tmp_path)["running"] is None
        turn = len(skipped)
        found = floor.read(tmp_path)
        found["running"] = {1: "a", 2: "b", 3: "c"}.get(turn)
        if turn == 1:
            found["problems"]["a"] = "failed: RuntimeError: illegal"
        store.write_state(tmp_path / files.FLOOR, found)
        if turn in (2, 3):
            raise process.Died(process.describe_end({2: -signal.SIGSEGV, 3: None}[turn]))
        return turn != 1

    monkeypatch.setattr(process, "run_call", run_call)
    assert floor.run(tmp_path, 60.0) == {
        "a": "failed: RuntimeError: illegal",
        "b": "failed: the process died (signal SIGSEGV)",
        "c": "failed: the process took too long",
    }
    assert skipped == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_process_that_measures_nothing_is_not_started_for_ever(tmp_path: Path, monkeypatch):
    def run_call(call: Any, seconds: float) -> bool:
        raise process.Died(process.describe_end(1))

    monkeypatch.setattr(process, "run_call", run_call)
    with pytest.raises(RuntimeError, match=r"floor was not measured: .* died \(exit code 1\)"):
        floor.run(tmp_path, 60.0)


def test_failures_end_the_command_with_1_and_are_printed(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(floor, "run", lambda folder, seconds: {"a": "left out: late"})
    assert floor.main([str(tmp_path)]) == 0
    assert capsys.readouterr().err == "a: left out: late\n"
    monkeypatch.setattr(floor, "run", lambda folder, seconds: {"b": "failed: x"})
    assert floor.main([str(tmp_path), "--max-seconds", "9"]) == 1
    with pytest.raises(SystemExit):
        floor.main([str(tmp_path), "--max-seconds", "nan"])
    assert "max-seconds is nan; accepted: a number above 0" in capsys.readouterr().err


@interpreted
def test_without_a_gpu_the_command_checks_every_kernel(tmp_path: Path):
    found = subprocess.run(
        [sys.executable, "-m", "bench.gpu.floor", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
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


# --- what is made of it


@interpreted
def test_the_card_is_the_one_that_kernels_are_planned_for():
    facts = floor.card_facts(CPU)
    assert facts.pop("name") == environment.machine().name
    h100 = dataclasses.asdict(DEVICES["h100"])
    assert facts == {name: h100[name] for name in facts} and len(facts) == 4
