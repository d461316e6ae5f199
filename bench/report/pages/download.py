"""A page's one download: the data behind its figures and tables, as CSV files in one zip."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

NAME = "data.zip"
MODE = 0o644 << 16  # where zip keeps a Unix file's permissions


def pack(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Move files below a folder into its download; the download, if there is anything in it."""
    target = folder / NAME
    if not files:
        target.unlink(missing_ok=True)
        return []
    fresh = folder / f"{NAME}.part"
    with zipfile.ZipFile(fresh, "w") as archive:
        for path in sorted(files):
            # Dated 1980, as long as nobody sets it: the same data gives the same bytes.
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.external_attr = MODE
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    os.replace(fresh, target)
    for path in files:
        path.unlink()
    return [target]
