"""The machine: its device and what the device's sensors read.

Only :func:`machine` and :func:`device_facts` import torch.
"""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class NoEnergyCounter(RuntimeError):
    """The energy of torch's first device cannot be read, for the reason in the message."""


@dataclass(frozen=True)
class Machine:
    """The facts of a machine by which a provider decides whether it can run there.

    ``kind`` is "cuda" (also AMD under torch's HIP) or "cpu"; ``capability`` is (0, 0) on a CPU.
    """

    kind: str
    name: str
    capability: tuple[int, int] = (0, 0)
    multiprocessors: int = 0
    memory_bytes: int = 0
    interpreted: bool = False

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"


def interpreted() -> bool:
    """Whether kernels in this process run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def cpu_name() -> str:
    """The processor's model name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _first_visible() -> str:
    """torch's first device as CUDA_VISIBLE_DEVICES names it: its number, or its UUID."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()


@contextlib.contextmanager
def _nvml() -> Iterator[tuple[Any, Any] | None]:
    """NVML and its handle of torch's first device; None without nvidia-ml-py or an NVIDIA GPU."""
    found = None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError):
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                stack.callback(pynvml.nvmlShutdown)
                found = pynvml, _handle(pynvml)
        yield found


def _handle(nvml: Any) -> Any:
    """NVML's handle of torch's first device.

    By torch's own word where it uses the device: CUDA counts the fastest first, NVML by the slot.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with contextlib.suppress(nvml.NVMLError):  # of a slice of a GPU
            uuid = torch.cuda.get_device_properties(0).uuid
            return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    first = _first_visible()  # NVML counts all devices, torch only the visible ones
    if first.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(first))
    return nvml.nvmlDeviceGetHandleByUUID(first)


def probe() -> Machine:
    """The machine as far as it is known without torch, for a dry run."""
    if _first_visible() in ("", "-1"):  # these hide all devices from torch, not from the driver
        return Machine("cpu", cpu_name())
    with _nvml() as found:
        if found is not None:
            nvml, handle = found
            # A MIG slice or a container may not be allowed to read all of them.
            with contextlib.suppress(nvml.NVMLError):
                return Machine(
                    "cuda",
                    nvml.nvmlDeviceGetName(handle),
                    tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
                    memory_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
                )
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        query = "--query-gpu=name,compute_cap,memory.total"
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.splitlines()[0]  # fmt: skip
        name, capability, memory = (part.strip() for part in answer.split(","))
        major, minor = map(int, capability.split("."))
        return Machine("cuda", name, (major, minor), memory_bytes=int(memory) << 20)
    return Machine("cpu", cpu_name())


def machine() -> Machine:
    """The machine as torch sees it; kernels in the interpreter run on the CPU."""
    import torch

    if not torch.cuda.is_available():
        return Machine("cpu", cpu_name(), interpreted=interpreted())
    facts = torch.cuda.get_device_properties(0)
    return Machine(
        "cuda",
        facts.name,
        (facts.major, facts.minor),
        facts.multi_processor_count,
        facts.total_memory,
        interpreted(),
    )


def device_facts() -> dict[str, Any]:
    """A record's ``device``, without the readings of :func:`sensors`."""
    import torch

    here = machine()
    facts: dict[str, Any] = {"name": here.name, "kind": here.kind}
    facts |= dict.fromkeys(
        ("capability", "driver", "cuda", "cudnn", "clocks", "temperature_c", "power_w", "throttle")
    )
    if here.is_cuda:
        facts |= {
            "capability": f"{here.capability[0]}.{here.capability[1]}",
            "driver": _driver(),
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),
            "multiprocessors": here.multiprocessors,
            "memory_bytes": here.memory_bytes,
            "max_sm_mhz": _max_sm_mhz(),
        }
    else:
        facts |= {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    return facts


@functools.cache
def _driver() -> str | None:
    with _nvml() as found:
        if found is not None:
            with contextlib.suppress(found[0].NVMLError):
                return found[0].nvmlSystemGetDriverVersion()
    return None


@functools.cache
def _max_sm_mhz() -> int | None:
    with _nvml() as found:
        if found is not None:
            nvml, handle = found
            with contextlib.suppress(nvml.NVMLError):
                return nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    return None


def sensors() -> dict[str, Any]:
    """The host's load average now and, with NVML, clocks (MHz), temperature (C), power (W) and
    throttle reasons. Reads only: the card's settings are never changed.
    """
    facts: dict[str, Any] = {"load": round(os.getloadavg()[0], 2)}
    with _nvml() as found:
        if found is None:
            return facts
        nvml, handle = found
        queries = {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(
                handle, nvml.NVML_TEMPERATURE_GPU
            ),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "throttle": lambda: _throttle(nvml, handle),
        }
        for name, query in queries.items():
            facts[name] = None
            # Some boards and drivers do not report all of these.
            with contextlib.suppress(nvml.NVMLError, AttributeError):
                facts[name] = query()
        return facts


@contextlib.contextmanager
def energy_counter() -> Iterator[Callable[[], float]]:
    """NVML's energy counter of torch's first device, as a function that reads it, in joules.

    It counts since the driver was loaded, the whole board, in steps of 1 mJ.

    Raises:
        NoEnergyCounter: without an NVIDIA GPU, its driver, nvidia-ml-py or the counter, and for a
            slice of a GPU (MIG), since the board's counter has the other slices too. What the
            function raises later (NVML's own error) is left as it is.
    """
    with _nvml() as found:
        if found is None:
            raise NoEnergyCounter(
                "energy is read from NVML's counter: needs an NVIDIA GPU and nvidia-ml-py"
            )
        nvml, handle = found

        def read() -> float:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

        try:
            read()
        except (nvml.NVMLError, AttributeError) as fault:  # an old GPU; an old nvidia-ml-py
            raise NoEnergyCounter(
                f"NVML gives no energy counter here ({fault}): needs Volta or newer"
            ) from None
        with contextlib.suppress(nvml.NVMLError, AttributeError):  # a board without MIG
            if nvml.nvmlDeviceGetMigMode(handle)[0] == 1:
                raise NoEnergyCounter(
                    "the energy counter is the whole board's, and MIG shares the board"
                )
        yield read


def why_no_energy(machine: Machine) -> str | None:
    """Why this machine's device has no energy that can be read; None if it has. No torch."""
    if not machine.is_cuda:
        return f"energy is read from NVML's counter of an NVIDIA GPU, and this is {machine.name}"
    try:
        with energy_counter():
            return None
    except NoEnergyCounter as reason:
        return str(reason)


def _throttle(nvml: Any, handle: Any) -> list[str]:
    """The names of the active reasons for throttling."""
    active = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    prefix = "nvmlClocksThrottleReason"
    return [
        name.removeprefix(prefix)
        for name, bit in vars(nvml).items()
        if name.startswith(prefix) and isinstance(bit, int) and bit and active & bit == bit
        and not name.endswith(("None", "All"))
    ]  # fmt: skip


def with_sensors(
    facts: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> dict[str, Any]:
    """``device`` with the sensors' readings before and after the samples."""
    clocks = {
        when: {name: seen[name] for name in ("sm_mhz", "memory_mhz")}
        for when, seen in (("before", before), ("after", after))
        if "sm_mhz" in seen
    }
    pairs = {
        name: [before.get(name), after.get(name)]
        for name in ("load", "temperature_c", "power_w")
        if name in after
    }
    throttle = None
    if "throttle" in after:
        throttle = sorted({*(before.get("throttle") or []), *(after["throttle"] or [])})
    return facts | {"clocks": clocks or None, "throttle": throttle} | pairs
