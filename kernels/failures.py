"""Barrier failures, read late so that no call has to wait for the GPU.

A kernel whose barrier gives up leaves a code in its error word and NaN in its outputs. The word is
copied to the host behind the kernel on its stream, and looked at when the next call comes, or on request.
"""

import torch
from torch import Tensor

_pending: list[tuple[Tensor, torch.cuda.Event | None, str]] = []


class BarrierError(RuntimeError):
    """A persistent kernel's barrier was not completed; that call's outputs are NaN."""


def watch(error: Tensor | None, kernel: str) -> None:
    """Remember a launch's error word; never waits."""
    if error is None:
        return
    if error.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            return  # a replay has its own word; NaN outputs tell of a failure
        host = torch.empty(1, dtype=error.dtype, pin_memory=True)
        host.copy_(error, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        _pending.append((host, event, kernel))
    else:
        _pending.append((error, None, kernel))


def check(wait: bool = True) -> None:
    """Raise `BarrierError` if a barrier timed out in an earlier call.

    With `wait`, the calls still running are awaited first; without, only finished ones are looked at.
    """
    failure = None
    for entry in list(_pending):
        word, event, kernel = entry
        if event is not None:
            if not wait and not event.query():
                continue
            event.synchronize()
        _pending.remove(entry)
        code = int(word.item())
        if code and failure is None:
            failure = describe(code, kernel)
    if failure:
        raise BarrierError(failure)


def describe(code: int, kernel: str) -> str:
    """The sentence for an error word: `(step + 1) << 32 | group << 1 | is_backward`."""
    step, group = (code >> 32) - (2 if code & 1 else 1), (code & 0xFFFFFFFF) >> 1
    return (
        f"the barrier of the {kernel} kernel was not completed at step {step} in group {group}: "
        "a program of the group never arrived; the outputs of that call are NaN"
    )
