"""The loop as two torch operators, forward and backward, registered with autograd and
torch.compile.
"""

import torch
from torch import Tensor

from . import failures, launch, planning
from .cells import CELLS
from .inputs import Recurrence


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
    plan, _ = planning.plans(recurrence.cell, w_hh, gx.shape[1], mode, precision)
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
    _, plan = planning.plans(recurrence.cell, w_hh, dy.shape[1], mode, precision)
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
