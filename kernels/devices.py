"""What a plan must know of a GPU: its limits, and the rates that the cost model counts with.

Limits decide whether a plan is right; rates only which of several right plans is taken.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Device:
    """Limits and rates of one GPU. Bytes, and operations (a multiply-add is two) per clock."""

    name: str
    architecture: str  # as the compiler names it: sm_90, gfx942
    multiprocessors: int
    shared_bytes: int  # most that one program may use
    shared_total: int  # of one multiprocessor, for all programs on it
    registers: int  # 32-bit registers of one multiprocessor
    threads: int  # most threads of one multiprocessor
    warp: int  # threads of a warp
    clock_ghz: float
    tensor: int  # operations per clock and multiprocessor on 16-bit numbers
    tensor_tf32: int
    fma: int  # the same in exact float32, without tensor cores
    l2_bytes: int  # of the last cache that all multiprocessors share
    l2_gbps: float  # 1e9 bytes per second, all multiprocessors together
    hbm_gbps: float
    barrier_us: float = 1.2  # one barrier among all multiprocessors
    latency_us: float = 0.3  # from a load to its value in L2

    def occupancy(self, shared: int, registers: int, threads: int) -> int:
        """How many programs of this size fit on one multiprocessor at once."""
        # Registers are given to a warp in units of 256; 1 KB of shared memory is the system's own.
        per_warp = -(-max(registers, 1) * self.warp // 256) * 256
        return min(
            self.shared_total // (shared + 1024),
            self.registers // (per_warp * -(-threads // self.warp)),
            self.threads // threads,
            16,
        )


KB = 1024
# Multiprocessors, shared memory, registers, threads: tables "Technical Specifications per Compute
# Capability" of NVIDIA's CUDA programming guide; clocks and peak rates: each GPU's data sheet and
# architecture paper (dense rates / multiprocessors / boost clock); MI300X: AMD's CDNA 3 paper and
# data sheet. L2 rates under load: assumed at 3/4 of the published peak (A100 and H100: 5,120 bytes
# a clock), MI300X's at half of its Infinity Cache's. Barrier and latency: assumed until measured.
DEVICES = {
    "a100": Device(
        "a100", "sm_80", 108, 163 * KB, 164 * KB, 65536, 2048, 32, 1.41, 2048, 1024, 128,
        40 << 20, 5400, 2039,
    ),
    "h100": Device(
        "h100", "sm_90", 132, 227 * KB, 228 * KB, 65536, 2048, 32, 1.755, 4096, 2048, 256,
        50 << 20, 5500, 3350,
    ),
    "h200": Device(
        "h200", "sm_90", 132, 227 * KB, 228 * KB, 65536, 2048, 32, 1.755, 4096, 2048, 256,
        50 << 20, 5500, 4800,
    ),
    "b200": Device(
        "b200", "sm_100", 148, 227 * KB, 228 * KB, 65536, 2048, 32, 1.85, 8192, 4096, 256,
        126 << 20, 7500, 8000,
    ),
    "rtx4090": Device(
        "rtx4090", "sm_89", 128, 99 * KB, 100 * KB, 65536, 1536, 32, 2.52, 512, 256, 256,
        72 << 20, 4500, 1008,
    ),
    "mi300x": Device(
        "mi300x", "gfx942", 304, 64 * KB, 65 * KB, 131072, 2048, 64, 2.1, 2048, 1024, 256,
        256 << 20, 8600, 5300, 3.0, 0.7,
    ),
}  # fmt: skip


def describe(
    name: str, architecture: str, multiprocessors: int, shared_bytes: int, shared_total: int
) -> Device:
    """A present GPU's limits as its driver tells them, with the rates of its nearest relative."""
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
