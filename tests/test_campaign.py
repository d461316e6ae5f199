"""The GPU campaign: rehearsed from end to end, resumed, packed, and stopped by a wrong value."""

import contextlib
import json
import os
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
from typer.testing import CliRunner

from bench import archive, campaign, check_gpu, environment, floor, model, store, sweep, toolchain
from bench.__main__ import COMMANDS, app
from bench.cases import DEFAULTS, make_case
from bench.environment import ROOT
from bench.pool import FAIL, LEFT_OUT, NOT_DONE, PASS
from bench.presets import load_preset
from tests.units import gone

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


@pytest.mark.parametrize("step", range(9))
def test_a_kill_while_packing_leaves_a_whole_packing(
    results: Path, tmp_path: Path, monkeypatch, step: int
):
    """Killed at the n-th change of the folder: what comes back is all of the old, or of the new."""
    out = tmp_path / "out"
    archive.pack(results, out, part_bytes=6000)
    old, count = files(results), len(archive.parts(out))
    (results / "card" / "records" / "run.jsonl").write_bytes(b"later" * 2000)
    new = files(results)
    changes = iter(range(100))

    def killed_at(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*words: Any) -> Any:
            if next(changes) == step:
                raise KeyboardInterrupt
            return change(*words)

        return changed

    monkeypatch.setattr(archive.os, "replace", killed_at(os.replace))
    monkeypatch.setattr(Path, "unlink", killed_at(Path.unlink))
    with contextlib.suppress(KeyboardInterrupt):
        archive.pack(results, out, part_bytes=6000)
    monkeypatch.undo()
    archive.restore(out, tmp_path / "again")
    assert count == 5  # and 4 the second time, whose records shrink: changes 0 to 3 put them
    assert files(tmp_path / "again") == (old if step < 4 else new)
    # The next packing clears what the killed one left.
    archive.pack(results, out, part_bytes=20000)
    assert sorted(out.glob("results*")) == archive.parts(out) and len(archive.parts(out)) == 2


def test_parts_that_are_missing_are_told_of(results: Path, tmp_path: Path):
    archive.pack(results, tmp_path / "out", part_bytes=4000)
    archive.parts(tmp_path / "out")[3].unlink()
    with pytest.raises(FileNotFoundError, match="parts are missing"):
        archive.restore(tmp_path / "out", tmp_path / "again")


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
    assert [path.name for path in out.iterdir()] == ["results.tar.gz.000001.00of01"]
    with campaign.tree(out, True, None) as (inside, _):  # the next call finds it
        assert (inside / "record").read_text() == "kept"
    with campaign.tree(tmp_path / "plain", False, out) as (inside, _):
        assert inside == tmp_path / "plain" and (inside / "record").read_text() == "kept"
    missing = tmp_path / "no"
    with pytest.raises(FileNotFoundError, match="--resume"), campaign.tree(out, True, missing):
        pass


def measure(results: Path, *lines: str, name: str = "campaign-1") -> None:
    """Add records to a device's folder, and what a report would make."""
    path = results / "card" / "records" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    (results / "card" / "README.md").write_text("page")
    (results / "index.html").write_text("page of all")


def measured(results: Path, name: str = "campaign-1") -> list[str]:
    return (results / "card" / "records" / f"{name}.jsonl").read_text().split()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_packed_or_not_what_is_there_is_taken_up(tmp_path: Path, capsys):
    """Switched back and forth, one folder holds all records in the form that was asked for last."""
    out = tmp_path / "out"
    with campaign.tree(out, False, None) as (inside, _):
        measure(inside, "a")
    (out / "log.txt").write_text("somebody else's")
    with campaign.tree(out, True, None) as (inside, _):
        assert measured(inside) == ["a"]
        assert names(out) == ["log.txt", "results.tar.gz.000001.00of01"]  # saved before it went
        measure(inside, "b")
    assert names(out) == ["log.txt", "results.tar.gz.000002.00of01"]
    said = capsys.readouterr().out
    assert "results.tar.gz.000002.00of01" in said
    (line,) = [line for line in said.splitlines() if line.startswith("unpack with: ")]
    subprocess.run(["bash", "-c", line.removeprefix("unpack with: ")], cwd=tmp_path, check=True)
    assert measured(tmp_path) == ["a", "b"]
    with campaign.tree(out, False, out) as (inside, _):
        assert inside == out and measured(out) == ["a", "b"]
        assert names(out) == ["card", "index.html", "log.txt"]


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_resumed_never_hides_what_is_there(pack: bool, packed: bool, tmp_path: Path):
    """The same command twice: the second call's --out knows more than what both resume."""
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    with campaign.tree(earlier, packed, None) as (inside, _):
        measure(inside, "a")
    for expected, new in ((["a"], "b"), (["a", "b"], "c")):
        with campaign.tree(out, pack, earlier) as (inside, _):
            assert measured(inside) == expected
            measure(inside, new)
    with campaign.tree(earlier, packed, None) as (inside, _):
        measure(inside, "x")
    with campaign.tree(out, pack, earlier) as (inside, _):
        assert measured(inside) == ["x", "a", "b", "c"]
    assert [name for name in names(out) if name.startswith("results")] == names(out) or not pack


