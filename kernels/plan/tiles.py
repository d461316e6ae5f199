"""How the loop can be cut into programs, and what each cut needs on chip: arithmetic only.

The forward kernel's left operand has `rows = units * padded gates` rows and K = H columns; the
backward kernel's has `units` rows and K = G*H columns, which `split` programs share.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .devices import Device

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Tensor cores of Hopper take 64 rows at a time; exact float32 products have no such unit.
TENSOR_ROWS = 64
EXACT_ROWS = 32
# Sequences of a batch tile. The compiler gives Hopper's tensor cores 16 at least; 8 go by older,
# slower instructions, which only a lone program's short product can afford.
BATCH_TILES = (8, 16, 32, 64)
LEAST_SHARED_TILE = 16
# A lone program's most rows (forward) or columns (backward): what its shared memory and registers
# hold.
LONE_ROWS, EXACT_LONE_ROWS = 512, 128
EXACT_LONE_COLUMNS = 64  # of one gate
# Unit-and-sequence pairs of a thread: what more warps are taken for, and what the compiler can keep
# in registers without spilling, beside a wide operand under way less.
LONE_OWNED, MOST_OWNED, MOST_OWNED_WIDE = 4, 8, 4
# Chunks of a program with the widest batch tile, and those of its operand under way: with more of
# the first or fewer of the second it spills.
WIDEST_TILE, WIDEST_CHUNKS, WIDEST_AHEAD = 64, 16, 3
# Bytes of one row of a chunk of weights; half for wide batch tiles, whose operand is larger, and
# for exact products, which hold a chunk's factors in registers. Exact products back in time, whose
# columns of weights take more addresses, have half as much again, or a quarter for wide tiles.
CHUNK_BYTES = 512
SHORTEST_CHUNK = 16  # columns, which a product on the device must have
# The same for streamed chunks of four-byte numbers, beside the registers that their loads take;
# half for wide batch tiles in the backward pass.
STREAM_BYTES = 256
# Registers per thread that the operand's chunks on their way may fill (of 255): exact products
# leave fewer, since they hold their factors in registers too.
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


@dataclass(frozen=True)
class Tile:
    """What one program owns and how it goes through K."""

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
    def alone(self) -> bool:
        """Whether one program holds the whole state, so that nobody waits for anybody."""
        return self.group == 1

    @property
    def chunk_bytes(self) -> int:
        return self.rows * self.block_k * self.size

    @property
    def operand_bytes(self) -> int:
        return self.block_k * self.block_b * self.size

    def shared_bytes(self, resident: int, ahead: int) -> int:
        """Shared memory, at most: resident weights; operand and streamed chunks under way, or the
        product on its way from one layout to another where that is more.
        """
        exchange = self.rows * self.block_b * 4  # the product as each thread holds it
        if self.alone and self.backward:
            window = max((self.chunks + 1) * self.operand_bytes, 2 * exchange)
        elif self.alone:
            window = exchange * 3 // 2 + 2 * self.units * self.block_b * 4 + 128
        else:
            window = (resident if ahead >= resident else ahead + 1) * self.operand_bytes
            if resident < self.chunks:
                window += STREAM_STAGES * (self.chunk_bytes + self.operand_bytes)
        signals = SIGNAL_BYTES * (self.chunks + 2)
        return resident * self.chunk_bytes + max(window, exchange) + signals

    def residency(self, device: Device) -> tuple[int, int, int] | None:
        """The most resident chunks, with them the most ahead, and the shared memory they need;
        None where not even the stream fits.
        """
        threads = self.num_warps * device.warp
        room = EXACT_OPERAND_REGISTERS if self.exact else OPERAND_REGISTERS
        most = max(1, room * 4 * threads // self.operand_bytes)
        for resident in range(self.chunks, -1, -1):
            if resident < self.chunks and not self.streams:
                return None
            least = 1
            if self.block_b == WIDEST_TILE and not self.alone:
                least = min(WIDEST_AHEAD, resident)
            for ahead in range(max(1, min(most, resident)), least - 1, -1):
                shared = self.shared_bytes(resident, ahead)
                if shared <= device.shared_bytes:
                    return resident, ahead, shared
        return None

    @property
    def streams(self) -> bool:
        """Whether some of the chunks may be streamed without a spill of registers."""
        if self.alone or self.block_b == WIDEST_TILE:
            return False
        halves = 2 if self.backward and self.block_b > LEAST_SHARED_TILE else 1
        return self.size < 4 or self.block_k * self.size <= STREAM_BYTES // halves


# Where Blackwell's tensor cores signal that they are done with a chunk, and two more.
SIGNAL_BYTES = 128
# Chunks of weights and operand that the compiler's pipeline keeps under way in the streaming loop.
STREAM_STAGES = 3


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def forward_tiles(problem: Problem) -> Iterator[Tile]:
    """All cuts of the forward loop that the kernels are compiled and tested for."""
    padded = 1 if problem.gates == 1 else 4
    lone = max(16, power_of_two(problem.H))
    rows = EXACT_ROWS if problem.exact else TENSOR_ROWS
    least = 8 if problem.exact else LEAST_SHARED_TILE
    for block_b in batch_tiles(problem):
        if lone * padded <= (EXACT_LONE_ROWS if problem.exact else LONE_ROWS):
            yield from _lone(problem, False, lone, padded * lone, block_b, 1)
        if rows // padded < problem.H and block_b >= least:
            yield from _shared(problem, False, rows // padded, rows, block_b, 1)


def backward_tiles(problem: Problem) -> Iterator[Tile]:
    """All cuts of the backward loop that the kernels are compiled and tested for."""
    lone = max(16, power_of_two(problem.H))
    rows = EXACT_ROWS if problem.exact else TENSOR_ROWS
    least = 8 if problem.exact else LEAST_SHARED_TILE
    for block_b in batch_tiles(problem):
        fits = lone * problem.gates <= (EXACT_LONE_ROWS if problem.exact else LONE_ROWS)
        if fits and not (problem.exact and lone > EXACT_LONE_COLUMNS):
            yield from _lone(problem, True, lone, lone, block_b, problem.gates)
        for split in (1, 2, 4):
            if (rows < problem.H or split > 1) and block_b >= least:
                yield from _shared(problem, True, rows, rows, block_b, split)


def _lone(
    problem: Problem, backward: bool, units: int, rows: int, block_b: int, chunks: int
) -> Iterator[Tile]:
    """One program for a batch tile: its weights are one chunk (forward) or one for each gate."""
    num_warps = min(8, max(4, units * block_b // (32 * LONE_OWNED)))
    if units * block_b <= num_warps * 32 * MOST_OWNED:
        yield Tile(
            backward, 1, units, 1, rows, block_b, units, chunks, num_warps, problem.size,
            problem.exact,
        )  # fmt: skip


def _shared(
    problem: Problem, backward: bool, units: int, rows: int, block_b: int, split: int
) -> Iterator[Tile]:
    """A group of programs for a batch tile, with longer and shorter chunks of K."""
    num_warps = 8 if rows * block_b >= 64 * 64 else 4
    most = MOST_OWNED if block_b <= 16 else MOST_OWNED_WIDE
    if units // split * block_b > num_warps * 32 * most:
        return
    K = problem.H * (problem.gates if backward else 1)
    wide = block_b > 16 or problem.exact
    longest = CHUNK_BYTES // 2 if wide else CHUNK_BYTES
    if problem.exact and backward:
        longest //= 4 if block_b > LEAST_SHARED_TILE else 2
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
    most = max(LEAST_SHARED_TILE, power_of_two(problem.B))
    return [b for b in BATCH_TILES if least <= b <= most]
