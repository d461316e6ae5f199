"""Where a result is from: the device, the versions, the code and the time. Imports no torch.

The device's own facts, which need torch, come from ``bench.records.environment``.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# What is hashed into a record's ``code``: a change to it makes earlier measurements stale.
MEASURED = (
    "kernels/**/*.py",
    "reference/**/*.py",
    "bench/providers/*.py",
    "bench/cases/numbers.py",
    "bench/cases/problem.py",
    "bench/cases/regimes.py",
    "bench/measure/runner.py",
    "bench/measure/metrics.py",
    "bench/measure/sampler.py",
)
_SOURCES = ("kernels", "reference", "bench", "pyproject.toml")


def provenance(device: dict[str, Any], code: str | None = None) -> dict[str, Any]:
    """The fields of every result that say where it is from.

    Args:
        device: at least its name; of this machine, ``environment.device_facts()``.
        code: a hash of what was measured; that of ``MEASURED`` unless given.
    """
    commit, dirty = git_state()
    return {
        "device": device,
        "software": software_facts(),
        "code": code or code_hash(),
        "commit": commit,
        "dirty": dirty,
        "time": now(),
    }


def now() -> str:
    """The time in a record's format: ISO 8601, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def slug(name: str) -> str:
    """A device's folder under results/: "NVIDIA H100 80GB HBM3" is nvidia-h100-80gb-hbm3.

    >>> slug("Intel(R) Xeon(R) Processor")
    'intel-xeon-processor'
    """
    plain = re.sub(r"\((?:R|TM|C)\)", "", name, flags=re.IGNORECASE).lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unknown"


@functools.cache
def version(package: str) -> str | None:
    """An installed package's version, found without importing it."""
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # the second of an empty name
        return None


def software_facts() -> dict[str, Any]:
    """A record's ``software``."""
    names = ("torch", "triton", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "platform": platform.platform(),
    }


def short_hash(data: bytes) -> str:
    """Twelve hexadecimal digits of a hash."""
    return hashlib.sha256(data).hexdigest()[:12]


@functools.cache
def code_hash() -> str:
    """A hash of ``MEASURED``; records with equal hashes are comparable."""
    digest = hashlib.sha256()
    for pattern in MEASURED:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _git(folder: Path, *words: str) -> str | None:
    """What git prints, run in a folder; None without git."""
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit and whether it has uncommitted changes; (None, None) without git.

    A copy without a ``.git`` can state its commit in a file ``COMMIT``.
    """
    commit = _git(ROOT, "rev-parse", "HEAD")
    changes = _git(ROOT, "status", "--porcelain", "--", *_SOURCES)
    if commit is not None and changes is not None:
        return commit, bool(changes)
    stated = ROOT / "COMMIT"
    return (stated.read_text(encoding="utf-8").strip() or None) if stated.exists() else None, None


def committed(folder: Path) -> list[str]:
    """The names of the files in a folder that git tracks; none without git."""
    return (_git(folder, "ls-files") or "").splitlines()
