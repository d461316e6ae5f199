"""``python -m bench quick``: the first command of a newcomer."""

import itertools
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.cases.arguments import MINUTES
from bench.cli.options import number
from bench.cli.progress import bar, count_bar
from bench.measure import interpreter
from bench.records import environment, files, provenance
from bench.sweep import sweep
from bench.sweep.plan import Options, default_run

# When each part must end, as a share of --max-minutes; the rest is for compiling and the report.
PARTS = (("time", "speed", 0.6), ("error", "numerical error", 0.92))


def run_name(preset: str, folder: Path) -> str:
    """A sweep's default name, by which the next call resumes; with a number if its records are
    committed, since another machine of the same name may have made them.
    """
    name = default_run(preset)
    taken = provenance.committed(folder / "records")
    names = itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2)))
    return next(n for n in names if not any(n + suffix in taken for suffix in files.SUFFIXES))


def command(
    max_minutes: Annotated[float, number(MINUTES, "Stop measuring after about this long.")] = 5.0,
    preset: Annotated[
        str | None, typer.Option(help="A preset to measure instead of quick or quick-gpu.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Also repeat finished measurements.")] = False,
    results: Annotated[Path, typer.Option(help="Where results go.")] = files.RESULTS,
) -> None:
    """Measure error and speed on this machine in minutes, then make tables and plots.

    On a GPU: our kernels, torch.nn (cuDNN) and the reference. On a CPU: torch.nn, the reference
    and its compiled form for speed, and our kernels in Triton's interpreter for error only.
    """
    cuda = environment.probe().is_cuda
    if not cuda:
        interpreter.check()
    preset = preset or ("quick-gpu" if cuda else "quick")
    run = run_name(preset, results / provenance.slug(environment.probe().name))
    settings = {"seconds": 0.3, "target": 0.02, "seed": 0}
    started = time.monotonic()
    folder = results
    for kind, title, end in PARTS:
        left = max_minutes * 60 * end - (time.monotonic() - started)
        options = Options(preset=preset, kinds=(kind,), run=run, rerun="all" if fresh else None)
        with bar(title, left) as progress:
            folder, counts, undone = sweep.sweep(
                options, settings, results, left / 60, progress=progress
            )
        print(f"{title}: {sweep.summary_line(counts, undone)}")
    from bench.compiler import resources
    from bench.report import build

    compiled = resources.compile_quick_grid(folder.parent, progress=count_bar)
    build.main(folder, *compiled)
