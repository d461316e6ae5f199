"""The loop over time: the same for every cell.

Plain torch operations, none of them in place, in the dtype of the inputs; autograd gives the
gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reference.cells import CELLS, Cell
from reference.checks import check_choice, check_recurrence

State = tuple[Tensor, ...]


def unroll(
    cell: Cell,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: State,
    *,
    reverse: bool = False,
    running: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one cell over all time steps of one layer in one direction.

    gx [T, B, G*H] is W_ih x_t + b_ih; running and resets are bool masks [T, B, 1]: where a sequence
    has not ended, and where its state returns to the initial one before the step. Returns the
    outputs [T, B, H] and the last state.
    """
    times = range(gx.shape[0])
    gates = gx.unbind()  # the gradient of each gx[t] would be as large as gx
    outputs = []
    state = initial
    for t in reversed(times) if reverse else times:
        before = state if resets is None else choose(resets[t], initial, state)
        after = cell.step(gates[t], before, w_hh, b_hh)
        if running is None:
            state, y = after, after[0]
        else:
            state, y = choose(running[t], after, state), torch.where(running[t], after[0], 0)
        outputs.append(y)
    return torch.stack(outputs[::-1] if reverse else outputs), state


def choose(mask: Tensor, yes: State, no: State) -> State:
    """For each sequence one state or the other."""
    return tuple(torch.where(mask, a, b) for a, b in zip(yes, no, strict=True))


def recurrence(
    cell: str,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None = None,
    h0: Tensor | None = None,
    c0: Tensor | tuple[Tensor, ...] | None = None,
    *,
    reverse: bool = False,
    lengths: Sequence[int] | Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | tuple[Tensor, ...] | None]:
    """The loop alone, of one layer, in one or both directions.

    Args:
        cell: a name in CELLS.
        gx: [T, B, D, G*H], W_ih x_t + b_ih for each of the D directions. With D = 2 the first runs
            forward and the second in reverse; with D = 1 `reverse` says which.
        w_hh, b_hh: [D, G*H, H] and [D, G*H] or None.
        h0, c0: [D, B, H]; None is zero. c0 is for cells with a second state tensor (and a tuple for
            cells with more).
        lengths: [B] integers in 1..T. A sequence that has ended keeps its state and gives zeros;
            the reverse direction begins at the sequence's own last element.
        resets: [T, B] bool: the state returns to h0, c0 before that step.

    Returns:
        y [T, B, D*H], h_n [D, B, H] and c_n [D, B, H] (None for cells without).

    Raises:
        TypeError or ValueError: an argument is of the wrong type, shape, dtype, device or range.
    """
    chosen = CELLS[check_choice("cell", cell, CELLS)]
    check_recurrence(chosen, gx, w_hh, b_hh, h0, c0, reverse, lengths, resets)
    T, B, D, _ = gx.shape
    rest = c0 if isinstance(c0, tuple | list) else (c0,) * (len(chosen.states) - 1)
    zero = gx.new_zeros(D, B, w_hh.shape[2])
    initial = [zero if s is None else s for s in (h0, *rest)]
    running = running_mask(lengths, T, gx.device)
    if running is not None:
        gx = gx.masked_fill(~running.unsqueeze(-1), 0)  # padding may hold NaN, and 0 * NaN is NaN
    if resets is not None:
        resets = resets.unsqueeze(-1)

    ys, last = [], []
    for d in range(D):
        y, state = unroll(
            chosen,
            gx[:, :, d],
            w_hh[d],
            None if b_hh is None else b_hh[d],
            tuple(s[d] for s in initial),
            reverse=reverse or d == 1,
            running=running,
            resets=resets,
        )
        ys.append(y)
        last.append(state)
    h_n, *c_n = (torch.stack(s) for s in zip(*last, strict=True))
    return torch.cat(ys, dim=-1), h_n, tuple(c_n) if len(c_n) > 1 else c_n[0] if c_n else None


def running_mask(
    lengths: Sequence[int] | Tensor | None, T: int, device: torch.device
) -> Tensor | None:
    """[T, B, 1] bool: which time steps come before the sequence's end; None without lengths."""
    if lengths is None:
        return None
    steps = torch.arange(T, device=device).unsqueeze(1)
    return (steps < torch.as_tensor(lengths, device=device)).unsqueeze(-1)
