"""How the host reports a barrier's failure: from the device's word, once for each failure."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels import failures

CPU = torch.device("cpu")
FORWARD = (7 + 1) << 32 | 5 << 1  # step 7, group 5
BACKWARD = (-1 + 2) << 32 | 3 << 1 | 1  # the last step of all, before the first; group 3


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_words", {})


def test_without_a_failure_nothing_is_reported() -> None:
    kernels.check()
    word = failures.word(CPU)
    assert word.item() == 0 and word.dtype == torch.int64 and word.shape == (1,)
    assert failures.word(CPU) is word  # launches on a device share it
    kernels.check(wait=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_word_is_in_host_memory_whatever_the_default_device(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    def without_pinning(*args: Any, **options: Any) -> Tensor:
        made.update(options)
        return torch.zeros(*args, **options | {"pin_memory": False})  # which needs a GPU

    # Not torch's own attribute: its default device knows functions by identity.
    monkeypatch.setattr(
        failures, "torch", SimpleNamespace(zeros=without_pinning, int64=torch.int64)
    )
    with torch.device("meta"):
        word = failures.word(torch.device(device))
        assert word.device == CPU
        assert made["pin_memory"] == (device == "cuda")
        word.fill_(FORWARD)
        with pytest.raises(kernels.BarrierError):
            kernels.check(wait=False)


@pytest.mark.parametrize(
    "code, kernel, step, group",
    [
        (FORWARD, "forward", 7, 5),
        (BACKWARD, "backward", -1, 3),
        ((2**30 + 1) << 32 | (2**31 - 1) << 1, "forward", 2**30, 2**31 - 1),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_a_failure_is_reported_once_with_kernel_step_and_group(
    code: int, kernel: str, step: int, group: int, wait: bool
) -> None:
    failures.word(CPU).fill_(code)
    reported = f"the {kernel} kernel on cpu .* at step {step} in group {group}: .* NaN"
    with pytest.raises(kernels.BarrierError, match=reported):
        kernels.check(wait=wait)
    kernels.check()


def test_the_next_call_reports_and_the_one_after_it_works() -> None:
    failures.word(CPU).fill_(FORWARD)
    arguments = ("rnn_tanh", torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 2))
    with pytest.raises(kernels.BarrierError, match="step 7"):
        kernels.recurrence(*arguments)
    y, _, _ = kernels.recurrence(*arguments)
    assert torch.equal(y, torch.zeros(1, 1, 2))


def test_of_several_devices_all_are_reported_at_once() -> None:
    failures.word(CPU).fill_(FORWARD)
    failures.word(torch.device("meta")).fill_(BACKWARD)
    with pytest.raises(kernels.BarrierError) as raised:
        kernels.check()
    assert "forward kernel on cpu" in str(raised.value)
    assert "backward kernel on meta" in str(raised.value)
    kernels.check()


def test_of_several_threads_one_reports() -> None:
    failures.word(CPU).fill_(FORWARD)
    start = threading.Barrier(8)

    def look() -> None:
        start.wait()
        kernels.check(wait=False)

    with ThreadPoolExecutor(8) as threads:
        looks = [threads.submit(look) for _ in range(8)]
    (error,) = filter(None, (each.exception() for each in looks))
    assert isinstance(error, kernels.BarrierError)


@pytest.mark.gpu
def test_on_a_gpu_a_kernel_reaches_the_word() -> None:
    """The word is page-locked host memory: no copy, and a replayed graph writes to it as well."""
    assert failures.word(torch.device("cuda", 0)).is_pinned()
