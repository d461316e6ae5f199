"""``python -m bench error``: a sweep of error grids, the studies of error, and the report."""

from contextlib import nullcontext
from functools import partial
from typing import Annotated

import typer

from bench.cli.options import RunOptions
from bench.cli.progress import bar
from bench.error.studies import activations, memory, repeatability, training
from bench.measure import interpreter
from bench.records import environment, provenance
from bench.sweep import sweep
from bench.sweep.pool import calls_elsewhere
from bench.sweep.process import exiting_on_signals

STUDY_SECONDS = 7200.0  # the longest wait for one: training takes half an hour of CPU time


def command(
    *,
    preset: Annotated[
        str | None, typer.Option(help="The preset; by default error, or error-cpu on a CPU.")
    ] = None,
    studies: Annotated[
        bool, typer.Option(help="Also measure activations, repeatability, a training run.")
    ] = True,
    chosen: RunOptions,
) -> None:
    """Measure how far each implementation is from float64, why, and how it grows with time.

    On a CPU our kernels run in Triton's interpreter, at sizes it can do; on a GPU as compiled.
    The studies measure the activations over the whole float32 range, whether results repeat bit for
    bit, and a training run compared with torch.nn's. Ends with the report. On two CPU cores
    `--preset quick` takes about three minutes and the default some 25. `--preset memory` measures
    gates that keep the state for long; its study, instead of these, is training on a task that
    needs memory (a quarter of an hour on a CPU).
    """
    machine = environment.probe()
    if not machine.is_cuda:
        interpreter.check()
    folder = chosen.results / provenance.slug(machine.name)
    preset = preset or ("error" if machine.is_cuda else "error-cpu")
    quick = preset == "quick"
    calls = (
        (partial(memory, folder.absolute()),)
        if preset == "memory"
        else (
            partial(repeatability, folder.absolute()),
            partial(training, folder.absolute(), *((("rnn_tanh",), 0) if quick else ())),
            partial(activations, folder.absolute(), 1 if quick else None),
        )
    )
    # Nothing here is timed, so the sweep and the studies may share the machine.
    running = calls_elsewhere(calls, STUDY_SECONDS) if studies else nullcontext(())
    with exiting_on_signals(), running as written:
        with bar("error", chosen.max_minutes and chosen.max_minutes * 60) as progress:
            folder, counts, undone = sweep.sweep(
                chosen.of_sweep(preset, ("error",)),
                {"seed": chosen.seed},
                chosen.results,
                chosen.max_minutes,
                progress=progress,
            )
        print(sweep.summary_line(counts, undone))
        for path in written:
            print(path)
    from bench.report import build

    build.main(folder)
