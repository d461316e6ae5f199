"""The parent's side of a measuring process: a crash, a hang or lack of memory costs one case.

Imports no torch, so that the command line starts quickly and the parent is never affected.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.cases.presets import Request
from bench.records.environment import Machine
from bench.sweep.process import Child, Died, End, TookTooLong
from bench.sweep.toolchain import cache_folder

START_SECONDS = 120.0  # importing torch on a cold disk
CASES_PER_WORKER = 50  # then a new process, which bounds leaks and fragmentation


class Stopped(Exception):
    """The deadline passed before a case was done; the case counts as not measured."""


def _serve(*arguments: Any) -> None:
    from bench.sweep import worker

    worker.serve(*arguments)


@dataclass
class Isolated:
    """A worker process, restarted whenever it dies.

    Args:
        settings: of ``bench.sweep.worker.Settings``; with ``compiled_before`` the kernels come from
            Triton's own cache, which all processes share.
        folder: the device's results folder, whose limits the worker reads.
        interpreted: whether kernels in it run in Triton's interpreter (then nothing is timed).
        plugins: files with more providers or cells.
        timeout: seconds without a message after which the worker counts as hanging.
    """

    settings: dict[str, Any]
    folder: Path
    interpreted: bool = False
    plugins: tuple[Path, ...] = ()
    timeout: float = 180.0
    _child: Child | None = None
    _open: ExitStack = field(default_factory=ExitStack)
    _served: int = 0
    _start_number: int = 0  # of the request before
    _hello: dict[str, Any] = field(default_factory=dict)

    def hello(self, deadline: float | None = None) -> dict[str, Any]:
        """The worker's machine ("hello") and device, starting it if need be.

        Raises:
            RuntimeError: if it does not start.
            Stopped: when the deadline comes first.
        """
        try:
            if self._child is None:
                self._start(deadline)
        except Died as death:
            raise RuntimeError(f"the measuring process did not start: {death}") from None
        return self._hello

    def machine(self) -> Machine:
        facts = self.hello()["hello"]
        return Machine(**facts | {"capability": tuple(facts["capability"])})

    def measure(
        self,
        request: Request,
        note: Callable[[str, str], None] = lambda provider, doing: None,
        deadline: float | None = None,
    ) -> list[dict[str, Any]]:
        """One partial record for each provider of a request, also of those the worker died in.

        Args:
            note: called with the provider that is measured next and what is measured of it.
            deadline: of ``time.monotonic``.

        Raises:
            Stopped: when the deadline comes first; the case's records are then dropped.
        """
        if self._served >= CASES_PER_WORKER or request.start != self._start_number:
            self.close()
        self._start_number = request.start
        self._served += 1
        waiting = list(request.providers)
        records: list[dict[str, Any]] = []
        while waiting:
            turn, patience = None, self.timeout
            try:
                self.hello(deadline)
                assert self._child is not None
                self._child.send(replace(request, providers=tuple(waiting)))
                while True:
                    message = self._receive(patience, deadline)
                    if "turn" in message:
                        turn = message["turn"]
                        patience = max(self.timeout, message.get("patience", 0.0))
                        note(turn, message["doing"])
                    elif "record" in message:
                        records.append(message["record"])
                        waiting.remove(message["record"]["provider"])
                    elif "poisoned" in message:
                        break  # its record was sent before; a new process measures the others
                    elif "done" in message:
                        return records
                self.close()
            except Died as death:
                self.close()
                # With no provider in turn, making inputs or float64 results failed and would again.
                for name in [turn] if turn in waiting else list(waiting):
                    waiting.remove(name)
                    facts = {"status": death.end.status, "reason": death.end.text}
                    records.append({"provider": name, "device": self._hello["device"]} | facts)
            except Stopped:
                self.close()
                raise
        return records

    def _start(self, deadline: float | None) -> None:
        # Empty caches, so that the time of a first call includes compiling.
        caches = self._open.enter_context(tempfile.TemporaryDirectory(prefix="rnnbench-"))
        # Kernels compiled ahead are in Triton's own cache; set, as Inductor would choose another.
        shared = self.settings.get("compiled_before")
        environment = {
            "TRITON_INTERPRET": "1" if self.interpreted else "0",
            "TRITON_CACHE_DIR": str(cache_folder()) if shared else f"{caches}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
        }
        target = partial(_serve, self.settings, self.folder, self.plugins)
        self._child = self._open.enter_context(closing(Child(target, environment, quiet=True)))
        try:
            self._hello = self._receive(START_SECONDS, deadline)
            if "refused" in self._hello:
                raise RuntimeError(self._hello["refused"])
        except BaseException:
            self.close()
            raise

    def _receive(self, seconds: float, deadline: float | None) -> dict[str, Any]:
        """The next message; ``Died`` if there is none in time, ``Stopped`` at the deadline."""
        assert self._child is not None
        silent_until = time.monotonic() + seconds
        until = silent_until if deadline is None else min(silent_until, deadline)
        try:
            return self._child.receive(until)
        except TookTooLong:
            if until != silent_until:
                raise Stopped from None
            raise Died(End("timeout", f"no sign of life for {seconds:.0f} s")) from None

    def close(self) -> None:
        """Kill the worker."""
        self._open.close()
        self._child = None
        self._served = 0
