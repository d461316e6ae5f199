"""``python -m bench check-gpu``: whether the kernels are right on the GPU at hand, in minutes."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.cases.arguments import MINUTES
from bench.cli.options import number
from bench.gpu import run_checks
from bench.gpu.run_checks import ResultFile, Row
from bench.measure import interpreter
from bench.records import environment, files
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS
from bench.sweep import toolchain
from bench.sweep.pool import Pool
from bench.sweep.process import exiting_on_signals

UNFINISHED = 3  # exit code
MOST_REPORTS = 4  # failures printed in full; the file has the others' reports
COLOURS = {PASS: "green", FAIL: "bold red", LEFT_OUT: "yellow", NOT_DONE: "bold yellow"}


@contextlib.contextmanager
def show_progress(total: int) -> Iterator[Callable[[Row], None]]:
    """Yield a function to call with each outcome: it counts them and prints failures in full."""
    console = Console(stderr=True)
    done = reports = 0
    with console.status("checking") as status:

        def show(row: Row) -> None:
            nonlocal done, reports
            done += 1
            status.update(f"{done} of {total} done, last: {row.name}")
            if row.outcome == FAIL:
                reports += bool(row.report)
                full = row.report if reports <= MOST_REPORTS else ""
                text = f"FAIL {row.name}: {row.detail}\n{full}".rstrip()
                console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield show


def table(rows: Sequence[Row]) -> Table:
    """A table of outcomes, with one line for all passed comparisons of a cell and number type."""
    shown = Table("check", "what", "outcome", "detail", "s")
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together = row.check == "values" and row.outcome == PASS
        what = " ".join(row.what.split()[:2]) if together else row.what
        groups.setdefault((row.check, what, row.outcome), []).append(row)
    for (check, what, outcome), group in groups.items():
        detail = group[0].detail if len(group) == 1 else f"{len(group)} comparisons with float64"
        seconds = sum(row.seconds for row in group)
        coloured = f"[{COLOURS[outcome]}]{outcome}"
        shown.add_row(check, what, coloured, detail.replace("[", r"\["), f"{seconds:.1f}")
    return shown


def prepare(cuda: bool) -> None:
    """Raise RuntimeError unless kernels can run here: compiled on a GPU, else interpreted."""
    if cuda:
        toolchain.check()
        toolchain.check_cache()
    else:
        interpreter.check()
        os.environ["TRITON_INTERPRET"] = "1"  # for the processes that check


def command(
    rehearse: Annotated[
        bool, typer.Option(help="Run the same checks at tiny sizes, on any machine.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help=f"A folder for {files.CHECKS}; a later call resumes from it."),
    ] = None,
    max_minutes: Annotated[float, number(MINUTES, "Stop after this many minutes.")] = 5.0,
) -> None:
    """Check the kernels on this GPU: values, repetitions, streams, graphs, failures, memory.

    A failure is printed in full: every tensor's error, where the wrong entries are, and the plans.

    Exit code 0 if all that can be checked here passed, 1 if anything failed (a wrong value, bits
    that differ, a barrier's failure, a crash), 2 without a GPU or a C compiler, 3 if nothing failed
    but some checks were not done, for lack of time, memory or a tool.
    """
    cuda = environment.probe().is_cuda or environment.machine().is_cuda
    if not cuda and not rehearse:
        raise RuntimeError(
            "check-gpu needs a GPU and finds none here; --rehearse runs the checks at tiny sizes "
            "in Triton's interpreter"
        )
    prepare(cuda)
    file = None if out is None else ResultFile(out.resolve(), run_checks.key(rehearse))
    checks = run_checks.all_checks(rehearse, cuda)
    with (
        exiting_on_signals(),
        Pool(run_checks.worker_count()) as pool,
        show_progress(len(checks)) as show,
    ):
        rows = run_checks.run(checks, file, max_minutes * 60, pool, show)
    if file is not None:
        file.write(rows, device=environment.device_facts())
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    print(run_checks.summary_line(rows))
    outcomes = {row.outcome for row in rows}
    if outcomes & {FAIL, NOT_DONE}:
        raise typer.Exit(1 if FAIL in outcomes else UNFINISHED)
