"""``python -m bench report``: the command around ``bench.report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[
        list[Path] | None,
        typer.Argument(help="Results folders or .jsonl files; all of results/ by default."),
    ] = None,
) -> None:
    """Rebuild every table, figure and page from stored records. Needs no GPU."""
    from bench.report import build  # here, so that --help need not wait for pandas

    build.main(*(run or ()))
