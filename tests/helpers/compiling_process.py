"""A child process in which kernels are compiled, not interpreted."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_compiling(*arguments: str, cache: Path) -> str:
    """What `python ARGUMENTS` prints, with Triton's cache in the folder `cache`."""
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ | {"TRITON_CACHE_DIR": str(cache)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
