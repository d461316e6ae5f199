"""The loop over time: the same for every cell.

Plain torch operations, none of them in place, in the dtype of the inputs; autograd gives the
gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reference.cells import CELLS, Cell
from reference.checks import check_choice, check_input, check_lengths, check_tensor

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
    if not times:
        raise ValueError("T is 0; accepted: at least one time step")
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
    """The loop over time of one layer, without its input projection, in one or both directions.

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
    check_input("gx", gx, (4,), "[T, B, D, G*H]")
    T, B, D, rows = gx.shape
    G, H = chosen.gates, rows // chosen.gates
    if D > 2 or (D == 2 and reverse):
        raise ValueError(f"gx is of D = {D} directions; accepted: 1, or 2 without reverse")
    check_tensor("gx", gx, (T, B, D, G * H), gx)
    check_tensor("w_hh", w_hh, (D, G * H, H), gx)
    if b_hh is not None:
        check_tensor("b_hh", b_hh, (D, G * H), gx)
    if resets is not None:
        check_tensor("resets", resets, (T, B), gx, torch.bool)
        resets = resets.unsqueeze(-1)
    if c0 is None:
        others: tuple[Tensor | None, ...] = (None,) * (len(chosen.states) - 1)
    else:
        others = (c0,) if isinstance(c0, Tensor) else tuple(c0)
    initial = initial_state(chosen, (h0, *others), (D, B, H), gx)
    running = running_mask(lengths, T, B, gx.device)
    if running is not None:
        gx = gx.masked_fill(~running.unsqueeze(-1), 0)  # padding may hold NaN, and 0 * NaN is NaN

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


def initial_state(
    cell: Cell,
    given: Tensor | Sequence[Tensor | None] | None,
    shape: tuple[int, ...],
    like: Tensor,
) -> State:
    """The tensors of the initial state, each of this shape; zero in place of None."""
    if given is None or isinstance(given, Tensor):
        given = [None] * len(cell.states) if given is None else [given]
    if len(given) != len(cell.states):
        names = ", ".join(f"{name}0" for name in cell.states)
        raise ValueError(f"the initial state is {len(given)} tensors; accepted: {names}")
    for name, value in zip(cell.states, given, strict=True):
        if value is not None:
            check_tensor(f"{name}0", value, shape, like)
    return tuple(like.new_zeros(shape) if value is None else value for value in given)


def running_mask(
    lengths: Sequence[int] | Tensor | None, T: int, B: int, device: torch.device
) -> Tensor | None:
    """[T, B, 1] bool: which time steps come before the sequence's end; None without lengths."""
    if lengths is None:
        return None
    check_lengths(lengths, T, B)
    steps = torch.arange(T, device=device).unsqueeze(1)
    return (steps < torch.as_tensor(lengths, device=device)).unsqueeze(-1)
