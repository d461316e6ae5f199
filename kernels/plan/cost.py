"""The expected time of a step in each mode, part by part: a model to choose a plan by.

Its constants are assumptions, or fitted to times on an H200. What a microbenchmark can measure is
in a device's `Rates` (`python -m bench plan` shows both, each with its origin).
"""

from dataclasses import dataclass

from .devices import Device
from .tiles import Problem, Tile

# Shared memory's width (NVIDIA's and AMD's architecture papers).
SHARED_BYTES_PER_CLOCK = 128
# Rows and bytes of K that one link of `Rates.product_clocks` takes.
CHAIN_ROWS, CHAIN_BYTES = 64, 32
# Clocks per instruction of the only warp of a scheduler, which waits for each dependency.
SINGLE_WARP_CLOCKS = 2.0
# The same if several warps share the scheduler and hide each other's latency.
SHARED_CLOCKS = 1.2
# Machine instructions of a step: for a group's barrier and gather, for each hidden unit and
# sequence that a thread owns and each of its gates, and for each tensor-core instruction. Fitted to
# what the compiler makes for sm_90 (`bench resources`).
GROUP_INSTRUCTIONS = 350
UNIT_INSTRUCTIONS = 20
GATE_INSTRUCTIONS = 30
PRODUCT_INSTRUCTIONS = 4
# Sustained share of the peak of the tensor cores and of the FMA units, in the loop and in a large
# GEMM. Where `Rates` has measured times of a chain of products or a GEMM, those are used instead.
TENSOR_SHARE = 0.6
FMA_SHARE = 0.4
# Host time of one more launch of our kernel, and of a GEMM by torch; a replayed CUDA graph needs
# neither. The first term is Python's, measured without a GPU (`python -m tests.helpers.host_time`,
# AMD EPYC of family 25, model 17, Python 3.11 and 3.12); the second is assumed: the C launcher or
# cuBLAS, and the CUDA driver.
HOST_KERNEL_US = 5.0 + 3.0
HOST_GEMM_US = 2.0 + 6.0
# A GEMM's time besides its arithmetic or reading: latency, and SMs without a tile.
GEMM_US = 3.0
# Share of L2's rate at which weights arrive that a step reads anew: through the pipeline of a loop
# or a GEMM, which keeps few chunks in flight. Agrees with H=2048, B=1 on an H200.
STREAM_SHARE = 0.5
# A step's own launch, from the launch's end to its first product, beyond an empty kernel's launch:
# it loads the state and the bias, and computes addresses. Fitted to mode "stepwise" on an H200.
START_US = 1.1
# What each gate's factors take in a single backward program on their way through shared memory: ten
# waits of all warps. Fitted to H=128 on an H200, as far as single programs stay the choice there:
# the times gave 800 (LSTM) and 1,500 (GRU) while its loads still waited for each other, and no
# group has been timed at that size.
EXCHANGE_CLOCKS = 450


@dataclass(frozen=True)
class Cost:
    """Expected microseconds per time step, by part; `floor_us` is their sum less what overlaps."""

    floor_us: float
    barrier_us: float = 0.0
    gather_us: float = 0.0  # the operand from L2
    weights_us: float = 0.0  # resident weights from shared memory
    exchange_us: float = 0.0  # a single program's operand through shared memory
    stream_us: float = 0.0  # the other weights from L2
    product_us: float = 0.0  # arithmetic
    gates_us: float = 0.0  # pointwise instructions
    memory_us: float = 0.0  # inputs and outputs in device memory
    launch_us: float = 0.0
    host_us: float = 0.0  # Python's time for the step's launches


def step_bytes(problem: Problem, backward: bool) -> int:
    """Device memory that a step reads and writes: gates, states, activations."""
    G, states, size = problem.gates, problem.states, problem.size
    saved = 0 if G == 1 else 4  # those of the cells here; a new one may save another number
    numbers = (G + 1 + saved) if not backward else (1 + saved + 2 + G * (2 if G == 3 else 1))
    history = 4 * (states - 1) * (1 if not backward else 2)
    return problem.B * problem.H * problem.directions * (numbers * size + history)


