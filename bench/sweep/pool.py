"""A pool of processes that run units of work, several at once; a crash costs only its own unit.

An illegal access poisons a CUDA context: whatever its process does next fails too. So a process is
replaced unless its unit passed. Imports no torch.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Self

from bench.records.environment import probe
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS
from bench.sweep.process import Answer, Child, Died, TookTooLong, is_out_of_memory

FAIR_SECONDS = 60.0  # a unit that the deadline stops sooner does not count as tried
LONGEST_WAIT = 1e6  # seconds; the system's own limit is about twice that
BUSY = "busy or unavailable"  # in CUDA's error where another process has exclusive use of the card
# One thread each, since there are as many processes as cores.
THREADS = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


class Skipped(Exception):
    """This machine cannot make this check; the message says why."""


class NotDone(Exception):
    """The check could not be completed for a reason outside the kernels."""


class Failed(Exception):
    """A unit found something wrong.

    Args:
        sentence: what is wrong.
        report: many lines that help to find out why.
        found: what the caller gets as ``Outcome.found``; picklable.
    """

    def __init__(self, sentence: str, report: str = "", found: Any = None):
        super().__init__(sentence)
        self.report, self.found = report, found


@dataclass(frozen=True)
class Unit:
    """One thing to do.

    Args:
        name: unique among the units of a run.
        call: picklable.
        after: names of units that must have ended before, such as those that compile its kernels.
        exclusive: whether it needs the whole GPU: no other unit runs then, and no process waits.
    """

    name: str
    call: Callable[[], Any]
    after: tuple[str, ...] = ()
    exclusive: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: PASS, FAIL, LEFT_OUT or NOT_DONE, and a line that says why.

    ``tried`` is False if the time was up before it began, or soon after. ``found`` is what the call
    returned, or that of :class:`Failed`; ``detail`` is a returned string. ``report`` is that of
    :class:`Failed`, or the traceback of any other exception.
    """

    state: str
    detail: str
    seconds: float = 0.0
    tried: bool = True
    report: str = ""
    found: Any = None


def attempt(call: Callable[[], Any]) -> Outcome:
    """Make a unit's call in this process; whatever it raises becomes its outcome."""
    began = time.monotonic()
    report, found = "", None
    try:
        found, state = call(), PASS
        detail = found if isinstance(found, str) else ""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # raises an asynchronous error in its own unit
            torch.cuda.empty_cache()  # the other processes need it
    except Skipped as reason:
        detail, state = str(reason), LEFT_OUT
    except NotDone as reason:
        detail, state = str(reason), NOT_DONE
    except Failed as failure:
        detail, state, report, found = str(failure), FAIL, failure.report, failure.found
    except Exception as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        lacking = is_out_of_memory(error) or BUSY in str(error)
        state = NOT_DONE if lacking else FAIL
        report, found = traceback.format_exc(), None
    return Outcome(state, detail, time.monotonic() - began, report=report, found=found)


def attempt_units(units: Iterator[Unit], answer: Answer) -> None:
    """What a process of the pool does."""
    for unit in units:
        answer(attempt(unit.call))


@contextlib.contextmanager
def calls_elsewhere(
    calls: Sequence[partial[Any]], seconds: float = 600.0
) -> Iterator[Iterator[Any]]:
    """Make calls one after another in another process, while this one does something else.

    Without a GPU the process interprets the kernels. It is killed at the end of the context.

    Args:
        seconds: the longest wait for a value.

    Yields:
        An iterator over the values. It raises RuntimeError if a call fails and TookTooLong if its
        value does not come in time.
    """
    environment = {"TRITON_INTERPRET": "0" if probe().is_cuda else "1"}
    # Quiet, since warnings would break a progress bar.
    with contextlib.closing(Child(attempt_units, environment, quiet=True)) as child:
        for call in calls:
            child.send(Unit("", call))

        def values() -> Iterator[Any]:
            for call in calls:
                name = call.func.__name__
                try:
                    outcome = child.receive(time.monotonic() + seconds)
                except TookTooLong:
                    raise TookTooLong(f"{name} took more than {seconds:.0f} s") from None
                except Died as death:
                    raise RuntimeError(f"{name} failed: {death}") from None
                if outcome.state != PASS:
                    raise RuntimeError(f"{name} failed: {outcome.detail}")
                yield outcome.found

        yield values()


class Pool:
    """Processes that run units; idle ones stay for the next run, until the pool is closed.

    Args:
        workers: the most processes at once.
        environment: variables added to those of this process.
    """

    def __init__(self, workers: int, environment: Mapping[str, str] | None = None) -> None:
        self.workers = workers
        self.environment = THREADS | dict(environment or {})
        self._idle: list[Child] = []
        self._busy: dict[Child, tuple[Unit, float]] = {}  # what it runs, and since when

    def run(
        self, units: Sequence[Unit], deadline: float, begin_until: float = float("inf")
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Run units in order, several at once, and yield each outcome as it comes.

        Args:
            deadline: of ``time.monotonic``; whatever runs then is killed. It and what was not begun
                are NOT_DONE.
            begin_until: of ``time.monotonic``; nothing is begun after it.
        """
        waiting = list(units)
        while (now := time.monotonic()) < deadline:
            if now < begin_until:
                self._begin(waiting)
            if not self._busy:
                break
            connections = [child.connection for child in self._busy]
            ready = wait(connections, timeout=min(deadline - now, LONGEST_WAIT))
            for child in [child for child in self._busy if child.connection in ready]:
                unit, began = self._busy.pop(child)
                try:
                    outcome = child.receive()
                except Died as death:
                    state = NOT_DONE if death.end.status == "oom" else FAIL
                    outcome = Outcome(state, death.end.text, time.monotonic() - began)
                if outcome.state in (FAIL, NOT_DONE):
                    child.close()
                else:
                    self._idle.append(child)
                yield unit, outcome
        for child, (unit, began) in list(self._busy.items()):
            del self._busy[child]
            child.close()
            spent = time.monotonic() - began
            why = f"had run for {spent:.0f} s when the time was up"
            yield unit, Outcome(NOT_DONE, why, spent, spent >= FAIR_SECONDS)
        for unit in waiting:
            yield unit, Outcome(NOT_DONE, "not begun in time", tried=False)

    def close(self) -> None:
        """End all processes."""
        for child in (*self._idle, *self._busy):
            child.close()
        self._idle.clear()
        self._busy.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, waiting: list[Unit]) -> None:
        """Start each waiting unit that a process is free for and nothing else holds back."""
        for unit in list(waiting):
            running = [other for other, _ in self._busy.values()]
            if any(other.exclusive for other in running):
                return
            unfinished = {other.name for other in (*waiting, *running)}
            if (unit.exclusive and running) or unfinished & set(unit.after):
                continue
            if unit.exclusive:
                self.close()
            if not self._idle and len(running) >= self.workers:
                return
            waiting.remove(unit)
            child = self._idle.pop() if self._idle else Child(attempt_units, self.environment)
            self._busy[child] = unit, time.monotonic()
            child.send(unit)
