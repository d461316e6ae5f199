"""GPUs by name: limits that every plan obeys, and rates for the cost model.

Wrong limits make wrong plans; wrong rates only make the choice among right plans a slower one.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rates:
    """One GPU's rates for the cost model; a multiply-add is two operations.

    The defaults and those in DEVICES are assumed or published; measured ones replace them by
    `dataclasses.replace`.
    """

    clock_ghz: float
    tensor: int  # operations per clock and SM on 16-bit numbers
    tensor_tf32: int
    fma: int  # the same in exact float32, without tensor cores
    l2_bytes: int  # of the last cache that all SMs share
    l2_gbps: float  # 1e9 bytes per second, all SMs together
    hbm_gbps: float
    # (programs of a group, microseconds of its barrier), ascending; a group takes the last entry
    # with no more programs than it has.
    barriers_us: tuple[tuple[int, float], ...] = ((1, 1.2),)
    # Time of the split-K barrier, as a fraction of a group barrier of as many programs.
    split_barrier: float = 0.8
    latency_us: float = 0.3  # from a load to its value in L2
    launch_us: float = 2.0  # from one kernel's end to the next one's start, on the device
    # Width from L2 to one SM (NVIDIA's and AMD's architecture papers).
    l2_bytes_per_clock: float = 64.0
    # (sequences of a batch tile, clocks to multiply 64 rows by 32 bytes of K), for a chain of
    # dependent sums from shared memory; if empty, from `tensor` and the width of shared memory.
    product_clocks: tuple[tuple[int, float], ...] = ()
    # (dtype, or precision of float32, 1e12 operations per second of a large GEMM); if empty, from
    # the peak rates.
    gemm_tflops: tuple[tuple[str, float], ...] = ()

    def barrier_us(self, programs: int) -> float:
        """Time of a barrier among so many programs."""
        expected = self.barriers_us[0][1]
        for least, us in self.barriers_us:
            if least <= programs:
                expected = us
        return expected


@dataclass(frozen=True)
class Device:
    """Limits and rates of one GPU. Sizes are bytes."""

    name: str
    architecture: str  # as the compiler names it: sm_90, gfx942
    multiprocessors: int
    shared_bytes: int  # most that one program may use
    shared_total: int  # of one SM, for all programs on it
    registers: int  # 32-bit registers of one SM
    threads: int  # most threads of one SM
    warp: int  # threads of a warp
    rates: Rates

    def occupancy(self, shared: int, registers: int, threads: int) -> int:
        """How many programs of this size are resident on one SM at once."""
        # Registers are allocated to a warp in units of 256; 1 KB of shared memory is reserved.
        per_warp = -(-max(registers, 1) * self.warp // 256) * 256
        return min(
            self.shared_total // (shared + 1024),
            self.registers // (per_warp * -(-threads // self.warp)),
            self.threads // threads,
            16,
        )


KB = 1024
# Measured on an H200 (results/nvidia-h200/limits.json), and taken for the H100 too, which has the
# same SMs at the same clock and other device memory. A barrier's time includes the stores of an
# LSTM step. Two are fitted to times of the loops there: the split-K barrier, with the partial sums
# that go through L2, and the width from L2 to an SM, with the operand's way through registers to
# shared memory. (The microbenchmark reads 137 bytes per clock with all of an SM's threads.) The L2
# rate is the assumed one.
HOPPER = Rates(
    1.83, 4096, 2048, 256, 50 << 20, 5500, 3350,
    barriers_us=(
        (1, 0.74), (2, 0.72), (4, 0.77), (8, 0.75), (16, 0.82), (32, 0.87), (64, 0.88), (128, 0.91),
        (132, 0.95),
    ),
    split_barrier=1.7,
    latency_us=0.14,
    launch_us=0.5,
    l2_bytes_per_clock=40.0,
    product_clocks=((16, 20.0), (32, 24.0), (64, 48.0)),
    gemm_tflops=(("bfloat16", 788.0), ("float16", 723.0), ("tf32", 381.0), ("ieee", 49.7)),
)  # fmt: skip
# SMs, shared memory, registers, threads: tables "Technical Specifications per Compute
# Capability" of NVIDIA's CUDA programming guide; clocks and peak rates: each GPU's data sheet and
# architecture paper (dense rates / SMs / boost clock); MI300X: AMD's CDNA 3 paper and
# data sheet. L2 rates under load: assumed at 3/4 of the published peak (A100 and H100: 5,120 bytes
# a clock), MI300X's at half of its Infinity Cache's. Barrier, latency and launch: assumed, but for
# HOPPER.
DEVICES = {
    "a100": Device(
        "a100", "sm_80", 108, 163 * KB, 164 * KB, 65536, 2048, 32,
        Rates(1.41, 2048, 1024, 128, 40 << 20, 5400, 2039),
    ),
    "h100": Device(
        "h100", "sm_90", 132, 227 * KB, 228 * KB, 65536, 2048, 32, HOPPER,
    ),
    "h200": Device(
        "h200", "sm_90", 132, 227 * KB, 228 * KB, 65536, 2048, 32, replace(HOPPER, hbm_gbps=3622),
    ),
    "b200": Device(
        "b200", "sm_100", 148, 227 * KB, 228 * KB, 65536, 2048, 32,
        Rates(1.85, 8192, 4096, 256, 126 << 20, 7500, 8000),
    ),
    "rtx4090": Device(
        "rtx4090", "sm_89", 128, 99 * KB, 100 * KB, 65536, 1536, 32,
        Rates(2.52, 512, 256, 256, 72 << 20, 4500, 1008),
    ),
    "mi300x": Device(
        "mi300x", "gfx942", 304, 64 * KB, 65 * KB, 131072, 2048, 64,
        Rates(2.1, 2048, 1024, 256, 256 << 20, 8600, 5300, ((1, 3.0),), latency_us=0.7),
    ),
}  # fmt: skip


def describe(
    name: str, architecture: str, multiprocessors: int, shared_bytes: int, shared_total: int
) -> Device:
    """A GPU with the limits that its driver reports and the rates of the nearest in DEVICES."""
    known = [d for d in DEVICES.values() if d.architecture == architecture]
    if not known:
        capability = architecture.removeprefix("sm_")
        generation = int(capability) // 10 if capability.isdigit() else 0
        known = [DEVICES["b200" if generation >= 10 else "h100" if generation == 9 else "a100"]]
        if architecture.startswith("gfx"):
            known = [DEVICES["mi300x"]]
    nearest = min(known, key=lambda d: abs(d.multiprocessors - multiprocessors))
    return replace(
        nearest,
        name=name,
        architecture=architecture,
        multiprocessors=multiprocessors,
        shared_bytes=shared_bytes,
        shared_total=max(shared_total, shared_bytes + KB),
    )
