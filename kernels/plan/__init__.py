"""Which tile a program owns, what stays on chip, how many programs run: arithmetic, no GPU.

A plan holds every number that a launch needs. `forward_plan` and `backward_plan` take, of all cuts
that fit the device (`tiles.py`), the one with the least expected time per step (`cost.py`), or the
per-step GEMM where that is expected to win; `launch.py` obeys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from . import cost
from .cost import Cost
from .devices import DEVICES as DEVICES
from .devices import Device as Device
from .tiles import Problem as Problem
from .tiles import Tile, backward_tiles, forward_tiles, power_of_two

# "auto-graph" chooses as "auto" does, for calls that a CUDA graph replays.
MODES = ("auto", "auto-graph", "persistent", "stepwise", "gemm")
# No compiler gives a thread more, so what fits with as many is certain to run at once.
MOST_REGISTERS = {"sm": 255, "gfx": 512}
# A grid is a 32-bit number.
MOST_PROGRAMS = 2**31 - 1
# Units and sequences of a program that only does the pointwise part beside a GEMM.
POINTWISE_UNITS = 32
POINTWISE_BATCH = 8
POINTWISE_BYTES = 16  # of shared memory for each: its four activations change owner


@dataclass(frozen=True)
class Plan:
    """Everything a launch needs to know; `mode`, `reason` and `cost` are shown to the user."""

    mode: str  # "persistent", "stepwise" or "gemm"
    reason: str
    units: int  # hidden units whose product one program computes
    split: int  # programs that share those units' product (backward)
    block_b: int
    block_k: int
    chunks: int  # chunks of K in all
    resident: int  # of them, those whose weights stay on chip
    ahead: int  # chunks of the operand that are under way at once
    group: int  # programs that exchange the state, and so wait for each other
    batch_groups: int
    tiles: int  # batch tiles that each program serves in turn
    directions: int
    num_warps: int
    registers: int | None  # of a thread, at most, as the compiler is told; None leaves it free
    shared_bytes: int  # of one program, at most
    capacity: int  # programs that are certain to run at once
    cost: Cost

    @property
    def programs(self) -> int:
        return self.group * self.batch_groups * self.directions

    @property
    def floor_us(self) -> float:
        """Expected microseconds per time step."""
        return self.cost.floor_us


def forward_plan(problem: Problem, device: Device, mode: str = "auto") -> Plan:
    """The forward loop's plan.

    Raises:
        ValueError: for an unknown mode, or mode "persistent" where no persistent cut fits.
    """
    return _plan(problem, device, mode, backward=False)


def backward_plan(problem: Problem, device: Device, mode: str = "auto") -> Plan:
    """The backward loop's plan; raises as `forward_plan`."""
    return _plan(problem, device, mode, backward=True)


@lru_cache(maxsize=4096)
def _plan(problem: Problem, device: Device, mode: str, backward: bool) -> Plan:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; accepted: {', '.join(MODES)}")
    outside = gemm(problem, device, backward, replayed=mode == "auto-graph")
    if mode == "gemm":
        return replace(outside, reason="asked for")
    best = min(persistent_plans(problem, device, backward), key=lambda p: p.floor_us, default=None)
    if mode == "stepwise":
        base = best or _any_that_fits(problem, device, backward)
        return replace(stepwise(base, problem.B), cost=_stepwise_cost(problem, device, base))
    if best is None:
        reason = _why_none_fits(problem, device, backward)
        if mode == "persistent":
            raise ValueError(f"mode='persistent' cannot run: {reason}")
        return replace(outside, reason=f"no persistent loop: {reason}")
    compared = (
        f"{best.floor_us:.1f} µs a step expected, {outside.floor_us:.1f} with a GEMM per step"
    )
    if mode == "persistent":
        return replace(best, reason=f"asked for: {compared}")
    if outside.floor_us < best.floor_us:
        reason = (
            f"a GEMM per step is expected to take {outside.floor_us:.1f} µs, "
            f"the persistent loop {best.floor_us:.1f} µs"
        )
        return replace(outside, reason=reason)
    held = "one program holds a batch tile's whole state"
    if best.group > 1:
        share = (
            "all" if best.resident == best.chunks else f"{best.resident} of {best.chunks} chunks"
        )
        held = f"{best.group} programs hold {share} of the weights"
    return replace(best, reason=f"{held}: {compared}")


