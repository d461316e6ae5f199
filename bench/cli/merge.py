"""``python -m bench merge``: join records, keeping the latest of each measurement."""

from pathlib import Path
from typing import Annotated

import typer

from bench.records import store


def command(
    sources: Annotated[list[Path], typer.Argument(help="Record files, or folders of them.")],
    out: Annotated[
        Path, typer.Option(help="The new file; compressed if its name ends in .jsonl.gz.")
    ],
) -> None:
    """Join the files of shards or runs; of several records of one case the latest counts."""
    print(f"{store.merge(sources, out)} records in {out}")
