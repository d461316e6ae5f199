"""``python -m bench compare``: the command around ``bench.report.compare``."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cases.arguments import PERCENT
from bench.cli.options import number
from bench.records import files


def command(
    first: Annotated[str, typer.Argument(help="The earlier run: a file, a folder, or its name.")],
    second: Annotated[str, typer.Argument(help="The later run, given the same way.")],
    threshold: Annotated[float, number(PERCENT, "Least change in percent to report.")] = 5.0,
    any_device: Annotated[bool, typer.Option(help="Compare different devices.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every case.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the Markdown there as well.")] = None,
    results: Annotated[Path, typer.Option(help="The folder of the named runs.")] = files.RESULTS,
) -> None:
    """Compare two runs; prints Markdown.

    Both runs need three or more starts of the measuring process (`sweep --starts`), since a new
    start changes times too. Exit codes: 0 nothing is slower or undecided, 1 something is slower or
    broke, 3 something is undecided, 2 the runs cannot be compared.
    """
    from bench.report import compare

    share = threshold / 100
    before, after = (compare.find(run, results) for run in (first, second))
    pairs = compare.compare(before, after, share, any_device)
    text = compare.markdown(pairs, first, second, share, every)
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if any(p.verdict in (compare.SLOWER, compare.BROKEN) for p in pairs):
        raise typer.Exit(1)
    if any(p.verdict == compare.UNDECIDED for p in pairs):
        raise typer.Exit(3)
