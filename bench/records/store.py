"""Files of records, one JSON object a line, of which a killed writer loses at most the last.

A line is one ``write``, synced to the disk before the next case begins. A reader skips an
incomplete last line, which a killed process leaves, and refuses any other fault; the next writer of
the file removes that line and prints a note. A finished file may be compressed (``.jsonl.gz``); it
is read like any other and never appended to. ``bench.records.schema`` describes a record.
"""

import contextlib
import fcntl
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records.files import SUFFIXES
from bench.records.schema import BadRecord, Record, check, encode, new_record, to_json

ADVICE = "give this one another --run name or its own --shard"  # for a second writer


def key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What identifies a measurement; of several records with the same key the latest counts."""
    names = ("kind", "case_id", "provider", "mode", "regime", "seed")
    return (*(record[name] for name in names), record["start"] or 0)


def open_exclusively(path: Path, advice: str) -> int:
    """A descriptor to append to a file, which is locked until it is closed.

    Raises:
        RuntimeError: with the advice, if another process has locked it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise RuntimeError(f"{path} is being written by another process; {advice}") from None
    return file


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Appends records to one file, which is locked against other writers until it is closed.

    A file without records is deleted when it is closed.

    Raises:
        RuntimeError: with the advice, if another process writes the same file.
    """

    def __init__(self, path: Path, advice: str = ADVICE) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = open_exclusively(self.path, advice)
        while not self._in_place():  # another writer deleted its empty file before we had the lock
            os.close(self._file)
            self._file = open_exclusively(self.path, advice)
        self._repair_last_line()

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _repair_last_line(self) -> None:
        """Complete a last line that lacks its newline, or remove it if it is incomplete."""
        data = self.path.read_bytes()
        complete = data.rfind(b"\n") + 1
        if _is_incomplete(data[complete:]):
            os.ftruncate(self._file, complete)
            note = f"{self.path}: removed an incomplete last line, which a killed process left"
            print(note, file=sys.stderr)
        elif data[complete:]:
            os.write(self._file, b"\n")

    def append(self, record: Record, *, sync: bool = True) -> None:
        """Check a record and write it; synced to the disk unless ``sync`` is False.

        Raises:
            RuntimeError: if the file was removed or replaced, so that nobody would find the record.
        """
        data = encode(record)
        while data:  # one write, unless a signal or a full disk interrupts it
            data = data[os.write(self._file, data) :]
        if sync:
            os.fsync(self._file)
        if not self._in_place():
            raise RuntimeError(
                f"{self.path} was removed or replaced while records were written to it, and those "
                "of this run are lost unless you have moved them; the same command measures what "
                "is missing"
            )

    def close(self) -> None:
        if not os.fstat(self._file).st_size and self._in_place():
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def __exit__(self, *_: object) -> None:
        self.close()


def record_files(folder: Path, name: str = "*") -> list[Path]:
    """The files of records below a folder, compressed or not, in the order of their names.

    Args:
        name: a glob pattern of the names, without their suffix.
    """
    return sorted(path for suffix in SUFFIXES for path in folder.rglob(name + suffix))


def stem(path: Path) -> str:
    """A record file's name without its suffix: as a rule the run's name."""
    return Path(path.name.removesuffix(".gz")).stem


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a record file, compressed or not, each with its newline if it has one.

    Raises:
        BadRecord: if compressed data is incomplete or damaged.
    """
    if path.suffix != ".gz":
        with path.open("rb") as plain:
            yield from plain
        return
    packed = path.read_bytes()
    try:
        if not packed:  # which gzip.decompress accepts
            raise EOFError("the file is empty")
        data = gzip.decompress(packed)  # all at once, because its checksum is at the end
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise BadRecord(f"{path}: damaged gzip file ({fault}); accepted: an intact one") from None
    yield from io.BytesIO(data)


def compressed(data: bytes) -> bytes:
    """The data in gzip's format without name and time, so that equal data gives equal bytes."""
    return gzip.compress(data, 9, mtime=0)


def read_state(path: Path) -> dict[str, Any]:
    """A JSON object that a command keeps between calls; empty if the file is missing.

    A file that cannot be read is reported on standard error and treated as missing.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:
        print(f"{path} cannot be read and is ignored: {fault}", file=sys.stderr)
        return {}
    return found


def write_state(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object for :func:`read_state`, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(to_json(dict(value)), indent=1) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under another name, sync it, then rename it."""
    fresh = path.with_name(f".{path.name}.part")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def read(path: Path) -> Iterator[Record]:
    """The records of a file or of all record files below a folder, in their order.

    Fields that are younger than a record are null in it.

    An incomplete last line, which a killed process leaves, is skipped.

    Raises:
        BadRecord: for any other line that is no valid record, with its file and line, and for a
            compressed file that is incomplete or damaged.
        FileNotFoundError: if there is no such file or folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    for file in record_files(path) if path.is_dir() else [path]:
        for number, line in enumerate(lines(file), 1):
            if not line.endswith(b"\n") and _is_incomplete(line):
                break  # only a file's last line lacks its newline
            try:
                record = json.loads(line, parse_constant=_reject_constant)
            except ValueError:
                raise BadRecord(
                    f"{file}:{number}: the line is not JSON; accepted: one record a line "
                    "(only an incomplete last line is skipped)"
                ) from None
            try:
                if not isinstance(record, dict):
                    raise BadRecord(f"the line is {record!r:.40}; accepted: a record")
                check(record)
            except BadRecord as fault:
                raise BadRecord(f"{file}:{number}: {fault}") from None
            yield new_record(**record)


def _is_incomplete(line: bytes) -> bool:
    """Whether a line without its newline is only the beginning of a record."""
    if not line.startswith(b"{"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def latest(records: Iterable[Record], name: Callable[[Record], Hashable] = key) -> list[Record]:
    """The latest record of each measurement (of each ``name``), in the order of first appearance.

    Times are in UTC and one format, so they compare as text; of equal ones the last read counts.
    """
    found: dict[Hashable, Record] = {}
    for record in records:
        known = found.setdefault(name(record), record)
        if record["time"] >= known["time"]:
            found[name(record)] = record
    return list(found.values())


def merge(sources: Sequence[Path], target: Path) -> int:
    """Join runs or shards into one file, compressed if it is named .gz; return how many records.

    Raises:
        ValueError: if the sources hold different devices or run names, or no record at all, or if
            ``target`` is not named as a record file.
        FileExistsError: if ``target`` exists.
    """
    if not target.name.endswith(SUFFIXES):
        raise ValueError(f"out is {target}; accepted: a name that ends in {' or '.join(SUFFIXES)}")
    everything = [record for source in sources for record in read(source)]
    if not everything:
        raise ValueError(f"no records in {', '.join(map(str, sources))}; nothing to merge")
    if target.exists():
        raise FileExistsError(f"{target} exists; merge writes a new file")
    for what, names in (
        ("devices", {record["device"]["name"] for record in everything}),
        ("runs", {record["run_id"] for record in everything}),
    ):
        if len(names) > 1:
            raise ValueError(f"the sources hold several {what}: {', '.join(sorted(names))}")
    records = sorted(latest(everything), key=lambda record: [str(part) for part in key(record)])
    data = b"".join(map(encode, records))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, compressed(data) if target.suffix == ".gz" else data)
    return len(records)
