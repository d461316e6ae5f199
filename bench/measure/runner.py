"""One provider on one case: its results are checked against float64, then its calls are timed."""

import contextlib
import functools
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.cases.cases import Case
from bench.cases.problem import DTYPE, Problem, checked_rows, take_rows, torch_precision, truth
from bench.measure import metrics
from bench.measure.statistics import half_width
from bench.providers import Call, Provider
from bench.records.environment import Machine

VISIT_MS = 30.0  # about how long a provider is sampled before the next takes its turn
MOST_PER_VISIT = 20  # samples


class Runner:
    """A provider prepared for one case.

    ``run`` computes once, ``errors`` compares with float64, ``prepare`` and then ``sample`` time.
    What is checked and what is timed is the same call: forward under ``no_grad``, or forward and
    ``torch.autograd.grad`` of all outputs with respect to all inputs and weights, so that nothing
    accumulates from call to call. The call of a graph provider is captured once and replayed.

    Raises:
        Exception: any that the provider raises while it is built.
    """

    def __init__(self, provider: Provider, problem: Problem, machine: Machine) -> None:
        self.provider, self.problem, self.machine = provider, problem, machine
        self.case = problem.case
        self.mode = provider.mode(machine)
        self.samples: list[float] = []
        self.blocks: list[int] = []
        self.spent = 0.0
        self._upstream: dict[str, Tensor] = {}
        self._graph: Any = None
        self._static: dict[str, Tensor] = {}
        self.compile_s = self.call_ms = 0.0
        with torch_precision(self.case.precision):
            self.call: Call = provider.build(problem)
        for leaf in self.call.leaves.values():
            leaf.requires_grad_(self.backward)

    def prepare(self) -> None:
        """Warm up: compile, time a call roughly, and capture it if the provider is a graph."""
        with torch_precision(self.case.precision):
            first = self._seconds(self._step)
            later = self._seconds(self._step)
            self.compile_s = max(0.0, first - later)
            self.call_ms = later * 1e3
            if self.provider.graph:
                self._capture()

    @property
    def backward(self) -> bool:
        return self.case.pass_ != "fwd"

    def run(self) -> dict[str, Tensor]:
        """Compute once: outputs and, in a backward case, gradients in the provider's layout."""
        with torch_precision(self.case.precision):
            return self._once()

    def _once(self) -> dict[str, Tensor]:
        if self._graph is None:
            return self._step()
        self._graph.replay()
        return self._static

    def _step(self) -> dict[str, Tensor]:
        if not self.backward:
            with torch.no_grad():
                return self.call.forward()
        outputs = self.call.forward()
        if not self._upstream:
            metrics.same_shapes(outputs, self.problem.upstream, "outputs")
            # Laid out as the provider lays out its outputs, so that no copy is timed.
            self._upstream = {
                name: torch.empty_like(value).copy_(self.problem.upstream[name])
                for name, value in outputs.items()
            }
        gradients = torch.autograd.grad(
            list(outputs.values()),
            list(self.call.leaves.values()),
            list(self._upstream.values()),
        )
        found = {name: value.detach() for name, value in outputs.items()}
        names = (f"d{name}" for name in self.call.leaves)
        return found | dict(zip(names, gradients, strict=True))

    def _capture(self) -> None:
        """Capture the call in a CUDA graph, after a warm-up on a side stream."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.call.after()  # before capturing, in which it may not read from the device
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._static = self._step()
        self._graph = graph

    def _synchronize(self) -> None:
        if self.machine.is_cuda:
            torch.cuda.synchronize()

    def _seconds(self, function: Callable[[], Any]) -> float:
        self._synchronize()
        start = time.perf_counter()
        function()
        self._synchronize()
        self.call.after()
        return time.perf_counter() - start

    def checked_outputs(self) -> dict[str, Tensor]:
        """Outputs and gradients of the checked rows in torch's layout, by the call that is timed.

        Upstream gradients are zero in all other rows, so that weight gradients, which sum over the
        batch, are those of the checked rows.
        """
        rows = checked_rows(self.problem)
        partial = len(rows) < self.case.B
        if partial:
            if self.backward and not self._upstream:
                self.run()  # lays out the upstream gradients
            for name, buffer in self._upstream.items():
                some = self.problem.upstream[name].index_select(1, rows)
                buffer.zero_().index_copy_(1, rows, some)
        outputs = dict(self.run())
        self._synchronize()
        self.call.after()
        leaves = self.call.leaves if self.backward else ()
        gradients = {name: outputs.pop(f"d{name}") for name in leaves}
        # Before rows are selected, which would hide that there are too many.
        metrics.same_shapes(outputs, self.problem.upstream, "outputs")
        if self.backward:
            standard = self.call.standard(gradients) if gradients else {}
            named = {f"d{name}": value for name, value in standard.items()}
            wanted = {f"d{name}": value for name, value in self.problem.inputs.items()}
            metrics.same_shapes(named, wanted, "gradients")
            outputs |= named
        kept = {name: t.detach().clone() for name, t in take_rows(outputs, rows).items()}
        if partial:
            for name, buffer in self._upstream.items():
                buffer.copy_(self.problem.upstream[name])
        return kept

    def errors(self, got: dict[str, Tensor] | None = None) -> dict[str, dict[str, float]]:
        """The metrics of every output, gradient and part of a gradient against float64.

        Args:
            got: what ``checked_outputs`` gave; computed here unless given.
        """
        exact, got = truth(self.problem, self.backward), got or self.checked_outputs()
        pairs = {name: (value, exact[name]) for name, value in got.items()}
        for part, (name, entries) in self.problem.parts.items():
            if name in got:
                pairs[part] = (got[name][..., entries], exact[name][..., entries])
        dtype = DTYPE[self.case.dtype]
        return {name: metrics.errors(*pair, dtype) for name, pair in pairs.items()}

    def errors_by_step(self, got: dict[str, Tensor]) -> dict[str, list[tuple[int, float]]] | None:
        """The error of y by time step, and that of the input's gradient by distance from the end.

        Of a backward case of ``metrics.LEAST_STEPS`` or more, of sequences that all begin and end
        at the same step, in the first seed; None for any other.

        Args:
            got: what ``checked_outputs`` gave.
        """
        case, problem = self.case, self.problem
        one_end = case.directions == 1 and problem.lengths is None
        if not (one_end and self.backward and case.T >= metrics.LEAST_STEPS and problem.seed == 0):
            return None
        exact = truth(problem, self.backward)
        return {
            name: metrics.by_step(got[name], exact[name], from_last=name != "y")
            for name in ("y", "dx", "dgx")
            if name in got
        }

    def sample(self, count: int) -> None:
        """Time ``count`` calls by this provider's clock.

        Raises:
            RuntimeError: in Triton's interpreter, whose times mean nothing; also what the
                provider's ``after`` raises, such as after a barrier's time-out.
        """
        if self.machine.interpreted:
            raise RuntimeError("times in Triton's interpreter are meaningless and not measured")
        started = time.perf_counter()
        with torch_precision(self.case.precision):
            clock = self._device_ms if self.machine.is_cuda else self._host_ms
            for _ in range(count):
                self.samples.append(clock())
                self.call.after()
        if self._graph is not None and not self._static["y"].isfinite().all():
            # A barrier that timed out leaves NaN, as other faults may.
            raise RuntimeError("the replayed graph gave values that are not finite")
        self.blocks.append(count)
        self.spent += time.perf_counter() - started

    def _host_ms(self) -> float:
        start = time.perf_counter_ns()
        self._once()
        return (time.perf_counter_ns() - start) / 1e6

    def _device_ms(self) -> float:
        """Device time of one call between two events, after the L2 cache is emptied."""
        from triton.runtime import driver

        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        driver.active.clear_cache(_cache())
        start.record()
        self._once()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def peak_bytes(self) -> int | None:
        """Peak device memory of one call beyond what was allocated before it.

        None on a CPU, where it is not counted, and for a graph, whose memory is allocated once.
        """
        if not self.machine.is_cuda or self._graph is not None:
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


@functools.cache
def _cache() -> Any:
    """A tensor as large as the L2 cache; writing it empties the cache."""
    from triton.runtime import driver

    return driver.active.get_empty_cache_for_benchmark()


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Keep Python's garbage collector from running during samples."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def verdict(errors: dict[str, dict[str, float]], case: Case) -> str | None:
    """Why a provider with these errors is incorrect and not timed; None if it is correct."""
    for name, found in errors.items():
        allowed = metrics.tolerance(case, name)
        off = found["rel_l2"]
        if not off <= allowed:  # also when it is NaN
            return f"{name} is off by {off:.3g} (relative L2) from float64; accepted: {allowed:.3g}"
    return None


def interleave(
    runners: Sequence[Runner],
    target: float,
    seconds: float,
    seed: int = 0,
    note: Callable[[Runner], None] = lambda runner: None,
    failed: Callable[[Runner, Exception], None] | None = None,
) -> None:
    """Sample providers in turn, in a seeded random order, until all medians are precise enough.

    Every round visits each provider that has time left, so that drift of the machine affects all
    alike and samples of the same visit number are close in time. Sampling stops when every
    provider's median has a relative 95 % half-width of at most ``target`` or the provider has used
    up its ``seconds``.

    Args:
        note: called with the provider that is sampled next.
        failed: called with a provider that raised, which is not sampled again; without it the
            exception is raised.
    """
    active, order = list(runners), random.Random(seed)
    with _no_garbage():
        while turn := [runner for runner in active if runner.spent < seconds]:
            if all(half_width(runner.samples) <= target for runner in turn):
                return
            order.shuffle(turn)
            for runner in turn:
                note(runner)
                count = round(VISIT_MS / max(runner.call_ms, 1e-3))
                try:
                    runner.sample(max(1, min(MOST_PER_VISIT, count)))
                except Exception as problem:
                    if failed is None:
                        raise
                    failed(runner, problem)
                    active.remove(runner)
