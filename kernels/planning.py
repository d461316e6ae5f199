"""The plan, the precision and the device of a call."""

import re
from functools import lru_cache

import numpy
import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from .cells.cell import Cell
from .plan import Plan, Problem, backward_plan, forward_plan
from .plan.devices import DEVICES, Device, describe
from .recurrence import forward_kernel

# Whether TRITON_INTERPRET was 1 when `triton.jit` decorated the kernels.
INTERPRETED = not isinstance(forward_kernel, JITFunction)


def interpreter_fault() -> str | None:
    """Why Triton's interpreter cannot run with the NumPy installed here; None if it can.

    Before Triton 3.7 its loops and atomics convert arrays of one element to Python numbers, which
    NumPy refuses from 2.4 on with a TypeError.
    """
    if _release(triton.__version__) >= (3, 7) or _release(numpy.__version__) < (2, 4):
        return None
    return (
        f"Triton {triton.__version__}'s interpreter cannot run with NumPy {numpy.__version__} (2.4 "
        "and later): install Triton 3.7 or later, or numpy<2.4; compiled kernels, on a GPU, need "
        "no interpreter"
    )


def _release(text: str) -> tuple[int, ...]:
    """The first two numbers of a version: "3.7.1+cpu" is (3, 7)."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


# Computed at import, since torch.compile traces the check below.
INTERPRETER_FAULT = interpreter_fault() if INTERPRETED else None


def check_runnable(device: torch.device) -> None:
    """Raise RuntimeError unless the kernels can run on tensors of this device."""
    if device.type in ("cuda", "meta"):
        return
    if device.type == "cpu" and INTERPRETED:
        if INTERPRETER_FAULT is not None:
            raise RuntimeError(INTERPRETER_FAULT)
        return
    if device.type == "cpu":
        raise RuntimeError(
            "the kernels run on a GPU, got CPU tensors: move them to one, or set "
            "TRITON_INTERPRET=1 before importing kernels to use Triton's interpreter on the CPU"
        )
    raise RuntimeError(f"the kernels run on CUDA and ROCm devices, got tensors on {device}")


def product_precision(dtype: torch.dtype, device: torch.device) -> str:
    """How float32 products are rounded: "ieee" or "tf32", as torch's setting for its own RNNs."""
    if dtype != torch.float32 or device.type != "cuda":
        return "ieee"
    setting = torch.backends.cudnn.rnn.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if setting == "tf32" else "ieee"


@lru_cache
def device_limits(device: torch.device) -> Device:
    """The limits of this device, as a plan needs them; in the interpreter, an H100's."""
    if device.type != "cuda":
        return DEVICES["h100"]
    found = torch.cuda.get_device_properties(device)
    architecture = f"sm_{found.major}{found.minor}"
    if torch.version.hip:
        architecture = found.gcnArchName.split(":")[0]
    shared = getattr(found, "shared_memory_per_block_optin", 0) or 64 * 1024
    return describe(
        found.name,
        architecture,
        found.multi_processor_count,
        shared,
        getattr(found, "shared_memory_per_multiprocessor", 0),
    )


def plans(
    cell: Cell, w_hh: Tensor, batch: int, mode: str = "auto", precision: str = "ieee"
) -> tuple[Plan, Plan]:
    """The forward and the backward plan for these weights [D, G*H, H] and this batch size."""
    D, _, H = w_hh.shape
    return _plans(cell.gates, batch, H, D, w_hh.dtype, precision, w_hh.device, mode)


# Cached by plain values, which hash faster than the dataclasses made from them.
@lru_cache(maxsize=4096)
def _plans(
    gates: int,
    batch: int,
    H: int,
    directions: int,
    dtype: torch.dtype,
    precision: str,
    device: torch.device,
    mode: str,
) -> tuple[Plan, Plan]:
    problem = Problem(
        gates, max(batch, 1), H, directions, str(dtype).removeprefix("torch."), precision
    )
    limits = device_limits(device)
    if INTERPRETED and device.type == "cpu":
        if mode == "persistent":
            raise ValueError(
                "mode is 'persistent'; accepted in the interpreter, which runs programs one after "
                "another: 'auto', 'auto-graph', 'stepwise', 'gemm'"
            )
        if mode in ("auto", "auto-graph"):
            mode = "stepwise"
    return forward_plan(problem, limits, mode), backward_plan(problem, limits, mode)
