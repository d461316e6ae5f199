"""The GPU campaign: rehearsed from end to end, resumed, packed, and stopped by a wrong value."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer

from bench import archive, campaign, environment, floor, model, store
from bench.__main__ import COMMANDS
from bench.environment import ROOT
from bench.presets import load_preset

CPU = torch.device("cpu")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "campaign", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


# --- the floor


def test_the_floors_kernels_compute_what_they_should():
    floor.verify(CPU)


def test_a_barrier_that_nobody_completes_is_seen(monkeypatch):
    """The interpreter runs programs one after another, so the first of two waits in vain."""
    monkeypatch.setattr(floor, "MAX_POLLS", 3)
    with pytest.raises(RuntimeError, match="among 2 programs in 1 groups was not completed"):
        floor.Barrier.among(2, 1, CPU).check(2)


COMPILED = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bench import floor

def ptx(kernel, constants, warps):
    signature = {
        name: "constexpr" if name in constants else "*i64" if name == "error_ptr"
        else "*i32" if name.endswith("_ptr") else "i32" for name in kernel.arg_names
    }
    at = {name: (kernel.arg_names.index(name),) for name in signature}
    attributes = {at[n]: [["tt.divisibility", 16]] for n, t in signature.items() if t[0] == "*"}
    source = ASTSource(kernel, signature, {at[n]: v for n, v in constants.items()}, attributes)
    options = {"num_warps": warps}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

barrier = ptx(floor.barrier_loop, {}, 4)
assert "release" in barrier and "acquire" in barrier, barrier
for words, warps in floor.GATHERS:
    code = ptx(floor.gather_loop, {"WORDS": 1 << 16, "BLOCK": words}, warps)
    loop = re.search(r"(\\$L__BB0_\\d+):.*?bra \\1;|(\\$L__BB0_2):.*", code, re.DOTALL).group()
    assert loop.count("ld.global.cg.v4") == words // (warps * 32 * 4), code
for words, warps in floor.COPIES:
    assert "ld.global.v4" in ptx(floor.copy_block, {"BLOCK": words}, warps)
ptx(floor.nothing, {}, 1)
"""


@pytest.mark.slow
def test_the_floors_kernels_compile_for_a_gpu_that_is_not_there():
    """Every read of the gather stays in its loop, in whole 16 bytes, and past L1."""
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(Path.home())}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_bounds_are_the_best_that_was_measured():
    found: dict[str, list[dict[str, Any]]] = {
        "barrier": [{"programs": 2, "ms": 0.0005}, {"programs": 132, "ms": 0.001}],
        "gather": [{"gbps": 80.0}, {"gbps": 100.0}],
        "copy": [{"gbps": 3000.0}, {"gbps": 2900.0}],
        "multiply": [{"number": "bf16", "tflops": 700.0}, {"number": "tf32", "tflops": 300.0}],
    }
    facts = {"max_shared_mem": 232448, "multiprocessor_count": 132}
    bounds = floor.limits(found, facts)
    assert bounds.hbm_gbps == 3000 and bounds.gather_gbps == 100
    assert bounds.tflops == {"bf16": 700.0, "tf32": 300.0, "tf32x3": 100.0}
    assert bounds.barrier_ms(131) == 0.0005 and bounds.barrier_ms(500) == 0.001
    assert isinstance(bounds, model.Limits)


def test_an_entry_tells_its_interval_and_samples():
    found = floor.entry([1.0, 2.0, 3.0], programs=8)
    assert found["ms"] == 2.0 and found["ms_low"] <= 2.0 <= found["ms_high"]
    assert found["samples_ms"] == [1.0, 2.0, 3.0] and found["programs"] == 8


