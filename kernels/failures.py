"""Barrier failures, reported at the next call, so that no call waits for the GPU.

A kernel whose barrier fails writes NaN to its outputs and a code to its device's word. The word is
in page-locked host memory, which the GPU writes over the bus: reading it needs no copy and no wait,
all streams share it, and a replayed CUDA graph writes to it too.
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
            _words[device] = torch.zeros(1, dtype=torch.int64, device="cpu", pin_memory=locked)
        return _words[device]


def check(wait: bool = True) -> None:
    """Raise `BarrierError` if a barrier timed out in an earlier call, once for each failure.

    With `wait`, first wait for running calls on all streams. Without, only failures so far are
    reported; each call of a kernel does that first.
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
    """The message for a code: `(step + 1) << 32 | group << 1` from the forward kernel, and from the
    backward kernel `(step + 2) << 32 | group << 1 | 1`, where step -1 is the one before the first.
    """
    kernel, shift = ("backward", 2) if code & 1 else ("forward", 1)
    return (
        f"the barrier of the {kernel} kernel on {device} was not completed at step "
        f"{(code >> 32) - shift} in group {(code & 0xFFFFFFFF) >> 1}: a program of the group never "
        "arrived; the outputs of that call are NaN"
    )
