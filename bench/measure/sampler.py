"""Timing of prepared calls: providers in turn, other inputs in every call, timed calls checked."""

import contextlib
import functools
import gc
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, perf_counter_ns  # by value: a plugin that patches time changes none
from typing import Any

import torch
from torch import Tensor

from bench.cases.problem import Problem, torch_precision, truth
from bench.measure import metrics
from bench.measure.contents import Contents, Leaves, altered, draw_contents
from bench.measure.runner import Runner
from bench.measure.settings import unchanged_settings
from bench.measure.statistics import MIN_VISITS, half_width

VISIT_MS = 30.0  # about how long a provider is sampled before the next takes its turn
MOST_PER_VISIT = 5  # samples
CHECKED_CALLS = 1  # of a provider's calls in eight visits, on average; and the last
KEPT_TRUTHS = 4  # providers are at about the same number of their checks
# Work that is still running when a call has ended, in ms and as a share of the call, is refused: it
# ran on a stream that the events do not see. An idle device is synchronised in about 0.01 ms.
LEFT_MS, LEFT_SHARE = 0.05, 0.1


class Checks:
    """What the checked calls of a case get as inputs, by number, and their float64 results.

    The same for all providers, since these results take time; the latest are kept.

    Args:
        draw: of all that no provider may foresee.
    """

    def __init__(self, problem: Problem, draw: random.Random) -> None:
        self.draw, self._problem = draw, problem
        self._contents: list[Contents] = []
        self._latest = functools.lru_cache(KEPT_TRUTHS)(self.problem)

    def __getitem__(self, number: int) -> tuple[Contents, Problem]:
        while len(self._contents) <= number:
            self._contents.append(draw_contents(self.draw))
        return self._contents[number], self._latest(self._contents[number])

    def problem(self, contents: Contents) -> Problem:
        """The problem of a call with these contents, its truth computed."""
        found = altered(self._problem, contents)
        truth(found, self._problem.case.pass_ != "fwd")
        return found


class Sampler:
    """A provider's samples of one case.

    Before each call the contents of its leaves and upstream gradients change in place, to some that
    it never had before (``bench.measure.contents``); so a result that was kept is of no use. The
    results of some calls, drawn at random, are compared with float64 afterwards: nothing tells
    these calls from others before or while they run. None of this is timed.

    Attributes:
        samples: ms, by the provider's clock; on a GPU with the L2 cache emptied before.
        blocks: the number of samples of each visit.
        medians: of each visit's samples.
        host: ms until the call returned to the host; on a GPU.
        warm: ms of one call per visit whose inputs and weights were just written; on a GPU.
        errors: by tensor and metric, the largest of all checked calls.
        checked: how many calls were checked.
        spent: seconds, without those of checks.
        peak_bytes: as `Runner.peak_bytes` gives it, once finished.
    """

    def __init__(self, runner: Runner, checks: Checks) -> None:
        self.runner = runner
        self.samples: list[float] = []
        self.blocks: list[int] = []
        self.medians: list[float] = []
        self.host: list[float] = []
        self.warm: list[float] = []
        self.errors: dict[str, dict[str, float]] = {}
        self.spent = 0.0
        self.peak_bytes: int | None = None
        self.checked = 0
        self._left: list[float] = []
        self.checks, self._draw = checks, checks.draw
        self._leaves = Leaves(runner.call.leaves, runner.problem)
        per_visit = round(VISIT_MS / max(runner.call_ms, 1e-3))
        self.per_visit = max(1, min(MOST_PER_VISIT, per_visit))
        self._planned: dict[int, int] = {}  # the calls that are checked, each with its number

    def plan_checks(self) -> None:
        """Draw which calls of the next eight visits are checked, each call by itself.

        So that checks which are over say nothing of those to come.
        """
        calls = self.per_visit * MIN_VISITS
        for call in range(calls):
            if self._draw.random() < CHECKED_CALLS / calls:
                number = len(self._planned)
                self._planned[len(self.samples) + call] = number
                self.checks[number]  # its truth, while no provider's time runs

    def load(self, contents: Contents) -> None:
        """Give the leaves, the upstream gradients and the resets these contents."""
        self.runner.load_upstream(contents.upstream)
        mine, given = self.runner.own.resets, self.runner.problem.resets
        if mine is not None and given is not None:
            Tensor.copy_(mine, given.roll(contents.turn, 1))
        self._leaves.write(contents)

    def sample(self) -> None:
        """Visit: time some calls by this provider's clock.

        Raises:
            RuntimeError: in Triton's interpreter, whose times mean nothing; if work of a call runs
                on after its end; also what the provider's ``after`` raises, such as after a
                barrier's time-out.
            metrics.Incorrect: if a timed call's results are wrong.
        """
        runner, started, checking = self.runner, perf_counter(), 0.0
        if runner.machine.interpreted:
            raise RuntimeError("times in Triton's interpreter are meaningless and not measured")
        if runner.machine.is_cuda:
            torch.cuda.synchronize()  # for work that another provider's `after` has left
        with torch_precision(runner.case.precision):
            for _ in range(self.per_visit):
                number = self._planned.get(len(self.samples))
                before = perf_counter()
                check = None if number is None else self.checks[number]
                checking += perf_counter() - before
                self.load(check[0] if check else draw_contents(self._draw))
                found = self._timed()
                before = perf_counter()
                if check:
                    self.check(found, check[1])
                    checking += perf_counter() - before
                else:
                    runner.call.after()
            if runner.machine.is_cuda:
                self.load(draw_contents(self._draw))
                self.warm.append(self._event_ms(cold=False)[0])
                runner.call.after()
            if runner.provider.graph and not torch.isfinite(found["y"]).all():
                # A barrier that timed out leaves NaN, as other faults may.
                raise RuntimeError("the replayed graph gave values that are not finite")
        self.blocks.append(self.per_visit)
        self.medians.append(statistics.median(self.samples[-self.per_visit :]))
        self._refuse_work_elsewhere()
        self.spent += perf_counter() - started - checking
        if len(self.blocks) % MIN_VISITS == 0:
            self.plan_checks()

    def check(self, found: dict[str, Tensor], problem: Problem) -> None:
        """Compare a call's results with float64.

        Args:
            problem: of the contents that the call had.

        Raises:
            metrics.Incorrect: if they are off by more than is accepted of any call.
        """
        got = self.runner.in_torchs_layout(found)  # before `after`, which could still write to it
        self.runner.call.after()
        errors, wrong = metrics.check(problem, got)
        if wrong is not None:
            raise metrics.Incorrect(f"in a timed call {wrong}")
        self.errors = metrics.largest(self.errors, errors)
        self.checked += 1

    def finish(self) -> None:
        """Check one call more, measure the memory of one, and give the leaves their first contents.

        No sample follows the checked one: it would show a result that is kept from some call on.
        """
        contents, problem = self.checks[len(self._planned)]
        with torch_precision(self.runner.case.precision):
            self.load(contents)
            found = self.runner.run_once()
            if self.runner.machine.is_cuda:
                torch.cuda.synchronize()
            self.check(found, problem)
        self.load(draw_contents(self._draw))
        self.peak_bytes = self.runner.peak_bytes()
        self.runner.load_upstream()
        self._leaves.restore()

    def _timed(self) -> dict[str, Tensor]:
        if self.runner.machine.is_cuda:
            ms, found = self._event_ms(cold=True)
        else:
            start = perf_counter_ns()
            found = self.runner.run_once()
            ms = (perf_counter_ns() - start) / 1e6
        self.samples.append(ms)
        return found

    def _event_ms(self, cold: bool) -> tuple[float, dict[str, Tensor]]:
        """Device time of one call between two events, and its results.

        Args:
            cold: whether the L2 cache is emptied before; only then the host's time is kept.
        """
        from triton.runtime import driver

        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        # The inputs are written: else the host, ahead by the time that this takes, could have begun
        # to launch the call before its clock starts.
        torch.cuda.synchronize()
        if cold:
            driver.active.clear_cache(_cache())
        start.record()
        called = perf_counter_ns()
        found = self.runner.run_once()
        returned = perf_counter_ns()
        end.record()
        end.synchronize()
        ended = perf_counter_ns()
        torch.cuda.synchronize()
        if cold:
            self.host.append((returned - called) / 1e6)
            self._left.append((perf_counter_ns() - ended) / 1e6)
        return start.elapsed_time(end), found

    def _refuse_work_elsewhere(self) -> None:
        if not self._left:
            return
        left, call = statistics.median(self._left), statistics.median(self.samples)
        if left > max(LEFT_MS, LEFT_SHARE * call):
            raise RuntimeError(
                f"the device worked on for {left:.3g} ms after a call's end, which events on the "
                "current stream do not see; accepted: work that the current stream waits for"
            )


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


