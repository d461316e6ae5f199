"""A campaign on an H100 in simulated time: what a call of a few minutes gets done.

``python -m tests.helpers.simulated_campaign 3 6 9`` prints it. The campaign, the pool of processes,
the sweep and all their deadlines are the real code on a clock that moves only while something is
waited for. What takes time on a card is replaced:

- compiling: the seconds recorded for that kernel, or for the recorded one most like it, under
  ``results/compiled-sm_90`` (Triton 3.6.0, two cores of a server);
- measuring a case: the suite's own estimate (``bench.sweep.plan.request_seconds``);
- starting a process, a check, the floor: the assumptions below. No card has been measured yet.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.cases.presets import Request, load_preset
from bench.cli import campaign as command_line
from bench.compiler.compile_kernel import identity
from bench.gpu import campaign, floor, precompile, run_checks, value_checks
from bench.gpu.microbenchmarks import MICROBENCHMARKS, START_SECONDS
from bench.records import archive, environment, files, provenance, store
from bench.records.environment import Machine
from bench.records.failed_checks import PASS
from bench.records.provenance import ROOT
from bench.sweep import pool, sweep, toolchain
from bench.sweep.plan import request_seconds
from bench.sweep.pool import Outcome, Unit
from bench.sweep.process import TookTooLong
from bench.sweep.worker_process import CASES_PER_WORKER, Stopped

CARD = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), 132, 80 << 30)
CORES = 16
# Assumed seconds: importing torch and opening the device in as many processes as cores; finding out
# whether a kernel is compiled; the floor, as its microbenchmarks declare; a study (activations,
# repeatability, training); and a check of each kind whose kernels are compiled.
START = 12.0
CACHE_LOOKUP = 0.05
FLOOR = START_SECONDS + sum(each.seconds for each in MICROBENCHMARKS)
STUDY = 20.0
CHECKS = {
    "values": 2.0, "missing program": 2.0, "repetitions": 15.0, "streams": 5.0, "graph": 5.0,
    "small case": 1.0, "sanitizer": 60.0, "far offsets": 15.0,
}  # fmt: skip
RECORDED = ROOT / "results" / "compiled-sm_90" / "records"
TRITON = "triton-3.6.0"


@dataclass
class Clock:
    """A clock that moves only while something is waited for."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait_until(self, moment: float) -> None:
        self.now = max(self.now, moment)


class Compiler:
    """A simulated compiler: recorded compile times, and the kernels that its cache holds."""

    def __init__(self) -> None:
        self.cache: set[str] = set()
        self.times: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
        for record in store.read(RECORDED):
            if record["provider"] == TRITON and record["status"] == "ok":
                number = f"{record['dtype']} {record['precision']}"
                sizes = self.times[record["cell"], record["resources"]["loop"], number]
                sizes[record["H"]] = max(record["compile_s"], sizes.get(record["H"], 0.0))

    def seconds(self, uses: Sequence[precompile.Use]) -> float:
        """Add the kernels of these uses to the cache; return the seconds to compile new ones.

        Each takes the recorded time of the nearest hidden size (for the sLSTM, of an LSTM).
        """
        total = 0.0
        for kernel, use in {identity(precompile.variant(use)): use for use in uses}.items():
            if kernel in self.cache:
                continue
            self.cache.add(kernel)
            case = use.case
            cell = "lstm" if case.cell == "slstm" else case.cell
            precision = {"tf32x3": "tf32"}.get(case.precision, case.precision)
            sizes = self.times[cell, use.loop, f"{case.dtype} {precision}"]
            total += sizes[min(sizes, key=lambda H: abs(H - case.H))]
        return total


class Process:
    """A simulated pool process: a unit takes its assumed time, the first one also START."""

    def __init__(self, clock: Clock, compiler: Compiler, *_: Any) -> None:
        self.clock, self.compiler = clock, compiler
        self.connection = self
        self.starting = START

    def send(self, unit: Unit) -> None:
        call = unit.call
        assert isinstance(call, partial)
        if call.func is precompile.compile_use:
            found = self.compiler.seconds(call.args[:1])
            detail = precompile.COMPILED if found else precompile.CLAIMED
            seconds = CACHE_LOOKUP + found
        else:
            comparisons = [each for each in call.args if isinstance(each, value_checks.Comparison)]
            seconds = CHECKS[unit.name.partition(":")[0]]
            seconds += self.compiler.seconds(precompile.of_comparisons(comparisons))
            detail = "simulated"
        self.ends = self.clock.now + self.starting + seconds
        self.starting, self.result = 0.0, Outcome(PASS, detail, seconds)

    def receive(self) -> Outcome:
        return self.result

    def close(self) -> None:
        pass


def wait_for(clock: Clock, processes: Sequence[Process], timeout: float) -> list[Process]:
    """The processes that end first, or none if the timeout comes before."""
    clock.wait_until(min(clock.now + timeout, *(process.ends for process in processes)))
    return [process for process in processes if process.ends <= clock.now]


