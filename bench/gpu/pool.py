"""Checks in processes of their own, several at once, each blamed for what it did and no other.

An illegal access poisons a CUDA context, and then all that its process does fails. So a process
that did not pass a unit is ended and the next unit gets a fresh one. Imports no torch.
"""

import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Self

from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS
from bench.sweep.process import Answer, Child, Died, is_out_of_memory

FAIR_SECONDS = 60.0  # a unit that the deadline ended after less does not count as tried
BUSY = "busy or unavailable"  # what CUDA says of a card that another process has for itself
# There are as many processes as cores.
THREADS = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


class Skipped(Exception):
    """This machine cannot make this check; it says why."""


class NotDone(Exception):
    """The check could not be completed for a reason outside the kernels."""


class Failed(Exception):
    """A check found something wrong, which one sentence says.

    Args:
        sentence: what is wrong.
        report: all that helps to find out why, in many lines.
        suspects: the kernels found wrong, picklable; None where it says no more than the
            check's name does.
    """

    def __init__(self, sentence: str, report: str = "", suspects: tuple[Any, ...] | None = None):
        super().__init__(sentence)
        self.report, self.suspects = report, suspects


@dataclass(frozen=True)
class Unit:
    """One thing to do.

    Args:
        name: unlike any other unit's.
        call: picklable; returns a line on what it found.
        after: names of units that must have ended before, such as those that compile its kernels.
        exclusive: whether it needs the whole GPU: no other unit runs then, and no process waits.
    """

    name: str
    call: Callable[[], str]
    after: tuple[str, ...] = ()
    exclusive: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: PASS, FAIL, LEFT_OUT or NOT_DONE, and the line that says why.

    ``tried`` is False where the time was up before it began, or soon after. ``report`` and
    ``suspects`` are those of :class:`Failed`; of any other exception the report is its traceback.
    """

    state: str
    detail: str
    seconds: float = 0.0
    tried: bool = True
    report: str = ""
    suspects: tuple[Any, ...] | None = None


def attempt(call: Callable[[], str]) -> Outcome:
    """Run one check in this process; whatever it raises becomes its outcome."""
    began = time.monotonic()
    report, suspects = "", None
    try:
        detail, state = call(), PASS
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # an asynchronous error is this check's, not the next's
            torch.cuda.empty_cache()  # the other processes' checks need it
    except Skipped as reason:
        detail, state = str(reason), LEFT_OUT
    except NotDone as reason:
        detail, state = str(reason), NOT_DONE
    except Failed as found:
        detail, state, report, suspects = str(found), FAIL, found.report, found.suspects
    except Exception as error:
        detail = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:300]}"
        lacking = is_out_of_memory(error) or BUSY in str(error)
        state = NOT_DONE if lacking else FAIL
        report = traceback.format_exc()
    return Outcome(state, detail, time.monotonic() - began, report=report, suspects=suspects)


def attempt_units(requests: Iterator[bytes], answer: Answer) -> None:
    """What a process of the pool does with the pickled units that it gets."""
    for unit in requests:
        answer(attempt(lambda unit=unit: pickle.loads(unit).call()))  # type: ignore[misc]


class Pool:
    """Processes that run units; those that are idle stay for the next run, until it is closed.

    Args:
        workers: the most processes at once.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: list[Child] = []
        self._busy: dict[Child, tuple[Unit, float]] = {}  # what it runs, and since when

    def run(
        self, units: Sequence[Unit], deadline: float, on_outcome: Callable[[Unit, Outcome], Any]
    ) -> None:
        """Run units in order, several at once, and hand on each outcome as it comes.

        At the deadline (of ``time.monotonic``) all that is running is ended; it and what was not
        begun come out as NOT_DONE.
        """
        waiting = list(units)
        while (left := deadline - time.monotonic()) > 0:
            self._begin(waiting)
            if not self._busy:
                return
            ready = wait([child.connection for child in self._busy], timeout=left)
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
                on_outcome(unit, outcome)
        for child, (unit, began) in list(self._busy.items()):
            del self._busy[child]
            child.close()
            spent = time.monotonic() - began
            why = f"had run for {spent:.0f} s when the time was up"
            on_outcome(unit, Outcome(NOT_DONE, why, spent, spent >= FAIR_SECONDS))
        for unit in waiting:
            on_outcome(unit, Outcome(NOT_DONE, "not begun in time", tried=False))

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
        """Give waiting units to processes, as far as there are any and the units may begin."""
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
            child = self._idle.pop() if self._idle else Child(attempt_units, THREADS)
            self._busy[child] = unit, time.monotonic()
            child.send(pickle.dumps(unit))
