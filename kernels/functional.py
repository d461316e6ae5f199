"""The public functions: `recurrence`, the loop over time of one layer, and `layers`, whole networks
with input projections (one GEMM a layer), directions, dropout and recomputation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from . import checks, operators
from .autocast import autocasts, cast, layer_dtype
from .cells import CELLS
from .cells.cell import Cell
from .inputs import DIRECTIONS
from .plan import MODES
from .planning import check_runnable, product_precision

Weights = Sequence[Tensor]
States = Tensor | tuple[Tensor, ...]


def recurrence(
    cell: str,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None = None,
    h0: Tensor | None = None,
    c0: States | None = None,
    *,
    reverse: bool = False,
    lengths: Sequence[int] | Tensor | None = None,
    resets: Tensor | None = None,
    mode: str = "auto",
    precision: str | None = None,
) -> tuple[Tensor, Tensor, States | None]:
    """The loop over time of one layer, in one or both directions: h(t) from W x(t) and h(t-1).

    Args:
        cell: a name in CELLS.
        gx: [T, B, D, G*H] float32, float16 or bfloat16: W_ih x_t + b_ih for each of the D
            directions, gates in torch's order. With D = 2 the first runs forward and the second in
            reverse; with D = 1 `reverse` says which.
        w_hh, b_hh: [D, G*H, H] and [D, G*H] or None.
        h0, c0: [D, B, H]; None is zero. c0 is for cells with a second state tensor (and a tuple of
            tensors for cells with more).
        lengths: [B] integers in 1..T. A sequence that has ended keeps its state and gives zeros;
            the reverse direction begins at the sequence's own last element. Checking a tensor on a
            GPU waits for its values; while a CUDA graph is captured they are clamped to 1..T
            instead.
        resets: [T, B] bool: the state returns to h0, c0 before that step.
        mode: "persistent" (one launch for all steps), "stepwise" (one a step), "gemm" (a GEMM and
            a launch a step), "auto" (what the plan expects to be fastest), or "auto-graph" (the
            same for calls that a CUDA graph replays, where launches cost less).
        precision: how float32 products with w_hh are rounded, "ieee", "tf32" or "tf32x3"; None
            follows `torch.backends.cudnn.rnn.fp32_precision`, as torch's own layers do.

    Returns:
        y [T, B, D*H], h_n [D, B, H] and c_n, as c0 (None for cells without), in gx's dtype.

    Raises:
        TypeError or ValueError: an argument is of the wrong type, shape, dtype, device or range.
        RuntimeError: the tensors are on a device on which the kernels do not run.
    """
    chosen = CELLS[checks.check_choice("cell", cell, CELLS)]
    if isinstance(gx, Tensor) and autocasts(gx):
        dtype = torch.get_autocast_dtype(gx.device.type)
        gx, w_hh, b_hh, h0, c0 = cast(dtype, gx, w_hh, b_hh, h0, c0)
        with torch.autocast(gx.device.type, enabled=False):
            return recurrence(
                cell, gx, w_hh, b_hh, h0, c0, reverse=reverse, lengths=lengths, resets=resets,
                mode=mode, precision=precision,
            )  # fmt: skip
    checks.check_recurrence(chosen, gx, (w_hh, b_hh), (h0, c0), reverse)
    checks.check_lengths(lengths, gx, *gx.shape[:2])
    checks.check_resets(resets, "[T, B]", gx.shape[:2], gx)
    checks.check_how(mode, precision, gx.dtype, MODES)
    check_runnable(gx.device)
    T, B, D, _ = gx.shape
    states = (h0, *(c0 if isinstance(c0, tuple | list) else (c0,) * (chosen.states - 1)))
    shape = (D, B, w_hh.shape[-1])
    if all(state is None for state in states):
        initial = gx.new_zeros(len(states), *shape)
    else:
        initial = torch.stack([gx.new_zeros(shape) if s is None else s for s in states])
    ends, resets = _masks(lengths, resets, T, gx.device)
    direction = "both" if D == 2 else "reverse" if reverse else "forward"
    precision = precision or product_precision(gx.dtype, gx.device)
    y, final, _, _ = operators.recurrence(
        gx, w_hh, b_hh, initial, ends, resets, cell, direction, False, mode, precision
    )
    h_n, *c_n = (final[k] for k in range(chosen.states))  # unbind's views refuse changes in place
    return y, h_n, tuple(c_n) if len(c_n) > 1 else c_n[0] if c_n else None


def layers(
    cell: str,
    x: Tensor,
    weights: Sequence[Weights],
    hx: States | None = None,
    *,
    direction: str = "forward",
    merge: str = "concat",
    lengths: Sequence[int] | Tensor | None = None,
    resets: Tensor | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    recompute: bool = False,
    mode: str = "auto",
    precision: str | None = None,
) -> tuple[Tensor, States]:
    """A whole recurrent network: L layers, each in D = 1 or 2 directions.

    Args:
        cell: a name in CELLS.
        x: [T, B, I], or [B, T, I] with `batch_first`, or one sequence [T, I]; float32, float16 or
            bfloat16.
        weights: for each layer and direction (layer 0 forward, layer 0 reverse, layer 1 forward,
            ...) a tuple (w_ih [G*H, I], w_hh [G*H, H], b_ih [G*H], b_hh [G*H]), or (w_ih, w_hh).
        hx: the initial state, [L*D, B, H] ([L*D, H] for one sequence), a tuple of such tensors
            for cells with more than one; None is zero.
        direction: "forward", "reverse" or "both".
        merge: how the outputs of "both" are combined, "concat" ([.., 2*H]) or "sum" ([.., H]).
        lengths: [B] integers in 1..T, of a batch. A sequence that has ended keeps its state and
            gives zeros, whatever x holds there; the reverse direction begins at the sequence's own
            last element. For a tensor on a GPU see `recurrence`.
        resets: [T, B] bool ([B, T] with `batch_first`, [T] for one sequence): the state returns to
            the initial one before that step, in each direction's own order.
        dropout: probability of zeroing an output between two layers, only if `training`.
        recompute: keep only each layer's input for the backward pass, which computes the
            activations again.
        mode: "persistent" (one launch for all steps), "stepwise" (one a step), "gemm" (a GEMM and
            a launch a step), "auto" (what the plan expects to be fastest), or "auto-graph" (the
            same for calls that a CUDA graph replays, where launches cost less).
        precision: how the loop's float32 products are rounded, "ieee", "tf32" or "tf32x3"; None
            follows `torch.backends.cudnn.rnn.fp32_precision`. The products outside the loop follow
            `torch.backends.cuda.matmul.fp32_precision`, forward and backward, where cuDNN takes the
            first for all: with torch's defaults those are ieee here and tf32 in torch.nn.

    Returns:
        The last layer's output, [T, B, H] or [T, B, 2*H], laid out as x; and the last state, shaped
        as hx.

    Under autocast all tensors are cast to the dtype that torch's own layers compute in, which is
    also the results' dtype. On a GPU that is float16, even under autocast to bfloat16, unless
    `torch.backends.cudnn.enabled` is False; to compute in bfloat16, pass bfloat16 tensors outside
    of autocast. A graph that records no autocast, such as one captured outside of it or by
    torch.jit.trace, computes in autocast's dtype where it runs under it. A backward pass that runs
    under autocast rounds the gradients of the input projection, as it does those of a Linear, but
    not with `recompute`.

    Raises:
        TypeError or ValueError: an argument is of the wrong type, shape, dtype, device or range.
        RuntimeError: the tensors are on a device on which the kernels do not run.
    """
    chosen = CELLS[checks.check_choice("cell", cell, CELLS)]
    checks.check_flags(batch_first=batch_first, training=training, recompute=recompute)
    options: dict[str, Any] = {"direction": direction, "merge": merge, "lengths": lengths}
    options |= {"resets": resets, "batch_first": batch_first, "dropout": dropout}
    if isinstance(x, Tensor) and autocasts(x):
        options |= {"training": training, "recompute": recompute, "mode": mode}
        x, weights, hx = cast(layer_dtype(chosen, x, hx), x, weights, hx)
        with torch.autocast(x.device.type, enabled=False):
            return layers(cell, x, weights, hx, precision=precision, **options)
    checks.check_dropout(dropout)
    checks.check_layers(chosen, x, weights, hx, direction, merge, batch_first)
    checks.check_steps(lengths, resets, x, batch_first)
    checks.check_how(mode, precision, x.dtype, MODES)
    check_runnable(x.device)

    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(1)
        resets = None if resets is None else resets.unsqueeze(1)
    elif batch_first:
        x = x.transpose(0, 1)
        resets = None if resets is None else resets.transpose(0, 1)
    (T, B, _), H = x.shape, weights[0][1].shape[-1]
    ends, resets = _masks(lengths, resets, T, x.device)
    if ends is not None:  # padding may hold NaN, and in the weights' gradient 0 * NaN is NaN
        steps = torch.arange(T, device=x.device)
        x = x.masked_fill((steps[:, None] >= ends)[..., None], 0)
    if hx is None:
        initial = x.new_zeros(chosen.states, len(weights), B, H)
    else:
        initial = torch.stack([hx] if isinstance(hx, Tensor) else list(hx))
        initial = initial if batched else initial.unsqueeze(2)

    D, precision = len(DIRECTIONS[direction]), precision or product_precision(x.dtype, x.device)
    last = []
    for k in range(0, len(weights), D):
        if k > 0 and training and dropout > 0:
            x = drop(x, dropout)
        w_ih, b_ih, w_hh, b_hh = _stacked(chosen, weights[k : k + D])
        loop = (w_hh, b_hh, initial[:, k : k + D], ends, resets, cell, direction)
        if recompute:
            x, final = operators.layer(x[None], w_ih, b_ih, *loop, mode, precision)
        else:
            gx = operators.project_shared(x, w_ih, b_ih)
            x, final, _, _ = operators.recurrence(gx, *loop, False, mode, precision)
        if merge == "sum" and D == 2:
            x = x[..., :H] + x[..., H:]
        last.append(final)

    # Copy even for one layer: in-place methods such as detach_ do not accept views.
    states = tuple(torch.cat([final[k] for final in last]) for k in range(chosen.states))
    if not batched:
        x, states = x.squeeze(1), tuple(state.squeeze(1) for state in states)
    elif batch_first:
        x = x.transpose(0, 1)
    return x, states[0] if chosen.states == 1 else states


def rnn(
    x: Tensor,
    weights: Sequence[Weights],
    hx: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    **options: Any,
) -> tuple[Tensor, States]:
    """`layers` of Elman's cell; nonlinearity is "tanh" or "relu"."""
    checks.check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    return layers(f"rnn_{nonlinearity}", x, weights, hx, **options)


