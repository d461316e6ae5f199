"""Records: one JSON object per case and provider, appended to a file that survives any death.

A line is written by one ``write`` and forced to the disk before the next case begins. A reader
forgives a torn last line (the process died while writing) and nothing else; the next writer of
the file takes it away and says so. A finished file may be compressed (``.jsonl.gz``): it is read
like any other and never appended to. ``FIELDS`` is the one place where a record is described;
``bench/cli/schema.py`` publishes it for other readers.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases.cases import DTYPES, PASSES, PRECISIONS, TRACKS

try:  # POSIX only; elsewhere two processes with one run's name are not told apart
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]

KINDS = ("time", "error", "resources")
STATUSES = ("ok", "oom", "unsupported", "error", "timeout", "incorrect")
MODES = ("event", "graph", "host")
ADVICE = "give this one another --run name or its own --shard"  # to a second writer
SUFFIXES = (".jsonl", ".jsonl.gz")  # of a file of records: being written, compressed


class BadRecord(ValueError):
    """A record that does not fit the schema."""


@dataclass(frozen=True)
class Field:
    """A field's JSON type, whether null is allowed, its accepted values, and its meaning."""

    type: str  # "string", "integer", "number", "boolean", "object", "array"
    meaning: str
    null: bool = True
    choices: tuple[Any, ...] = ()


def _required(type_: str, meaning: str, choices: tuple[Any, ...] = ()) -> Field:
    return Field(type_, meaning, null=False, choices=choices)


FIELDS: dict[str, Field] = {
    "run_id": _required("string", "names the run: preset and a hash of the measured code"),
    "case_id": _required("string", "the case in words; equal cases share it"),
    "kind": _required("string", "what was measured", KINDS),
    "status": _required("string", "how it ended", STATUSES),
    "reason": Field("string", "why, unless ok"),
    "cell": _required("string", "rnn_tanh, rnn_relu, lstm, gru, or a plugin's"),
    "provider": _required("string", "who was measured"),
    "provider_version": Field("string", "version of the package that computed"),
    "pass": _required("string", "forward, or forward and backward", PASSES),
    "track": _required("string", "the loop alone, or with the input projection", TRACKS),
    "directions": _required("integer", "1, or 2 for both time directions", (1, 2)),
    "dtype": _required("string", "type of inputs, weights and outputs", DTYPES),
    "precision": _required("string", "of fp32 products; none for 16-bit types", PRECISIONS),
    "layers": _required("integer", "stacked layers"),
    "B": _required("integer", "batch"),
    "T": _required("integer", "time steps"),
    "I": Field("integer", "input features; null in the recurrence track"),
    "H": _required("integer", "hidden units"),
    "resets": _required("number", "fraction of steps at which a sequence starts anew"),
    "mode": Field("string", "device events, a replayed CUDA graph, or the host", choices=MODES),
    "n": Field("integer", "samples"),
    "median_ms": Field("number", "median time of one call, ms"),
    "p20_ms": Field("number", "20th percentile, ms"),
    "p80_ms": Field("number", "80th percentile, ms"),
    "ci_low_ms": Field("number", "lower end of the median's 95 % bootstrap interval, ms"),
    "ci_high_ms": Field("number", "upper end of the median's 95 % bootstrap interval, ms"),
    "converged": Field("boolean", "whether the interval met the target before the budget ended"),
    "us_per_step": Field("number", "median_ms * 1000 / T"),
    "tokens_per_s": Field("number", "B * T / median"),
    "tflops": Field("number", "written formula's operations / median, 1e12 per second"),
    "gbps": Field("number", "written formula's bytes of device memory / median, 1e9 per second"),
    "floor_share": Field("number", "floor of the cost model / median; 1 is the floor"),
    "peak_bytes": Field("integer", "peak device memory of one call beyond what it was given"),
    "compile_s": Field("number", "seconds the first call took beyond a later one"),
    "errors": Field("object", "tensor -> max_abs, mean_abs, rel_l2, max_ulp, p99_ulp"),
    "plan": Field("object", "how ours ran: mode, reason, tiles"),
    "resources": Field("object", "what the compiler made of the kernel: registers, stack, loop"),
    "algorithm": Field("string", "cuDNN's algorithm as torch's rule predicts it"),
    "device": _required("object", "name, kind, capability, driver, clocks before and after"),
    "software": _required("object", "python, torch, triton, numpy, platform"),
    "code": _required("string", "hash of kernels/, reference/ and the measuring half of bench/"),
    "commit": Field("string", "git commit of the checkout"),
    "dirty": Field("boolean", "whether the checkout had uncommitted changes"),
    "seed": _required("integer", "of the inputs and of the order of providers"),
    "time": _required("string", "when the case ended, ISO 8601, UTC"),
    "samples_ms": Field("array", "every sample in the order taken, ms"),
    "blocks": Field("array", "samples per visit; providers take turns by visits"),
    "versus": Field("object", "time over the baseline's by visits: provider, ratio, low, high"),
    "regime": Field("string", "weights and inputs of an error case"),
    "interpreted": Field("boolean", "whether ours ran in Triton's interpreter on the CPU"),
}

