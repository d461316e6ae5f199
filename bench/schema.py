"""``python -m bench schema``: publish the record's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import store


def command(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = store.SCHEMA,
) -> None:
    """Write the JSON Schema of a record, made from the fields that are checked."""
    store.write_schema(path)
    print(path)
