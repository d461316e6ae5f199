"""A card's facts as NVML gives them, or refuses to."""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from bench.records import environment, provenance


class NVMLError(Exception):
    pass


def nvml(refused: str = "nvmlOther") -> MagicMock:
    """NVML of a card, in a version without throttle reasons, which refuses one call."""
    made = MagicMock(NVMLError=NVMLError)
    for name, value in (
        ("Name", "NVIDIA H100 80GB HBM3"), ("CudaComputeCapability", (9, 0)),
        ("MemoryInfo", SimpleNamespace(total=80 << 30)), ("ClockInfo", 1980),
        ("Temperature", 40), ("PowerUsage", 100_000), ("TotalEnergyConsumption", 7_654_321),
        ("MigMode", [0, 0]),
    ):  # fmt: skip
        getattr(made, f"nvmlDeviceGet{name}").return_value = value
    getattr(made, refused).side_effect = NVMLError
    del made.nvmlDeviceGetCurrentClocksThrottleReasons
    return made


def test_a_card_that_refuses_facts_is_still_a_card(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    found = environment.probe()
    assert found.is_cuda and found.capability == (9, 0) and found.memory_bytes == 80 << 30
    assert provenance.slug(found.name) == "nvidia-h100-80gb-hbm3"
    # Missing throttle reasons are null; the other sensors are read.
    assert environment.sensors() | {"load": 0} == {
        "load": 0, "sm_mhz": 1980, "memory_mhz": 1980, "temperature_c": 40, "power_w": 100.0,
        "throttle": None,
    }  # fmt: skip
    for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetHandleByIndex", "nvmlInit"):
        monkeypatch.setitem(sys.modules, "pynvml", nvml(name))
        assert not environment.probe().is_cuda
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not environment.probe().is_cuda


@pytest.mark.parametrize("refused", ["nvmlOther", "nvmlDeviceGetHandleByUUID"])
def test_sensors_are_those_of_the_card_that_torch_uses(monkeypatch, refused: str):
    """CUDA counts the fastest card first, NVML that in the first slot. A slice is no card."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = nvml(refused)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    uuid = "8f6b1d1e-0000-1111-2222-333344445555"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid)
    )
    environment.sensors()
    made.nvmlDeviceGetHandleByUUID.assert_called_once_with(f"GPU-{uuid}")
    assert made.nvmlDeviceGetHandleByIndex.call_count == (refused != "nvmlOther")


CARD = environment.Machine("cuda", "a card", (9, 0))


def test_energy_is_read_in_joules(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    # A board without MIG refuses to say whether it is on.
    for refused in ("nvmlOther", "nvmlDeviceGetMigMode"):
        monkeypatch.setitem(sys.modules, "pynvml", nvml(refused))
        assert environment.why_no_energy(CARD) is None
        with environment.energy_counter() as read:
            assert read() == 7654.321


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("nvmlInit", "needs an NVIDIA GPU and nvidia-ml-py"),
        ("nvmlDeviceGetTotalEnergyConsumption", "needs Volta or newer"),
        ("absent", "needs Volta or newer"),  # from an old nvidia-ml-py
        ("uninstalled", "needs an NVIDIA GPU and nvidia-ml-py"),
        ("MIG", "MIG shares the board"),
    ],
)
def test_no_energy_has_a_reason(broken: str, reason: str, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = nvml(broken)
    if broken == "absent":
        del made.nvmlDeviceGetTotalEnergyConsumption
    elif broken == "MIG":
        made.nvmlDeviceGetMigMode.return_value = [1, 1]
    monkeypatch.setitem(sys.modules, "pynvml", None if broken == "uninstalled" else made)
    assert reason in (environment.why_no_energy(CARD) or "")
    processor = environment.Machine("cpu", "a processor")
    assert "this is a processor" in (environment.why_no_energy(processor) or "")
    with pytest.raises(environment.NoEnergyCounter, match=reason), environment.energy_counter():
        raise AssertionError("nothing may be measured")


def test_a_card_is_found_without_nvidia_ml_py(monkeypatch, tmp_path):
    """By nvidia-smi, which every driver brings; without both, the processor is what there is."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # so that importing it fails
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.probe() == environment.Machine("cpu", environment.cpu_name())
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA H200, 9.0, 143771\n")
    program.chmod(0o755)
    assert environment.probe() == environment.Machine(
        "cuda", "NVIDIA H200", (9, 0), memory_bytes=143771 << 20
    )
    assert list(environment.sensors()) == ["load"]
