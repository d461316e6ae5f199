"""``python -m bench error``: a sweep of error grids, the studies beside it, and the report."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cases import arguments
from bench.cases.presets import PRESETS
from bench.cli.progress import bar
from bench.error import studies
from bench.measure import interpreter
from bench.records import environment, files, provenance
from bench.sweep import process, sweep
from bench.sweep.plan import Options


def command(
    preset: Annotated[
        str | None, typer.Option(help="Whose error grids to measure; error, or error-cpu on a CPU.")
    ] = None,
    preset_file: Annotated[Path, typer.Option(help="A file of presets of your own.")] = PRESETS,
    providers: Annotated[str | None, typer.Option(help="Only these, comma-separated.")] = None,
    filter: Annotated[str, typer.Option(help='Only matching cases, such as "cell=lstm".')] = "",
    max_minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this.")] = None,
    alone: Annotated[
        bool, typer.Option(help="Also measure activations, repeatability, a training run.")
    ] = True,
    rerun: Annotated[str | None, typer.Option(help="Measure again: failed, all, a status.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A file with providers.")] = None,
    run: Annotated[str | None, typer.Option(help="The run's name; the same resumes.")] = None,
    seed: Annotated[int, typer.Option(help="First seed of the inputs.")] = 0,
    results: Annotated[Path, typer.Option(help="Where results go.")] = files.RESULTS,
) -> None:
    """Measure how far each implementation is from float64, why, and how it grows with time.

    On a CPU our kernels run in Triton's interpreter, at sizes it can do; on a GPU as compiled.
    Beside that the activations over the whole float32 range, whether results repeat bit for bit,
    and a training run compared with torch.nn's; then the report. On two CPU cores `--preset quick`
    takes under three minutes and the whole under 25.
    """
    arguments.minutes(max_minutes)
    machine = environment.probe()
    if not machine.is_cuda:
        interpreter.check()
    folder = results / provenance.slug(machine.name)
    preset = preset or ("error" if machine.is_cuda else "error-cpu")
    # Nothing here is timed, so the parts may share the machine.
    with process.exiting_on_signals(), ThreadPoolExecutor(1) as pool:
        quick = preset == "quick"
        asked: tuple[tuple[Any, ...], ...] = (
            (studies.repeatability,),
            (studies.training, ("rnn_tanh",) if quick else None),
            (studies.activations, 4096 if quick else None),
        )
        beside = [
            pool.submit(process.run_function, study, folder.absolute(), *options_of_study)
            for study, *options_of_study in (asked if alone else ())
        ]
        options = Options(
            preset=preset,
            preset_file=preset_file,
            kinds=("error",),
            providers=providers,
            filter=filter,
            rerun=rerun,
            plugins=tuple(path.resolve() for path in plugin or ()),
            run=run,
            seed=seed,
        )
        try:
            with bar("error", None if max_minutes is None else max_minutes * 60) as progress:
                folder, counts, undone = sweep.sweep(
                    options, {"seed": seed}, results, max_minutes, progress=progress
                )
            print(sweep.summary_line(counts, undone))
            for part in beside:
                print(part.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            process.end_commands()
            raise
    from bench.report import build

    build.main(folder)
