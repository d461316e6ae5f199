"""``python -m bench plan``: how a case would run on a GPU, what it needs, how long a step takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cases.arguments import BATCH, DIRECTIONS, HIDDEN, check_choice
from bench.cases.cases import CELLS, cell_words, find_cell
from bench.cases.numbers import kernel_format, split_number_type
from bench.cli.options import number

if TYPE_CHECKING:
    from kernels.plan import Plan, Problem
    from kernels.plan.devices import Device, Rates

NUMBERS = ("bf16", "fp16", "fp32", "fp32:ieee", "fp32:tf32")
PASSES = {"forward": ("forward",), "backward": ("backward",), "both": ("forward", "backward")}
# The parts of a step's expected time, by the fields of `Cost`.
PARTS = {
    "barrier_us": "barrier",
    "gather_us": "gather from L2",
    "weights_us": "weights from shared memory",
    "exchange_us": "operand through shared memory",
    "stream_us": "weights from L2",
    "product_us": "arithmetic",
    "gates_us": "pointwise",
    "memory_us": "device memory",
    "launch_us": "launches",
    "host_us": "Python's launching",
}
# For each field of `Rates`: what it is, its unit, and its origin unless --limits replaced it.
RATES = {
    "clock_ghz": ("clock", "GHz", "published"),
    "barriers_us": ("barrier, by programs", "µs", "assumed"),
    "split_barrier": ("its share among split-K programs", "", "assumed"),
    "latency_us": ("load from L2", "µs", "assumed"),
    "l2_bytes_per_clock": ("L2 to an SM", "bytes per clock", "published"),
    "l2_gbps": ("L2, all SMs", "GB/s", "assumed"),
    "l2_bytes": ("L2", "bytes", "published"),
    "hbm_gbps": ("device memory", "GB/s", "published"),
    "product_clocks": ("64 rows x 32 bytes of K, by sequences", "clocks", "from the peak"),
    "tensor": ("tensor cores, 16 bits", "operations per clock", "published"),
    "tensor_tf32": ("tensor cores, tf32", "operations per clock", "published"),
    "fma": ("exact float32", "operations per clock", "published"),
    "gemm_tflops": ("large GEMM", "TFLOP/s", "from the peak"),
    "launch_us": ("launch in a CUDA graph", "µs", "assumed"),
}
# Other origins of an H200's rates, and of an H100's if they are equal.
MEASURED, FITTED = "measured on an H200", "fitted to loops on an H200"
HOPPER = {
    "clock_ghz": MEASURED,
    "barriers_us": MEASURED,
    "split_barrier": FITTED,
    "latency_us": MEASURED,
    "l2_bytes_per_clock": FITTED,
    "hbm_gbps": MEASURED,
    "product_clocks": MEASURED,
    "gemm_tflops": MEASURED,
    "launch_us": MEASURED,
}
# The same for the constants of `kernels.plan.cost`, which --limits does not replace.
MODEL = {
    "HOST_KERNEL_US": ("Python's launch of a kernel", "µs", "of the host, not the card"),
    "HOST_GEMM_US": ("Python's call of a GEMM", "µs", "of the host, not the card"),
    "GEMM_US": ("a GEMM's latency", "µs", "assumed; fits an H200"),
    "STREAM_SHARE": ("of L2's rate, for a step's weights", "", "assumed; fits an H200"),
    "START_US": ("start of a step's own launch", "µs", "fitted to an H200"),
    "EXCHANGE_CLOCKS": ("a gate's exchange, single backward", "clocks", "fitted to an H200"),
    "TENSOR_SHARE": ("of the tensor cores' peak", "", "assumed"),
    "FMA_SHARE": ("of the exact peak", "", "assumed"),
    "SHARED_BYTES_PER_CLOCK": ("shared memory", "bytes per clock", "published"),
    "SINGLE_WARP_CLOCKS": ("an instruction, one warp an SM", "clocks", "assumed; fits an H200"),
    "SHARED_CLOCKS": ("the same, with other warps", "clocks", "assumed; fits an H200"),
    "GROUP_INSTRUCTIONS": ("instructions of a group's step", "", "fitted to compiled kernels"),
    "UNIT_INSTRUCTIONS": ("more, each unit and sequence", "", "fitted to compiled kernels"),
    "GATE_INSTRUCTIONS": ("more, each of its gates", "", "fitted to compiled kernels"),
    "PRODUCT_INSTRUCTIONS": ("more, each tensor-core one", "", "fitted to compiled kernels"),
}


@dataclass(frozen=True)
class LoopOptions:
    """The loop to plan."""

    cell: Annotated[str, typer.Option(help=f"One of {cell_words(CELLS)}.")] = "lstm"
    hidden: Annotated[int, number(HIDDEN, "Hidden units H.")] = 1024
    batch: Annotated[int, number(BATCH, "Sequences B.")] = 16
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(NUMBERS)}.")] = "bf16"
    directions: Annotated[int, number(DIRECTIONS, "1, or 2 for both time directions.")] = 1

    def problem(self) -> Problem:
        """The loop as the plan takes it.

        Raises:
            ValueError: for an option that is not accepted.
        """
        from kernels.plan import Problem

        check_choice("dtype", self.dtype, NUMBERS)
        gates = CELLS[find_cell(self.cell)].gates
        numbers = kernel_format(*split_number_type(self.dtype))
        return Problem(gates, self.batch, self.hidden, self.directions, *numbers)


def command(
    *,
    loop: LoopOptions,
    device: Annotated[
        str | None,
        typer.Option(help="A GPU of kernels/plan/devices.py; else the card of --limits, or h100."),
    ] = None,
    pass_: Annotated[str, typer.Option("--pass", help="forward, backward or both.")] = "both",
    mode: Annotated[str, typer.Option(help="auto, or one of kernels/plan/__init__.py.")] = "auto",
    limits: Annotated[
        Path | None,
        typer.Option(
            help="A limits.json or floor.json of `python -m bench floor`: use the rates measured "
            "on that card. Changes only what is shown here, not what a GPU runs."
        ),
    ] = None,
) -> None:
    """Show which program does what, what stays on chip, and the expected time of a step.

    Pure arithmetic from the device's limits: needs no GPU. The times are a model's, not measured;
    its constants are listed, each with its origin.
    """
    # Here, so that --help need not wait for torch, which the kernels import.
    from bench.gpu.measured_rates import select_device
    from kernels.plan import MODES, backward_plan, forward_plan
    from kernels.plan.devices import DEVICES

    if device is not None:
        check_choice("device", device, DEVICES)
    check_choice("pass", pass_, PASSES)
    check_choice("mode", mode, MODES)
    problem = loop.problem()
    card, measured = select_device(device, limits)
    print(
        f"{find_cell(loop.cell)}, H={loop.hidden}, B={loop.batch}, {loop.directions} direction(s), "
        f"{loop.dtype} on {card.name} ({card.architecture}, {card.multiprocessors} SMs)"
    )
    for which in PASSES[pass_]:
        plan = (forward_plan if which == "forward" else backward_plan)(problem, card, mode)
        print(*describe(plan, problem, card, which), sep="\n")
    print(*constants(card.rates, measured, limits), sep="\n")


def describe(plan: Plan, problem: Problem, device: Device, loop: str) -> list[str]:
    """The lines that describe a plan, one fact each."""
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
            f"{plan.ahead} chunks of the operand in flight",
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
    # The parts overlap, so they may add up to more than the whole.
    parts = [
        f"{words} {value:.2f}"
        for name, words in PARTS.items()
        if (value := getattr(plan.cost, name)) >= 0.005
    ]
    return [*lines, f"  a step     {plan.cost.floor_us:.2f} µs expected: {', '.join(parts)}"]


def constants(rates: Rates, measured: Collection[str], file: Path | None) -> list[str]:
    """The lines that list the cost model's constants, each with its origin."""
    from kernels.plan import cost
    from kernels.plan.devices import DEVICES

    hopper = DEVICES["h200"].rates
    count = f"{len(measured)} of {len(RATES)} rates measured ({file})"
    if file is None:
        count = "--limits FILE takes those that `python -m bench floor` measured on a card"
    lines = [f"constants: {count}"]
    for source, table in ((rates, RATES), (cost, MODEL)):
        for name, (words, unit, origin) in table.items():
            value = getattr(source, name)
            if name in HOPPER and value == getattr(hopper, name):
                origin = HOPPER[name]
            found = "measured" if name in measured else origin
            lines.append(f"  {words:<38} {format_value(value, unit)} [{found}]")
    return lines


def format_value(value: Any, unit: str) -> str:
    """A number with its unit, or a table's numbers by their keys."""
    if isinstance(value, tuple):
        table = ", ".join(f"{key}: {number:.4g}" for key, number in value)
        return f"{table} {unit}" if value else "not given"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"{shown} {unit}".rstrip()