def test_a_folder_of_both_forms_loses_nothing(tmp_path: Path):
    """As an ended call leaves it, and as calls of an earlier version did."""
    for pack in (False, True):
        out = tmp_path / f"out-{pack}"
        with campaign.tree(out, True, None) as (inside, _):
            measure(inside, "a", "b")
        measure(out, "a", "c")
        measure(out, "d", name="other")
        with (out / "card" / "records" / "campaign-1.jsonl").open("a") as file:
            file.write("half a rec")  # its process was killed
        with campaign.tree(out, pack, None) as (inside, _):
            assert sorted(measured(inside)) == ["a", "b", "c"]
            assert measured(inside, "other") == ["d"]
        forms = bool(archive.parts(out)), bool(archive.outputs(out))
        assert forms == (pack, not pack)


def test_what_is_no_earlier_output_is_told_of(tmp_path: Path):
    results, out = tmp_path / "earlier", tmp_path / "out"
    measure(results, "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(FileNotFoundError, match=f"is one device's, take {results}"):
        archive.restore(results / "card", out)
    with pytest.raises(FileNotFoundError, match="no earlier call's output"):
        archive.restore(tmp_path / "other", out)
    (tmp_path / "empty").mkdir()
    archive.restore(tmp_path / "empty", out)
    assert not out.exists()


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


def outcomes_of(*states: str) -> list[check_gpu.Row]:
    return [check_gpu.Row("values", f"{i}", state, "why") for i, state in enumerate(states)]


def call(
    tmp_path: Path,
    monkeypatch,
    code: int | None,
    *states: str,
    pack: bool = False,
    measure: Callable[..., Any] = lambda *_: None,
) -> list[str]:
    """One campaign whose check-gpu ends so; its command's words. Most other steps do nothing."""
    asked: list[str] = []

    def ended(words: list[str], seconds: float) -> int | None:
        asked.extend(words)
        folder = Path(words[words.index("--out") + 1])
        check_gpu.write(folder, outcomes_of(*states), check_gpu.key(True))
        return code

    monkeypatch.setattr(campaign, "ended", ended)
    monkeypatch.setattr(campaign.Campaign, "measure", measure)
    for step in ("floor", "alone"):
        monkeypatch.setattr(campaign.Campaign, step, lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        campaign.command(8, tmp_path, pack, None, True, 0.1, 0.1, 60)
    finally:
        signal.signal(signal.SIGTERM, before)
    return asked


def state(tmp_path: Path) -> dict[str, Any]:
    found = list(tmp_path.rglob(campaign.STATE))
    return json.loads(found[0].read_text()) if found else {}


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e9"])
@pytest.mark.parametrize("name", ["campaign", "sweep", "error", "resources", "quick", "check-gpu"])
def test_minutes_in_which_nothing_is_measured_are_refused(name: str, minutes: str):
    found = CliRunner().invoke(app, [name, "--max-minutes", minutes])
    assert isinstance(found.exception, ValueError)
    assert "accepted: a number above 0, at most 30000" in str(found.exception)


def test_parts_alone_are_never_left_in_the_checkout():
    with pytest.raises(ValueError, match="--pack needs an --out of its own"):
        campaign.command(8, sweep.RESULTS, True, None, True, 0.1, 0.1, 60)


@pytest.mark.parametrize("pack", [False, True])
def test_an_interrupted_campaign_says_so_and_still_reports(
    pack: bool, tmp_path: Path, monkeypatch, capsys
):
    def interrupted(self: campaign.Campaign, *_: Any) -> None:
        measure(self.results, "a")
        raise KeyboardInterrupt

    def report(self: campaign.Campaign) -> None:
        print("reported")

    monkeypatch.setattr(campaign.Campaign, "report", report)
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, 0, PASS, pack=pack, measure=interrupted)
    assert ended.value.exit_code == 130
    said = capsys.readouterr().out
    assert "interrupted; nothing finished is lost, the same command goes on\nreported\n" in said
    assert bool(archive.parts(tmp_path)) == ("unpack with" in said) == pack
    with campaign.tree(tmp_path, False, None):
        assert measured(tmp_path) == ["a"]


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
        call(tmp_path, monkeypatch, 0, PASS, measure=measures)
    assert ended.value.exit_code == 130 and reports == [0]
    assert "nothing finished is lost" in capsys.readouterr().out


def test_no_path_that_is_gone_is_told(tmp_path: Path, monkeypatch, capsys):
    def measures(self: campaign.Campaign, *_: Any) -> None:
        (self.folder / "records").mkdir(exist_ok=True)
        (self.folder / "records" / "campaign-1.jsonl").touch()

    monkeypatch.setattr("bench.report.build.main", lambda folder: print(f"{folder}: 3 files"))
    call(tmp_path, monkeypatch, 0, PASS, pack=True, measure=measures)
    said = capsys.readouterr().out
    assert f"(packed)/{environment.slug(environment.probe().name)}: 3 files" in said
    assert "rnnbench-" not in said


def test_a_failed_check_stops_it_before_anything_is_measured(tmp_path: Path, monkeypatch, capsys):
    with pytest.raises(typer.Exit) as stopped:
        call(tmp_path, monkeypatch, 1, PASS, FAIL, NOT_DONE)
    assert stopped.value.exit_code == 1
    assert "nothing was measured: values: 1" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*.json*")] == [check_gpu.FILE]


def test_checks_that_are_not_done_stop_nothing_and_are_gone_on_with(tmp_path, monkeypatch, capsys):
    words = call(tmp_path, monkeypatch, check_gpu.UNFINISHED, PASS, NOT_DONE, LEFT_OUT)
    assert "1 of 3 checks left for the next call" in capsys.readouterr().out
    assert state(tmp_path) == {}
    assert float(words[words.index("--max-minutes") + 1]) == pytest.approx(2, abs=0.1)  # of 8
    assert call(tmp_path, monkeypatch, 0, PASS, PASS, LEFT_OUT)
    assert state(tmp_path)["checked"] == check_gpu.key(True)
    assert call(tmp_path, monkeypatch, 0, PASS) == []  # done


@pytest.mark.parametrize("code", [None, 2, -9])
def test_a_check_gpu_that_does_not_end_well_stops_nothing_but_is_told_of(
    code: int | None, tmp_path: Path, monkeypatch, capsys
):
    with pytest.raises(typer.Exit) as ended:
        call(tmp_path, monkeypatch, code, PASS, NOT_DONE)
    assert ended.value.exit_code == 1
    said = capsys.readouterr()
    assert "and the campaign goes on" in said.err and "nothing has been measured yet" in said.out
    assert state(tmp_path) == {}


CHILDREN = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid, flush=True)
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""


