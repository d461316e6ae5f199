"""What was measured, as one compressed file: for machines that give little back.

It holds the records and states of a results tree, no page, table or figure: `python -m bench
report FILE` makes those anew wherever the file is taken. It is replaced at once, so that a whole
one is there whenever the process is killed.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from bench.records import files, store

# Below a device's folder. The bound is far above any run's, and under what a small disk holds.
MEASURED = ("*.json", "records/*.json", *(f"records/*{suffix}" for suffix in files.SUFFIXES))
MOST_BYTES = 2 << 30
SUFFIX = ".tar.gz"


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
            with tempfile.TemporaryFile() as plain:
                _decompress(file, plain)
                with tarfile.open(fileobj=plain, mode="r:") as tar:
                    members = [member for member in tar if member.isfile()]
                    tar.extractall(top, members, filter="data")
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as fault:
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


def _decompress(file: Path, plain: IO[bytes]) -> None:
    """All of a gzip file, whose checksum is at its end and tells of any damage."""
    with gzip.open(file) as stream:
        while data := stream.read(1 << 20):
            if plain.tell() + len(data) > MOST_BYTES:
                raise ValueError(f"it holds more than {MOST_BYTES >> 30} GiB")
            plain.write(data)
    plain.seek(0)


def _add(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes()
    if target.exists() and target.name.endswith(files.SUFFIXES):
        there = _lines(target)
        known = set(there)
        data = b"".join([*there, *(line for line in _lines(path) if line not in known)])
        data = store.compressed(data) if target.suffix == ".gz" else data
    store.write_atomically(target, data)


def _lines(path: Path) -> list[bytes]:
    """The whole lines; a killed process may have left half a line at the end."""
    return [line for line in store.lines(path) if line.endswith(b"\n")]


@contextlib.contextmanager
def workspace(
    out: Path, kept_in: Path | None, resume: Path | None
) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Where to measure into, holding what earlier calls left, and how to save it.

    Without an archive to keep it in, all is measured into ``out``. With one, into a folder that is
    gone afterwards, and the last saving comes however the call ends.
    """
    if kept_in is None:
        if resume is not None:
            restore(resume, out)
        yield out, lambda: None
        return
    with _only_writer(kept_in), tempfile.TemporaryDirectory(prefix="rnnbench-") as name:
        inside = Path(name) / "results"
        inside.mkdir()
        for source in (resume, kept_in if kept_in.exists() else None):
            if source is not None:
                restore(source, inside)
        save = partial(pack, inside, kept_in)
        try:
            yield inside, save
        finally:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was measured is at stake
            try:
                print(save())
            finally:
                signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _only_writer(file: Path) -> Iterator[None]:
    """Refuse to begin while another process writes this archive, whose end would be lost."""
    lock = file.with_name(f".{file.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = store.open_exclusively(lock, "give this one another --archive")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)
