"""What was measured, as one compressed file: for machines that give little back.

It holds the records and states of a results tree, no page, table or figure: `python -m bench
report FILE` makes those anew wherever the file is taken. It is replaced at once, so that a whole
one is there whenever the process is killed.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import store

# Below a device's folder. The bound is far above any run's, and under what a small disk holds.
MEASURED = ("*.json", "records/*.json", *(f"records/*{suffix}" for suffix in store.SUFFIXES))
MOST_BYTES = 2 << 30


def measured(tree: Path) -> Iterator[Path]:
    """The files of a results tree that no command can make anew."""
    for pattern in MEASURED:
        yield from sorted(tree.glob(f"*/{pattern}"))


def pack(tree: Path, file: Path) -> str:
    """Replace ``file`` by an archive of what was measured below ``tree``.

    Returns:
        A line on what was written; where there is nothing to keep, nothing is.
    """
    paths = list(measured(tree))
    if not paths:
        return "nothing was measured, so there is no archive"
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.part")
    with fresh.open("wb") as stream:
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for path in paths:
                tar.add(path, str(path.relative_to(tree)))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, file)
    size = file.stat().st_size
    return f"{file}: {len(paths)} files, {size / 1e6:.1f} MB; `python -m bench report` takes it"


def restore(file: Path, tree: Path) -> list[Path]:
    """Add what an archive holds to a results tree, and give the device folders it is for.

    Record files are joined line by line; their times say which of two records is the newer. Other
    files are replaced. Killed at any moment, it can be done again.

    Raises:
        ValueError: if the file is no such archive.
    """
    with tempfile.TemporaryDirectory(prefix="rnnbench-") as name:
        top = Path(name)
        try:
            with tarfile.open(file, mode="r:gz") as tar:
                members = [member for member in tar if member.isfile()]
                if sum(member.size for member in members) > MOST_BYTES:
                    raise ValueError(f"it holds more than {MOST_BYTES >> 30} GiB")
                tar.extractall(top, members, filter="data")
        except (OSError, EOFError, tarfile.TarError, ValueError) as fault:
            raise ValueError(
                f"archive is {file}, which cannot be unpacked ({fault}); accepted: a file that "
                "`python -m bench campaign --archive` wrote"
            ) from None
        paths = list(measured(top))
        if not paths:
            raise ValueError(
                f"archive is {file}, which holds no records; accepted: a file that "
                "`python -m bench campaign --archive` wrote"
            )
        for path in paths:
            _add(path, tree / path.relative_to(top))
        return sorted({tree / path.relative_to(top).parts[0] for path in paths})


def _add(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes()
    if target.exists() and target.name.endswith(store.SUFFIXES):
        there = _lines(target)
        known = set(there)
        data = b"".join([*there, *(line for line in _lines(path) if line not in known)])
        data = store.compressed(data) if target.suffix == ".gz" else data
    store.put(target, data)


def _lines(path: Path) -> list[bytes]:
    """The whole lines; a killed process may have left half a line at the end."""
    return [line for line in store.lines(path) if line.endswith(b"\n")]
