"""The command line: one file for each command, which parses arguments and prints.

Only `bench.__main__` and the tests import from here. What takes long to import (torch, pandas,
matplotlib) is imported in the function of the command that needs it.
"""

import sys

import typer

from bench.cli import (
    campaign,
    check_gpu,
    cite,
    compare,
    error,
    floor,
    merge,
    plan,
    profile,
    quick,
    report,
    resources,
    sweep,
)
from bench.cli.options import flatten

app = typer.Typer(
    name="python -m bench",
    help="""Benchmark RNN, LSTM and GRU kernels: throughput, numerical error, compiler resources.

    Start with `python -m bench quick`; `python -m bench COMMAND --help` explains each.
    """,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
for module, name, summary in (
    (quick, "quick", "Error and speed on this machine in about six minutes."),
    (sweep, "sweep", "Measure a preset's cases; resumes, keeps to a budget."),
    (error, "error", "Numerical error against float64: growth, regimes, activations."),
    (plan, "plan", "How a case would run on a GPU, and its expected time."),
    (resources, "resources", "What the compiler makes of planned kernels."),
    (profile, "profile", "What each part of the time loop costs."),
    (check_gpu, "check-gpu", "Whether the kernels are right on this GPU, in minutes."),
    (floor, "floor", "What bounds a recurrent loop on this GPU, in under a minute."),
    (campaign, "campaign", "Minutes or an hour on a GPU, turned into a page; resumes."),
    (compare, "compare", "Compare two runs; exit code 1 if the second is slower."),
    (merge, "merge", "Join the records of shards or calls into one file."),
    (report, "report", "Tables, figures and page from stored records."),
    (cite, "cite", "How to cite the suite and a run."),
):
    app.command(name, short_help=summary)(flatten(module.command))


def main() -> None:
    """Run a command; bad input is one line on standard error and exit code 2."""
    try:
        app(prog_name="python -m bench")
    except (ValueError, RuntimeError, NotImplementedError, FileNotFoundError, FileExistsError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
