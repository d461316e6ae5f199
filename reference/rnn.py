"""Elman's recurrent network: one time step.

    h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)        or relu in place of tanh

Source: J. L. Elman, Finding structure in time, Cognitive Science 14, 1990; in the form of
torch.nn.RNN's documentation.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear


def rnn_step(
    gx: Tensor,
    state: tuple[Tensor, ...],
    w_hh: Tensor,
    b_hh: Tensor | None = None,
    nonlinearity: Callable[[Tensor], Tensor] = torch.tanh,
) -> tuple[Tensor]:
    """One step.

    gx [B, H] is W_ih x_t + b_ih, state is (h,) with h [B, H], w_hh is [H, H], b_hh [H]. Returns the
    new state.
    """
    (h,) = state
    h = nonlinearity(gx + linear(h, w_hh, b_hh))
    return (h,)
