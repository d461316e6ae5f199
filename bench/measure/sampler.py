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

from bench.cases.problem import Variant, checked_rows, torch_precision, truth, variants
from bench.measure import metrics
from bench.measure.runner import Runner
from bench.measure.settings import unchanged_settings
from bench.measure.statistics import MIN_VISITS, half_width

VISIT_MS = 30.0  # about how long a provider is sampled before the next takes its turn
MOST_PER_VISIT = 5  # samples
CHECKED_CALLS = 3  # of a provider's least number of calls; then one in every 8 visits, and the last
# Of the inputs in the calls that are not checked: little enough for the same kernels and the same
# kind of values.
SCALES = 0.9, 1.1
# Work that is still running when a call has ended, in ms and as a share of the call, is refused: it
# ran on a stream that the events do not see. An idle device is synchronised in about 0.01 ms.
LEFT_MS, LEFT_SHARE = 0.05, 0.1


class Sampler:
    """A provider's samples of one case.

    Before each call the contents of its leaves and upstream gradients change in place, to those of
    one of several problems whose truth is known (``problem.variants``). So a call that returns an
    earlier result, kept by address or in memory that was freed, gives wrong values; and those of
    some calls, drawn at random, each after a call of another problem, are compared with float64. In
    all other calls the inputs are also scaled by a factor of their own, so that a result kept by
    the inputs' values is of no use. None of this is timed.

    Attributes:
        samples: ms, by the provider's clock; on a GPU with the L2 cache emptied before.
        blocks: the number of samples of each visit.
        medians: of each visit's samples.
        host: ms until the call returned to the host; on a GPU.
        warm: ms of one call per visit right after another with the same inputs; on a GPU.
        spent: seconds.
        peak_bytes: as `Runner.peak_bytes` gives it, once finished.
    """

    def __init__(self, runner: Runner, problems: Sequence[Variant], draw: random.Random) -> None:
        self.runner = runner
        self.samples: list[float] = []
        self.blocks: list[int] = []
        self.medians: list[float] = []
        self.host: list[float] = []
        self.warm: list[float] = []
        self.spent = 0.0
        self.peak_bytes: int | None = None
        self.checked = 0
        self._left: list[float] = []
        self._problems = list(problems)
        self._draw = draw
        self._now = 0  # whose contents the leaves have
        per_visit = round(VISIT_MS / max(runner.call_ms, 1e-3))
        self.per_visit = max(1, min(MOST_PER_VISIT, per_visit))
        # Which calls are checked, and with which problem. Never two in a row; later ones are drawn
        # as sampling goes on.
        self._order = draw.sample(range(len(problems)), len(problems))
        self._checks: dict[int, int] = {}
        first = range(1, self.per_visit * MIN_VISITS)
        while len(self._checks) < CHECKED_CALLS:
            self._draw_check(first)
        # The rows with a truth, and that truth: once, since finding them waits for the device.
        self._rows = []
        for each in problems:
            truth(each.truth_of, runner.backward)
            self._rows.append((checked_rows(each.truth_of) + each.shift) % runner.case.B)
        runner.check_standard()
        with torch_precision(runner.case.precision):
            self._leaves = self._contents()

    def _draw_check(self, calls: Sequence[int]) -> None:
        """Have another of these calls checked, unless it is next to one that is."""
        call = self._draw.choice(calls)
        if not {call - 1, call, call + 1} & self._checks.keys():
            self._checks[call] = self._order[len(self._checks) % len(self._order)]

    def _contents(self) -> list[dict[str, Tensor]]:
        """The leaves' contents of each problem in the provider's layout, of those that differ."""
        own = self.runner.call.leaves
        others = [
            self.runner.provider.build(each.problem.copy()).leaves for each in self._problems[1:]
        ]
        names = [
            name for name, leaf in own.items()
            if any(not torch.equal(leaf, other[name]) for other in others)
        ]  # fmt: skip
        if not names:
            raise ValueError(
                "leaves hold no input that depends on the batch; accepted: leaves with x (or gx) "
                "and the initial states, which change between timed calls"
            )
        mine = {name: own[name].detach().clone() for name in names}
        return [mine] + [{name: other[name].detach().clone() for name in names} for other in others]

    @torch.no_grad()
    def _load(self, k: int, fresh: bool = False) -> None:
        """Give the leaves and the upstream gradients the contents of problem ``k``.

        Args:
            fresh: scale the inputs by a random factor, which leaves no truth to compare with.
        """
        factor = self._draw.uniform(*SCALES) if fresh else 1.0
        for name, value in self._leaves[k].items():
            torch.mul(value, factor, out=self.runner.call.leaves[name])
        of = self._problems[k]
        # Weight gradients sum over the batch, of which a checked call may have a part only.
        self.runner.load_upstream(of.problem, None if fresh else self._rows[k], factor * of.sign)
        if self.runner.own.resets is not None and of.problem.resets is not None:
            self.runner.own.resets.copy_(of.problem.resets)
        self._now = k

    def _next(self) -> int:
        """The problem of the next call: not the one of now, nor that of a check which follows."""
        call = len(self.samples)
        if call in self._checks:
            return self._checks[call]
        other = self._checks.get(call + 1, self._now)
        return self._draw.choice([k for k in range(len(self._problems)) if k != other])

    def sample(self) -> None:
        """Visit: time some calls by this provider's clock.

        Raises:
            RuntimeError: in Triton's interpreter, whose times mean nothing; if work of a call runs
                on after its end; also what the provider's ``after`` raises, such as after a
                barrier's time-out.
            metrics.Incorrect: if a timed call's results are wrong.
        """
        runner, started = self.runner, perf_counter()
        if runner.machine.interpreted:
            raise RuntimeError("times in Triton's interpreter are meaningless and not measured")
        with torch_precision(runner.case.precision):
            for _ in range(self.per_visit):
                checked = len(self.samples) in self._checks
                self._load(self._next(), fresh=not checked)
                found = self._timed()
                if checked:
                    self.check(found)
                else:
                    runner.call.after()
            if runner.machine.is_cuda:
                self.warm.append(self._event_ms(cold=False)[0])
                runner.call.after()
            if runner.provider.graph and not found["y"].isfinite().all():
                # A barrier that timed out leaves NaN, as other faults may.
                raise RuntimeError("the replayed graph gave values that are not finite")
        self.blocks.append(self.per_visit)
        if len(self.blocks) % MIN_VISITS == 0:
            done = len(self.samples)
            self._draw_check(range(done + 1, done + self.per_visit * MIN_VISITS))
        self.medians.append(statistics.median(self.samples[-self.per_visit :]))
        self._refuse_work_elsewhere()
        self.spent += perf_counter() - started

    def call(self, fresh: bool) -> dict[str, Tensor]:
        """Start a call with other inputs than the last, neither timed nor checked; no wait for it.

        Torch's precision must be the case's.

        Args:
            fresh: scale the inputs, so that its results cannot be checked.
        """
        others = [k for k in range(len(self._problems)) if k != self._now]
        self._load(self._draw.choice(others), fresh)
        return self.runner.run_once()

    def check(self, found: dict[str, Tensor]) -> None:
        """Compare the last call's results with float64; it must not have been a fresh one.

        Raises:
            metrics.Incorrect: if they are off by more than is accepted of any call.
        """
        of = self._problems[self._now]
        # Copied before `after`, which could still write to them.
        got = self.runner.in_torchs_layout(found, self._rows[self._now])
        self.runner.call.after()
        for name, value in got.items():
            if name.startswith("d"):
                value.mul_(of.sign)
        _, wrong = metrics.check(of.truth_of, got)
        if wrong is not None:
            raise metrics.Incorrect(f"in a timed call {wrong}")
        self.checked += 1

    def finish(self) -> None:
        """Check one call more, measure the memory of one, and give the leaves their first contents.

        No sample follows the checked one: it would show a result that is kept from some call on.
        """
        with torch_precision(self.runner.case.precision):
            found = self.call(fresh=False)
            if self.runner.machine.is_cuda:
                torch.cuda.synchronize()
            self.check(found)
        self.peak_bytes = self.runner.peak_bytes()
        self._load(0)

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

    draw = random.Random(checks)
    problems = variants(runners[0].problem, draw) if runners else []
    for runner in runners:

        def add(runner: Runner = runner) -> None:
            samplers[runner.provider.name] = Sampler(runner, problems, draw)

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