VERSUS = ("provider", "ratio", "low", "high")
ERROR_FIELDS = ("max_abs", "mean_abs", "rel_l2", "max_ulp", "p99_ulp")
_PYTHON = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def blank(**values: Any) -> Record:
    """A record with every field, null where no value is given."""
    unknown = values.keys() - FIELDS.keys()
    if unknown:
        raise BadRecord(f"record has {sorted(unknown)}, which the schema does not know")
    return dict.fromkeys(FIELDS) | values


def check(record: Mapping[str, Any]) -> None:
    """Check a record against ``FIELDS``, without any library, on write and on read.

    Raises:
        BadRecord: naming the first field that is missing, unknown, or of a wrong type or value.
    """
    for name in FIELDS.keys() - record.keys():
        raise BadRecord(f"record lacks {name}")
    for name, value in record.items():
        field = FIELDS.get(name)
        if field is None:
            raise BadRecord(f"record has {name}, which the schema does not know")
        if value is None:
            if not field.null:
                raise BadRecord(f"{name} is null; accepted: {field.type}")
            continue
        right = isinstance(value, _PYTHON[field.type])  # type: ignore[arg-type]
        if isinstance(value, bool) and field.type in ("integer", "number"):
            right = False
        if not right:
            raise BadRecord(f"{name} is {value!r}; accepted: {field.type}")
        if field.choices and value not in field.choices:
            raise BadRecord(f"{name} is {value!r}; accepted: {', '.join(map(str, field.choices))}")
    if not record["provider"] or "/" in record["provider"]:
        raise BadRecord(f"provider is {record['provider']!r}; accepted: a name without a slash")
    if record["median_ms"] is not None and not record["median_ms"] > 0:
        raise BadRecord(f"median_ms is {record['median_ms']!r}; accepted: above 0")
    if record["versus"] is not None and set(VERSUS) - record["versus"].keys():
        raise BadRecord(f"versus lacks one of {', '.join(VERSUS)}")
    for name, metrics in (record["errors"] or {}).items():
        if not isinstance(metrics, dict) or set(ERROR_FIELDS) - metrics.keys():
            raise BadRecord(f"errors of {name} lack one of {', '.join(ERROR_FIELDS)}")
    for name, item in (("samples_ms", (int, float)), ("blocks", int)):
        if not all(isinstance(value, item) for value in record[name] or []):
            raise BadRecord(f"{name} has an item that is no number")


def clean(value: Any) -> Any:
    """A value JSON can hold: NaN and infinities become null, tuples lists, numpy plain."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a numpy scalar
        return clean(value.item())
    return value


def encode(record: Record) -> bytes:
    """A record's line, checked.

    Raises:
        BadRecord: for a record that does not fit the schema.
    """
    record = clean(record)
    check(record)
    return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()


def key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two records answers to the same question; the later one counts."""
    return tuple(record[name] for name in ("kind", "case_id", "provider", "mode", "regime", "seed"))


def open_alone(path: Path, advice: str) -> int:
    """A descriptor of a file to append to, which no other process gets until it is closed.

    Raises:
        RuntimeError: with the advice, if another process has it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise RuntimeError(f"{path} is being written by another process; {advice}") from None
    return file


class Writer:
    """Appends records to one file, which no other process may write meanwhile.

    The file is locked from the start, so that two processes of one name are told apart before
    either measures; one without a record is taken away again at the end.

    Raises:
        RuntimeError: if another process writes the same file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = open_alone(self.path, ADVICE)
        while not self._in_place():  # another took its empty file away before we had the lock
            os.close(self._file)
            self._file = open_alone(
                self.path, "give this one another --run name or its own --shard"
            )
        self._mend()

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _mend(self) -> None:
        """End a last line without its newline, or take it away if it is torn."""
        data = self.path.read_bytes()
        kept = data.rfind(b"\n") + 1
        last = data[kept:]
        if not last:
            return
        if _torn(last):
            os.ftruncate(self._file, kept)
            note = f"{self.path}: took away a torn last line, which a killed process left"
            print(note, file=sys.stderr)
        else:
            os.write(self._file, b"\n")

    def append(self, record: Record, *, sync: bool = True) -> None:
        """Check a record and put it on the disk before returning.

        Without ``sync`` the system may still hold it in memory: for what costs nothing to find out
        again.
        """
        data = encode(record)
        written = os.write(self._file, data)
        while written < len(data):  # a full disk or a signal; a reader sees a torn line at worst
            written += os.write(self._file, data[written:])
        if sync:
            os.fsync(self._file)

    def close(self) -> None:
        if not os.fstat(self._file).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def record_files(folder: Path, name: str = "*") -> list[Path]:
    """The files of records below a folder, compressed or not, in the order of their names.

    Args:
        name: a glob pattern of the names, without their suffix.
    """
    return sorted(path for suffix in SUFFIXES for path in folder.rglob(name + suffix))


