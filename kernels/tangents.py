"""The loop for forward-mode derivatives: the reference's, in PyTorch, which differentiates it."""

import warnings

import torch
from torch import Tensor

from reference.cells import CELLS
from reference.unroll import unroll

from .inputs import DIRECTIONS


def loop(
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    cell: str,
    direction: str,
) -> tuple[Tensor, Tensor]:
    """y [T, B, D*H] and the final state [STATES, D, B, H], as `operators.recurrence`, computed in
    float32 and rounded to gx's type.
    """
    if cell not in CELLS:
        raise NotImplementedError(
            f"cell is {cell!r} in forward-mode differentiation; accepted: {', '.join(CELLS)}"
        )
    warnings.warn(
        "forward-mode derivatives (jvp, jacfwd, dual tensors) run the loop in PyTorch, step by "
        "step, not in the kernels",
        stacklevel=2,
    )
    dtype, (T, _, D, _) = gx.dtype, gx.shape
    gx, w_hh, initial = gx.float(), w_hh.float(), initial.float()
    b_hh = None if b_hh is None else b_hh.float()
    reverses = DIRECTIONS[direction]
    ys, last = [], []
    for d in range(D):
        model, way = divmod(d, len(reverses))
        running = None
        if lengths is not None:
            steps = torch.arange(T, device=gx.device).unsqueeze(1)
            running = (steps < lengths[model % len(lengths)]).unsqueeze(-1)
        gates = gx[:, :, d]
        if running is not None:  # padding may hold NaN
            gates = gates.masked_fill(~running, 0)
        y, state = unroll(
            CELLS[cell],
            gates,
            w_hh[d],
            None if b_hh is None else b_hh[d],
            initial[:, d].unbind(),
            reverse=reverses[way],
            running=running,
            resets=None if resets is None else resets[model % len(resets)].bool().unsqueeze(-1),
        )
        ys.append(y)
        last.append(torch.stack(state))
    return torch.cat(ys, dim=-1).to(dtype), torch.stack(last, dim=1).to(dtype)
