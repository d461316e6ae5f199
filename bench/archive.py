"""A results tree as one compressed stream in a few parts, for machines that give little back.

Join and unpack by hand: ``cat results.tar.gz.* | tar xz``. Records come first in the stream, then
pages and tables, then figures, so that the first parts alone hold what cannot be made anew.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAME = "results"
PART_BYTES = 15 << 20
TOTAL_BYTES = 60 << 20
# What the report draws anew from records, least wanted first.
SPARED = ((), (".svg",), (".svg", ".png"), (".svg", ".png", ".pdf"))


def parts(folder: Path) -> list[Path]:
    """The parts in a folder, in order."""
    return sorted(folder.glob(f"{NAME}.tar.gz.[0-9][0-9]"))


def wanted(tree: Path, spared: tuple[str, ...]) -> Iterator[Path]:
    """The files of a tree in the order of the stream."""
    ranks = {".jsonl": 0, ".json": 1, ".md": 2, ".html": 2}

    def rank(path: Path) -> tuple[int, str]:
        return 4 if path.parent.name == "figures" else ranks.get(path.suffix, 3), str(path)

    for path in sorted((path for path in tree.rglob("*") if path.is_file()), key=rank):
        if path.suffix not in spared:
            yield path


def pack(tree: Path, folder: Path, part_bytes: int = PART_BYTES, total: int = TOTAL_BYTES) -> str:
    """Replace the parts in ``folder`` by the files below ``tree``.

    The stream is complete before a part is touched. Figures are left out, format by format, where
    all of it would exceed ``total`` bytes.

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
        whole.seek(0)
        made = 0
        for piece in iter(lambda: whole.read(part_bytes), b""):
            fresh = folder / ".part"
            fresh.write_bytes(piece)
            os.replace(fresh, folder / f"{NAME}.tar.gz.{made:02}")
            made += 1
    for old in parts(folder)[made:]:
        old.unlink()
    left = f", without {', '.join(spared)} (`python -m bench report` draws them)" if spared else ""
    return f"packed {size / 1e6:.1f} MB in {made} parts under {folder}{left}"


def restore(source: Path, tree: Path) -> None:
    """Put an earlier call's output, packed or not, below ``tree``.

    Raises:
        FileNotFoundError: if ``source`` is no folder.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; --resume takes an earlier call's --out")
    found = parts(source)
    if not found:
        shutil.copytree(source, tree, dirs_exist_ok=True)
        return
    with tempfile.TemporaryFile() as whole:
        for part in found:
            whole.write(part.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode="r:gz") as tar:
            tar.extractall(tree, filter="data")
