"""A plan in words: what each program does, what stays on chip, how long a step should take."""

from kernels.cost import Cost
from kernels.devices import Device
from kernels.plan import Plan, Problem

PARTS = {
    "barrier_us": "barrier",
    "gather_us": "gather from L2",
    "weights_us": "weights from shared memory",
    "stream_us": "weights from L2",
    "product_us": "arithmetic",
    "gates_us": "pointwise",
    "memory_us": "device memory",
    "launch_us": "launches",
    "host_us": "Python's launching",
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
