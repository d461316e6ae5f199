"""``python -m bench campaign``: the command around ``bench.gpu.campaign``."""

import contextlib
import io
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.cases.arguments import MINUTES, SECONDS, TARGET
from bench.cli.check_gpu import prepare, show_progress
from bench.cli.options import number
from bench.cli.progress import bar
from bench.gpu.campaign import Campaign, Outputs
from bench.records import archive, environment, files
from bench.sweep import toolchain
from bench.sweep.process import exiting_on_signals

# Seconds of silence that count as a hang: a tenth of the call, within these bounds.
HANG_SHARE, LEAST_HANG, MOST_HANG = 0.1, 20.0, 180.0


def build_report(folder: Path) -> None:
    """Make a device's tables, figures and pages, and print what was made once all is."""
    from bench.report import build

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        build.main(folder)
    print(printed.getvalue(), end="")


def check_places(rehearse: bool, out: Path | None, archive_file: Path | None) -> None:
    """Raise ValueError if both --out and --archive are given, or neither in a rehearsal."""
    if out is not None and archive_file is not None:
        raise ValueError(
            f"out is {out} and archive {archive_file}; accepted: one of them, since a call with "
            "--archive leaves only the archive"
        )
    if archive_file is not None and not archive_file.name.endswith(archive.SUFFIX):
        accepted = f"accepted: a name that ends in {archive.SUFFIX}"
        raise ValueError(f"archive is {archive_file}; {accepted}")
    if rehearse and out is None and archive_file is None:
        raise ValueError(
            "--rehearse needs --out or --archive, because a rehearsal is not a measurement"
        )


def command(
    max_minutes: Annotated[float, number(MINUTES, "End after about this, report included.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where results go; results/ by default.")] = None,
    archive_file: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            help="Write all measurements to this .tar.gz file and make no report; `python -m bench "
            "report FILE` makes it, on any machine. If the file exists, resume from it.",
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume from an earlier call's archive.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Run every step with a tiny grid, also without a GPU.")
    ] = False,
    seconds: Annotated[float, number(SECONDS, "Sampling time per provider and case.")] = 0.5,
    target: Annotated[
        float, number(TARGET, "Relative half-width of the median's interval to stop at.")
    ] = 0.01,
    timeout: Annotated[
        float | None,
        number(SECONDS, "Seconds of silence that mean a hang; a tenth of the time, 20 to 180."),
    ] = None,
) -> None:
    """Turn minutes or an hour on a GPU into a page: values, floor, speed, error, report.

    A failed check of check-gpu is printed in full, and cases that use the failing kernels are
    recorded as incorrect; the rest is measured, and the exit code is 1. A call ends within its
    minutes, and the same command resumes; Ctrl-C stops measuring at once and then reports or, with
    --archive, saves. Needs no network; on a GPU, Triton needs a C compiler (CC, gcc or clang) and
    Python's headers.
    """
    machine = environment.probe()
    if not (machine.is_cuda or rehearse):
        raise RuntimeError(
            f"campaign needs a GPU, and there is none here, only {machine.name}; --rehearse runs "
            "every step with a tiny grid on the CPU"
        )
    check_places(rehearse, out, archive_file)
    if timeout is None:
        timeout = min(MOST_HANG, max(LEAST_HANG, HANG_SHARE * max_minutes * 60))
    settings = {"seconds": seconds, "target": target, "seed": 0}
    settings["compiled_before"] = machine.is_cuda
    # The processes that measure run in the checkout, wherever this one was started.
    results = (out or files.RESULTS).resolve()
    kept_in = archive_file.resolve() if archive_file is not None else None
    prepare(machine.is_cuda)
    toolchain.check_writable(
        results if kept_in is None else kept_in.parent,
        "the campaign writes to",
        "--out or --archive takes another place",
    )
    deadline = time.monotonic() + max_minutes * 60
    with exiting_on_signals(), archive.workspace(results, kept_in, resume) as (workspace, save):
        report = build_report if kept_in is None else None
        outputs = Outputs(save, show_progress, bar, report)
        campaign = Campaign(workspace, deadline, settings, outputs, timeout, rehearse)
        try:
            campaign.run()
        except KeyboardInterrupt:
            campaign.end_early()
            raise typer.Exit(130) from None
    if campaign.failures:
        raise typer.Exit(1)
