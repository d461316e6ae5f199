"""Checks in processes of their own, several at once, each blamed for what it did and no other.

An illegal access poisons a CUDA context, and then all that its process does fails. So a process
that did not pass a unit is ended and the next unit gets a fresh one. Each process leads a session:
what it started ends with it, and it ends when its parent does, so nothing keeps GPU memory.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

PASS, FAIL, LEFT_OUT, NOT_DONE = "pass", "FAIL", "left out", "not done"
FAIR_SECONDS = 60.0  # what the deadline cut off after less had no fair try
# What CUDA and torch say of a card that is full, or that another process has for itself.
LACKING = ("out of memory", "busy or unavailable")
END_SECONDS = 10.0  # the driver may take a while to let a killed process go


class Skipped(Exception):
    """This machine cannot make this check; it says why."""


class NotDone(Exception):
    """What surrounds the check kept it from ending; that tells nothing of the kernels."""


class Failed(Exception):
    """A check found something wrong, which one sentence says.

    Args:
        sentence: what is wrong.
        report: all that helps to find out why, in many lines.
        doubts: what the finding makes doubtful, picklable; None where it says no more than the
            check's name does.
    """

    def __init__(self, sentence: str, report: str = "", doubts: tuple[Any, ...] | None = None):
        super().__init__(sentence)
        self.report, self.doubts = report, doubts


@dataclass(frozen=True)
class Unit:
    """One thing to do.

    Args:
        name: unlike any other unit's.
        call: picklable; returns a line on what it found.
        after: names of units that must have ended before, such as those that compile its kernels.
        alone: whether it needs the whole GPU: no other unit runs then, and no process waits.
    """

    name: str
    call: Callable[[], str]
    after: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a unit ended: PASS, FAIL, LEFT_OUT or NOT_DONE, and the line that says why.

    ``tried`` is False where the time was up before it began, or soon after. ``report`` and
    ``doubts`` are those of :class:`Failed`; of any other exception the report is its traceback.
    """

    state: str
    detail: str
    seconds: float = 0.0
    tried: bool = True
    report: str = ""
    doubts: tuple[Any, ...] | None = None


def attempt(call: Callable[[], str]) -> Outcome:
    """Run one check in this process; whatever it raises becomes its outcome."""
    began = time.monotonic()
    report, doubts = "", None
    try:
        detail, state = call(), PASS
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # an error that comes late is this check's, not the next's
            torch.cuda.empty_cache()  # the other processes' checks need it
    except Skipped as reason:
        detail, state = str(reason), LEFT_OUT
    except NotDone as reason:
        detail, state = str(reason), NOT_DONE
    except Failed as found:
        detail, state, report, doubts = str(found), FAIL, found.report, found.doubts
    except Exception as error:
        detail = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:300]}"
        lacking = isinstance(error, MemoryError) or any(word in str(error) for word in LACKING)
        state = NOT_DONE if lacking else FAIL
        report = traceback.format_exc()
    return Outcome(state, detail, time.monotonic() - began, report=report, doubts=doubts)


def _serve(connection: Connection) -> None:
    """The process: one unit after another, until the parent closes or ends."""
    os.setsid()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are as many processes as cores
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                calls.put(connection.recv_bytes())
            except (EOFError, OSError):
                os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        call = calls.get()
        connection.send(attempt(lambda call=call: pickle.loads(call)()))  # type: ignore[misc]


class _Worker:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.unit: Unit | None = None
        self.began = 0.0

    def begin(self, unit: Unit) -> None:
        self.unit, self.began = unit, time.monotonic()
        with contextlib.suppress(OSError):  # a process that died is found when it is asked
            self.connection.send_bytes(pickle.dumps(unit.call))

    def outcome(self) -> Outcome:
        """How the unit ended, once there is something to read."""
        spent = time.monotonic() - self.began
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(END_SECONDS)
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            why = "the system killed its process, most likely for its memory"
            return Outcome(NOT_DONE, why, spent)
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        return Outcome(FAIL, f"its process died ({how})", spent)

    def close(self) -> None:
        try:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:  # it does not lead a session yet, or is gone
            self.process.kill()
        self.process.join(END_SECONDS)
        self.connection.close()


class Pool:
    """Processes that run units; those that are idle stay for the next run, until it is closed.

    Args:
        workers: the most processes at once.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._crew: list[_Worker] = []

    def run(
        self,
        units: Sequence[Unit],
        deadline: float,
        on_outcome: Callable[[Unit, Outcome], Any],
    ) -> None:
        """Run units in order, several at once, and hand on each outcome as it comes.

        At the deadline (of ``time.monotonic``) all that is running is ended; it and what was not
        begun come out as NOT_DONE.
        """
        waiting = list(units)
        while (left := deadline - time.monotonic()) > 0:
            self._begin(waiting)
            busy = self._busy()
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], timeout=left)
            for worker in busy:
                if worker.connection not in ready:
                    continue
                unit, outcome = worker.unit, worker.outcome()
                worker.unit = None
                if outcome.state in (FAIL, NOT_DONE):
                    self._dismiss(worker)
                if unit is not None:
                    on_outcome(unit, outcome)
        for worker in self._busy():
            unit, spent = worker.unit, time.monotonic() - worker.began
            self._dismiss(worker)
            if unit is not None:
                why = f"had run for {spent:.0f} s when the time was up"
                on_outcome(unit, Outcome(NOT_DONE, why, spent, spent >= FAIR_SECONDS))
        for unit in waiting:
            on_outcome(unit, Outcome(NOT_DONE, "not begun in time", tried=False))

    def close(self) -> None:
        """End all processes."""
        for worker in list(self._crew):
            self._dismiss(worker)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._crew if worker.unit is not None]

    def _dismiss(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.close()

    def _begin(self, waiting: list[Unit]) -> None:
        """Give waiting units to processes, as far as there are any and the units may begin."""
        for unit in list(waiting):
            busy = self._busy()
            if any(worker.unit.alone for worker in busy if worker.unit):
                return
            ahead = {other.name for other in waiting} | {w.unit.name for w in busy if w.unit}
            if (unit.alone and busy) or ahead & set(unit.after):
                continue
            idle = [worker for worker in self._crew if worker.unit is None]
            if unit.alone:
                for worker in idle:
                    self._dismiss(worker)
                idle = []
            if not idle and len(self._crew) >= self.workers:
                return
            if not idle:
                idle = [_Worker()]
                self._crew.extend(idle)
            waiting.remove(unit)
            idle[0].begin(unit)
