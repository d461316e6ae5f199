"""The operators of torch that the functions call: the loop over time, forward and backward, and a
layer whose backward pass computes its activations again.

Shapes: T time, B batch, I input features, G gates, H hidden units, STATES tensors in the state, D
directions (those of all models that run side by side), N models or 1. `autograd.py` adds the
derivatives, `ensembles.py` the rules of `torch.vmap`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from . import failures, launch, planning
from .cells import CELLS
from .checks import check_loop, check_range
from .inputs import Recurrence

LIBRARY = torch.library.Library("rnnbench", "DEF")
NO_SECOND = "the kernels have no second derivative: double backward is not supported"


def define(function: Callable[..., Any]) -> torch._ops.OpOverload:
    """Register `function` as rnnbench::(its name) for every device; return the operator.

    Not `torch.library.custom_op`, which has an autograd kernel of its own, one that drops tangents.
    """
    name = function.__name__
    schema = torch.library.infer_schema(function, mutates_args=())
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    # As custom_op does; torch.compiler.disable would import Dynamo, which takes a second.
    LIBRARY.impl(name, torch._disable_dynamo(function), "CompositeExplicitAutograd")
    return getattr(torch.ops.rnnbench, name).default


def named(operator: torch._ops.OpOverload, values: Sequence[Any]) -> dict[str, Any]:
    """Values, one for each argument of the operator, by the arguments' names."""
    names = (argument.name for argument in operator._schema.arguments)
    return dict(zip(names, values, strict=True))


@define
def sequence_ends(lengths: Tensor, steps: Tensor) -> Tensor:
    """A copy [B] of the lengths in int32 (under `torch.vmap`, of those of all models).

    T is the size of `steps` [T, ...], because torch.jit.trace takes an operator's number for a
    constant, and a longer sequence than x would be read beyond x's end.

    Raises ArgumentError unless all are in 1..T; while a CUDA graph is captured, which cannot wait
    for their values, they are clamped to that range instead.
    """
    T = len(steps)
    if lengths.is_cuda and torch.cuda.is_current_stream_capturing():
        lengths = lengths.long().clamp(1, T)
    else:
        check_range(lengths.flatten().tolist(), T)
    return lengths.to(torch.int32, copy=True, memory_format=torch.contiguous_format)


