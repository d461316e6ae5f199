"""Child processes: how they end, in words, and that nothing outlives its parent."""

import signal
import subprocess
import sys

import pytest
import torch

from bench.records.provenance import ROOT
from bench.sweep import process
from tests.helpers.pool_tasks import ends_soon

PYTHON = [sys.executable, "-c"]


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        (None, "timeout", "the process took too long"),
        (-9, "oom", "killed by the system (SIGKILL), most likely for its memory"),
        (-11, "error", "the process died (signal SIGSEGV): b | c | d"),
        (3, "error", "the process died (exit code 3): b | c | d"),
    ],
)
def test_each_end_is_classified(code: int | None, status: str, text: str) -> None:
    assert process.describe_end(code, "a\nb\nc\nd\n") == process.End(status, text)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("fault", "lacking"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("no room"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("a compiler's story " * 100 + "out of memory"), True),
        (Silent(), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("out of resource: shared memory"), False),
    ],
)
def test_lack_of_memory_is_recognised(fault: Exception, lacking: bool) -> None:
    assert process.is_out_of_memory(fault) == lacking


def test_a_commands_children_are_killed_with_it() -> None:
    code = "import subprocess as s; print(s.Popen(['sleep', '3600'], stdout=-3, stderr=-3).pid)"
    done = process.run_command([*PYTHON, code], 60.0, {})
    assert done.returncode == 0 and ends_soon(int(done.stdout))
    with pytest.raises(process.TookTooLong, match="took more than 0 s"):
        process.run_command([*PYTHON, "import time; time.sleep(3600)"], 0.0, {})


def test_signals_end_the_process_in_order_unless_it_ignores_them() -> None:
    code = (
        "import os, signal; from bench.sweep import process\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with process.exiting_on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "    finally: print('in order')\n"
    )
    done = subprocess.run([*PYTHON, code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "in order\n")
