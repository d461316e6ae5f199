"""Energy of a call: NVML's counter of the board's joules, read while calls run back to back.

The counter moves only every 20 to 100 ms, and so is too coarse for a call. A window is a stretch of
calls from one of its updates to another: the energy between the two over the time between them is
the mean power, and a call's energy is this power times the mean time of a call. The device stays
busy until the second update has come, so a window has neither a part of an update nor idle time at
its ends. What is left of the quantisation: an update is seen up to ``POLL_SECONDS`` late, at both
ends alike.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.cases.problem import torch_precision
from bench.measure.contents import draw_contents
from bench.measure.sampler import Sampler
from bench.measure.settings import unchanged_settings
from bench.measure.statistics import median_interval

# The fewest windows whose 95 % interval leaves out the smallest and the largest of them.
WINDOWS = 9
CHECKED_WINDOWS = 3  # whose last call is compared with float64
WINDOW_SECONDS = 0.3  # at least: until the next update after it
LEAST_CALLS = 10  # in a window, so that a part of a call more or less changes little
# Of the same work before a window begins. The counter has a board's power averaged over some time,
# 25 to 100 ms where it was measured (Yang, Adamek and Armour, SC24, arXiv:2312.02741).
LEAD_SECONDS = 0.15
POLL_SECONDS = 1e-3  # between two readings of the counter
STALLED_SECONDS = 2.0  # without an update: the counter does not work
# Calls are queued ahead in batches, since a reading may take some ms, during which the device must
# not run out of work.
BATCH_SECONDS = 5e-3
QUEUED_BATCHES = 4
LATE_WINDOWS = 3  # in a row, after which work beyond a window's end is no accident of the host


class CounterFault(RuntimeError):
    """The energy counter has stopped, or fallen."""


@dataclass(frozen=True)
class Meter:
    """An energy counter (J), the clock (s), and how to wait; tests simulate all three."""

    read: Callable[[], float]
    clock: Callable[[], float] = time.perf_counter
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Window:
    """A window's mean power in watts, and the calls that ended within ``seconds`` of it."""

    watts: float
    calls: int
    seconds: float

    @property
    def joules(self) -> float:
        """The energy of one call."""
        return self.watts * self.seconds / self.calls


class Work(Protocol):
    """What the device does during a window."""

    def advance(self) -> int:
        """Keep the device busy, without waiting for it; return how many calls have ended so far."""

    def finish(self) -> None:
        """Wait until the device is idle."""

    def check(self) -> None:
        """Raise if the calls went wrong."""


