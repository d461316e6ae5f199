"""``python -m bench plan``: how a case would run on a GPU, what it needs, how long a step takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cases import arguments
from bench.cases.arguments import check_choice
from bench.cases.cases import CELLS, cell_words, find_cell

NUMBERS = {
    "bf16": ("bfloat16", "ieee"),
    "fp16": ("float16", "ieee"),
    "fp32": ("float32", "ieee"),
    "fp32:ieee": ("float32", "ieee"),
    "fp32:tf32": ("float32", "tf32"),
}
PASSES = {"forward": ("forward",), "backward": ("backward",), "both": ("forward", "backward")}


def command(
    cell: Annotated[str, typer.Option(help=f"One of {cell_words(CELLS)}.")] = "lstm",
    hidden: Annotated[int, typer.Option(help="Hidden units H.")] = 1024,
    batch: Annotated[int, typer.Option(help="Sequences B.")] = 16,
    device: Annotated[
        str | None,
        typer.Option(help="A GPU of kernels/plan/devices.py; else the card of --limits, or h100."),
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(NUMBERS)}.")] = "bf16",
    pass_: Annotated[str, typer.Option("--pass", help="forward, backward or both.")] = "both",
    directions: Annotated[int, typer.Option(help="1, or 2 for both time directions.")] = 1,
    mode: Annotated[str, typer.Option(help="auto, or one of kernels/plan/__init__.py.")] = "auto",
    limits: Annotated[
        Path | None,
        typer.Option(
            help="A limits.json or floor.json of `python -m bench.gpu.floor`: count with what was "
            "measured on that card. Changes what is shown here, not what a GPU runs."
        ),
    ] = None,
) -> None:
    """Show which program does what, what stays on chip, and the expected time of a step.

    Pure arithmetic from the device's limits: needs no GPU. The times are a model's, not measured;
    its constants are listed, each with whether it was measured.
    """
    # Here, so that --help need not wait for torch, which the kernels import.
    from bench.cli.plan_words import constants, describe
    from bench.gpu.measured_rates import chosen_device
    from kernels.plan import MODES, Problem, backward_plan, forward_plan
    from kernels.plan.devices import DEVICES

    cell = find_cell(cell)
    if device is not None:
        check_choice("device", device, DEVICES)
    check_choice("dtype", dtype, NUMBERS)
    check_choice("pass", pass_, PASSES)
    check_choice("directions", directions, (1, 2))
    check_choice("mode", mode, MODES)
    arguments.sizes(hidden, batch)
    card, measured = chosen_device(device, limits)
    problem = Problem(CELLS[cell].gates, batch, hidden, directions, *NUMBERS[dtype])
    print(
        f"{cell}, H={hidden}, B={batch}, {directions} direction(s), {dtype} on {card.name} "
        f"({card.architecture}, {card.multiprocessors} multiprocessors)"
    )
    for loop in PASSES[pass_]:
        plan = (forward_plan if loop == "forward" else backward_plan)(problem, card, mode)
        print(*describe(plan, problem, card, loop), sep="\n")
    print(*constants(card.rates, measured, limits), sep="\n")
