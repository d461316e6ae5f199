"""What the host makes of a barrier's failure: the word, the sentence, once for each failure."""

import threading

import pytest
import torch

import kernels
from kernels import failures

CPU = torch.device("cpu")
FORWARD = (7 + 1) << 32 | 5 << 1  # step 7, group 5
BACKWARD = (-1 + 2) << 32 | 3 << 1 | 1  # the last step of all, before the first; group 3


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_words", {})


def test_nothing_is_reported_before_a_launch_nor_after_a_good_one() -> None:
    kernels.check()
    assert failures.word(CPU).item() == 0
    kernels.check()
    kernels.check(wait=False)


def test_launches_on_a_device_share_one_word() -> None:
    word = failures.word(CPU)
    assert word.dtype == torch.int64 and word.shape == (1,)
    assert failures.word(CPU) is word


@pytest.mark.parametrize(
    "code, reported",
    [
        (
            FORWARD,
            "the barrier of the forward kernel on cpu was not completed at step 7 in group 5",
        ),
        (
            BACKWARD,
            "the barrier of the backward kernel on cpu was not completed at step -1 in group 3",
        ),
        ((2**30 + 1) << 32 | (2**31 - 1) << 1, f"at step {2**30} in group {2**31 - 1}: "),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_a_failure_is_reported_once_with_kernel_step_and_group(
    code: int, reported: str, wait: bool
) -> None:
    failures.word(CPU).fill_(code)
    with pytest.raises(kernels.BarrierError) as raised:
        kernels.check(wait=wait)
    assert reported in str(raised.value)
    assert "the outputs of that call are NaN" in str(raised.value)
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
    reported = []
    start = threading.Barrier(8)

    def look() -> None:
        start.wait()
        try:
            kernels.check(wait=False)
        except kernels.BarrierError as error:
            reported.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reported) == 1


@pytest.mark.gpu
def test_on_a_gpu_a_kernel_reaches_the_word() -> None:
    """The word is page-locked host memory: no copy, and a replayed graph writes to it as well."""
    assert failures.word(torch.device("cuda", 0)).is_pinned()
