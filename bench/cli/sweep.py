"""``python -m bench sweep``: the command around ``bench.sweep.sweep``."""

import gc
from dataclasses import replace
from typing import Annotated

import typer

from bench.cases.presets import KINDS, preset_names
from bench.cli.options import RunOptions, SamplingOptions
from bench.cli.progress import bar
from bench.providers import load
from bench.records import environment, provenance
from bench.sweep import sweep
from bench.sweep.plan import Plan, describe, make_plan

Kind = Annotated[
    str, typer.Option(help="What to measure: time, error, energy, or several: time,error.")
]


def command(
    *,
    preset: Annotated[str, typer.Option(help="A preset's name; `list` shows them.")] = "quick",
    kind: Kind = "time",
    dry_run: Annotated[bool, typer.Option(help="Only list cases and estimate the time.")] = False,
    shard: Annotated[str, typer.Option(help="Only the i-th of n parts: i/n.")] = "1/1",
    sampling: SamplingOptions,
    chosen: RunOptions,
) -> None:
    """Measure a preset's cases for its providers, the most informative first.

    An interrupted sweep goes on where it stopped when the same command is given again, as long as
    the measured code is the same. Failures are recorded with their reason and cost one case.
    """
    if preset == "list":
        for name in preset_names(chosen.preset_file):
            print(name)
        return
    settings = {"seconds": sampling.seconds, "target": sampling.target, "seed": chosen.seed}
    sweep.check_results(chosen.results)
    options = replace(
        chosen.of_sweep(preset, tuple(kind.split(",")), shard), starts=sampling.starts
    )
    if dry_run:
        gc.disable()  # collecting garbage among so many cases would double the time
        machine = environment.probe()
        folder = chosen.results / provenance.slug(machine.name)
        load(options.plugins)
        plan = make_plan(options, machine, folder)
        check_not_empty(plan)
        print(*describe(plan, machine, sampling.seconds), sep="\n")
        return
    try:
        with bar(f"sweep {preset}", chosen.max_minutes and chosen.max_minutes * 60) as progress:
            folder, counts, left = sweep.sweep(
                options,
                settings,
                chosen.results,
                chosen.max_minutes,
                sampling.timeout,
                progress,
                announce=check_not_empty,
            )
    except KeyboardInterrupt:
        print("interrupted; every finished record is kept, and the same command resumes from there")
        raise typer.Exit(130) from None
    print(sweep.summary_line(counts, left))
    print(folder / "records")


def check_not_empty(plan: Plan) -> None:
    """Raise ValueError if a preset has no case of the given kinds."""
    if not plan.matched:
        raise ValueError(
            f"the preset has no cases of that kind; accepted: --kind with any of {', '.join(KINDS)}"
        )
