"""The loop as two torch operators, forward and backward, registered with autograd and
torch.compile; and the plan, precision and device of a call.
"""

import re
from functools import lru_cache

import numpy
import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from . import failures, launch
from .cells import CELLS
from .cells.cell import Cell
from .inputs import Recurrence
from .plan import MODES as MODES
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
                "mode='persistent' needs programs that run at the same time, and the interpreter "
                "runs them one after another; use 'auto' or 'stepwise'"
            )
        if mode in ("auto", "auto-graph"):
            mode = "stepwise"
    return forward_plan(problem, limits, mode), backward_plan(problem, limits, mode)


@torch.library.custom_op("rnnbench::recurrence", mutates_args=())
def recurrence_op(
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    reverse: bool,
    save: bool,
    mode: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The forward loop: y [T,B,D*H], final state [STATES,D,B,H], and for the backward pass the
    history of the states but h and the activations, empty unless `save`.
    """
    failures.check(wait=False)
    recurrence = Recurrence(CELLS[cell], w_hh, b_hh, initial, lengths, resets, reverse, precision)
    plan, _ = plans(recurrence.cell, w_hh, gx.shape[1], mode, precision)
    y, final, history, saved = launch.forward(recurrence, plan, gx, save)
    return (
        y,
        final.to(gx.dtype),
        gx.new_empty(0, dtype=torch.float32) if history is None else history,
        gx.new_empty(0) if saved is None else saved,
    )


@recurrence_op.register_fake
def _(gx, w_hh, b_hh, initial, lengths, resets, cell, reverse, save, mode, precision):
    T, B, D, _ = gx.shape
    H, states, numbers = w_hh.shape[-1], CELLS[cell].states, CELLS[cell].saved
    history = gx.new_empty(0, dtype=torch.float32)
    saved = gx.new_empty(0)
    if save and states > 1:
        history = gx.new_empty(states - 1, T, B, D, H, dtype=torch.float32)
    if save and numbers:
        saved = gx.new_empty(T, B, D, H, numbers)
    return gx.new_empty(T, B, D * H), torch.empty_like(initial), history, saved


@torch.library.custom_op("rnnbench::recurrence_backward", mutates_args=())
def recurrence_backward_op(
    dy: Tensor,
    dfinal: Tensor,
    w_hh: Tensor,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    history: Tensor,
    saved: Tensor,
    cell: str,
    reverse: bool,
    needs_weight: bool,
    needs_bias: bool,
    mode: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loop back through time: gradients of gx, w_hh, b_hh and the initial state."""
    failures.check(wait=False)
    recurrence = Recurrence(CELLS[cell], w_hh, None, initial, lengths, resets, reverse, precision)
    _, plan = plans(recurrence.cell, w_hh, dy.shape[1], mode, precision)
    dgx, dr, dinitial = launch.backward(
        recurrence, plan, dy, dfinal, y, history if history.numel() else None,
        saved if saved.numel() else None,
    )  # fmt: skip
    dw = torch.empty_like(w_hh) if needs_weight else dy.new_empty(0)
    for d in range(len(dw)):
        weight_gradient(recurrence, d, dw[d], dr, y)
    db = dr.sum((0, 1)) if needs_bias else dy.new_empty(0)
    return dgx, dw, db, dinitial.to(dy.dtype)


@recurrence_backward_op.register_fake
def _(
    dy, dfinal, w_hh, initial, lengths, resets, y, history, saved, cell, reverse, needs_weight,
    needs_bias, mode, precision,
):  # fmt: skip
    (T, B, _), (D, K, _) = dy.shape, w_hh.shape
    return (
        dy.new_empty(T, B, D, K),
        torch.empty_like(w_hh) if needs_weight else dy.new_empty(0),
        dy.new_empty(D, K) if needs_bias else dy.new_empty(0),
        torch.empty_like(initial),
    )


def weight_gradient(
    recurrence: Recurrence,
    direction: int,
    out: Tensor,  # [G*H, H]
    dr: Tensor,  # [T, B, D, G*H]
    y: Tensor,  # [T, B, D*H]
) -> None:
    """out = the sum of dr(t)^T h(t-1) over time and batch: one GEMM for the steps after the first,
    whose h(t-1) is in y, and one for the first, whose h(t-1) is h0.
    """
    lengths, resets = recurrence.lengths, recurrence.resets
    h0, H = recurrence.initial[0, direction], recurrence.w_hh.shape[-1]
    dr, y = dr[:, :, direction], y[:, :, direction * H : (direction + 1) * H]
    later, earlier, first = dr[1:], y[:-1], dr[0]
    was_reset = None if resets is None else resets[1:] != 0
    if recurrence.mirrored(direction):
        later, earlier, first = dr[:-1], y[1:], dr[-1]
        was_reset = None if resets is None else resets[:-1] != 0
        if lengths is not None:
            # The first step is each sequence's own last, where y[1:] is padding.
            last = lengths.long() - 1
            first = dr[last, torch.arange(len(last), device=dr.device)]
            if was_reset is not None:
                steps = torch.arange(len(dr) - 1, device=dr.device)
                was_reset = was_reset & (steps[:, None] < last)
    if was_reset is not None:
        earlier = torch.where(was_reset[..., None], h0, earlier)
    torch.mm(later.flatten(0, 1).t(), earlier.flatten(0, 1), out=out)
    out.addmm_(first.t(), h0)


def _setup_context(ctx, inputs, output) -> None:
    (
        _,
        w_hh,
        b_hh,
        initial,
        lengths,
        resets,
        ctx.cell,
        ctx.reverse,
        ctx.saves,
        ctx.mode,
        precision,
    ) = inputs
    y, final, history, saved = output
    ctx.precision, ctx.final = precision, (final.shape, final.dtype)
    ctx.has_bias = b_hh is not None
    ctx.save_for_backward(w_hh, initial, lengths, resets, y, history, saved)
    ctx.mark_non_differentiable(history, saved)
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dfinal, _dhistory, _dsaved):
    if not ctx.saves:
        raise RuntimeError(
            "recurrence was called with save=False, so it kept nothing to go back through"
        )
    w_hh, initial, lengths, resets, y, history, saved = ctx.saved_tensors
    dy = torch.zeros_like(y) if dy is None else dy.contiguous()
    dfinal = initial.new_zeros(initial.shape) if dfinal is None else dfinal.contiguous()
    _, needs_weight, needs_bias, needs_initial, *_ = ctx.needs_input_grad
    dgx, dw, db, dinitial = recurrence_backward_op(
        dy, dfinal, w_hh, initial, lengths, resets, y, history, saved, ctx.cell, ctx.reverse,
        needs_weight, needs_bias and ctx.has_bias, ctx.mode, ctx.precision,
    )  # fmt: skip
    return (
        dgx,
        dw if needs_weight else None,
        db if needs_bias and ctx.has_bias else None,
        dinitial if needs_initial else None,
        *(None,) * 7,
    )


def _no_double_backward(ctx, *grads):
    raise RuntimeError("the kernels have no second derivative: double backward is not supported")


recurrence_op.register_autograd(_backward, setup_context=_setup_context)
recurrence_backward_op.register_autograd(_no_double_backward)
