"""``python -m bench``: the command line. Each command's module is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# name: where its function ``command`` is, and one line of help (so that --help imports nothing)
COMMANDS = {
    "quick": ("bench.cli.quick", "Error and speed on this machine in under five minutes."),
    "sweep": ("bench.cli.sweep", "Measure a preset's cases; resumes, keeps to a budget."),
    "error": ("bench.cli.error", "Numerical error against float64: growth, regimes, activations."),
    "plan": ("bench.cli.plan", "How a case would run on a GPU, and its expected time."),
    "resources": (
        "bench.cli.resources",
        "What the compiler makes of planned kernels.",
    ),
    "profile": ("bench.cli.profile", "What each part of the time loop costs."),
    "check-gpu": ("bench.gpu.check_gpu", "Whether the kernels are right on this GPU, in minutes."),
    "campaign": ("bench.cli.campaign", "Minutes or an hour on a GPU, turned into a page; resumes."),
    "compare": ("bench.report.compare", "Compare two runs; exit code 1 if the second is slower."),
    "merge": ("bench.cli.merge", "Join the records of shards or calls into one file."),
    "report": ("bench.cli.report", "Tables, figures and page from stored records."),
    "cite": ("bench.cli.cite", "How to cite the suite and a run."),
}


def load(name: str) -> Any:
    """A command, from the function of that name's module."""
    module, _ = COMMANDS[name]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(importlib.import_module(module).command)
    return typer.main.get_command(app)


class Lazy(TyperGroup):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Lazy,
    name="python -m bench",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def main() -> None:
    """Benchmark RNN, LSTM and GRU kernels: throughput, numerical error, compiler resources.

    Start with `python -m bench quick`; `python -m bench COMMAND --help` explains each.
    """


if __name__ == "__main__":
    try:
        app(prog_name="python -m bench")
    except (ValueError, RuntimeError, NotImplementedError, FileNotFoundError, FileExistsError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
