"""Child processes: each leads a session, so that it is killed with all that it started.

Imports no torch.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from bench.providers import safe_text
from bench.records.provenance import ROOT

END_SECONDS = 10.0  # the driver may delay the end of a killed process
MEMORY_WORDS = ("out of memory", "can't allocate memory")


@dataclass(frozen=True)
class End:
    """How a process ended: a record's status ("error", "oom" or "timeout") and its reason."""

    status: str
    text: str


class Died(RuntimeError):
    """A process ended before it answered."""

    def __init__(self, end: End) -> None:
        super().__init__(end.text)
        self.end = end


class TookTooLong(RuntimeError):
    """A process did not end within its time."""


def describe_end(code: int | None, printed: str = "") -> End:
    """How a process ended, from its exit code (None: it was killed) and what it printed."""
    if code is None:
        return End("timeout", "the process took too long")
    if code == -signal.SIGKILL:
        return End("oom", "killed by the system (SIGKILL), most likely for its memory")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    tail = " | ".join(printed.strip().splitlines()[-3:])
    text = f"the process died ({how})" + (f": {tail}" if tail else "")
    return End("error", text[:500])


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether a GPU or the host ran out of memory.

    By its text too, since torch (on a CPU) and Triton raise a plain RuntimeError for it.
    """
    text = safe_text(fault, most=1_000_000)  # also at the end of a compiler's long message
    return (
        isinstance(fault, MemoryError)
        or type(fault).__name__ == "OutOfMemoryError"  # torch's, which is not imported for it
        or any(words in text for words in MEMORY_WORDS)
    )


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command in the checkout, as the leader of a session; :func:`end` kills it."""
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **options)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def run_command(
    command: Sequence[str], seconds: float, environment: Mapping[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and capture what it prints.

    Args:
        environment: variables added to those of this process.
        options: of ``subprocess.Popen``, such as where errors go.

    Raises:
        TookTooLong: if it does not end in time; it is killed then.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    process = start(command, env=os.environ | environment, text=True, **pipes)
    try:
        printed, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TookTooLong(f"took more than {seconds:.0f} s") from None
    finally:
        end(process)
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


Answer = Callable[[Any], None]


class Child:
    """A Python process that answers requests in order, and is killed when its parent ends.

    Args:
        target: what runs in it; picklable. It takes an iterator over the requests, which waits for
            the next one, and a function that sends an answer.
        environment: variables added to those of this process.
        quiet: whether to print none of its output, and quote its last lines if it dies; by default
            its output goes where this process's does.
    """

    def __init__(
        self,
        target: Callable[[Iterator[Any], Answer], None],
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> None:
        self.log = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115 - see close
        self.connection, theirs = Pipe()
        code = f"from bench.sweep import process; process.serve({theirs.fileno()})"
        self.process = start(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(),),
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        theirs.close()
        self.send(target)

    def send(self, request: Any) -> None:
        """Send a request; if the process has died, :meth:`receive` raises."""
        with contextlib.suppress(OSError):
            self.connection.send(request)

    def receive(self, deadline: float | None = None) -> Any:
        """The next answer.

        Args:
            deadline: of ``time.monotonic``.

        Raises:
            TookTooLong: if there is none by then.
            Died: if the process ends first.
        """
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            if self.connection.poll(left):
                return self.connection.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
            printed = ""
            if self.log is not None:
                self.log.seek(0)
                printed = self.log.read().decode(errors="replace")
            raise Died(describe_end(self.process.returncode, printed)) from None
        raise TookTooLong("no answer in time")

    def close(self) -> None:
        """Kill it and what it started."""
        end(self.process)
        self.connection.close()
        if self.log is not None:
            self.log.close()


def serve(descriptor: int) -> None:
    """What a :class:`Child` runs."""
    connection = Connection(descriptor)
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                arrived.put(connection.recv_bytes())
            except (EOFError, OSError):
                os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()

    def answer(value: Any) -> None:
        sys.stdout.flush()  # since the parent may kill this process once it has its answer
        connection.send(value)

    target = pickle.loads(arrived.get())
    target(iter(lambda: pickle.loads(arrived.get()), None), answer)


@contextlib.contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, unless ignored, raise SystemExit, as Ctrl-C raises its exception."""
    names = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    before = {s: signal.signal(s, lambda signum, frame: sys.exit(128 + signum)) for s in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
