"""``python -m bench sweep``: the command around ``bench.sweep.sweep``."""

import gc
from pathlib import Path
from typing import Annotated

import typer

from bench.cases import arguments
from bench.cases.presets import PRESETS, preset_names
from bench.cli.progress import bar
from bench.providers import load
from bench.records import environment, files, provenance
from bench.sweep import sweep
from bench.sweep.plan import Options, Plan, describe, make_plan

Kind = Annotated[str, typer.Option(help="What to measure: time, error, or time,error.")]


def command(
    preset: Annotated[str, typer.Option(help="A preset's name; `list` shows them.")] = "quick",
    preset_file: Annotated[Path, typer.Option(help="A file of presets of your own.")] = PRESETS,
    kind: Kind = "time",
    providers: Annotated[str | None, typer.Option(help="Only these, comma-separated.")] = None,
    filter: Annotated[
        str, typer.Option(help='Only matching cases, such as "cell=lstm,gru T<=512".')
    ] = "",
    max_minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this.")] = None,
    dry_run: Annotated[bool, typer.Option(help="List cases, skips and a guess of time.")] = False,
    rerun: Annotated[
        str | None, typer.Option(help="Measure again what ended so: failed, all, or a status.")
    ] = None,
    shard: Annotated[str, typer.Option(help="Only the i-th of n parts: i/n.")] = "1/1",
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A Python file with providers or cells.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="The run's name; the same name resumes.")] = None,
    seconds: Annotated[float, typer.Option(help="Sampling time per provider and case.")] = 1.0,
    target: Annotated[
        float, typer.Option(help="Relative half-width of the median's interval to stop at.")
    ] = 0.01,
    timeout: Annotated[float, typer.Option(help="Seconds of silence that mean a hang.")] = 180.0,
    seed: Annotated[int, typer.Option(help="Of inputs and of the order of providers.")] = 0,
    results: Annotated[Path, typer.Option(help="Where results go.")] = files.RESULTS,
) -> None:
    """Measure a preset's cases for its providers, the most informative first.

    An interrupted sweep goes on where it stopped when the same command is given again, as long as
    the measured code is the same. Failures are recorded with their reason and cost one case.
    """
    if preset == "list":
        for name in preset_names(preset_file):
            print(name)
        return
    arguments.minutes(max_minutes)
    settings = {"seconds": seconds, "target": target, "seed": seed}
    sweep.check_settings(settings, timeout)
    sweep.check_results(results)
    options = Options(
        preset=preset,
        preset_file=preset_file,
        kinds=tuple(kind.split(",")),
        providers=providers,
        filter=filter,
        shard=shard,
        run=run,
        rerun=rerun,
        plugins=tuple(path.resolve() for path in plugin or ()),
        seed=seed,
    )
    if dry_run:
        gc.disable()  # looking for garbage among so many cases takes as long as finding them
        machine = environment.probe()
        folder = results / provenance.slug(machine.name)
        load(options.plugins)
        plan = make_plan(options, machine, folder)
        check_not_empty(plan)
        print(*describe(plan, machine, seconds), sep="\n")
        return
    try:
        with bar(f"sweep {preset}", max_minutes and max_minutes * 60) as progress:
            folder, counts, left = sweep.sweep(
                options,
                settings,
                results,
                max_minutes,
                timeout,
                progress,
                announce=check_not_empty,
            )
    except KeyboardInterrupt:
        print("interrupted; every finished record is kept and the same command goes on from there")
        raise typer.Exit(130) from None
    print(sweep.summary_line(counts, left))
    print(folder / "records")


def check_not_empty(plan: Plan) -> None:
    """Raise ValueError if a preset has no case of the given kinds."""
    if not plan.matched:
        raise ValueError(
            "the preset has no cases of that kind; accepted: --kind time, error or both"
        )
