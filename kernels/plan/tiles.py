"""The tilings of the loop into programs, and what each needs on chip: arithmetic only.

The forward kernel's left operand has `rows = units * padded gates` rows and K = H columns; the
backward kernel's has `units` rows and K = G*H columns, which `split` programs share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .devices import Device

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# wgmma multiplies 64 rows at a time; exact float32 products use no tensor cores.
TENSOR_ROWS = 64
EXACT_ROWS = 32
# Sequences of a batch tile. wgmma needs N >= 16; N = 8 falls back to mma.sync, acceptable only for
# short K in single-program tiles.
BATCH_TILES = (8, 16, 32, 64)
LEAST_GROUP_TILE = 16
# Most rows (forward) or columns (backward) of a single-program tile: what shared memory and
# registers hold.
SINGLE_ROWS, EXACT_SINGLE_ROWS = 512, 128
EXACT_SINGLE_COLUMNS = 64  # of one gate
# Unit-and-sequence pairs of a thread: beyond the first number a program gets more warps; the others
# are the most that fit in registers without a spill, with a narrow and a wide operand in flight.
SINGLE_OWNED, MOST_OWNED, MOST_OWNED_WIDE = 4, 8, 4
# With the widest batch tile: most chunks of a program, and fewest of its operand in flight; beyond
# either, registers spill.
WIDEST_TILE, WIDEST_CHUNKS, WIDEST_AHEAD = 64, 16, 3
# Bytes of one row of a chunk of weights. Half of it for wide batch tiles, whose operand is larger,
# and for exact products, which hold a chunk's factors in registers; in the backward pass, whose
# weights need more addresses, exact products take a half of that half, wide tiles a quarter.
CHUNK_BYTES = 512
SHORTEST_CHUNK = 16  # columns, which a product on the device must have
# The same for streamed chunks of four-byte numbers, whose loads take registers; half of it for wide
# batch tiles in the backward pass.
STREAM_BYTES = 256
# Registers per thread (of 255) for the operand's chunks in flight; exact products leave fewer: they
# hold their factors in registers too.
OPERAND_REGISTERS, EXACT_OPERAND_REGISTERS = 64, 16


@dataclass(frozen=True)
class Problem:
    """One recurrence: cell (by its gates), sizes, number type and the products' precision."""

    gates: int
    B: int
    H: int
    directions: int
    dtype: str  # "float32", "float16", "bfloat16"
    precision: str = "ieee"  # of float32 products: "ieee", "tf32" or "tf32x3"

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return BYTES[self.dtype]

    @property
    def exact(self) -> bool:
        """Whether products are in exact float32, so that no tensor core takes them."""
        return self.dtype == "float32" and self.precision == "ieee"

    @property
    def states(self) -> int:
        """State tensors, for the model of memory: those of torch's cells. An sLSTM has more."""
        return 2 if self.gates == 4 else 1


class Residency(NamedTuple):
    """How many chunks stay on chip, how many of the operand are in flight, and the bytes of shared
    memory for both.
    """

    resident: int
    ahead: int
    shared_bytes: int


