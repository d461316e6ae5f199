"""``python -m bench report``: the command around ``bench.report``."""

from pathlib import Path
from typing import Annotated

import typer

from bench.records import archive, files


def command(
    run: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results folders, record files, or .tar.gz archives of a campaign, which are "
            "unpacked into results/ first; all of results/ by default."
        ),
    ] = None,
) -> None:
    """Rebuild every table, figure and page from stored records. Needs no GPU."""
    from bench.report import build  # here, so that --help need not wait for pandas

    build.main(*(folder for path in run or () for folder in unpacked(path)))


def unpacked(path: Path) -> list[Path]:
    """Unpack an archive into results/ and return its device folders; any other path as it is.

    Raises:
        ValueError: for an archive that no campaign wrote.
    """
    return archive.restore(path, files.RESULTS) if path.suffixes[-2:] == [".tar", ".gz"] else [path]
