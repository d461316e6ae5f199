"""``python -m bench floor``: the command around ``bench.gpu.floor``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cases.arguments import SECONDS
from bench.cli.options import number
from bench.gpu import floor
from bench.measure import interpreter
from bench.records import environment, files


def command(
    folder: Annotated[Path, typer.Argument(help="The device's results folder.")],
    max_seconds: Annotated[
        float, number(SECONDS, "Stop after this; the next call measures the rest.")
    ] = floor.MAX_SECONDS,
) -> None:
    """Measure what bounds a recurrent loop on this card: barriers, L2, products, launches.

    Without a GPU the kernels are only checked, in Triton's interpreter. Exit code 1 if any failed.
    """
    if not environment.probe().is_cuda:
        interpreter.check()  # it only checks what the kernels compute
    problems = floor.run(folder.absolute(), max_seconds)
    if problems is None:
        return
    for name, why in problems.items():
        print(f"{name}: {why}", file=sys.stderr)
    print(folder.absolute() / files.FLOOR)
    if floor.failures(problems):
        raise typer.Exit(1)