@dataclass(frozen=True)
class Tile:
    """The units and sequences of one program, and its chunks of K."""

    backward: bool
    group: int  # programs that share a batch tile
    units: int
    split: int
    rows: int
    block_b: int
    block_k: int
    chunks: int
    num_warps: int
    size: int
    exact: bool

    @property
    def single_program(self) -> bool:
        """Whether the program is a group by itself, so that it waits for no other."""
        return self.group == 1

    @property
    def chunk_bytes(self) -> int:
        return self.rows * self.block_k * self.size

    @property
    def operand_bytes(self) -> int:
        return self.block_k * self.block_b * self.size

    def shared_bytes(self, resident: int, ahead: int) -> int:
        """Most shared memory: the resident weights, and the chunks in flight or, if larger, the
        product while it changes its layout.
        """
        exchange = self.rows * self.block_b * 4  # the product as each thread holds it
        if self.single_program and self.backward:
            window = max((self.chunks + 1) * self.operand_bytes, 2 * exchange)
        elif self.single_program:
            window = exchange * 3 // 2 + 2 * self.units * self.block_b * 4 + 128
        else:
            window = (resident if ahead >= resident else ahead + 1) * self.operand_bytes
            if resident < self.chunks:
                window += STREAM_STAGES * (self.chunk_bytes + self.operand_bytes)
        signals = SIGNAL_BYTES * (self.chunks + 2)
        return resident * self.chunk_bytes + max(window, exchange) + signals

    def residency(self, device: Device) -> Residency | None:
        """As many resident chunks as fit, then as many in flight; None if the tile does not fit."""
        threads = self.num_warps * device.warp
        room = EXACT_OPERAND_REGISTERS if self.exact else OPERAND_REGISTERS
        most = max(1, room * 4 * threads // self.operand_bytes)
        for resident in range(self.chunks, -1, -1):
            if resident < self.chunks and not self.streams:
                return None
            least = 1
            if self.block_b == WIDEST_TILE and not self.single_program:
                least = min(WIDEST_AHEAD, resident)
            for ahead in range(max(1, min(most, resident)), least - 1, -1):
                shared = self.shared_bytes(resident, ahead)
                if shared <= device.shared_bytes:
                    return Residency(resident, ahead, shared)
        return None

    @property
    def streams(self) -> bool:
        """Whether chunks may be streamed without a register spill."""
        if self.single_program or self.block_b == WIDEST_TILE:
            return False
        halves = 2 if self.backward and self.block_b > LEAST_GROUP_TILE else 1
        return self.size < 4 or self.block_k * self.size <= STREAM_BYTES // halves


# Bytes of an mbarrier: on Blackwell each chunk of a product has one, and a program two more.
SIGNAL_BYTES = 128
# Chunks of weights and operand that the compiler's pipeline keeps in flight in the streaming loop.
STREAM_STAGES = 3


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def forward_tiles(problem: Problem) -> Iterator[Tile]:
    """All tiles of the forward loop that the kernels are compiled and tested for."""
    padded = 1 if problem.gates == 1 else 4
    units = max(16, power_of_two(problem.H))
    rows = EXACT_ROWS if problem.exact else TENSOR_ROWS
    least = 8 if problem.exact else LEAST_GROUP_TILE
    for block_b in batch_tiles(problem):
        if units * padded <= (EXACT_SINGLE_ROWS if problem.exact else SINGLE_ROWS):
            yield from single_program_tiles(problem, False, units, padded * units, block_b, 1)
        if rows // padded < problem.H and block_b >= least:
            yield from group_tiles(problem, False, rows // padded, rows, block_b, 1)


def backward_tiles(problem: Problem) -> Iterator[Tile]:
    """All tiles of the backward loop that the kernels are compiled and tested for."""
    units = max(16, power_of_two(problem.H))
    rows = EXACT_ROWS if problem.exact else TENSOR_ROWS
    least = 8 if problem.exact else LEAST_GROUP_TILE
    for block_b in batch_tiles(problem):
        fits = units * problem.gates <= (EXACT_SINGLE_ROWS if problem.exact else SINGLE_ROWS)
        if fits and not (problem.exact and units > EXACT_SINGLE_COLUMNS):
            yield from single_program_tiles(problem, True, units, units, block_b, problem.gates)
        for split in (1, 2, 4):
            if (rows < problem.H or split > 1) and block_b >= least:
                yield from group_tiles(problem, True, rows, rows, block_b, split)


def single_program_tiles(
    problem: Problem, backward: bool, units: int, rows: int, block_b: int, chunks: int
) -> Iterator[Tile]:
    """Tiles with one program for each batch tile.

    Its weights are one chunk (forward) or one per gate (backward).
    """
    num_warps = min(8, max(4, units * block_b // (32 * SINGLE_OWNED)))
    if units * block_b <= num_warps * 32 * MOST_OWNED:
        yield Tile(
            backward, 1, units, 1, rows, block_b, units, chunks, num_warps, problem.size,
            problem.exact,
        )  # fmt: skip


def group_tiles(
    problem: Problem, backward: bool, units: int, rows: int, block_b: int, split: int
) -> Iterator[Tile]:
    """Tiles with a group of programs for each batch tile, and longer or shorter chunks of K."""
    num_warps = 8 if rows * block_b >= 64 * 64 else 4
    most = MOST_OWNED if block_b <= 16 else MOST_OWNED_WIDE
    if units // split * block_b > num_warps * 32 * most:
        return
    K = problem.H * (problem.gates if backward else 1)
    wide = block_b > 16 or problem.exact
    longest = CHUNK_BYTES // 2 if wide else CHUNK_BYTES
    if problem.exact and backward:
        longest //= 4 if block_b > LEAST_GROUP_TILE else 2
    lengths = (longest // problem.size, longest // problem.size // 2)
    for block_k in dict.fromkeys(max(SHORTEST_CHUNK, length) for length in lengths):
        block_k = min(block_k, max(SHORTEST_CHUNK, power_of_two(-(-K // split))))
        chunks = -(-K // (split * block_k))
        if block_b == WIDEST_TILE and chunks > WIDEST_CHUNKS:
            continue
        yield Tile(
            backward, -(-problem.H // units) * split, units, split, rows, block_b, block_k,
            chunks, num_warps, problem.size,
            problem.exact,
        )  # fmt: skip


def batch_tiles(problem: Problem) -> list[int]:
    """Tiles that are not much too large for the batch."""
    least = 16 if problem.size == 4 and not problem.exact else 8
    most = max(LEAST_GROUP_TILE, power_of_two(problem.B))
    return [b for b in BATCH_TILES if least <= b <= most]
