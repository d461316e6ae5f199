"""``python -m bench plan``: how a case would run on a GPU, what it needs, how long a step takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bench.cases import CELLS
from kernels.cost import Cost
from kernels.devices import DEVICES, Device
from kernels.plan import MODES, Plan, Problem, backward_plan, forward_plan

NUMBERS = {
    "bf16": ("bfloat16", "ieee"),
    "fp16": ("float16", "ieee"),
    "fp32": ("float32", "ieee"),
    "fp32:ieee": ("float32", "ieee"),
    "fp32:tf32": ("float32", "tf32"),
}
# Beyond these one layer's weights, or one step's states, fill any GPU's memory.
MOST_HIDDEN, MOST_BATCH = 1 << 16, 1 << 22
PASSES = {"forward": ("forward",), "backward": ("backward",), "both": ("forward", "backward")}
PARTS = {
    "barrier_us": "barrier",
    "gather_us": "gather from L2",
    "weights_us": "weights from shared memory",
    "stream_us": "weights from L2",
    "product_us": "arithmetic",
    "gates_us": "pointwise",
    "memory_us": "device memory",
    "launch_us": "launches",
}


def describe(plan: Plan, problem: Problem, device: Device, loop: str) -> list[str]:
    """A plan in words, a fact a line."""
    lines = [f"{loop}: {plan.mode}", f"  why        {plan.reason}"]
    if plan.mode == "gemm":
        lines.append("  product    a GEMM per step by torch's library, between steps of the kernel")
    else:
        rows = plan.units if loop == "backward" or problem.gates == 1 else 4 * plan.units
        part = f", 1/{plan.split} of K each" if plan.split > 1 else ""
        chunk = rows * plan.block_k * problem.size
        lines += [
            f"  program    {plan.units} units x {plan.block_b} sequences{part}, "
            f"{plan.num_warps} warps",
            f"  weights    {plan.resident} of {plan.chunks} chunks of {rows} x {plan.block_k} "
            f"stay on chip: {plan.resident * chunk:,} bytes; "
            f"{plan.ahead} chunks of the operand under way",
            f"  shared     {plan.shared_bytes:,} of {device.shared_bytes:,} bytes "
            f"({plan.shared_bytes / device.shared_bytes:.0%})",
        ]
    served = f", each serving {plan.tiles} batch tiles" if plan.tiles > 1 else ""
    lines.append(
        f"  programs   {plan.programs:,} = {plan.group} a group x {plan.batch_groups:,} of the "
        f"batch x {plan.directions} direction(s){served}"
    )
    if plan.mode == "persistent" and plan.group > 1:
        lines.append(f"  capacity   {plan.capacity} programs are certain to run at once")
    elif plan.mode == "persistent":
        lines.append("  capacity   any number: no program waits for another")
    return [*lines, *costs(plan.cost)]


def costs(cost: Cost) -> list[str]:
    """The expected time of a step by part; parts overlap, so they may add up to more."""
    parts = [
        f"{words} {value:.2f}"
        for name, words in PARTS.items()
        if (value := getattr(cost, name)) >= 0.005
    ]
    return [f"  a step     {cost.floor_us:.2f} µs expected: {', '.join(parts)}"]


def command(
    cell: Annotated[str, typer.Option(help=f"One of {', '.join(CELLS)}.")] = "lstm",
    hidden: Annotated[int, typer.Option(help="Hidden units H.")] = 1024,
    batch: Annotated[int, typer.Option(help="Sequences B.")] = 16,
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}.")] = "h100",
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(NUMBERS)}.")] = "bf16",
    pass_: Annotated[str, typer.Option("--pass", help="forward, backward or both.")] = "both",
    directions: Annotated[int, typer.Option(help="1, or 2 for both time directions.")] = 1,
    mode: Annotated[str, typer.Option(help="auto, persistent, stepwise or gemm.")] = "auto",
) -> None:
    """Show which program does what, what stays on chip, and the expected time of a step.

    Pure arithmetic from the device's limits: needs no GPU. The times are a model's, not measured.
    """
    accept("cell", cell, CELLS)
    accept("device", device, DEVICES)
    accept("dtype", dtype, NUMBERS)
    accept("pass", pass_, PASSES)
    accept("directions", directions, (1, 2))
    accept("mode", mode, MODES)
    for name, size, most in (("hidden", hidden, MOST_HIDDEN), ("batch", batch, MOST_BATCH)):
        if not 1 <= size <= most:
            raise ValueError(f"{name} is {size}; accepted: an integer from 1 to {most}")
    limits = DEVICES[device]
    problem = Problem(CELLS[cell].gates, batch, hidden, directions, *NUMBERS[dtype])
    print(
        f"{cell}, H={hidden}, B={batch}, {directions} direction(s), {dtype} on {device} "
        f"({limits.architecture}, {limits.multiprocessors} multiprocessors)"
    )
    for loop in PASSES[pass_]:
        plan = (forward_plan if loop == "forward" else backward_plan)(problem, limits, mode)
        print(*describe(plan, problem, limits, loop), sep="\n")


def accept(name: str, value: Any, accepted: Any) -> None:
    if value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted: {', '.join(map(str, accepted))}")