lstm = partial(layers, "lstm")
gru = partial(layers, "gru")
slstm = partial(layers, "slstm")


def _stacked(
    cell: Cell, weights: Sequence[Weights]
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """w_ih, b_ih, w_hh and b_hh of one layer, each stacked to [D, ...] over its directions; b_hh
    only for cells whose loop needs it, else b_ih is the sum of both.
    """
    if len(weights[0]) == 4 and not cell.separate:
        # The two biases only ever occur as their sum. Add before stacking: else autograd gives
        # both a gradient in the same memory.
        weights = [(w_ih, w_hh, b_ih + b_hh) for w_ih, w_hh, b_ih, b_hh in weights]
    w_ih, w_hh, *biases = (
        # A single one is not copied.
        torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
        for tensors in zip(*weights, strict=True)
    )
    b_ih, b_hh = (*biases, None, None)[:2]
    return w_ih, b_ih, w_hh, b_hh


def _masks(
    lengths: Sequence[int] | Tensor | None,
    resets: Tensor | None,  # [T, B]
    T: int,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """Lengths [1, B] int32 and resets [1, T, B] uint8 on `device`: checked copies, so that what the
    caller does to its own later changes nothing.
    """
    ends = None
    with torch._C.DisableTorchFunctionSubclass():  # a subclass is only a tensor here
        if lengths is not None:
            ends = _ends(lengths, T, device)[None]
        if resets is not None:
            resets = resets.to(torch.uint8)[None]
    return ends, resets


def _ends(lengths: Sequence[int] | Tensor, T: int, device: torch.device) -> Tensor:
    """The lengths [B] in int32. Those that a graph computes are checked when it runs."""
    if not isinstance(lengths, Tensor):
        numbers = checks.whole_numbers(lengths)
        if any(isinstance(n, torch.SymInt) for n in numbers):  # constants in `torch.tensor`
            each = [torch.scalar_tensor(n, dtype=torch.int32, device=device) for n in numbers]
            lengths = torch.stack(each)
        else:
            lengths = torch.tensor(numbers, dtype=torch.int32, device=device)
            if not (isinstance(T, torch.SymInt) or torch.jit.is_tracing()):
                return lengths  # else a graph may run with another T
    return operators.sequence_ends(lengths, torch.empty(T, 0, device=lengths.device)).to(device)
