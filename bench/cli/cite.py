"""``python -m bench cite``: the command around ``bench.report.pages.cite``."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[
        Path | None,
        typer.Argument(help="A results folder or record file; without one, only the suite."),
    ] = None,
) -> None:
    """Print BibTeX of the suite and of the providers in a run, and a methods paragraph."""
    from bench.report import runs  # here, so that --help need not wait for pandas
    from bench.report.pages import cite

    for found in [None] if run is None else runs.load([run]):
        print(cite.text(found))
