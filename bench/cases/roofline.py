"""A model of what a case takes: operations, bytes of memory traffic, and time (its floor).

It is a model of this design, a persistent loop with the weights on chip and one barrier a step,
with rates measured on the card; another design may take less. bench/README.md has every formula.

Notation: G gates, D directions, b bytes of a number, and per layer I_l input features (I, then
D*H).
"""

import math
from dataclasses import dataclass, field
from typing import Any

from bench.cases.cases import Case
from bench.cases.numbers import ITEM_BYTES, PRODUCTS, product_format

# The registers of one SM: 65,536 of 32 bits, of every NVIDIA GPU since Kepler; a compute unit of
# AMD's CDNA has 512 of 64 lanes in each of its four SIMDs.
REGISTER_BYTES = {"sm": 256 << 10, "gfx": 512 << 10}


@dataclass(frozen=True)
class Limits:
    """A card's facts and the rates measured on it; a rate not measured is None or empty.

    Keys that are numbers are strings, as in JSON.

    Attributes:
        name: as its driver reports it.
        architecture: as the compiler names it: "sm_90", "gfx942".
        multiprocessors: number of SMs.
        shared_bytes: shared memory that one program can use.
        shared_total: shared memory of one SM, for all its resident programs.
        tflops: throughput of a large GEMM, by operand format (``numbers.PRODUCTS``).
        hbm_gbps: device memory bandwidth in GB/s, the sum of reads and writes.
        gather_gbps: bandwidth from L2 to one SM in GB/s, while all SMs read the same.
        gather_alone_gbps: the same while no other SM reads.
        barrier_us: a step of a persistent loop with only a barrier, by programs in the group.
        loaded_barrier_us: the same with the stores of an LSTM step.
        product_clocks: clocks of a 64 x n x 16 product, 16-bit, in a chain of dependent sums, by n.
        clock_ghz: the SMs' clock in that chain.
        latency_us: latency of a load from L2.
        launch_us: from one empty kernel to the next in a CUDA graph.
    """

    name: str
    architecture: str
    multiprocessors: int
    shared_bytes: int
    shared_total: int
    tflops: dict[str, float] = field(default_factory=dict)
    hbm_gbps: float | None = None
    gather_gbps: float | None = None
    gather_alone_gbps: float | None = None
    barrier_us: dict[str, float] = field(default_factory=dict)
    loaded_barrier_us: dict[str, float] = field(default_factory=dict)
    product_clocks: dict[str, float] = field(default_factory=dict)
    clock_ghz: float | None = None
    latency_us: float | None = None
    launch_us: float | None = None

    @property
    def complete(self) -> bool:
        """Whether all rates that ``floor_ms`` needs were measured."""
        rates = self.hbm_gbps, self.gather_gbps
        return None not in rates and bool(self.barrier_us) and self.tflops.keys() >= {*PRODUCTS}

    @property
    def on_chip_bytes(self) -> int:
        """What one program can keep of the weights: shared memory and registers."""
        kind = "sm" if self.architecture.startswith("sm") else "gfx"
        return self.shared_bytes + REGISTER_BYTES[kind]

    def barrier_ms(self, programs: int) -> float:
        """A barrier's time: that of the largest measured group with at most ``programs``."""
        sizes = sorted(map(int, self.barrier_us))
        size = max((size for size in sizes if size <= programs), default=sizes[0])
        return self.barrier_us[str(size)] / 1e3


def layer_inputs(case: Case) -> list[int]:
    """Input features of each layer; 0 in the recurrence track."""
    return [case.I] + [case.directions * case.H] * (case.layers - 1)


def loop_operations(case: Case) -> int:
    """Operations of the loop's products, forward, all layers: 2 G H^2 B T D each.

    A multiplication and an addition count as two; pointwise gate math is not counted.
    """
    return 2 * case.cell_info.gates * case.H**2 * case.B * case.T * case.directions * case.layers


def operations(case: Case) -> int:
    """All operations of a case: the loop's and the input projections', 2 G H I_l B T D per layer.

    Backward costs twice forward: each product W a has the gradients W^T da' and da' a^T.
    """
    per_feature = 2 * case.cell_info.gates * case.H * case.B * case.T * case.directions
    forward = loop_operations(case) + per_feature * sum(layer_inputs(case))
    return forward if case.pass_ == "fwd" else 3 * forward


def saved_numbers(case: Case) -> int:
    """S: what the forward loop saves for the backward one per unit and step, besides y.

    Every gate and every state other than h; of a cell with one gate, nothing: its derivative
    follows from y.
    """
    cell = case.cell_info
    return (cell.gates if cell.gates > 1 else 0) + len(cell.states) - 1