def stem(path: Path) -> str:
    """A record file's name without its suffix, the run's name as a rule."""
    return Path(path.name.removesuffix(".gz")).stem


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a record file, compressed or not, each with its newline if it has one.

    Raises:
        BadRecord: if compressed data is cut off or damaged, with its file.
    """
    if path.suffix != ".gz":
        with path.open("rb") as plain:
            yield from plain
        return
    packed = path.read_bytes()
    try:
        if not packed:  # which Python takes for nothing, compressed
            raise EOFError("the file is empty")
        data = gzip.decompress(packed)  # all of it, since its checksum stands at the end
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise BadRecord(f"{path}: no whole gzip file ({fault}); accepted: a whole one") from None
    yield from io.BytesIO(data)


def compressed(data: bytes) -> bytes:
    """The data in gzip's format, with neither name nor time: the same data gives the same bytes."""
    return gzip.compress(data, 9, mtime=0)


def read_state(path: Path) -> dict[str, Any]:
    """A JSON object that a command keeps between calls; empty where there is none.

    One that cannot be read is named on standard error and counts as not there.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:
        print(f"{path} cannot be read and counts as not there: {fault}", file=sys.stderr)
        return {}
    return found


def write_state(path: Path, value: Mapping[str, Any]) -> None:
    """Replace such an object; whenever it is read, it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, (json.dumps(clean(dict(value)), indent=1) + "\n").encode())


def put(path: Path, data: bytes) -> None:
    """Write a file that has its name only once all of it is on the disk."""
    fresh = path.with_name(f".{path.name}.part")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def read(path: Path) -> Iterator[Record]:
    """The records of a file or of all record files below a folder, in their order.

    A torn last line is what a killed process left and is passed over; an empty file has none.

    Raises:
        BadRecord: for any other line that is no record of the schema, with its file and line, and
            for a compressed file that is cut off or damaged.
        FileNotFoundError: if there is no such file or folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    for file in record_files(path) if path.is_dir() else [path]:
        for number, line in enumerate(lines(file), 1):
            if not line.endswith(b"\n") and _torn(line):
                break  # only a file's last line lacks its newline
            try:
                record = json.loads(line, parse_constant=_no_number)
            except ValueError:
                raise BadRecord(
                    f"{file}:{number}: the line is no JSON; accepted: one record a line "
                    "(only a torn last line is passed over)"
                ) from None
            try:
                if not isinstance(record, dict):
                    raise BadRecord(f"the line is {record!r:.40}; accepted: a record")
                check(record)
            except BadRecord as fault:
                raise BadRecord(f"{file}:{number}: {fault}") from None
            yield record


def _torn(line: bytes) -> bool:
    """Whether a line without its newline is the beginning of a record."""
    if not line.startswith(b"{"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def newest(records: Iterable[Record], name: Callable[[Record], Hashable]) -> list[Record]:
    """One record per name in the order of first appearance: the one of the latest ``time``.

    Times are all UTC in one format, so they compare as text; of equal ones the last read counts.
    Files are read in the order of their names, which says nothing of when they were written.
    """
    found: dict[Hashable, Record] = {}
    for record in records:
        called = name(record)
        known = found.get(called)
        if known is None or record["time"] >= known["time"]:
            found[called] = record
    return list(found.values())


def latest(records: Iterable[Record]) -> list[Record]:
    """The newest record of each question (see ``key``), in the order of first appearance."""
    return newest(records, key)


def merge(sources: Sequence[Path], target: Path) -> int:
    """Join runs or shards into one file, compressed if its name ends so; the number of records.

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
    put(target, compressed(data) if target.suffix == ".gz" else data)
    return len(records)
