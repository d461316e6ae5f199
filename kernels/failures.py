"""Barrier failures, told late so that no call has to wait for the GPU.

A kernel whose barrier gives up leaves NaN in its outputs and a code in its device's word. The word
lies in page-locked host memory, which the GPU writes over the bus: looking at it costs no copy and
waits for nothing, launches on several streams share it, and a replayed CUDA graph reports to it.
"""

import threading

import torch
from torch import Tensor

_words: dict[torch.device, Tensor] = {}
_lock = threading.Lock()


class BarrierError(RuntimeError):
    """A persistent kernel's barrier was not completed; that call's outputs are NaN."""


def word(device: torch.device) -> Tensor:
    """The word [1] int64 in which launches on this device leave the code of a failure, else 0."""
    with _lock:
        if device not in _words:
            locked = device.type == "cuda"
            _words[device] = torch.zeros(1, dtype=torch.int64, pin_memory=locked)
        return _words[device]


def check(wait: bool = True) -> None:
    """Raise `BarrierError` if a barrier timed out in an earlier call, once for each failure.

    With `wait`, calls that are still running are awaited first, on all streams; without, this
    tells of the failures so far and never waits, as each call of a kernel does at its beginning.
    """
    failures = []
    for device, found in list(_words.items()):
        if wait and device.type == "cuda":
            torch.cuda.synchronize(device)
        with _lock:  # of several threads, one raises
            code = int(found.item())
            if code:
                found.zero_()
                failures.append(describe(code, device))
    if failures:
        raise BarrierError("; ".join(failures))


def describe(code: int, device: torch.device) -> str:
    """The sentence for a code: `(step + 1) << 32 | group << 1`, or of the backward kernel
    `(step + 2) << 32 | group << 1 | 1`, whose last step, before the first, is -1.
    """
    kernel, shift = ("backward", 2) if code & 1 else ("forward", 1)
    return (
        f"the barrier of the {kernel} kernel on {device} was not completed at step "
        f"{(code >> 32) - shift} in group {(code & 0xFFFFFFFF) >> 1}: a program of the group never "
        "arrived; the outputs of that call are NaN"
    )
