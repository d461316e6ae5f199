"""Checks of ``bench check-gpu``: persistent kernels under compute-sanitizer. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from bench.gpu.pool import Failed, NotDone, Skipped
from bench.sweep.process import TookTooLong, run_command

SECONDS = 120.0
TOOLS = ("memcheck", "synccheck")


def find_program(cuda: bool) -> str:
    """compute-sanitizer's path.

    Raises:
        Skipped: where it is not installed, or there is no GPU.
    """
    folders = os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin"
    program = shutil.which("compute-sanitizer", path=folders)
    if not cuda or program is None:
        raise Skipped("compute-sanitizer is not installed" if cuda else "needs a GPU")
    return program


def run(tool: str, cell: str, cuda: bool) -> str:
    """Run a cell's persistent kernels on a small case under one of ``TOOLS``.

    Raises:
        Failed: if it found errors.
        Skipped or NotDone: if it is not installed, was refused, or took too long.
    """
    code = f"from bench.gpu import value_checks; value_checks.run_sanitizer_case({cell!r})"
    command = [find_program(cuda), "--tool", tool, "--error-exitcode", "9"]
    if tool == "memcheck":  # torch and Triton ask the driver things that it may refuse
        command += ["--report-api-errors", "no"]
    try:
        done = run_command(
            [*command, sys.executable, "-c", code], SECONDS,
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except TookTooLong:
        raise NotDone(f"{tool} did not end within {SECONDS:.0f} s") from None
    return verdict(done.stdout, done.returncode)


def verdict(output: str, code: int) -> str:
    """Its summary line, from compute-sanitizer's output and exit code.

    Raises:
        Failed: naming the first error it found.
        NotDone: if it was refused by the system, or the program under it ended early.
    """
    lines = [line.strip("= ") for line in output.splitlines() if line.strip("= ")]
    summary = re.search(r"ERROR SUMMARY: (\d+) error", output)
    if summary and int(summary[1]):
        marked = [line.strip("= ") for line in output.splitlines() if line.startswith("=====")]
        first = next(line for line in marked if line and not line.startswith("COMPUTE-SANITIZER"))
        raise Failed(f"{summary[1]} errors; first: {first}", output)
    if code or not summary:
        last = lines[-1] if lines else "it printed nothing"
        raise NotDone(f"compute-sanitizer could not look (exit code {code}): {last[:200]}")
    return summary.string[summary.start() :].splitlines()[0]