class Calls:
    """A provider's calls, each with other inputs than the last, some always queued on the device.

    So the energy has the writing of a call's inputs and weights, and of a backward pass the
    upstream gradients, into the memory that the provider reads; x is only scaled, which takes one
    pass over it. In some windows, drawn at random, and the last the last call is compared with
    float64 afterwards.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.ended = self._batch = 0
        self._queue: deque[torch.cuda.Event] = deque()
        self._last: dict[str, Tensor] = {}
        # Seconds that the device worked on after each window's last call, as the host saw it.
        self._left: list[float] = []
        draw = sampler.checks.draw
        self._checked = {WINDOWS - 1, *draw.sample(range(WINDOWS - 1), CHECKED_WINDOWS - 1)}

    def _run(self, calls: int) -> None:
        with torch_precision(self.sampler.runner.case.precision):
            for _ in range(calls):
                self._contents = draw_contents(self.sampler.checks.draw, redraw=False)
                self.sampler.load(self._contents)
                self._last = self.sampler.runner.run_once()

    def _pace(self) -> int:
        """How many calls a batch has, by the time of a few."""
        began = time.perf_counter()
        self._run(3)
        torch.cuda.synchronize()
        return max(1, round(3 * BATCH_SECONDS / (time.perf_counter() - began)))

    def advance(self) -> int:
        self._batch = self._batch or self._pace()
        while self._queue and self._queue[0].query():
            self._queue.popleft()
            self.ended += self._batch
        if len(self._queue) < QUEUED_BATCHES:
            self._run(self._batch)
            self._queue.append(torch.cuda.Event())
            self._queue[-1].record()
        return self.ended

    def finish(self) -> None:
        for event in self._queue:
            event.synchronize()
        self._queue.clear()
        ended = time.perf_counter()
        torch.cuda.synchronize()
        self._left.append(time.perf_counter() - ended)

    def check(self) -> None:
        left = min(self._left[-LATE_WINDOWS:])
        if left > BATCH_SECONDS and len(self._left) >= LATE_WINDOWS:
            raise RuntimeError(  # calls would be counted before they have ended
                f"the device worked on for {1e3 * left:.3g} ms after the last call's end; "
                "accepted: work that the current stream waits for"
            )
        if len(self._left) - 1 in self._checked:
            self.sampler.check(self._last, self.sampler.checks.problem(self._contents))


def window(meter: Meter, advance: Callable[[], int], least_calls: int = LEAST_CALLS) -> Window:
    """One window.

    Args:
        advance: as of :class:`Work`.
        least_calls: in the window; 0 if there are none.

    Raises:
        CounterFault: if the counter falls, as when the driver was loaded anew, or stays the same.
        Exception: any that the counter or ``advance`` raises.
    """
    began = updated = counted = meter.clock()
    value, first = meter.read(), advance()
    calls, start = first, None  # then: the time and reading of an update, and the calls before it
    while True:
        meter.pause(POLL_SECONDS)
        ended, now = advance(), meter.clock()
        if ended != calls:
            calls, counted = ended, now
        found = meter.read()
        if found < value:
            raise CounterFault(f"the energy counter fell from {value:.3f} to {found:.3f} J")
        if found == value:
            if now - updated > STALLED_SECONDS:
                raise CounterFault(
                    f"the energy counter was {value:.3f} J for {now - updated:.1f} s"
                )
            continue
        value, updated = found, now
        if start is None:
            if now - began >= LEAD_SECONDS and (calls > first or not least_calls):
                start = (now, value, calls, counted)
        elif now - start[0] >= WINDOW_SECONDS and calls - start[2] >= least_calls:
            watts = (value - start[1]) / (now - start[0])
            return Window(watts, calls - start[2], counted - start[3])


def take_turns(
    works: Mapping[str, Work],
    meter: Meter,
    seed: int,
    note: Callable[[str], None],
    failed: Callable[[str, Exception], None],
) -> tuple[dict[str, list[Window]], list[float]]:
    """Measure providers window by window, in a seeded random order that is new in each round.

    A round begins with an idle window, so that the idle power is of the same clocks and temperature
    as the calls'. The k-th windows of all providers are close in time.

    Args:
        note: called with the provider that is measured next.
        failed: called with one that raised, which is then left out.

    Returns:
        The ``WINDOWS`` windows of each provider that did not fail, and the idle power in each
        round, in watts.

    Raises:
        CounterFault: as ``window``, of the idle window.
    """
    order, idle = random.Random(seed), []
    found: dict[str, list[Window]] = {name: [] for name in works}
    for _ in range(WINDOWS):
        if not found:
            break
        idle.append(window(meter, lambda: 0, 0).watts)
        turn = list(found)
        order.shuffle(turn)
        for name in turn:
            note(name)
            try:
                with unchanged_settings():
                    try:
                        measured = window(meter, works[name].advance)
                    finally:
                        works[name].finish()
                    works[name].check()
                found[name].append(measured)
            except Exception as fault:
                del found[name]
                failed(name, fault)
    return found, idle


def summary(windows: Sequence[Window], idle: Sequence[float]) -> dict[str, Any]:
    """A record's ``energy``: medians over windows and their 95 % intervals, and the windows.

    Args:
        idle: power in watts while nothing ran, of the same rounds.
    """
    joules = [each.joules for each in windows]
    above = [
        (each.watts - rest) * each.seconds / each.calls
        for each, rest in zip(windows, idle, strict=True)
    ]
    low, high = median_interval(joules) or (None, None)
    above_low, above_high = median_interval(above) or (None, None)
    return {
        "joules": float(np.median(joules)),
        "low": low,
        "high": high,
        "idle_watts": float(np.median(idle)),
        "above_idle": float(np.median(above)),
        "above_low": above_low,
        "above_high": above_high,
        "windows": joules,
        "calls": [each.calls for each in windows],
        "seconds": [each.seconds for each in windows],
        "idle": list(idle),
    }
