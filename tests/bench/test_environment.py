"""A card's facts as NVML gives them, or refuses to."""

import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

from bench.records import environment, provenance


class NVMLError(Exception):
    pass


def nvml(refused: str = "") -> Any:
    """NVML of a card, which refuses one call."""

    def answer(name: str, value: Any, *_: Any) -> Any:
        if name == refused:
            raise NVMLError(name)
        return value

    facts = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetHandleByUUID": 0, "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30),
        "nvmlSystemGetDriverVersion": "570.1", "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetTemperature": 40, "nvmlDeviceGetPowerUsage": 100_000,
    }  # fmt: skip
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0}
    calls = {name: partial(answer, name, value) for name, value in facts.items()}
    return SimpleNamespace(NVMLError=NVMLError, **constants, **calls)


def test_a_card_that_refuses_facts_is_still_a_card(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    found = environment.probe()
    assert found.is_cuda and found.capability == (9, 0) and found.memory_bytes == 80 << 30
    assert provenance.slug(found.name) == "nvidia-h100-80gb-hbm3"
    # This version of NVML has no throttle reasons; that costs no sample.
    assert environment.sensors() | {"load": 0} == {
        "load": 0, "sm_mhz": 1980, "memory_mhz": 1980, "temperature_c": 40, "power_w": 100.0,
        "throttle": None,
    }  # fmt: skip
    for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetHandleByIndex", "nvmlInit"):
        monkeypatch.setitem(sys.modules, "pynvml", nvml(name))
        assert not environment.probe().is_cuda  # nobody else tells of a card here
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not environment.probe().is_cuda
