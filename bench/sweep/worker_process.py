"""The parent's side of a measuring process: a crash, a hang or no memory costs one case.

Imports no torch, so that the command line stays quick and the parent survives.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cases.cases import Case
from bench.records.environment import Machine
from bench.records.provenance import ROOT
from bench.sweep.toolchain import cache_folder

START_SECONDS = 120.0  # importing torch on a cold disk
CASES_PER_WORKER = 50  # a fresh process now and then keeps leaks and fragmentation bounded


@dataclass(frozen=True)
class Item:
    """One request to a worker: a case for some providers, its time or its error."""

    kind: str
    case: Case
    providers: tuple[str, ...]
    seed: int = 0
    regime: str | None = None

    def message(self, providers: list[str]) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "case": self.case.fields(),
            "providers": providers,
            "seed": self.seed,
            "regime": self.regime,
        }


class Stopped(Exception):
    """The deadline came before a case was done; it counts as not measured."""


class _Died(Exception):
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class Isolated:
    """A worker process, restarted whenever it dies.

    Args:
        settings: of ``bench.sweep.worker.Settings``; with ``compiled_before`` the kernels come from
            Triton's own cache, which all processes share.
        folder: the device's results folder, whose limits the worker reads.
        interpreted: whether kernels in it run in Triton's interpreter (then nothing is timed).
        plugins: files with more providers or cells.
        timeout: seconds of silence after which the worker counts as hanging.
    """

    settings: dict[str, Any]
    folder: Path
    interpreted: bool = False
    plugins: tuple[Path, ...] = ()
    timeout: float = 180.0
    _process: subprocess.Popen[bytes] | None = None
    _answers: int = -1
    _buffer: bytes = b""
    _log: Any = None
    _caches: Any = None
    _served: int = 0
    _hello: dict[str, Any] = field(default_factory=dict)

    def hello(self, deadline: float | None = None) -> dict[str, Any]:
        """The worker's machine, device and software, starting it if need be.

        Raises:
            RuntimeError: if it does not start.
            Stopped: when the deadline comes first.
        """
        if self._process is None:
            try:
                self._start(deadline)
            except _Died as death:
                raise RuntimeError(f"the measuring process did not start: {death}") from None
        return self._hello

    def machine(self) -> Machine:
        facts = self.hello()["hello"]
        return Machine(**facts | {"capability": tuple(facts["capability"])})

    def measure(
        self,
        item: Item,
        note: Callable[[str, str], None] = lambda provider, doing: None,
        deadline: float | None = None,
    ) -> list[dict[str, Any]]:
        """One partial record for each provider of an item, whatever happens to the worker.

        Args:
            note: called with the provider at work and what it does.
            deadline: of ``time.monotonic``.

        Raises:
            Stopped: when the deadline comes first; nothing of the case is then kept.
        """
        if self._served >= CASES_PER_WORKER:
            self.close()
        self._served += 1
        waiting = list(item.providers)
        records: list[dict[str, Any]] = []
        while waiting:
            turn, patience = None, self.timeout
            try:
                self._hello = self.hello(deadline)
                self._send(item.message(waiting))
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
                        turn = None
                        break  # its record came before; the others get a new process
                    elif "done" in message:
                        return records
                self.close()
            except _Died as death:
                self.close()
                # Nobody's turn: the inputs or the truth failed, and would fail again.
                for name in [turn] if turn in waiting else list(waiting):
                    waiting.remove(name)
                    records.append(
                        {
                            "provider": name,
                            "status": death.status,
                            "reason": death.reason,
                            "device": self._hello["device"],
                        }
                    )
            except Stopped:
                self.close()
                raise
        return records

    def _start(self, deadline: float | None) -> None:
        read, write = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        # Compilers find empty caches, so that a first call's time includes compiling.
        self._caches = tempfile.TemporaryDirectory(prefix="rnnbench-")
        # Of kernels that were compiled ahead, Triton's own; named, since Inductor sets another.
        shared = self.settings.get("compiled_before")
        triton = cache_folder() if shared else f"{self._caches.name}/triton"
        environment = {
            **os.environ,
            "TRITON_INTERPRET": "1" if self.interpreted else "0",
            "TRITON_CACHE_DIR": str(triton),
            "TORCHINDUCTOR_CACHE_DIR": f"{self._caches.name}/inductor",
        }
        command = [sys.executable, "-m", "bench.sweep.worker", "--answers", str(write)]
        command += ["--settings", json.dumps(self.settings), "--folder", str(self.folder)]
        for path in self.plugins:
            command += ["--plugin", str(path)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write,),
            cwd=ROOT,
            env=environment,
        )
        os.close(write)
        self._answers, self._buffer, self._served = read, b"", 0
        try:
            self._hello = self._receive(START_SECONDS, deadline)
        except BaseException:
            self.close()
            raise

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self, seconds: float, deadline: float | None) -> dict[str, Any]:
        """The next message; ``_Died`` after silence or an end, ``Stopped`` at the deadline."""
        silent_until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                until = silent_until if deadline is None else min(silent_until, deadline)
                if not selector.select(max(0.0, until - time.monotonic())):
                    if until != silent_until:
                        raise Stopped
                    raise _Died("timeout", f"no sign of life for {seconds:.0f} s")
                data = os.read(self._answers, 1 << 16)
                if not data:
                    raise self._death()
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _death(self) -> _Died:
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return _Died("oom", "killed by the system (SIGKILL), most likely for its memory")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._log.seek(0)
        tail = self._log.read().decode(errors="replace").strip().splitlines()[-3:]
        return _Died("error", f"the process died ({how}): {' | '.join(tail)}"[:500])

    def close(self) -> None:
        """End the worker at once."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        os.close(self._answers)
        self._log.close()
        self._caches.cleanup()
        self._process = None
        self._served = 0

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