def test_every_bound_is_measured_and_written(tmp_path: Path, monkeypatch):
    """The measuring process with a card of one multiprocessor played by the interpreter."""
    bf16, tf32 = ("bf16", torch.bfloat16, "none", 8), ("tf32", torch.float32, "tf32", 8)
    for name, value in (
        ("SAMPLES", 2), ("STEPS", 3), ("LAUNCHES", 2), ("COPY_BYTES", 64 << 10),
        ("GATHER_BYTES", (32 << 10,)), ("GATHER_TOTAL", 32 << 10), ("PRODUCTS", (bf16, tf32)),
    ):  # fmt: skip
        monkeypatch.setattr(floor, name, value)
    clock = iter(range(1, 10**6))

    def milliseconds(call: Callable[[], None]) -> float:
        call()
        return float(next(clock) ** 2)  # later calls, the short ones, seem longer: any number does

    card = {"max_shared_mem": 1000, "multiprocessor_count": 1}
    driver = SimpleNamespace(utils=SimpleNamespace(get_device_properties=lambda device: card))
    monkeypatch.setattr(floor, "milliseconds", milliseconds)
    monkeypatch.setattr("triton.runtime.driver._active", driver, raising=False)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 30, 1 << 30))
    monkeypatch.setattr("torch.cuda.CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr("torch.cuda.graph", lambda graph: contextlib.nullcontext())
    found, bounds = floor.measure(CPU)
    floor.write(tmp_path, found, bounds)
    assert model.load_limits(tmp_path) == bounds
    kept = json.loads((tmp_path / floor.FILE).read_text())
    assert [each["how"] for each in kept["launch"]] == ["stream", "graph"]
    assert [each["programs"] for each in kept["barrier"]] == [1]
    assert len(kept["gather"]) == 4 and len(kept["copy"]) == len(floor.COPIES)
    assert kept["device"]["name"] and kept["software"]["triton"]


@pytest.mark.gpu
def test_the_floor_of_this_gpu_is_plausible():
    found, bounds = floor.measure(torch.device("cuda"))
    assert all(0.05 < us < 20 for us in bounds.barrier_us.values())
    assert 10 < bounds.gather_gbps < 1000 and 100 < bounds.hbm_gbps < 20000
    assert {each["how"] for each in found["launch"]} == {"stream", "graph"}


# --- what is kept


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results tree of noise, which cannot be compressed."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "tree" / "card"
    for name in ("records/run.jsonl", "figures/a.svg", "figures/a.png", "figures/a.pdf", "t.csv"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(torch.randint(0, 256, (5000,), generator=generator).tolist()))
    return folder.parent


def files(tree: Path) -> dict[str, bytes]:
    return {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_packed_results_come_back_whole(results: Path, tmp_path: Path):
    out = tmp_path / "out"
    said = archive.pack(results, out, part_bytes=4000)
    assert "7 parts" in said
    assert [part.stat().st_size <= 4000 for part in archive.parts(out)] == [True] * 7
    archive.restore(out, tmp_path / "again")
    assert files(tmp_path / "again") == files(results)
    archive.pack(results, out, part_bytes=20000)
    assert len(list(out.iterdir())) == len(archive.parts(out)) == 2


def test_figures_give_way_to_records(results: Path, tmp_path: Path):
    said = archive.pack(results, tmp_path / "out", total=17000)
    assert "without .svg, .png" in said
    archive.restore(tmp_path / "out", tmp_path / "again")
    kept = {"card/records/run.jsonl", "card/figures/a.pdf", "card/t.csv"}
    assert files(tmp_path / "again").keys() == kept
    with pytest.raises(RuntimeError, match="accepted: 9000"):
        archive.pack(results, tmp_path / "out", total=9000)


def test_a_call_that_is_ended_leaves_what_it_had(tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(SystemExit), campaign.tree(out, True, None) as (inside, _):
        (inside / "record").write_text("kept")
        campaign._terminated(signal.SIGTERM, None)
    assert [path.name for path in out.iterdir()] == ["results.tar.gz.00"]
    with campaign.tree(out, True, None) as (inside, _):  # the next call finds it
        assert (inside / "record").read_text() == "kept"
    with campaign.tree(tmp_path / "plain", False, out) as (inside, _):
        assert inside == tmp_path / "plain" and (inside / "record").read_text() == "kept"
    missing = tmp_path / "no"
    with pytest.raises(FileNotFoundError, match="--resume"), campaign.tree(out, True, missing):
        pass


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
    assert done.returncode == 2 and "--rehearse needs --out" in done.stderr


@pytest.mark.parametrize("how", ["wrong", "hangs"])
def test_a_wrong_value_stops_it_before_anything_is_measured(how: str, tmp_path: Path, monkeypatch):
    plain = subprocess.run

    def check(words: list[str], **options: Any) -> Any:
        if "check-gpu" not in words:
            return plain(words, **options)
        if how == "hangs":
            raise subprocess.TimeoutExpired(words, 1.0)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(subprocess, "run", check)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        campaign.command(1, tmp_path, False, None, True, 0.1, 0.1, 60)
    signal.signal(signal.SIGTERM, before)
    assert ended.value.exit_code == 1
    assert list(tmp_path.rglob("*.json*")) == []


def test_time_is_kept_for_the_report(tmp_path: Path):
    made = campaign.Campaign(tmp_path, time.monotonic() + 600, {}, lambda: None)
    assert made.left() == pytest.approx(510, abs=2)
    made.remember(report_seconds=10.0)
    again = campaign.Campaign(tmp_path, time.monotonic() + 600, {}, lambda: None)
    assert again.left() == pytest.approx(585, abs=2)
    short = campaign.Campaign(tmp_path, time.monotonic() + 4, {}, lambda: None)
    assert short.left() == pytest.approx(2, abs=1)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif("check-gpu" not in COMMANDS, reason="bench has no check-gpu to begin with")
def test_a_rehearsal_goes_from_end_to_end_and_resumes(tmp_path: Path):
    brief = ("--rehearse", "--seconds", "0.05", "--target", "0.5")
    done = run(*brief, "--max-minutes", "5", "--out", str(tmp_path / "first"), "--pack")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["results.tar.gz.00"]
    words = ("--out", str(tmp_path / "second"), "--resume", str(tmp_path / "first"))
    again = run(*brief, "--max-minutes", "5", *words)
    assert again.returncode == 0, again.stdout + again.stderr
    for said in ("check-gpu: passed before", "activations: measured before", "none new"):
        assert said in again.stdout
    folder = tmp_path / "second" / environment.slug(environment.probe().name)
    records = list(store.read(folder / "records"))
    kinds = {(record["kind"], record["status"]) for record in records}
    assert {("time", "ok"), ("error", "ok")} <= kinds <= {*kinds, ("time", "unsupported")}
    assert any(record["provider"] == "ours" and record["interpreted"] for record in records)
    assert any((folder / "tables").glob("*.csv")) and any((folder / "figures").glob("*.pdf"))
