"""Whole networks: layers and directions around the loop over time."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from reference.cells import CELLS
from reference.checks import DIRECTIONS, check_choice, check_flags, check_layers
from reference.unroll import State, running_mask, unroll


def layers(
    cell: str,
    x: Tensor,
    weights: Sequence[Sequence[Tensor]],
    hx: Tensor | tuple[Tensor, ...] | None = None,
    *,
    direction: str = "forward",
    merge: str = "concat",
    lengths: Sequence[int] | Tensor | None = None,
    resets: Tensor | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    """A whole recurrent network: L layers, each in D = 1 or 2 directions.

    Args:
        cell: a name in CELLS.
        x: [T, B, I], or [B, T, I] with `batch_first`, or one sequence [T, I].
        weights: for each layer and direction (layer 0 forward, layer 0 reverse, layer 1 forward,
            ...) a tuple (w_ih [G*H, I], w_hh [G*H, H], b_ih [G*H], b_hh [G*H]), or (w_ih, w_hh).
        hx: the initial state, [L*D, B, H] ([L*D, H] for one sequence), a tuple of such tensors for
            cells with more than one; None is zero.
        direction: "forward", "reverse" or "both".
        merge: how "both" are put together, "concat" ([.., 2*H]) or "sum" ([.., H]).
        lengths: [B] integers in 1..T, of a batch. A sequence that has ended keeps its state and
            gives zeros; the reverse direction begins at the sequence's own last element.
        resets: [T, B] bool ([B, T] with `batch_first`, [T] for one sequence): the state returns to
            the initial one before that step, in each direction's own order.
        dropout: probability of zeroing an output between two layers, only if `training`.

    Returns:
        The last layer's output, [T, B, H] or [T, B, 2*H], laid out as x; and the last state, shaped
        as hx.

    Raises:
        TypeError or ValueError: an argument is of the wrong type, shape, dtype, device or range.
    """
    chosen = CELLS[check_choice("cell", cell, CELLS)]
    check_flags(batch_first=batch_first, training=training)
    check_layers(chosen, x, weights, hx, direction, merge, lengths, resets, batch_first, dropout)
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(1)
        resets = None if resets is None else resets.unsqueeze(1)
    elif batch_first:
        x = x.transpose(0, 1)
        resets = None if resets is None else resets.transpose(0, 1)
    T, B, _ = x.shape
    H = weights[0][1].shape[1]

    if hx is None:
        initial: State = (x.new_zeros(len(weights), B, H),) * len(chosen.states)
    else:
        initial = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        if not batched:
            initial = tuple(s.unsqueeze(1) for s in initial)
    running = running_mask(lengths, T, x.device)
    if running is not None:
        x = x.masked_fill(~running, 0)  # padding may hold NaN, and 0 * NaN is NaN
    if resets is not None:
        resets = resets.unsqueeze(-1)

    last: list[State] = []
    reverses = DIRECTIONS[direction]
    for layer in range(len(weights) // len(reverses)):
        if layer > 0 and training and dropout > 0:
            x = drop(x, dropout)
        ys = []
        for reverse in reverses:
            k = len(last)
            w_ih, w_hh, *biases = weights[k]
            b_ih, b_hh = biases or (None, None)
            y, state = unroll(
                chosen,
                linear(x, w_ih, b_ih),
                w_hh,
                b_hh,
                tuple(s[k] for s in initial),
                reverse=reverse,
                running=running,
                resets=resets,
            )
            ys.append(y)
            last.append(state)
        x = torch.cat(ys, dim=-1) if merge == "concat" else torch.stack(ys).sum(dim=0)

    final = tuple(torch.stack(s) for s in zip(*last, strict=True))
    if not batched:
        x, final = x.squeeze(1), tuple(s.squeeze(1) for s in final)
    elif batch_first:
        x = x.transpose(0, 1)
    return x, final if len(final) > 1 else final[0]


def rnn(
    x: Tensor,
    weights: Sequence[Sequence[Tensor]],
    hx: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    direction: str = "forward",
    merge: str = "concat",
    lengths: Sequence[int] | Tensor | None = None,
    resets: Tensor | None = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    training: bool = False,
) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    """`layers` of Elman's cell; nonlinearity is "tanh" or "relu"."""
    return layers(
        "rnn_" + check_choice("nonlinearity", nonlinearity, ("tanh", "relu")),
        x,
        weights,
        hx,
        direction=direction,
        merge=merge,
        lengths=lengths,
        resets=resets,
        batch_first=batch_first,
        dropout=dropout,
        training=training,
    )


lstm = partial(layers, "lstm")
gru = partial(layers, "gru")
slstm = partial(layers, "slstm")
