"""The most operations a device can do in a second, to refuse times that cannot be. No torch.

Only an upper bound matters here, so a device that is not listed gets the largest rate known.
"""

import functools
import os
from pathlib import Path
from typing import Any

from bench.cases.cases import Case
from bench.cases.numbers import product_format
from bench.cases.roofline import operations

# Operations per SM and clock, by the major compute capability: of dense 16-bit and tf32 products on
# tensor cores, and of fp32 on the other cores; an addition and a multiplication are two (NVIDIA's
# architecture white papers, of V100 to B200). AMD's units do no more per clock.
PER_SM_CLOCK = {
    7: (1024, 128, 128),
    8: (2048, 1024, 256),
    9: (4096, 2048, 256),
    10: (8192, 4096, 256),
}
# Per core and clock: bf16 products of two AMX units, and fp32 ones of two 512-bit FMA units.
PER_CORE_CLOCK = (2048, 64)
MOST_SM_MHZ, MOST_CORE_MHZ = 3500.0, 7000.0  # where the device does not state its own


def peak_tflops(device: dict[str, Any], dtype: str, precision: str) -> float:
    """A device's largest rate of products in a format, in 1e12 operations per second.

    Args:
        device: as ``environment.device_facts`` gives it; ``max_sm_mhz`` is used if known.
    """
    product = product_format(dtype, precision)
    if device["kind"] == "cpu":
        fast, plain = PER_CORE_CLOCK
        per_clock = plain if product in ("ieee", "tf32", "tf32x3") else fast
        return (device.get("cores") or os.cpu_count() or 1) * per_clock * _core_mhz() / 1e6
    major = int(str(device.get("capability") or "0").split(".")[0])
    known = PER_SM_CLOCK.get(major) or tuple(map(max, zip(*PER_SM_CLOCK.values(), strict=True)))
    half, tf32, plain = known
    per_clock = {"ieee": plain, "tf32": tf32, "tf32x3": tf32 / 3}.get(product, half)
    mhz = device.get("max_sm_mhz") or MOST_SM_MHZ
    return (device.get("multiprocessors") or 1) * per_clock * mhz / 1e6


@functools.cache
def _core_mhz() -> float:
    """The fastest core's highest clock, where Linux states it."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    return max((int(file.read_text()) / 1e3 for file in files), default=MOST_CORE_MHZ)


def why_impossible(case: Case, median_ms: float, device: dict[str, Any]) -> str | None:
    """Why a time cannot be a computation of this case on this device; None if it can."""
    rate = operations(case) / median_ms / 1e9
    peak = peak_tflops(device, case.dtype, case.precision)
    if rate <= peak:
        return None
    return (
        f"{rate:.4g} TFLOP/s in {median_ms:.4g} ms is more than the device can do; accepted: at "
        f"most {peak:.4g}"
    )