def persistent_plans(problem: Problem, device: Device, backward: bool) -> Iterator[Plan]:
    """Every persistent plan that is certain to fit, in an order that prefers the simpler."""
    for tile in backward_tiles(problem) if backward else forward_tiles(problem):
        found = tile.residency(device)
        if found is None:
            continue
        resident, ahead, shared = found
        threads = tile.num_warps * device.warp
        fit = device.occupancy(shared, most_registers(device, threads), threads)
        batch_tiles = -(-problem.B // tile.block_b)
        for per_multiprocessor in dict.fromkeys((1, fit)):
            capacity = device.multiprocessors * per_multiprocessor
            batch_groups = batch_tiles
            if not tile.alone:
                batch_groups = min(batch_tiles, capacity // (tile.group * problem.directions))
            elif batch_tiles * problem.directions > MOST_PROGRAMS:
                continue
            if batch_groups == 0:
                continue
            tiles = -(-batch_tiles // batch_groups)
            batch_groups = -(-batch_tiles // tiles)
            yield _from_tile(
                problem, device, tile, resident, ahead, shared, batch_groups, tiles, capacity
            )


def most_registers(device: Device, threads: int) -> int:
    """The most registers that a thread of a program with so many threads can have."""
    most = next(n for name, n in MOST_REGISTERS.items() if device.architecture.startswith(name))
    return min(most, device.registers // threads)


def register_limit(device: Device, tile: Tile, resident: int) -> int | None:
    """The limit on a thread's registers that the compiler is told, or None.

    Told none, ptxas may spill a register so that more programs fit than ever run. With one it
    prefetches all it can, which is too much where tensor cores take streamed weights.
    """
    if resident < tile.chunks and not tile.exact:
        return None
    return most_registers(device, tile.num_warps * device.warp)


def _from_tile(
    problem: Problem,
    device: Device,
    tile: Tile,
    resident: int,
    ahead: int,
    shared: int,
    batch_groups: int,
    tiles: int,
    capacity: int,
) -> Plan:
    return Plan(
        mode="persistent",
        reason="",
        units=tile.units,
        split=tile.split,
        block_b=tile.block_b,
        block_k=tile.block_k,
        chunks=tile.chunks,
        resident=resident,
        ahead=ahead,
        group=tile.group,
        batch_groups=batch_groups,
        tiles=tiles,
        directions=problem.directions,
        num_warps=tile.num_warps,
        registers=register_limit(device, tile, resident),
        shared_bytes=shared,
        capacity=capacity,
        cost=cost.persistent(problem, device, tile, resident, ahead, batch_groups, tiles),
    )


def gemm(problem: Problem, device: Device, backward: bool, replayed: bool) -> Plan:
    """The plan with a GEMM per step outside: the kernels only do the pointwise part."""
    block_b = min(POINTWISE_BATCH, power_of_two(problem.B))
    units = min(POINTWISE_UNITS, max(16, power_of_two(problem.H)))
    batch_groups = -(-problem.B // block_b)
    return Plan(
        mode="gemm",
        reason="",
        units=units,
        split=1,
        block_b=block_b,
        block_k=16,
        chunks=0,
        resident=0,
        ahead=1,
        group=-(-problem.H // units),
        batch_groups=batch_groups,
        tiles=1,
        directions=problem.directions,
        num_warps=4,
        registers=most_registers(device, 4 * device.warp),
        shared_bytes=POINTWISE_BYTES * units * block_b,
        capacity=MOST_PROGRAMS,
        cost=cost.per_step_gemm(problem, device, backward, replayed),
    )


def stepwise(plan: Plan, batch: int) -> Plan:
    """The same tiles, launched once for each step: every batch tile has programs of its own."""
    tiles = -(-batch // plan.block_b)
    return replace(
        plan, mode="stepwise", reason="asked for", batch_groups=tiles, tiles=1,
        capacity=MOST_PROGRAMS,
    )  # fmt: skip


def _any_that_fits(problem: Problem, device: Device, backward: bool) -> Plan:
    """A plan for stepwise launches where no group can be on the device at once."""
    for tile in backward_tiles(problem) if backward else forward_tiles(problem):
        found = tile.residency(device)
        if found is not None:
            batch_groups = -(-problem.B // tile.block_b)
            return _from_tile(problem, device, tile, *found, batch_groups, 1, MOST_PROGRAMS)
    raise ValueError(f"no tile of H={problem.H} fits {device.shared_bytes} bytes of shared memory")


def _stepwise_cost(problem: Problem, device: Device, base: Plan) -> Cost:
    weights = problem.gates * problem.H**2 * problem.directions * problem.size
    return cost.stepwise(device, base.cost, base.split, weights)


def _why_none_fits(problem: Problem, device: Device, backward: bool) -> str:
    tiles = backward_tiles(problem) if backward else forward_tiles(problem)
    groups = [tile.group for tile in tiles if tile.residency(device) is not None]
    if not groups:
        return f"no tile of H={problem.H} fits {device.shared_bytes} bytes of shared memory"
    return (
        f"a group of {min(groups)} programs in {problem.directions} direction(s) exceeds the "
        f"{device.multiprocessors} that are certain to run at once"
    )
