"""A results tree as one compressed stream in a few parts, for machines that give little back.

Join and unpack by hand: ``cat results.tar.gz.* | tar xz``. Records come first in the stream, then
pages and tables, then figures, so that the first parts alone hold what cannot be made anew.

A part's name tells its packing's number and how many parts that packing has. A new packing stands
beside the last until it is whole, and only then is the last removed: whenever the process is
killed, one whole packing is there, and the newest one counts. By hand, then, join one number's.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAME = "results.tar.gz"
PART = re.compile(re.escape(NAME) + r"\.(\d{6})\.(\d\d)of(\d\d)")
PART_BYTES = 15 << 20
TOTAL_BYTES = 60 << 20
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
        One line on what was packed and what was left out.

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
    return f"packed {size / 1e6:.1f} MB in {count} parts under {folder}{left}"


def _put(path: Path, data: bytes) -> None:
    """A file that has its name only once all of it is on the disk."""
    fresh = path.with_name(".part")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def restore(source: Path, tree: Path) -> None:
    """Put an earlier call's output, packed or not, below ``tree``.

    Raises:
        FileNotFoundError: if ``source`` is no folder, or holds parts of which some are missing.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; --resume takes an earlier call's --out")
    found = parts(source)
    if not found:
        if named(source):
            raise FileNotFoundError(f"{source} holds no whole packing: parts are missing")
        shutil.copytree(source, tree, dirs_exist_ok=True)
        return
    with tempfile.TemporaryFile() as whole:
        for part in found:
            whole.write(part.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode="r:gz") as tar:
            tar.extractall(tree, filter="data")