class Measuring:
    """A simulated measuring process, in place of ``worker_process.Isolated``."""

    def __init__(self, clock: Clock, compiler: Compiler, settings: dict[str, Any], *_: Any) -> None:
        assert settings["compiled_before"]
        self.clock, self.compiler, self.seconds = clock, compiler, settings["seconds"]
        self.cases_left = 0  # until the process is replaced

    def hello(self, deadline: float = float("inf")) -> dict[str, Any]:
        if not self.cases_left:
            self.clock.wait_until(min(self.clock.now + START, deadline))
            self.cases_left = CASES_PER_WORKER
        return {"device": {"name": CARD.name, "kind": "cuda"}}

    def machine(self) -> Machine:
        self.hello()
        return CARD

    def measure(self, request: Request, note: Any, deadline: float) -> list[dict[str, Any]]:
        device = self.hello(deadline)["device"]
        self.cases_left -= 1
        ends = self.clock.now + request_seconds(request, CARD, self.seconds)
        ends += self.compiler.seconds(precompile.of_requests([request], ()))
        self.clock.wait_until(min(ends, deadline))
        if ends > deadline:
            raise Stopped
        fields = {"status": "ok", "device": device, "median_ms": 1.0}
        return [{"provider": name} | fields for name in request.providers]

    def close(self) -> None:
        """It has nothing to end."""


@contextlib.contextmanager
def simulated(clock: Clock) -> Iterator[None]:
    """Replace the clock, and all that takes time on a card."""
    from kernels.plan.devices import DEVICES

    compiler = Compiler()

    def run_floor(folder: Path, seconds: float) -> dict[str, str]:
        taken = min(seconds, FLOOR)
        problems = {} if taken == FLOOR else {"multiply": "left out"}
        found = {"code": provenance.code_hash(), "problems": problems}
        store.write_state(folder / files.FLOOR, found)
        clock.wait_until(clock.now + taken)
        return problems

    @contextlib.contextmanager
    def calls_elsewhere(calls: Sequence[partial[Path]], seconds: float) -> Iterator[Iterator[Path]]:
        clock.wait_until(clock.now + min(STUDY, seconds))
        if seconds < STUDY:
            raise TookTooLong
        yield iter([Path("study.json")])

    with pytest.MonkeyPatch.context() as patch:
        for module in (campaign, command_line, run_checks, pool, precompile, sweep):
            patch.setattr(module, "time", clock)
        patch.setattr(environment, "probe", lambda: CARD)
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
        patch.setattr(pool, "Child", partial(Process, clock, compiler))
        patch.setattr(pool, "wait", lambda processes, timeout: wait_for(clock, processes, timeout))
        patch.setattr(floor, "run", run_floor)
        patch.setattr(campaign, "calls_elsewhere", calls_elsewhere)
        patch.setattr(sweep, "Isolated", partial(Measuring, clock, compiler))
        for name in ("check", "check_cache"):
            patch.setattr(toolchain, name, lambda: None)
        patch.setattr("kernels.planning.device_limits", lambda device: DEVICES["h100"])
        yield


class Done(NamedTuple):
    """What a simulated call completed; the presets' fields count their timed cases."""

    seconds: float
    kernels: int
    checks: int
    first_contact: int
    campaign: int


def run(minutes: float, file: Path) -> Done:
    """Simulate a call of some minutes that writes the archive ``file``."""
    clock = Clock()
    with simulated(clock):
        command_line.command(
            minutes, out=None, archive_file=file, resume=None, rehearse=False, seconds=0.5,
            target=0.01, timeout=None,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        (folder,) = archive.restore(file, Path(name))
        state = json.loads((folder / files.CAMPAIGN).read_text())
        compiled = [row for step in state["compiled"].values() for row in step["kernels"]]
        checked = json.loads((folder / files.CHECKS).read_text())["rows"]
        timed = {
            record["case_id"] for record in store.read(folder / "records")
            if record["kind"] == "time" and record["status"] == "ok"
        }  # fmt: skip
    kernels, checks = (sum(row["outcome"] == PASS for row in rows) for rows in (compiled, checked))
    first, rest = (
        len(timed & {case.case_id for case in load_preset(preset).cases("time")})
        for preset in campaign.PRESETS[:2]
    )
    return Done(clock.now, kernels, checks, first, rest)


def row(minutes: float, done: Done) -> str:
    """A line of the table in bench/README.md."""
    return f"| {minutes:g} | " + " | ".join(f"{number:.0f}" for number in done) + " |"


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # nothing is compiled, and no driver is needed
    for minutes in map(float, sys.argv[1:] or ("3", "6", "9")):
        with tempfile.TemporaryDirectory() as name:
            print(row(minutes, run(minutes, Path(name, "card.tar.gz"))))
