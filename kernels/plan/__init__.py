"""The plan of a launch: tiling, what stays on chip, how many programs run. Needs neither a GPU nor
torch.

`forward_plan` and `backward_plan` take, of all tiles that fit the device (`tiles.py`), the one with
the least expected time per step (`cost.py`), or a GEMM per step where that is expected to win.
Other folders import from here, `devices` (GPUs by name) and `cost`; `tiles` is private.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from . import cost
from .cost import Cost
from .devices import DEVICES as DEVICES
from .devices import Device as Device
from .tiles import Problem as Problem
from .tiles import Residency, Tile, backward_tiles, forward_tiles, power_of_two

# "auto-graph" chooses as "auto" does, for calls that a CUDA graph replays.
MODES = ("auto", "auto-graph", "persistent", "stepwise", "gemm")
# Hardware maximum of registers per thread; a grid that fits at it is co-resident.
MOST_REGISTERS = {"sm": 255, "gfx": 512}
# A grid is a 32-bit number.
MOST_PROGRAMS = 2**31 - 1
# Units and sequences of a program that computes only the pointwise part, in mode "gemm".
POINTWISE_UNITS = 32
POINTWISE_BATCH = 8
POINTWISE_BYTES = 16  # of shared memory for each pair, at most, to change layouts


@dataclass(frozen=True)
class Plan:
    """How a loop is launched; `reason` and `cost` say why so."""

    mode: str  # "persistent", "stepwise" or "gemm"
    reason: str
    units: int  # hidden units whose product one program computes
    split: int  # programs that divide the K of that product among them (backward)
    block_b: int
    block_k: int
    chunks: int  # chunks of K in all
    resident: int  # of them, those whose weights stay on chip
    ahead: int  # chunks of the operand in flight
    group: int  # programs that exchange the state at a barrier; 1 has none
    batch_groups: int
    tiles: int  # batch tiles that each program computes one after another
    directions: int
    num_warps: int
    registers: int | None  # the compiler's limit for a thread; None sets none
    shared_bytes: int  # of one program, at most
    capacity: int  # programs that are certain to be co-resident
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
        ValueError: for an unknown mode, or mode "persistent" where no persistent plan fits.
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
        base = best or first_fitting_tile(problem, device, backward)
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
    """Every persistent plan whose programs are certain to be co-resident, the simplest first."""
    for tile in backward_tiles(problem) if backward else forward_tiles(problem):
        residency = tile.residency(device)
        if residency is None:
            continue
        threads = tile.num_warps * device.warp
        registers = most_registers(device, threads)
        fit = device.occupancy(residency.shared_bytes, registers, threads)
        batch_tiles = -(-problem.B // tile.block_b)
        for per_multiprocessor in dict.fromkeys((1, fit)):
            capacity = device.multiprocessors * per_multiprocessor
            batch_groups = batch_tiles
            if not tile.single_program:
                batch_groups = min(batch_tiles, capacity // (tile.group * problem.directions))
            elif batch_tiles * problem.directions > MOST_PROGRAMS:
                continue
            if batch_groups == 0:
                continue
            tiles = -(-batch_tiles // batch_groups)
            batch_groups = -(-batch_tiles // tiles)
            yield _from_tile(problem, device, tile, residency, batch_groups, tiles, capacity)


def most_registers(device: Device, threads: int) -> int:
    """The most registers of a thread, in a program of so many threads."""
    most = next(n for name, n in MOST_REGISTERS.items() if device.architecture.startswith(name))
    return min(most, device.registers // threads)


def register_limit(device: Device, tile: Tile, resident: int) -> int | None:
    """The limit on a thread's registers for the compiler, or None.

    Without a limit ptxas may spill registers to make more programs resident than a launch has. With
    one it prefetches as much as fits, which is too much where tensor cores take streamed weights.
    """
    if resident < tile.chunks and not tile.exact:
        return None
    return most_registers(device, tile.num_warps * device.warp)


def _from_tile(
    problem: Problem,
    device: Device,
    tile: Tile,
    residency: Residency,
    batch_groups: int,
    tiles: int,
    capacity: int,
) -> Plan:
    resident, ahead, shared = residency
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
    """The plan with a GEMM per step: the kernels compute only the pointwise part."""
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
    """The same tiles with a launch for each step; every batch tile has programs of its own."""
    tiles = -(-batch // plan.block_b)
    return replace(
        plan, mode="stepwise", reason="asked for", batch_groups=tiles, tiles=1,
        capacity=MOST_PROGRAMS,
    )  # fmt: skip


def first_fitting_tile(problem: Problem, device: Device, backward: bool) -> Plan:
    """A plan for stepwise launches where no group can be co-resident."""
    for tile in backward_tiles(problem) if backward else forward_tiles(problem):
        residency = tile.residency(device)
        if residency is not None:
            batch_groups = -(-problem.B // tile.block_b)
            return _from_tile(problem, device, tile, residency, batch_groups, 1, MOST_PROGRAMS)
    raise ValueError(f"no tile of H={problem.H} fits {device.shared_bytes} bytes of shared memory")


def _stepwise_cost(problem: Problem, device: Device, base: Plan) -> Cost:
    weights = problem.gates * problem.H**2 * problem.directions * problem.size
    weights *= -(-problem.B // base.block_b)  # each batch tile's programs read them
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
