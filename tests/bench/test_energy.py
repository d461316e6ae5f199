"""Energy by NVML's counter, on a simulated board whose power and calls are known."""

import contextlib
import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from bench import providers
from bench.cases.cases import DEFAULTS, make_case
from bench.cases.presets import Request
from bench.cases.problem import make_problem
from bench.measure import energy, metrics
from bench.measure.energy import CounterFault, Meter, Window
from bench.measure.runner import Runner
from bench.measure.sampler import Checks, Sampler
from bench.records import environment, provenance, schema
from bench.sweep import plan as plan_module
from bench.sweep import worker as worker_module
from bench.sweep.plan import ENERGY_SECONDS, Options, Plan, make_plan, request_seconds
from bench.sweep.worker import Settings, Worker
from tests.helpers.simulated_board import IDLE_WATTS, Board, SimulatedCalls

# An update, and the last call before it, are each seen up to two waits late.
RESOLUTION = 4 * energy.POLL_SECONDS / energy.WINDOW_SECONDS


def refuse(name: str, fault: Exception) -> None:
    raise fault


def turns(board: Board, works: dict[str, Any], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Each provider's summary."""
    found, idle = energy.take_turns(works, board.meter, seed, lambda name: None, refuse)
    return {name: energy.summary(windows, idle) for name, windows in found.items()}


@pytest.mark.parametrize("period", [0.023, 0.07, 0.11])
@pytest.mark.parametrize("lag", [0.0, 0.1])
@pytest.mark.parametrize("seconds", [3e-4, 7e-3, 0.045])
def test_a_window_has_the_power_of_its_calls_and_no_part_of_an_update(period, lag, seconds):
    """Whatever the steps of the counter, and also if it is late and the board was idle before."""
    board = Board(period, lag)
    board.wait(0.4)
    found = energy.window(board.meter, SimulatedCalls(board, 400.0, seconds).advance)
    assert found.watts == pytest.approx(400.0, rel=RESOLUTION)
    assert found.joules == pytest.approx(400.0 * seconds, rel=2 * RESOLUTION)
    assert found.calls >= energy.LEAST_CALLS
    assert found.seconds == pytest.approx(found.calls * seconds, rel=RESOLUTION)


def test_idle_power_is_told_from_that_of_calls():
    board = Board()
    found = turns(board, {"a": SimulatedCalls(board, 300.0, 2e-3)})["a"]
    assert found["idle_watts"] == pytest.approx(IDLE_WATTS, rel=RESOLUTION)
    assert found["joules"] == pytest.approx(0.6, rel=2 * RESOLUTION)
    assert found["above_idle"] == pytest.approx((300 - IDLE_WATTS) * 2e-3, rel=3 * RESOLUTION)
    assert len(found["windows"]) == len(found["calls"]) == len(found["idle"]) == energy.WINDOWS
    assert found["low"] <= found["joules"] <= found["high"]
    assert found["above_low"] <= found["above_idle"] <= found["above_high"]


class Noisy(SimulatedCalls):
    """Calls whose power differs from window to window."""

    def __init__(self, board: Board, watts: float, draw: np.random.Generator) -> None:
        super().__init__(board, watts, 4e-3)
        self.mean, self.draw = watts, draw

    def finish(self) -> None:
        super().finish()
        self.watts = self.mean * float(np.exp(self.draw.normal(0, 0.02)))


def test_the_interval_covers_the_energy(monkeypatch):
    """In at least 90 of 100 cases, by whole measurements in turns with another provider."""
    monkeypatch.setattr(energy, "POLL_SECONDS", 4e-3)  # a quarter of the steps to simulate
    draw, held = np.random.default_rng(16), []
    for seed in range(25):
        board = Board(period=0.05 + 0.002 * seed, lag=0.05)
        watts = {"a": 200.0, "b": 600.0}
        found = turns(board, {name: Noisy(board, w, draw) for name, w in watts.items()}, seed)
        held += [found[name]["low"] <= w * 4e-3 <= found[name]["high"] for name, w in watts.items()]
    assert np.mean(held) >= 0.9


def test_summary_pairs_each_window_with_its_rounds_idle_power():
    """So that a board that becomes warmer changes no difference."""
    idle = [80.0 + k for k in range(energy.WINDOWS)]
    windows = [Window(rest + 200.0, 10, 0.02) for rest in idle]
    found = energy.summary(windows, idle)
    assert found["above_low"] == found["above_idle"] == found["above_high"] == pytest.approx(0.4)
    assert found["low"] < found["joules"] < found["high"]
    assert energy.summary(windows[:5], idle[:5])["low"] is None


def test_a_counter_that_falls_or_stops_is_an_error():
    board = Board()
    work = SimulatedCalls(board, 300.0, 2e-3)
    reads: list[float] = []

    def reset() -> float:  # as when the driver is loaded anew
        reads.append(board.read())
        return reads[-1] - board.start if len(reads) > 200 else reads[-1]

    with pytest.raises(CounterFault, match=r"fell from 50\d+\.\d+ to \d+\.\d+ J"):
        energy.window(energy.Meter(reset, lambda: board.now, board.wait), work.advance)
    with pytest.raises(CounterFault, match=r"was 7\.000 J for 2\.0 s"):
        energy.window(energy.Meter(lambda: 7.0, lambda: board.now, board.wait), work.advance)


def test_providers_take_turns_in_an_order_that_the_seed_decides():
    orders = []
    for seed in (0, 0, 1):
        board, order = Board(), list[str]()
        works = {name: SimulatedCalls(board, 300.0, 2e-3) for name in "abc"}
        found, idle = energy.take_turns(works, board.meter, seed, order.append, refuse)
        assert [len(windows) for windows in found.values()] == [energy.WINDOWS] * 3
        rounds = [order[k : k + 3] for k in range(0, len(order), 3)]
        assert all(sorted(each) == ["a", "b", "c"] for each in rounds) and len(idle) == len(rounds)
        assert len({tuple(each) for each in rounds}) > 2
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("where", ["advance", "check"])
def test_a_provider_that_fails_leaves_the_others_their_windows(where: str, monkeypatch):
    board, failures = Board(), list[tuple[str, str]]()
    works = {name: SimulatedCalls(board, 200.0, 2e-3) for name in ("bad", "good")}
    right = getattr(works["bad"], where)

    def broken() -> int:
        if works["bad"].finished == (2 if where == "advance" else 3):
            raise RuntimeError("broke in its third window")
        return right()

    monkeypatch.setattr(works["bad"], where, broken)
    found, _ = energy.take_turns(
        works, board.meter, 0, lambda name: None,
        lambda name, fault: failures.append((name, str(fault))),
    )  # fmt: skip
    assert list(found) == ["good"] and len(found["good"]) == energy.WINDOWS
    assert failures == [("bad", "broke in its third window")]
    assert works["bad"].finished == 3, "the device must be idle for the others"
    joules = energy.summary(found["good"], [IDLE_WATTS] * energy.WINDOWS)["joules"]
    assert joules == pytest.approx(0.4, rel=2 * RESOLUTION)


# --- calls of providers


CASE = make_case(**DEFAULTS | {"T": 3, "B": 3, "H": 4, "I": 4, "dtype": "fp32", "pass": "fwd+bwd"})
CPU = environment.Machine("cpu", "a processor")
reference = providers.load()["reference"].build


class Stream:
    """A simulated device, on which a batch has ended at every third look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: float = 0.0) -> None:
        self.batches, self.now, self.left = 0, 0.0, left
        monkeypatch.setattr("torch.cuda.Event", self.event)
        monkeypatch.setattr("torch.cuda.synchronize", self.synchronize)
        monkeypatch.setattr(energy.time, "perf_counter", lambda: self.now)

    def synchronize(self) -> None:
        self.now += self.left

    def event(self) -> MagicMock:
        self.batches += 1
        return MagicMock(query=MagicMock(side_effect=itertools.cycle([False, False, True])))


def calls_of(build: Any) -> energy.Calls:
    problem = make_problem(CASE)
    runner = Runner(providers.Provider("p", build), problem, CPU)
    runner.prepare()
    calls = energy.Calls(Sampler(runner, Checks(problem, random.Random(0))))
    calls._batch = 2  # whatever the machine
    calls._checked = set(range(energy.WINDOWS))
    return calls


def test_some_calls_are_always_queued_and_only_ended_ones_count(monkeypatch):
    stream, calls = Stream(monkeypatch), calls_of(reference)
    ended = [calls.advance() for _ in range(20)]
    assert ended[0] == 0 and ended[-1] >= 2 * 5
    assert all(0 <= now - before <= 2 for before, now in itertools.pairwise(ended))
    assert stream.batches - calls.ended // 2 == energy.QUEUED_BATCHES
    calls.finish()
    calls.check()
    assert calls.sampler.checked == 1


def test_a_batch_lasts_as_long_as_it_should_however_slow_a_call(monkeypatch):
    times = itertools.count()
    for seconds, batch in ((1.0, 1), (energy.BATCH_SECONDS / 10, 10)):
        Stream(monkeypatch)
        calls = calls_of(reference)
        monkeypatch.setattr(
            energy.time, "perf_counter", lambda each=seconds: 3 * each * next(times)
        )
        assert calls._pace() == batch


def test_each_call_has_other_inputs_than_the_last(monkeypatch):
    Stream(monkeypatch)
    seen: list[torch.Tensor] = []

    def build(problem: Any) -> providers.Call:
        call = reference(problem)
        right = call.forward

        def forward() -> Any:
            seen.append(call.leaves["x"].detach().clone())
            return right()

        call.forward = forward
        return call

    calls = calls_of(build)
    del seen[:]
    calls._run(9)
    assert len({each.numpy().tobytes() for each in seen}) == len(seen) == 9


def test_the_last_window_is_checked_and_others_that_cannot_be_foreseen(monkeypatch):
    """Not all: a truth takes longer than a window."""
    Stream(monkeypatch)
    problem, drawn = make_problem(CASE), set()
    for seed in range(5):
        runner = Runner(providers.Provider("p", reference), problem, CPU)
        runner.prepare()
        calls = energy.Calls(Sampler(runner, Checks(problem, random.Random(seed))))
        for window in range(energy.WINDOWS):
            before = calls.sampler.checked
            calls._run(1)
            calls.finish()
            calls.check()
            if calls.sampler.checked > before:
                drawn.add((seed, window))
        assert calls.sampler.checked == energy.CHECKED_WINDOWS < energy.WINDOWS
        assert (seed, energy.WINDOWS - 1) in drawn
    assert len({window for _, window in drawn}) > energy.CHECKED_WINDOWS


def test_a_provider_that_returns_an_earlier_result_is_incorrect(monkeypatch):
    """It would take next to no energy."""
    Stream(monkeypatch)

    def build(problem: Any) -> providers.Call:
        call, kept = reference(problem), list[Any]()
        right = call.forward

        def forward() -> Any:
            kept.append(kept[0] if len(kept) > 4 else right())
            return kept[-1]

        call.forward = forward
        return call

    problem = make_problem(replace(CASE, pass_="fwd"))
    runner = Runner(providers.Provider("p", build), problem, CPU)
    runner.prepare()
    calls = energy.Calls(Sampler(runner, Checks(problem, random.Random(1))))
    calls._checked = {0}
    with pytest.raises(metrics.Incorrect, match="in a timed call y is off by"):
        calls._run(6)
        calls.finish()
        calls.check()


def test_work_that_no_event_sees_is_refused(monkeypatch):
    """Calls on another stream would be counted when they are launched, not when they end."""
    Stream(monkeypatch, left=2 * energy.BATCH_SECONDS)
    calls = calls_of(reference)
    for _ in range(2):  # the host could have been kept from looking
        calls.advance()
        calls.finish()
        calls.check()
    calls.advance()
    calls.finish()
    with pytest.raises(RuntimeError, match="after the last call's end; accepted"):
        calls.check()


# --- requests and records


def planned(machine: environment.Machine, folder: Path) -> Plan:
    options = Options(preset="energy", kinds=("energy",), filter="cell=gru H=256")
    return make_plan(options, machine, folder)


def test_without_a_counter_nothing_is_planned_and_the_reason_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    plan = planned(environment.Machine("cuda", "a card", (9, 0), 132), tmp_path)
    assert plan.requests == [] and len(plan.not_measured) == 2 * 4
    for each in plan.not_measured:
        assert each.status == "unsupported" and "nvidia-ml-py" in each.reason
    (first, *_) = planned(CPU, tmp_path).not_measured
    assert first.reason.endswith("this is a processor")


def test_with_a_counter_all_providers_are_planned_together(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "why_no_energy", lambda machine: None)
    card = environment.Machine("cuda", "a card", (9, 0), 132, 80 << 30)
    plan = planned(card, tmp_path)
    assert {request.kind for request in plan.requests} == {"energy"}
    assert {request.providers for request in plan.requests} == {
        ("torch.nn", "ours", "torch.nn-graph", "ours-graph")
    }
    assert request_seconds(plan.requests[0], card, 0.1) > 4 * ENERGY_SECONDS


def measure(
    monkeypatch: pytest.MonkeyPatch, folder: Path, names: tuple[str, ...], broken: int = 10**9
) -> dict[str, dict[str, Any]]:
    """Each provider's record from a worker, on a board whose counter breaks after some readings."""
    board, reads = Board(), itertools.count()
    watts = {"torch.nn": 600.0, "reference": 300.0, "wrong": 100.0}

    @contextlib.contextmanager
    def counter() -> Iterator[Any]:
        yield None

    def read() -> float:
        if next(reads) >= broken:
            raise OSError("GPU is lost")
        return board.read()

    def calls(sampler: Sampler) -> SimulatedCalls:
        return SimulatedCalls(board, watts[sampler.runner.provider.name], 2e-3)

    def wrong(problem: Any) -> providers.Call:
        call = reference(problem)
        right = call.forward
        call.forward = lambda: {name: 1.1 * value for name, value in right().items()}
        return call

    monkeypatch.setattr(environment, "energy_counter", counter)
    simulated = Meter(read, board.meter.clock, board.meter.pause)
    monkeypatch.setattr(energy, "Meter", lambda read: simulated)
    monkeypatch.setattr(energy, "Calls", calls)
    monkeypatch.setitem(providers.PROVIDERS, "wrong", providers.Provider("wrong", wrong))
    sent: list[dict[str, Any]] = []
    worker = Worker(sent.append, Settings(), folder)
    worker.measure(Request("energy", CASE, providers=names))
    assert sent[-1] == {"done": CASE.case_id}
    common = {"run_id": "run", "kind": "energy", "seed": 0, "interpreted": False}
    facts = provenance.provenance(worker.facts)
    records = [
        schema.new_record(**common | facts | CASE.fields() | message["record"])
        for message in sent if "record" in message
    ]  # fmt: skip
    for record in records:
        schema.encode(record)  # checks it
    return {record["provider"]: record for record in records}


def test_a_record_has_the_energy_the_check_and_the_ratio(tmp_path, monkeypatch):
    found = measure(monkeypatch, tmp_path, ("torch.nn", "reference", "wrong"))
    assert {name: record["status"] for name, record in found.items()} == {
        "torch.nn": "ok", "reference": "ok", "wrong": "incorrect"
    }  # fmt: skip
    mine = found["reference"]
    assert mine["energy"]["joules"] == pytest.approx(0.6, rel=2 * RESOLUTION)
    assert mine["mode"] == "host" and mine["median_ms"] is None
    assert mine["errors"]["y"]["rel_l2"] < 1e-5 and mine["checked_calls"] == 0, "simulated calls"
    assert mine["check_seed"] == found["torch.nn"]["check_seed"] is not None
    assert mine["versus"]["provider"] == "torch.nn" and found["torch.nn"]["versus"] is None
    assert mine["versus"]["ratio"] == pytest.approx(0.5, rel=4 * RESOLUTION)
    assert mine["versus"]["visits"] == energy.WINDOWS
    assert "y is off by" in found["wrong"]["reason"] and found["wrong"]["energy"] is None


def test_a_counter_that_breaks_is_an_error_of_all_that_it_leaves_unmeasured(tmp_path, monkeypatch):
    for broken in (100, 2000):  # in the first idle window; in a later round
        found = measure(monkeypatch, tmp_path, ("torch.nn", "reference"), broken)
        assert {record["status"] for record in found.values()} == {"error"}
        assert {record["reason"] for record in found.values()} == {"OSError: GPU is lost"}
        assert len(found) == 2


def test_an_impossible_rate_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "why_impossible", lambda case, ms, device: f"in {ms:.3g} ms")
    found = measure(monkeypatch, tmp_path, ("reference",))["reference"]
    assert found["status"] == "incorrect" and found["reason"] == "in 2 ms"
    assert found["energy"] is None


@pytest.mark.parametrize("kind", ["time", "energy"])
def test_nothing_is_compared_with_a_baseline_that_is_refused(tmp_path, monkeypatch, kind: str):
    answers = iter(["too fast", None])  # of torch.nn, then of the reference
    monkeypatch.setattr(worker_module, "why_impossible", lambda *_: next(answers))
    names = ("torch.nn", "reference")
    if kind == "energy":
        found = measure(monkeypatch, tmp_path, names)
    else:
        sent: list[dict[str, Any]] = []
        worker = Worker(sent.append, Settings(seconds=0.0, target=1.0), tmp_path)
        worker.machine = replace(worker.machine, interpreted=False)
        worker.measure(Request("time", CASE, providers=names))
        records = [message["record"] for message in sent if "record" in message]
        found = {record["provider"]: record for record in records}
    assert found["torch.nn"]["status"] == "incorrect" and found["reference"]["status"] == "ok"
    assert found["reference"]["versus"] is None
