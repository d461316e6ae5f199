"""Gated recurrent unit: one time step.

    r_t = sigmoid(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr)     reset gate
    z_t = sigmoid(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)     update gate
    n_t =    tanh(W_in x_t + b_in + r_t (W_hn h_(t-1) + b_hn))
    h_t = (1 - z_t) n_t + z_t h_(t-1)

Source: K. Cho et al., Learning phrase representations using RNN encoder-decoder for statistical
machine translation, EMNLP 2014; in the form and gate order of torch.nn.GRU's documentation, where
the reset gate acts on W_hn h_(t-1) + b_hn, after the product, and not on h_(t-1) before it.
"""

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear


def gru_step(
    gx: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None = None
) -> tuple[Tensor]:
    """One step.

    gx [B, 3*H] is W_ih x_t + b_ih, state is (h,) with h [B, H], w_hh is [3*H, H], b_hh [3*H], all
    in the gate order r, z, n. Returns the new state.
    """
    (h,) = state
    x_r, x_z, x_n = gx.chunk(3, dim=-1)
    h_r, h_z, h_n = linear(h, w_hh, b_hh).chunk(3, dim=-1)
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = tanh(x_n + r * h_n)
    h = (1 - z) * n + z * h
    return (h,)
