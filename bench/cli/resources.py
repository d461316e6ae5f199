"""``python -m bench resources``: the command around ``bench.compiler.resources``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cases import arguments
from bench.cases.cases import find_cell
from bench.records import files, provenance


def command(
    quick: Annotated[bool, typer.Option(help="Only a few kernels of the grid.")] = False,
    device: Annotated[str, typer.Option(help="Which targets, comma-separated.")] = "h100",
    cells: Annotated[str | None, typer.Option(help="Only these cells, comma-separated.")] = None,
    numbers: Annotated[
        str | None, typer.Option(help="Only these, comma-separated, such as bf16,fp32:tf32.")
    ] = None,
    hidden: Annotated[str | None, typer.Option(help="Only these H, comma-separated.")] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Keep the binaries here, to look at with cuobjdump.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Compile again what is recorded.")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Begin nothing after this.")] = None,
    results: Annotated[Path, typer.Option(help="Where results go.")] = files.RESULTS,
) -> None:
    """Compile every planned kernel of a grid for GPUs that need not be here, and record the facts.

    Exit code 1 if a kernel uses stack, or more shared memory than the device has or the plan says.
    """
    arguments.minutes(max_minutes)
    from bench.compiler import resources  # here, so that --help need not wait for torch

    bad = False
    targets = resources.chosen("device", device, resources.GRIDS)
    for name in targets:
        grid = (*resources.GRIDS[name], resources.CELL_NAMES, resources.NUMBERS)
        sizes, batches, every_cell, every_number = resources.QUICK if quick else grid
        todo = resources.jobs(
            name,
            tuple(map(int, hidden.split(","))) if hidden else sizes,
            batches,
            tuple(dict.fromkeys(map(find_cell, cells.split(",")))) if cells else every_cell,
            resources.chosen("numbers", numbers, resources.NUMBERS) if numbers else every_number,
        )
        seconds = 1e99 if max_minutes is None else max_minutes * 60
        folder, records, left = resources.run(name, todo, results, dump, seconds, fresh)
        version = provenance.version("triton")
        print(f"Triton {version}:", *resources.summary(records), sep="\n")
        if left:
            print(f"{left} left for the next call")
        print(folder / "records")
        bad = bad or any(r["status"] != "ok" or r["resources"]["faults"] for r in records)
    if bad:
        raise typer.Exit(1)
