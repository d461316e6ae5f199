"""Calls for a pool of processes. Imports no torch, so that its processes start at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.records.failed_checks import Suspect
from bench.sweep.pool import Failed, NotDone


def gives(detail: str) -> str:
    return detail


def fails() -> str:
    raise AssertionError("a wrong value")


def own_pid() -> str:
    return str(os.getpid())


def fails_with_suspect(i: int) -> str:
    doubt = Suspect("values", "gru", "forward", "gemm", "bf16")
    raise Failed("y is wrong", f"all about {i}\n[in] many lines", (doubt,))


def is_not_done() -> str:
    raise NotDone("the tool did not end within 120 s")


def lacks_memory() -> str:
    raise RuntimeError("CUDA out of memory. Tried to allocate 48.00 GiB")


def finds_the_card_busy() -> str:
    raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")


def dies() -> str:
    os._exit(7)


def is_killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def sleeps(seconds: float, note: Path | None = None) -> str:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    if note is not None:
        note.write_text(f"{os.getpid()} {child.pid}")
    child.wait()
    return "slept"


POISON: list[str] = []


def poisons() -> str:
    POISON.append("an illegal memory access")
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def needs_a_clean_process() -> str:
    if POISON:
        raise RuntimeError(f"CUDA error: {POISON[0]} was encountered")
    return "clean"


def ends_soon(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False
