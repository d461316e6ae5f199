"""compute-sanitizer over our persistent kernels, and what its words mean. Imports no torch.

``python -m bench.gpu.sanitizer CELL`` runs the case that it watches.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile

from bench.gpu.pool import Failed, NotDone, Skipped
from bench.records import provenance

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
    """A cell's persistent kernels on a small case under one of ``TOOLS``.

    Raises:
        Failed: if it found errors.
        Skipped or NotDone: if it could not look.
    """
    words = [find_program(cuda), "--tool", tool, "--error-exitcode", "9"]
    if tool == "memcheck":  # torch and Triton ask the driver things that it may refuse
        words += ["--report-api-errors", "no"]
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(
                [*words, sys.executable, "-m", __name__, cell], cwd=provenance.ROOT, stdout=output,
                stderr=output, timeout=SECONDS,
                env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NotDone(f"{tool} did not end within {SECONDS:.0f} s") from None
        output.seek(0)
        return verdict(output.read(), code)


def verdict(output: str, code: int) -> str:
    """What compute-sanitizer found, from its output and exit code.

    Raises:
        Failed: with its first words if it found errors.
        NotDone: if it could not look: refused by the system, or the program ended under it.
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


if __name__ == "__main__":
    from bench.gpu.checks import small

    small(sys.argv[1])
