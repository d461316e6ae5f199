"""Whole networks: layers and directions around the loop over time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from reference.cells import CELLS
from reference.checks import check_choice, check_input, check_tensor, check_weights
from reference.unroll import State, initial_state, running_mask, unroll

# For each name, which of its directions run in reverse.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "both": (False, True)}


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
        merge: how the outputs of "both" are combined, "concat" ([.., 2*H]) or "sum" ([.., H]).
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
    reverses = DIRECTIONS[check_choice("direction", direction, DIRECTIONS)]
    check_choice("merge", merge, ("concat", "sum"))
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout is {dropout!r}; accepted: a probability in [0, 1]")
    check_input("x", x, (2, 3), "[B, T, I] or [T, I]" if batch_first else "[T, B, I] or [T, I]")
    H = check_weights(weights, chosen.gates, len(reverses), merge, x)
    if resets is not None:
        check_tensor("resets", resets, x.shape[:-1], x, torch.bool)
        resets = resets.unsqueeze(-1)
    batched = x.dim() == 3
    if not batched:
        x, resets = x.unsqueeze(1), None if resets is None else resets.unsqueeze(1)
    elif batch_first:
        x, resets = x.transpose(0, 1), None if resets is None else resets.transpose(0, 1)
    T, B, _ = x.shape

    shape = (len(weights), B, H) if batched else (len(weights), H)
    initial = initial_state(chosen, hx, shape, x)
    if not batched:
        initial = tuple(s.unsqueeze(1) for s in initial)
    running = running_mask(lengths, T, B, x.device)
    if running is not None:
        x = x.masked_fill(~running, 0)  # padding may hold NaN, and 0 * NaN is NaN

    last: list[State] = []
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
    **options: Any,
) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    """`layers` of Elman's cell; nonlinearity is "tanh" or "relu"."""
    check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
    return layers(f"rnn_{nonlinearity}", x, weights, hx, **options)


lstm = partial(layers, "lstm")
gru = partial(layers, "gru")
slstm = partial(layers, "slstm")
