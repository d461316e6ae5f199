"""``python -m bench profile``: the command around ``bench.compiler.profile``."""

from typing import Annotated

import typer

from bench.cases.arguments import BATCH, HIDDEN, check_choice
from bench.cases.cases import find_cell
from bench.cli.options import number
from bench.sweep import toolchain


def command(
    cell: Annotated[
        str, typer.Option(help="One of lstm, gru, rnn_tanh, rnn_relu, rnn (for rnn_tanh).")
    ] = "lstm",
    hidden: Annotated[int, number(HIDDEN, "Hidden units H.")] = 1024,
    batch: Annotated[int, number(BATCH, "Sequences B.")] = 16,
    dtype: Annotated[str, typer.Option(help="bf16, fp16, fp32:tf32 or fp32:ieee.")] = "bf16",
    device: Annotated[
        str | None,
        typer.Option(
            help="Plan and compile for a GPU of kernels/plan/devices.py, without timing. By "
            "default this machine's GPU, else h100."
        ),
    ] = None,
) -> None:
    """Time the persistent loop with one part left out at a time, or count its instructions."""
    # Here, so that --help need not wait for torch, which the kernels import.
    from bench.compiler import profile, resources
    from kernels.plan.devices import DEVICES

    cell = find_cell(cell, resources.CELL_NAMES)
    check_choice("dtype", dtype, resources.NUMBERS)
    if device is not None:
        check_choice("device", device, DEVICES)
    here = profile.present_device() if device is None else None
    if here is not None:
        toolchain.check()
    target = here or DEVICES[device or "h100"]
    profile.report(target, cell, hidden, batch, dtype, timed=here is not None)
    if here is None:
        why = "no GPU here" if device is None else "with --device"
        print(f"{why}: times left out; counts are of machine instructions in the loop over time")
