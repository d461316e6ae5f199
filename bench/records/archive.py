"""A results tree's measurements as one .tar.gz file, for machines from which little can be copied.

It holds records and states but no page, table or figure: `python -m bench report FILE` makes those.
"""

import contextlib
import gzip
import io
import signal
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.records import files, store

# Below a device's folder.
MEASURED = ("*.json", "records/*.json", *(f"records/*{suffix}" for suffix in files.SUFFIXES))
SUFFIX = ".tar.gz"


def measured(tree: Path) -> list[Path]:
    """The files of a results tree that only measuring again could replace."""
    return [path for pattern in MEASURED for path in sorted(tree.glob(f"*/{pattern}"))]


def pack(tree: Path, file: Path) -> str:
    """Replace ``file`` atomically by an archive of what was measured below ``tree``.

    Returns:
        A one-line message; if nothing was measured, it says so and no file is written.
    """
    paths = measured(tree)
    if not paths:
        return "nothing was measured, so there is no archive"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for path in paths:
            tar.add(path, str(path.relative_to(tree)))
    packed = store.compressed(plain.getvalue())
    file.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomically(file, packed)
    size = len(packed) / 1e6
    return f"{file}: {len(paths)} files, {size:.1f} MB; `python -m bench report` takes it"


def restore(file: Path, tree: Path) -> list[Path]:
    """Add an archive's measurements to a results tree, and return the device folders they are in.

    Record files are merged line by line, since the records' times say which is newest; other files
    are replaced. If the process is killed, calling it again completes the work.

    Raises:
        ValueError: if the file is damaged or no such archive.
    """
    accepted = "accepted: a file that `python -m bench campaign --archive` wrote"
    with tempfile.TemporaryDirectory(prefix="rnnbench-") as name:
        top = Path(name)
        try:
            # All of it before anything is unpacked, since gzip's checksum is at the end.
            plain = io.BytesIO(gzip.decompress(file.read_bytes()))
            with tarfile.open(fileobj=plain, mode="r:") as tar:
                tar.extractall(top, filter="data")  # which refuses paths outside of it
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as fault:
            why = f"archive is {file}, which cannot be unpacked ({fault}); {accepted}"
            raise ValueError(why) from None
        paths = measured(top)
        if not paths:
            raise ValueError(f"archive is {file}, which holds no records; {accepted}")
        for path in paths:
            _add(path, tree / path.relative_to(top))
        return sorted({tree / path.relative_to(top).parts[0] for path in paths})


def _add(path: Path, target: Path) -> None:
    """Merge a record file's lines into the target; any other file replaces the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes()
    if target.exists() and target.name.endswith(files.SUFFIXES):
        # A killed process may have left half a line at the end.
        lines = [
            line for each in (target, path) for line in store.lines(each) if line[-1:] == b"\n"
        ]
        data = b"".join(dict.fromkeys(lines))
        data = store.compressed(data) if target.suffix == ".gz" else data
    store.write_atomically(target, data)


@contextlib.contextmanager
def workspace(
    out: Path, kept_in: Path | None, resume: Path | None
) -> Iterator[tuple[Path, Callable[[], object]]]:
    """A results tree to measure into, with earlier calls' measurements, and a call that saves it.

    Without an archive, it is ``out``. With one, it is a temporary folder, which is saved a last
    time however the context ends.

    Args:
        kept_in: the archive; if it exists, its measurements are in the tree.
        resume: another archive, whose measurements are in the tree too.

    Raises:
        RuntimeError: if another process keeps its measurements in the same archive.
    """
    if kept_in is None:
        if resume is not None:
            restore(resume, out)
        yield out, lambda: None
        return
    lock = kept_in.with_name(f".{kept_in.name}.lock")
    with (
        store.Writer(lock, "give this one another --archive"),
        tempfile.TemporaryDirectory(prefix="rnnbench-") as name,
    ):
        tree = Path(name) / "results"
        tree.mkdir()
        for source in (resume, kept_in if kept_in.exists() else None):
            if source is not None:
                restore(source, tree)
        try:
            yield tree, lambda: pack(tree, kept_in)
        finally:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # to save everything
            try:
                print(pack(tree, kept_in))
            finally:
                signal.signal(signal.SIGINT, before)
