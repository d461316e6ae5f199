"""Whether Triton can start here: on a GPU it compiles C against Python's headers at run time.

Triton 3.6 compiles its driver and a launcher for each kernel's signature, 3.7 only its driver.
Imports neither torch nor Triton.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PROGRAM = "#include <Python.h>\n#include <stdlib.h>\nint answer(void) { return 0; }\n"


def headers() -> str:
    """Where Triton looks for Python.h."""
    scheme = sysconfig.get_default_scheme()
    # Debian's own Python installs elsewhere than where its headers are.
    return sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]


def check_writable(folder: Path, what: str, instead: str) -> None:
    """Raise RuntimeError unless a folder, which is made if need be, can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as refused:
        raise RuntimeError(f"{what} {folder}, which fails ({refused}): {instead}") from None


def cache_folder() -> Path:
    """Where Triton keeps what it compiles."""
    home = os.environ.get("TRITON_HOME") or Path.home()
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))


def check_cache() -> None:
    """Raise RuntimeError unless Triton can keep what it compiles."""
    instead = "set TRITON_CACHE_DIR to another folder"
    check_writable(cache_folder(), "Triton writes what it compiles to", instead)


@functools.cache
def check() -> None:
    """Compile a few lines as Triton would; raise RuntimeError, saying what is missing."""
    # What Triton would take.
    program = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    needs = "Triton compiles C when it starts on a GPU"
    if program is None or shutil.which(program) is None:
        found = "neither CC, gcc nor clang names one" if program is None else f"CC is {program!r}"
        raise RuntimeError(f"{needs} and finds no C compiler: {found}; install gcc or set CC")
    folder = headers()
    if not Path(folder, "Python.h").is_file():
        raise RuntimeError(
            f"{needs} and finds no {folder}/Python.h: install the headers of Python "
            f"{sys.version_info.major}.{sys.version_info.minor} (python3-dev)"
        )
    with tempfile.TemporaryDirectory(prefix="rnnbench-") as place:
        source = Path(place, "probe.c")
        source.write_text(PROGRAM, encoding="utf-8")
        words = [program, str(source), "-shared", "-fPIC", f"-I{folder}", "-o", f"{place}/probe.so"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode:
        first = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise RuntimeError(f"{needs}, and {program} cannot compile a line with Python.h: {first}")
