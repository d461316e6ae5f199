"""A results tree as one compressed stream in a few parts, for machines that give little back.

Join and unpack by hand with the command that :func:`pack` tells. Records come first in the stream,
then pages and tables, then figures, so that the first parts alone hold what cannot be made anew.

A part's name tells its packing's number and how many parts that packing has. A new packing stands
beside the last until it is whole, and only then is the last removed: whenever the process is
killed, one whole packing is there, and the newest one counts.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import check_gpu, model

NAME = "results.tar.gz"
PART = re.compile(re.escape(NAME) + r"\.(\d{6})\.(\d\d)of(\d\d)")
PART_BYTES = 15 << 20
TOTAL_BYTES = 60 << 20
STATE = "campaign.json"
# A device's folder holds one of these.
MARKS = ("records/*.json*", STATE, check_gpu.FILE, model.LIMITS_FILE)
# What the report draws anew from records, least wanted first.
SPARED = ((), (".svg",), (".svg", ".png"), (".svg", ".png", ".pdf"))


def named(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Every part in a folder, whole packing or not: its packing's number, its own, and how many."""
    matches = {path: PART.fullmatch(path.name) for path in folder.glob(f"{NAME}.*")}
    return {
        path: (int(match[1]), int(match[2]), int(match[3]))
        for path, match in matches.items()
        if match
    }


def parts(folder: Path) -> list[Path]:
    """The parts of the newest whole packing in a folder, in order."""
    packings: dict[tuple[int, int], dict[int, Path]] = {}
    for path, (number, index, count) in named(folder).items():
        packings.setdefault((number, count), {})[index] = path
    whole = [key for key, pieces in packings.items() if len(pieces) == key[1]]
    return [path for _, path in sorted(packings[max(whole)].items())] if whole else []


def wanted(tree: Path, spared: tuple[str, ...]) -> Iterator[Path]:
    """The files of a tree in the order of the stream."""
    ranks = {".jsonl": 0, ".json": 1, ".md": 2, ".html": 2}

    def rank(path: Path) -> tuple[int, str]:
        return 4 if path.parent.name == "figures" else ranks.get(path.suffix, 3), str(path)

    for path in sorted((path for path in tree.rglob("*") if path.is_file()), key=rank):
        if path.suffix not in spared:
            yield path


def pack(tree: Path, folder: Path, part_bytes: int = PART_BYTES, total: int = TOTAL_BYTES) -> str:
    """Replace the packing in ``folder`` by one of the files below ``tree``.

    Figures are left out, format by format, where all of it would exceed ``total`` bytes.

    Returns:
        What was packed, what was left out, the parts' names, and the command that unpacks them.

    Raises:
        RuntimeError: if records and tables alone exceed ``total``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as whole:
        for spared in SPARED:
            whole.seek(0)
            whole.truncate()
            with tarfile.open(fileobj=whole, mode="w:gz") as tar:
                for path in wanted(tree, spared):
                    tar.add(path, str(path.relative_to(tree)))
            size = whole.tell()
            if size <= total:
                break
        else:
            raise RuntimeError(f"records and tables take {size} bytes packed; accepted: {total}")
        count = -(-size // part_bytes)
        number = 1 + max((number for number, _, _ in named(folder).values()), default=0)
        kept = []
        whole.seek(0)
        for index in range(count):
            kept.append(folder / f"{NAME}.{number:06}.{index:02}of{count:02}")
            _put(kept[-1], whole.read(part_bytes))
    for old in set(named(folder)) - set(kept):
        old.unlink()
    left = f", without {', '.join(spared)} (`python -m bench report` draws them)" if spared else ""
    these = f"{shlex.quote(str(folder))}/{NAME}.{number:06}.*"
    return "\n".join(
        [
            f"packed {size / 1e6:.1f} MB in {count} parts under {folder}{left}:",
            *(f"  {part.name}" for part in kept),
            f"unpack with: cat {these} | tar xz",
        ]
    )


def _put(path: Path, data: bytes) -> None:
    """A file that has its name only once all of it is on the disk."""
    fresh = path.with_name(".part")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def outputs(folder: Path) -> list[Path]:
    """The device folders that earlier calls left in a folder, not packed."""
    return sorted(path for path in folder.glob("*/") if marked(path))


def marked(folder: Path) -> bool:
    """Whether this is a device's folder: one that holds something a campaign measured."""
    return any(any(folder.glob(mark)) for mark in MARKS)


def remove_parts(folder: Path) -> None:
    """Remove every part, of a whole packing or not."""
    for part in named(folder):
        part.unlink()


def remove_outputs(folder: Path) -> None:
    """Remove the device folders and the page over them; what else is there stays."""
    from bench.report import page  # here, so that --help need not wait for matplotlib

    found = outputs(folder)
    for path in found:
        shutil.rmtree(path)
    if found:
        (folder / page.NAME).unlink(missing_ok=True)


def restore(source: Path, tree: Path) -> None:
    """Add an earlier call's output, packed or not, to what is below ``tree``.

    Records of the same file are joined; of other files, the one that is there stays. Killed at any
    moment, it can be done again. A folder without anything in it gives nothing.

    Raises:
        FileNotFoundError: if ``source`` is no folder, holds parts of which some are missing, or
            something else than an earlier call's output.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; --resume takes an earlier call's --out")
    found, plain = parts(source), outputs(source)
    if not found and not plain:
        if named(source):
            raise FileNotFoundError(
                f"{source} holds no whole packing: parts are missing; remove them to begin anew"
            )
        if any(source.iterdir()):
            hint = f"; {source} is one device's, take {source.parent}" if marked(source) else ""
            raise FileNotFoundError(f"{source} holds no earlier call's output, packed or not{hint}")
    if found:
        with tempfile.TemporaryFile() as whole, tempfile.TemporaryDirectory() as name:
            for part in found:
                whole.write(part.read_bytes())
            whole.seek(0)
            with tarfile.open(fileobj=whole, mode="r:gz") as tar:
                tar.extractall(name, filter="data")
            _add(Path(name), Path(name), tree)
    for folder in plain:
        if source.resolve() != tree.resolve():
            _add(folder, source, tree)


def _add(folder: Path, top: Path, tree: Path) -> None:
    """Put the files of a folder below ``tree``, at their places below ``top``."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = tree / path.relative_to(top)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _put(target, path.read_bytes())
        elif target.suffix == ".jsonl":
            there = _lines(target)
            known = set(there)
            # In front: of two records that answer one question, the later one counts.
            fresh = [line for line in _lines(path) if line not in known]
            if fresh:
                _put(target, b"".join(fresh + there))


def _lines(path: Path) -> list[bytes]:
    """The whole lines of a file; a killed process may have left half a line at its end."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
