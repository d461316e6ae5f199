"""Which tile a program owns, what stays on chip, and how many programs run: pure arithmetic, no GPU.

A plan holds every number that a launch needs. `forward_plan` and `backward_plan` choose it from the
problem and the device's limits; `launch.py` obeys it.
"""

from dataclasses import dataclass, replace

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Device:
    """The limits that a plan obeys. Sizes in bytes."""

    name: str
    multiprocessors: int
    shared_bytes: int  # most shared memory that one program may use


# Limits from each vendor's architecture documents.
DEVICES = {
    "a100": Device("a100", 108, 166912),
    "h100": Device("h100", 132, 232448),
    "h200": Device("h200", 132, 232448),
    "b200": Device("b200", 148, 232448),
    "rtx4090": Device("rtx4090", 128, 101376),
    "mi300x": Device("mi300x", 304, 65536),
}


@dataclass(frozen=True)
class Problem:
    """One recurrence: what `forward_plan` and `backward_plan` choose for."""

    gates: int
    B: int
    H: int
    directions: int
    dtype: str
    precision: str = "ieee"


@dataclass(frozen=True)
class Plan:
    """Everything a launch needs to know; `mode` and `reason` are shown to the user."""

    mode: str  # "persistent", "stepwise" or "gemm"
    reason: str
    units: int  # hidden units whose product one program computes
    split: int  # programs that share those units' product (backward)
    block_b: int
    block_k: int
    chunks: int  # chunks of K in all
    resident: int  # of them, those whose weights stay on chip
    ahead: int
    group: int  # programs that exchange the state, and so wait for each other
    batch_groups: int
    tiles: int  # batch tiles that each program serves in turn
    directions: int
    num_warps: int
    shared_bytes: int

    @property
    def programs(self) -> int:
        return self.group * self.batch_groups * self.directions


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def forward_plan(problem: Problem, device: Device, mode: str = "auto") -> Plan:
    """The forward kernel's plan: a program owns `units` hidden units, all their gates and all of K."""
    padded = 1 if problem.gates == 1 else 4
    lone = max(16, power_of_two(problem.H))
    size = BYTES[problem.dtype]
    block_b = min(32, max(16, power_of_two(problem.B)))
    if padded * lone * lone * size + lone * block_b * size <= device.shared_bytes * 3 // 4:
        units, block_k, chunks = lone, lone, 1
    else:
        units, block_k = 64 // padded, 256 // size
        chunks = -(-problem.H // block_k)
    return _finish(problem, device, mode, units, 1, padded * units, block_b, block_k, chunks)


def backward_plan(problem: Problem, device: Device, mode: str = "auto") -> Plan:
    """The backward kernel's plan: `split` programs share `units` units, each with its part of K."""
    lone = max(16, power_of_two(problem.H))
    size = BYTES[problem.dtype]
    block_b = min(32, max(16, power_of_two(problem.B)))
    if problem.gates * lone * lone * size + lone * block_b * size <= device.shared_bytes * 3 // 4:
        units, split, block_k, chunks = lone, 1, lone, problem.gates
    else:
        units, split, block_k = 64, 1 if problem.gates == 1 else 4, 256 // size
        chunks = -(-problem.gates * problem.H // (split * block_k))
    return _finish(problem, device, mode, units, split, units, block_b, block_k, chunks)


def _finish(problem, device, mode, units, split, rows, block_b, block_k, chunks) -> Plan:
    """Residency, grid and mode for a chosen tile."""
    size = BYTES[problem.dtype]
    group = -(-problem.H // units) * split
    chunk_bytes, operand_bytes = rows * block_k * size, block_k * block_b * size
    ahead = min(chunks, 4)
    room = device.shared_bytes - (ahead + 1) * operand_bytes - 8192
    resident = min(chunks, max(0, room // chunk_bytes))
    if group == 1:
        resident = chunks
    ahead = max(1, min(ahead, resident))
    batch_tiles = -(-problem.B // block_b)
    reason = "one program holds a batch tile's whole state" if group == 1 else "the group fits at once"
    chosen = "persistent"
    batch_groups = batch_tiles
    if group > 1:
        batch_groups = min(batch_tiles, device.multiprocessors // (group * problem.directions))
        if batch_groups == 0:
            chosen = "stepwise"
            reason = (
                f"a group of {group} programs in {problem.directions} direction(s) exceeds "
                f"the {device.multiprocessors} that run at once"
            )
            batch_groups = batch_tiles
    if mode == "stepwise":
        chosen, reason, batch_groups = "stepwise", "asked for", batch_tiles
    elif mode == "persistent" and chosen != "persistent":
        raise ValueError(f"mode='persistent' cannot run: {reason}")
    tiles = -(-batch_tiles // batch_groups)
    return Plan(
        mode=chosen,
        reason=reason,
        units=units,
        split=split,
        block_b=block_b,
        block_k=block_k,
        chunks=chunks,
        resident=resident,
        ahead=ahead,
        group=group,
        batch_groups=batch_groups,
        tiles=tiles,
        directions=problem.directions,
        num_warps=8 if rows * block_b >= 64 * 64 else 4,
        shared_bytes=resident * chunk_bytes + (ahead + 1) * operand_bytes,
    )


def stepwise(plan: Plan, batch: int) -> Plan:
    """The same tiles, launched once for each step: every batch tile has programs of its own."""
    tiles = -(-batch // plan.block_b)
    return replace(plan, mode="stepwise", reason="asked for", batch_groups=tiles, tiles=1)
