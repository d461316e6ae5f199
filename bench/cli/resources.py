"""``python -m bench resources``: the command around ``bench.compiler.resources``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cases import arguments
from bench.cases.cases import find_cell
from bench.cli.options import number
from bench.cli.progress import count_bar
from bench.records import files, provenance

if TYPE_CHECKING:
    from bench.compiler.resources import Grid


@dataclass(frozen=True)
class GridOptions:
    """Which kernels of a device's grid."""

    quick: Annotated[bool, typer.Option(help="Only a few kernels of the grid.")] = False
    cells: Annotated[str | None, typer.Option(help="Only these cells, comma-separated.")] = None
    numbers: Annotated[
        str | None, typer.Option(help="Only these formats, comma-separated: bf16,fp32:tf32.")
    ] = None
    hidden: Annotated[str | None, typer.Option(help="Only these H, comma-separated.")] = None

    def select(self, device: str) -> Grid:
        """The part of a device's grid that these options name.

        Raises:
            ValueError: for an option that is not accepted.
        """
        from bench.compiler.resources import GRIDS, NUMBERS, QUICK

        only: dict[str, Any] = {}
        if self.hidden is not None:
            sizes = self.hidden.split(",")
            only["hidden"] = tuple(arguments.HIDDEN.check("hidden", size) for size in sizes)
        if self.cells is not None:
            only["cells"] = tuple(dict.fromkeys(map(find_cell, self.cells.split(","))))
        if self.numbers is not None:
            only["numbers"] = arguments.parse_choices("numbers", self.numbers, NUMBERS)
        return replace(QUICK if self.quick else GRIDS[device], **only)


def command(
    *,
    chosen: GridOptions,
    device: Annotated[str, typer.Option(help="Target GPUs, comma-separated.")] = "h100",
    dump: Annotated[
        Path | None, typer.Option(help="Keep the binaries here, to look at with cuobjdump.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Also compile recorded kernels.")] = False,
    max_minutes: Annotated[
        float | None, number(arguments.MINUTES, "Start no kernel after this.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where results go.")] = files.RESULTS,
) -> None:
    """Compile every planned kernel of a grid for GPUs that need not be here, and record the facts.

    Exit code 1 if a kernel uses stack, or more shared memory than the device has or the plan says.
    """
    # Here, so that --help need not wait for torch.
    from bench.compiler import resources
    from kernels.plan.devices import DEVICES

    bad = False
    for name in arguments.parse_choices("device", device, resources.GRIDS):
        folder, records, left = resources.compile_missing(
            resources.plan_jobs(DEVICES[name], chosen.select(name)),
            results,
            dump,
            float("inf") if max_minutes is None else max_minutes * 60,
            fresh,
            count_bar,
        )
        version = provenance.version("triton")
        print(f"Triton {version}:", *resources.summary_lines(records), sep="\n")
        if left:
            print(f"{left} left for the next call")
        print(folder / "records")
        bad = bad or any(r["status"] != "ok" or r["resources"]["faults"] for r in records)
    if bad:
        raise typer.Exit(1)
