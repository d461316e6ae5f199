"""One provider on one case: its call is built, warmed up, and compared with float64."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter  # by value: a plugin that patches time changes none
from typing import Any

import torch
from torch import Tensor

from bench.cases.problem import Problem, torch_precision, truth, with_truth
from bench.measure import metrics
from bench.measure.layout import recorded
from bench.providers import Call, Provider
from bench.records.environment import Machine

# Times have settled when the median of this many calls is no longer below that of as many before
# them by more than a share.
SETTLED_CALLS, SETTLED_SHARE = 5, 0.02


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A dictionary of the suite's own: none that computes when it is read, nor a name that does.

    Raises:
        metrics.Incorrect: if a name is no plain string.
    """
    found = dict(tensors)
    for name in found:
        if type(name) is not str:
            raise metrics.Incorrect(f"a name is a {type(name).__name__}; accepted: a str")
    return found


def _plain(call: Call) -> Call:
    """The call with a dictionary of its own, whose tensors run no code when they are written.

    Raises:
        TypeError: if it, or one of its leaves, is of another class.
    """
    if type(call) is not Call:
        raise TypeError(f"build gives a {type(call).__name__}; accepted: a bench.providers.Call")
    leaves = _named(call.leaves)
    for name, leaf in leaves.items():
        if type(leaf) not in (Tensor, torch.nn.Parameter):
            raise TypeError(f"leaf {name} is a {type(leaf).__name__}; accepted: a tensor")
    return replace(call, leaves=leaves)


def _copy(value: Tensor) -> Tensor:
    """Not by the tensor's own methods: an attribute of a provider's tensor could be code."""
    return torch.clone(torch.detach(value))


class Runner:
    """A provider prepared for one case.

    ``run`` computes once and ``errors`` compares with float64; ``bench.measure.sampler`` times.
    What is checked and what is timed is the same call: forward under ``no_grad``, or forward and
    ``torch.autograd.grad`` of all outputs with respect to all inputs and weights, so that nothing
    accumulates from call to call. The call of a graph provider is captured once and replayed. A
    provider gets tensors of its own, so that whatever it does to them affects no other's.

    Raises:
        Exception: any that the provider raises while it is built.
    """

    def __init__(self, provider: Provider, problem: Problem, machine: Machine) -> None:
        self.provider, self.problem, self.machine = provider, problem, machine
        self.case = problem.case
        self.mode = provider.mode(machine)
        self.algorithm = provider.algorithm(self.case, machine)
        self.upstream: dict[str, Tensor] = {}  # laid out as the provider's outputs
        self._graph: Any = None
        self._static: dict[str, Tensor] = {}
        self.compile_s = self.call_ms = 0.0
        self.warmup_calls, self.settled = 0, False
        self.own = problem.copy()
        began = perf_counter()
        with torch_precision(self.case.precision):
            self.call = _plain(provider.build(self.own))
        self._build_s = perf_counter() - began
        for leaf in self.call.leaves.values():
            Tensor.requires_grad_(leaf, self.backward)
        if self.backward:
            self._standard = recorded(self.call.standard, self.call.leaves)

    def prepare(self, warmup_seconds: float = 0.0) -> None:
        """Warm up: compile, capture if the provider is a graph, and call until times have settled.

        Args:
            warmup_seconds: after which warming up ends even if times are still falling.
        """
        with torch_precision(self.case.precision):
            first = self._seconds(self._step)
            later = self._seconds(self._step)
            self.compile_s = self._build_s + max(0.0, first - later)
            if self.provider.graph:
                self._capture()
            taken = [self._seconds(self.run_once)] if self.provider.graph else [later]
            until, n = perf_counter() + warmup_seconds, SETTLED_CALLS
            while not self.settled and perf_counter() < until:
                taken.append(self._seconds(self.run_once))
                if len(taken) >= 2 * n:
                    before, now = (statistics.median(t) for t in (taken[-2 * n : -n], taken[-n:]))
                    self.settled = now >= (1 - SETTLED_SHARE) * before
        self.warmup_calls = 1 + len(taken) + self.provider.graph
        self.call_ms = statistics.median(taken[-SETTLED_CALLS:]) * 1e3

    @property
    def backward(self) -> bool:
        return self.case.pass_ != "fwd"

    def run(self) -> dict[str, Tensor]:
        """Compute once: outputs and, in a backward case, gradients in the provider's layout."""
        with torch_precision(self.case.precision):
            return self.run_once()

    def run_once(self) -> dict[str, Tensor]:
        """``run`` with torch's precision as it is; a graph gives the same memory every time."""
        if self._graph is None:
            return self._step()
        self._graph.replay()
        return self._static

    def _step(self) -> dict[str, Tensor]:
        if not self.backward:
            with torch.no_grad():
                return _named(self.call.forward())
        outputs = _named(self.call.forward())
        if not self.upstream:
            metrics.same_shapes(outputs, self.problem.upstream, "outputs")
            # Laid out as the provider lays out its outputs, so that no copy is timed.
            self.upstream = {
                name: torch.empty_like(value).copy_(self.problem.upstream[name])
                for name, value in outputs.items()
            }
        gradients = torch.autograd.grad(
            list(outputs.values()),
            list(self.call.leaves.values()),
            list(self.upstream.values()),
        )
        found = {name: torch.detach(value) for name, value in outputs.items()}
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
        start = perf_counter()
        function()
        self._synchronize()
        self.call.after()
        return perf_counter() - start

    def checked_outputs(self) -> dict[str, Tensor]:
        """Outputs and gradients in torch's layout, by the call that is timed."""
        found = self.run()
        self._synchronize()
        kept = self.in_torchs_layout(found)  # before `after`, which could still write to them
        self.call.after()
        return kept

    def load_upstream(self, factor: float = 1.0) -> None:
        """Give the upstream gradients the problem's values times a factor."""
        for name, buffer in self.upstream.items():
            Tensor.copy_(buffer, self.problem.upstream[name] * factor)

    def in_torchs_layout(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies of a call's outputs and gradients in torch's layout.

        Raises:
            metrics.Incorrect: if one is missing, too many, of another shape, or no plain tensor: a
                subclass could compute its values later, when no clock runs.
        """
        outputs = dict(found)
        gradients = {name: outputs.pop(f"d{name}") for name in self.call.leaves if self.backward}
        metrics.same_shapes(outputs, self.problem.upstream, "outputs")
        outputs = {name: _copy(value) for name, value in outputs.items()}
        if self.backward:
            standard = self._standard(gradients)
            named = {f"d{name}": value for name, value in standard.items()}
            wanted = {f"d{name}": value for name, value in self.problem.inputs.items()}
            metrics.same_shapes(named, wanted, "gradients")
            outputs |= {name: _copy(value) for name, value in named.items()}
        return outputs

    def errors(self, got: dict[str, Tensor] | None = None) -> dict[str, dict[str, float]]:
        """The metrics of every output, gradient and part of a gradient against float64.

        Args:
            got: what ``checked_outputs`` gave; computed here unless given.
        """
        mine = with_truth(self.problem, got or self.checked_outputs())
        return metrics.all_errors(mine, truth(self.problem, self.backward), self.problem.parts)

    def check(self) -> tuple[dict[str, dict[str, float]], str | None]:
        """The metrics as `errors` returns them, and why they are incorrect; None if correct."""
        return metrics.check(self.problem, self.checked_outputs())

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
        exact, got = truth(problem, self.backward), with_truth(problem, got)
        return {
            name: metrics.by_step(got[name], exact[name], from_last=name != "y")
            for name in ("y", "dx", "dgx")
            if name in got
        }

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