@pytest.mark.slow
def test_a_command_that_is_ended_leaves_no_child(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(campaign, "END_SECONDS", 1.0)
    note = tmp_path / "pid"
    assert campaign.ended([sys.executable, "-c", CHILDREN, str(note)], 3.0) is None
    assert gone(int(note.read_text()))
    assert campaign.ended([sys.executable, "-c", "raise SystemExit(3)"], 60) == 3


# --- graphs


def test_nothing_is_done_for_the_first_time_inside_a_capture(monkeypatch):
    """What compiles or starts a library at its first call has done so before, in that very mode."""
    from bench.measure import Runner
    from bench.problem import make_problem
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
    from bench.problem import make_problem
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
    assert environment.slug(found.name) == "nvidia-h100-80gb-hbm3"
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
    with pytest.raises(RuntimeError, match="--out takes another folder"):
        campaign.command(8, file / "out", False, None, True, 0.1, 0.1, 60)


def test_triton_looks_for_its_compiler_there():
    """Where ours looks is where Triton does; its code moves from version to version."""
    import inspect

    from triton.runtime import build

    source = inspect.getsource(build)
    for word in ('environ.get("CC")', 'which("gcc")', 'which("clang")', "posix_prefix"):
        assert word in source


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
    (part,) = (tmp_path / "first").iterdir()
    assert part.name.endswith(".00of01")
    words = ("--out", str(tmp_path / "second"), "--resume", str(tmp_path / "first"))
    again = run(*brief, "--max-minutes", "5", *words)
    assert again.returncode == 0, again.stdout + again.stderr
    for said in ("check-gpu: done before", "activations: measured before", "none new"):
        assert said in again.stdout
    folder = tmp_path / "second" / environment.slug(environment.probe().name)
    records = list(store.read(folder / "records"))
    kinds = {(record["kind"], record["status"]) for record in records}
    assert {("time", "ok"), ("error", "ok")} <= kinds <= {*kinds, ("time", "unsupported")}
    assert any(record["provider"] == "ours" and record["interpreted"] for record in records)
    assert any((folder / "tables").glob("*.csv")) and any((folder / "figures").glob("*.pdf"))
    page = (folder / "README.md").read_text()
    assert "Are the kernels right here?" in page and "tables/checks.csv" in page