def persistent(
    problem: Problem,
    device: Device,
    tile: Tile,
    resident: int,
    ahead: int,
    batch_groups: int,
    tiles: int,
) -> Cost:
    """A step of the persistent loop: every program's `tiles` batch tiles, and the barrier."""
    rates = device.rates
    clock = rates.clock_ghz * 1e3  # clocks per microsecond
    programs = tile.group * batch_groups * problem.directions
    crowd = -(-programs // device.multiprocessors)  # programs that share an SM
    columns = problem.H * (problem.gates if tile.backward else 1) / tile.split  # K of one program

    def from_l2(size: float, together: float) -> float:
        each = size / (rates.l2_bytes_per_clock * clock)
        return max(each * crowd, size * programs / (together * 1e3))

    gather = 0.0
    if not tile.single_program:
        rounds = -(-tile.chunks // ahead)
        gather = rates.latency_us * rounds + from_l2(
            columns * tile.block_b * tile.size, rates.l2_gbps
        )
    share = resident / tile.chunks
    weight_bytes = tile.rows * columns * tile.size
    operations = 2 * tile.rows * tile.block_b * columns
    if problem.exact:
        weights = 0.0
        product = operations / (rates.fma * FMA_SHARE * clock)
    else:
        # Two groups of four warps share 64 rows by columns: each reads all weights.
        readers = 2 if tile.num_warps == 8 and tile.rows == 64 else 1
        weights = weight_bytes * share * readers / (SHARED_BYTES_PER_CLOCK * clock)
        rate = rates.tensor if problem.size == 2 else rates.tensor_tf32
        product = operations / (rate * TENSOR_SHARE * clock)
        link = dict(rates.product_clocks).get(tile.block_b)
        if link is not None and not tile.single_program:  # its product has too many rows
            weights = 0.0  # the chain's time includes reading them
            links = tile.rows / CHAIN_ROWS * columns * tile.size / CHAIN_BYTES
            product = links * link / clock
    stream = 0.0
    if resident < tile.chunks:
        stream = from_l2(weight_bytes * (1 - share), rates.l2_gbps * STREAM_SHARE)
        stream += rates.latency_us * (tile.chunks - resident) / 2
    owned = tile.units // tile.split * tile.block_b / (tile.num_warps * device.warp)
    pointwise = UNIT_INSTRUCTIONS + GATE_INSTRUCTIONS * problem.gates
    instructions = pointwise * max(owned, 0.5)
    if not tile.single_program:
        instructions += GROUP_INSTRUCTIONS
    if not problem.exact:
        instructions += PRODUCT_INSTRUCTIONS * columns * tile.rows / 64 / 16
    single_warp = instructions * SINGLE_WARP_CLOCKS / clock
    gates = max(single_warp, crowd * instructions * tile.num_warps / 4 * SHARED_CLOCKS / clock)

    exchange = 0.0
    if tile.single_program and tile.backward:
        exchange = EXCHANGE_CLOCKS * tile.chunks / clock

    work = gather + crowd * max(weights, product) + stream + exchange + gates
    barrier = 0.0 if tile.single_program else rates.barrier_us(tile.group)
    split_barrier = 0.0
    if tile.split > 1:
        split_barrier = rates.barrier_us(tile.split) * rates.split_barrier
    work += split_barrier
    # The barrier's latency overlaps with the work on the program's other tiles.
    step = tiles * work + max(0.0, barrier - (tiles - 1) * work)
    memory = step_bytes(problem, tile.backward) / (rates.hbm_gbps * 1e3)
    return Cost(
        floor_us=max(step, memory),
        barrier_us=barrier + split_barrier * tiles,
        gather_us=gather * tiles,
        weights_us=crowd * weights * tiles,
        exchange_us=exchange * tiles,
        stream_us=stream * tiles,
        product_us=crowd * product * tiles,
        gates_us=gates * tiles,
        memory_us=memory,
    )


def per_step_gemm(problem: Problem, device: Device, backward: bool, replayed: bool) -> Cost:
    """A step of a GEMM by torch's library and a pointwise kernel, launched or replayed."""
    rates = device.rates
    operations = 2 * problem.gates * problem.H**2 * problem.B * problem.directions
    exact = problem.exact or problem.precision == "tf32x3"  # torch's GEMMs lack tf32x3
    number = problem.dtype
    if problem.dtype == "float32":
        number = "ieee" if exact else problem.precision
    if exact:
        peak = rates.fma * 2 * FMA_SHARE  # a tuned GEMM keeps its operands in registers
    else:
        peak = (rates.tensor if problem.size == 2 else rates.tensor_tf32) * TENSOR_SHARE
    per_us = peak * device.multiprocessors * rates.clock_ghz * 1e3
    per_us = dict(rates.gemm_tflops).get(number, per_us / 1e6) * 1e6
    arithmetic = operations / per_us
    weights = problem.gates * problem.H**2 * problem.directions * problem.size
    rate = rates.l2_gbps * STREAM_SHARE if weights < rates.l2_bytes / 2 else rates.hbm_gbps
    reading = weights / (rate * 1e3)
    product = GEMM_US * problem.directions + max(arithmetic, reading)
    # The product is written and read once more, in float32.
    sums = 8 * problem.gates * problem.B * problem.H * problem.directions
    memory = step_bytes(problem, backward) / (rates.hbm_gbps * 1e3)
    gates = 1.0 + sums / (rates.l2_gbps / 2 * 1e3) + memory
    launch = rates.launch_us * (1 + problem.directions)
    host = 0.0 if replayed else HOST_KERNEL_US + HOST_GEMM_US * problem.directions
    return Cost(
        floor_us=max(host, launch + product + gates),
        weights_us=reading,
        product_us=product,
        gates_us=gates,
        memory_us=memory,
        launch_us=launch,
        host_us=host,
    )


def stepwise(device: Device, loop: Cost, split: int, weight_bytes: int) -> Cost:
    """A launch for each step: no barrier, but each program reads its weights again.

    `weight_bytes` are of all programs together.
    """
    rates = device.rates
    launches = 2 if split > 1 else 1
    stream = weight_bytes / (rates.l2_gbps * 1e3)
    floor = loop.floor_us - loop.barrier_us + launches * (rates.launch_us + START_US) + stream
    host = launches * HOST_KERNEL_US
    return Cost(
        floor_us=max(host, floor),
        gather_us=loop.gather_us,
        weights_us=loop.weights_us,
        exchange_us=loop.exchange_us,
        stream_us=stream,
        product_us=loop.product_us,
        gates_us=loop.gates_us,
        memory_us=loop.memory_us,
        launch_us=launches * rates.launch_us,
        host_us=host,
    )