def loop_bytes(case: Case) -> int:
    """Bytes that this design's loops move in device memory. Per layer, times b, with N = T B D:

    Forward: read gx (N G H), write y (N H), read W (D G H^2). With backward also: write and
    read what is saved (N S H each, see ``saved_numbers``), read y where h is the only state (N H),
    read dy (N H), write dz (N G H), read W again.
    """
    b, G, H = ITEM_BYTES[case.dtype], case.cell_info.gates, case.H
    N = case.T * case.B * case.directions
    weights = case.directions * G * H * H
    total = N * (G + 1) * H + weights
    if case.pass_ != "fwd":
        history = len(case.cell_info.states) == 1  # y is the history of h
        total += N * H * (2 * saved_numbers(case) + history + 1 + G) + weights
    return total * b * case.layers


def gemm_bytes(case: Case) -> int:
    """Bytes that the GEMMs outside the loop move in device memory: b times what follows.

    Per layer, forward (layer track): read x (T B I_l) and W_ih (D G H I_l), write gx (N G H).
    With backward: dW_hh reads dz (N G H) and h (N H) and writes D G H^2; on the layer track dW_ih
    reads dz and x and writes D G H I_l, dx reads dz and W_ih and writes T B I_l.
    """
    b, G, H = ITEM_BYTES[case.dtype], case.cell_info.gates, case.H
    N = case.T * case.B * case.directions
    total = 0
    for inputs in layer_inputs(case):
        x, w_ih, dz = case.T * case.B * inputs, case.directions * G * H * inputs, N * G * H
        if inputs:
            total += x + w_ih + dz
        if case.pass_ != "fwd":
            total += dz + N * H + case.directions * G * H * H
            if inputs:
                total += 2 * (dz + x + w_ih)
    return total * b


def bytes_moved(case: Case) -> int:
    """Bytes that a case moves in device memory, every tensor once where it is used."""
    return loop_bytes(case) + gemm_bytes(case)


def floor_ms(case: Case, limits: Limits) -> float:
    """The time that this design's loop would take at the measured rates, in ms: a model.

    A group of programs works on one batch tile and keeps one direction's weights on chip, in shared
    memory and registers, which takes at least w = ceil(G H^2 b / on_chip_bytes) programs. P SMs
    hold g = max(1, floor(P/(w D))) groups, at most B. In each step every program reads its group's
    hidden state, ceil(B / g) H b bytes, then multiplies. A step is

        barrier(w) + max(gather, multiply),   or only multiply where w = 1,

    with gather = ceil(B/g) H b / gather_gbps and multiply = 2 G H^2 B D / (share peak), of the
    share w g D / P of the SMs that compute (at most 1). The loop is T steps and at least its
    bytes / hbm_gbps; backward is a second such loop. The GEMMs outside add
    max(operations / peak, bytes / hbm_gbps). Activations, launches and latencies count nothing.
    """
    assert limits.hbm_gbps and limits.gather_gbps
    b, G, H, D = ITEM_BYTES[case.dtype], case.cell_info.gates, case.H, case.directions
    peak = limits.tflops[product_format(case.dtype, case.precision)] * 1e9  # operations per ms
    memory = limits.hbm_gbps * 1e6  # bytes per ms
    programs = math.ceil(G * H * H * b / limits.on_chip_bytes)
    groups = min(case.B, max(1, limits.multiprocessors // (programs * D)))
    share = min(1.0, programs * groups * D / limits.multiprocessors)
    multiply = 2 * G * H * H * case.B * D / (share * peak)
    step = multiply
    if programs > 1:
        gather = math.ceil(case.B / groups) * H * b / (limits.gather_gbps * 1e6)
        step = limits.barrier_ms(programs) + max(gather, multiply)
    loops = 1 if case.pass_ == "fwd" else 2
    loop = max(loops * case.layers * case.T * step, loop_bytes(case) / memory)
    outside = operations(case) - loops * loop_operations(case)
    return loop + max(outside / peak, gemm_bytes(case) / memory)


def rates(case: Case, median_ms: float, limits: Limits | None) -> dict[str, Any]:
    """The fields of a record that follow from its median."""
    seconds = median_ms / 1e3
    return {
        "us_per_step": median_ms * 1e3 / case.T,
        "tokens_per_s": case.B * case.T / seconds,
        "tflops": operations(case) / seconds / 1e12,
        "gbps": bytes_moved(case) / seconds / 1e9,
        "floor_share": None if limits is None else floor_ms(case, limits) / median_ms,
    }


def guess_ms(case: Case, provider: str, cuda: bool) -> float:
    """A rough guess of one call's time, only to estimate how long a sweep takes."""
    eager = provider.startswith("reference") or "stepwise" in provider or "gemm" in provider
    if cuda:  # latency of a step in ms, operations per ms
        slow = 0.1 if provider.startswith("reference") else 0.02
        latency, peak = slow if eager else 0.005, 1e11
    else:
        latency, peak = 0.15 if eager else 0.02, 4e7
    passes = 1 if case.pass_ == "fwd" else 3
    return case.T * case.layers * case.directions * latency * passes + operations(case) / peak