@define
def recurrence(
    gx: Tensor,  # [T, B, D, G*H]
    w_hh: Tensor,  # [D, G*H, H]
    b_hh: Tensor | None,  # [D, G*H]
    initial: Tensor,  # [STATES, D, B, H]
    lengths: Tensor | None,  # [N, B] int32
    resets: Tensor | None,  # [N, T, B] uint8
    cell: str,
    direction: str,
    save: bool,
    mode: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The forward loop: y [T, B, D*H], final state [STATES, D, B, H], and with `save`, for the
    backward pass, the history [STATES-1, T, B, D, H] of the other states than h and the activations
    [SAVED, T, B, D, H]; else these are empty, as for a cell that has none.

    Callers pass False for `save`: the autograd kernel sets it where a gradient is recorded, so that
    a graph captured under no_grad can be trained.
    """
    failures.check(wait=False)
    check_loop(gx, w_hh, initial, lengths, resets)
    inputs = _inputs(cell, w_hh, b_hh, initial, lengths, resets, direction, precision)
    plan, _ = planning.plans(inputs.cell, w_hh, gx.shape[1], mode, precision)
    y, final, history, saved = launch.forward(inputs, plan, gx.contiguous(), save)
    return (
        y,
        final.to(gx.dtype),
        gx.new_empty(0, dtype=torch.float32) if history is None else history,
        gx.new_empty(0) if saved is None else saved,
    )


@define
def recurrence_backward(
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
    direction: str,
    needs_weight: bool,
    needs_bias: bool,
    mode: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loop back through time: gradients of gx, w_hh, b_hh and the initial state; empty where
    not needed.
    """
    failures.check(wait=False)
    inputs = _inputs(cell, w_hh, None, initial, lengths, resets, direction, precision)
    if inputs.cell.saved and y.numel() and not saved.numel():  # forward mode ran in PyTorch
        raise RuntimeError(NO_SECOND)
    _, plan = planning.plans(inputs.cell, w_hh, dy.shape[1], mode, precision)
    dgx, dr, dinitial = launch.backward(
        inputs, plan, dy.contiguous(), dfinal.contiguous(), y.contiguous(),
        history.contiguous() if history.numel() else None,
        saved.contiguous() if saved.numel() else None,
    )  # fmt: skip
    dw = w_hh.new_empty(w_hh.shape) if needs_weight else dy.new_empty(0)
    for d in range(len(dw)):
        weight_gradient(inputs, d, dw[d], dr, y)
    db = dr.sum((0, 1)) if needs_bias else dy.new_empty(0)
    return dgx, dw, db, dinitial.to(dy.dtype)


@define
def layer(
    x: Tensor,  # [N, T, B, I]
    w_ih: Tensor,  # [D, G*H, I]
    b_ih: Tensor | None,  # [D, G*H]
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    direction: str,
    mode: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """The loop over the projections of x: y and the final state. Only the arguments are kept for
    the backward pass, which computes the rest again.
    """
    y, final, _, _ = recurrence(
        project(x, w_ih, b_ih), w_hh, b_hh, initial, lengths, resets, cell, direction, False,
        mode, precision,
    )  # fmt: skip
    return y, final


@define
def layer_backward(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    w_ih: Tensor,
    b_ih: Tensor | None,
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    direction: str,
    needs: Sequence[bool],
    mode: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute a layer again and go back through it: gradients of x, w_ih, b_ih, w_hh, b_hh and the
    initial state. `needs` says which of them, in this order; the others are empty.
    """
    y, _, history, saved = recurrence(
        project(x, w_ih, b_ih), w_hh, b_hh, initial, lengths, resets, cell, direction, True,
        mode, precision,
    )  # fmt: skip
    dgx, dw_hh, db_hh, dinitial = recurrence_backward(
        dy, dfinal, w_hh, initial, lengths, resets, y, history, saved, cell, direction, needs[3],
        needs[4], mode, precision,
    )  # fmt: skip
    (N, T, B, I), (D, K, _) = x.shape, w_ih.shape
    K *= D // N
    # [N, T*B, K], [N, T*B, I] and [N, K, I]: x is shared by all D directions, or by each model's.
    gates = dgx.view(T * B, N, K).transpose(0, 1)
    rows, weights = x.reshape(N, T * B, I), w_ih.reshape(N, K, I)
    nothing = dy.new_empty(0)
    return (
        (gates @ weights).view(x.shape) if needs[0] else nothing,
        (gates.mT @ rows).view(w_ih.shape) if needs[1] else nothing,
        dgx.sum((0, 1)) if needs[2] else nothing,
        dw_hh,
        db_hh,
        dinitial,
    )


def _inputs(
    cell: str,
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    direction: str,
    precision: str,
) -> Recurrence:
    """The loop's arguments as the kernels read them: contiguous, with as many lengths as resets."""
    if lengths is not None and resets is not None and len(lengths) != len(resets):
        models = max(len(lengths), len(resets))
        lengths, resets = lengths.expand(models, -1), resets.expand(models, -1, -1)
    return Recurrence(
        CELLS[cell],
        w_hh.contiguous(),
        None if b_hh is None else b_hh.contiguous(),
        initial.contiguous(),
        None if lengths is None else lengths.contiguous(),
        None if resets is None else resets.contiguous(),
        direction,
        precision,
    )


def project(x: Tensor, w_ih: Tensor, b_ih: Tensor | None) -> Tensor:
    """W x + b [T, B, D, G*H] of x [N, T, B, I]: x[n] is model n's, or N is 1 and all share it."""
    (N, T, B, I), (D, K, _) = x.shape, w_ih.shape
    if N == 1:
        return project_shared(x[0], w_ih, b_ih)
    gx = x.reshape(N, T * B, I) @ w_ih.reshape(N, D // N * K, I).mT
    gx = gx.transpose(0, 1).reshape(T, B, D, K)
    return gx if b_ih is None else gx + b_ih


def project_shared(x: Tensor, w_ih: Tensor, b_ih: Tensor | None) -> Tensor:
    """W x + b [T, B, D, G*H], of x [T, B, I]: one GEMM for all directions."""
    (T, B, _), (D, K, _) = x.shape, w_ih.shape
    gx = linear(x, w_ih.flatten(0, 1), None if b_ih is None else b_ih.flatten())
    return gx.view(T, B, D, K)


def weight_gradient(
    inputs: Recurrence,
    direction: int,
    out: Tensor,  # [G*H, H]
    dr: Tensor,  # [T, B, D, G*H]
    y: Tensor,  # [T, B, D*H]
) -> None:
    """out = the sum of dr(t)^T h(t-1) over time and batch: one GEMM for the steps after the first,
    whose h(t-1) is in y, and one for the first, whose h(t-1) is h0.
    """
    lengths, resets = inputs.masks(direction)
    h0, H = inputs.initial[0, direction], inputs.w_hh.shape[-1]
    dr, y = dr[:, :, direction], y[:, :, direction * H : (direction + 1) * H]
    later, earlier, first = dr[1:], y[:-1], dr[0]
    was_reset = None if resets is None else resets[1:] != 0
    if inputs.mirrored(direction):
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


# The shapes of the results, for tensors without values.
fake = partial(torch.library.register_fake, lib=LIBRARY)


@fake(sequence_ends)
def _(lengths, steps):
    return lengths.new_empty(lengths.shape, dtype=torch.int32)


@fake(recurrence)
def _(gx, w_hh, b_hh, initial, lengths, resets, cell, direction, save, mode, precision):
    T, B, D, _ = gx.shape
    H, states, numbers = w_hh.shape[-1], CELLS[cell].states, CELLS[cell].saved
    history = gx.new_empty(0, dtype=torch.float32)
    saved = gx.new_empty(0)
    if save and states > 1:
        history = gx.new_empty(states - 1, T, B, D, H, dtype=torch.float32)
    if save and numbers:
        saved = gx.new_empty(numbers, T, B, D, H)
    return gx.new_empty(T, B, D * H), gx.new_empty(initial.shape), history, saved


@fake(recurrence_backward)
def _(
    dy, dfinal, w_hh, initial, lengths, resets, y, history, saved, cell, direction, needs_weight,
    needs_bias, mode, precision,
):  # fmt: skip
    (T, B, _), (D, K, _) = dy.shape, w_hh.shape
    return (
        dy.new_empty(T, B, D, K),
        dy.new_empty(w_hh.shape if needs_weight else (0,)),
        dy.new_empty((D, K) if needs_bias else (0,)),
        dy.new_empty(initial.shape),
    )


@fake(layer)
def _(
    x, w_ih, b_ih, w_hh, b_hh, initial, lengths, resets, cell, direction, mode, precision
):  # fmt: skip
    _, T, B, _ = x.shape
    D, _, H = w_hh.shape
    return x.new_empty(T, B, D * H), x.new_empty(initial.shape)


@fake(layer_backward)
def _(
    dy, dfinal, x, w_ih, b_ih, w_hh, b_hh, initial, lengths, resets, cell, direction, needs, mode,
    precision,
):  # fmt: skip
    wanted = (x, w_ih, w_ih[..., 0], w_hh, w_hh[..., 0])
    shapes = [tensor.shape if need else (0,) for tensor, need in zip(wanted, needs, strict=False)]
    return (*(dy.new_empty(shape) for shape in shapes), dy.new_empty(initial.shape))