def interleave(
    runners: Sequence[Runner],
    target: float,
    seconds: float,
    seed: int = 0,
    checks: int = 0,
    note: Callable[[Runner], None] = lambda runner: None,
    failed: Callable[[Runner, Exception], None] | None = None,
) -> dict[str, Sampler]:
    """Sample providers in turn, in a seeded random order, until all medians are precise enough.

    Every round visits each provider that has time left, so that drift of the machine affects all
    alike and samples of the same visit number are close in time. Each provider is visited at least
    ``MIN_VISITS`` times, however long that takes. Then sampling stops when the interval of every
    median, over visits, has a relative half-width of at most ``target`` or the provider has used up
    its ``seconds``.

    Args:
        runners: prepared, of one problem, whose truth is kept.
        seed: of the order of providers.
        checks: a seed that no provider can know, of the inputs and of which calls are checked.
        note: called with the provider that is sampled next.
        failed: called with a provider that raised, which is not sampled again; without it the
            exception is raised.

    Returns:
        The samplers of the providers that did not fail, by name.
    """
    samplers: dict[str, Sampler] = {}

    def attempt(runner: Runner, action: Callable[[], None]) -> None:
        note(runner)
        try:
            with unchanged_settings():
                action()
        except Exception as problem:
            if failed is None:
                raise
            samplers.pop(runner.provider.name, None)
            failed(runner, problem)

    drawn = Checks(runners[0].problem, random.Random(checks)) if runners else None
    for runner in runners:

        def add(runner: Runner = runner) -> None:
            assert drawn is not None
            sampler = Sampler(runner, drawn)
            sampler.plan_checks()
            samplers[runner.provider.name] = sampler

        attempt(runner, add)
    order = random.Random(seed)
    with _no_garbage():
        while turn := [each for each in samplers.values() if _has_time(each, seconds)]:
            if all(_is_precise(each, target) for each in turn):
                break
            order.shuffle(turn)
            for sampler in turn:
                attempt(sampler.runner, sampler.sample)
        for sampler in list(samplers.values()):
            attempt(sampler.runner, sampler.finish)
    return samplers


def _has_time(sampler: Sampler, seconds: float) -> bool:
    return len(sampler.blocks) < MIN_VISITS or sampler.spent < seconds


def _is_precise(sampler: Sampler, target: float) -> bool:
    enough = len(sampler.blocks) >= MIN_VISITS
    return enough and half_width(sampler.medians) <= target
