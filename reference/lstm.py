"""Long short-term memory: one time step.

    i_t = sigmoid(W_ii x_t + b_ii + W_hi h_(t-1) + b_hi)     input gate
    f_t = sigmoid(W_if x_t + b_if + W_hf h_(t-1) + b_hf)     forget gate
    g_t =    tanh(W_ig x_t + b_ig + W_hg h_(t-1) + b_hg)     candidate
    o_t = sigmoid(W_io x_t + b_io + W_ho h_(t-1) + b_ho)     output gate
    c_t = f_t c_(t-1) + i_t g_t
    h_t = o_t tanh(c_t)

Source: S. Hochreiter and J. Schmidhuber, Long short-term memory, Neural Computation 9(8), 1997; the
forget gate is from F. A. Gers, J. Schmidhuber and F. Cummins, Learning to forget: continual
prediction with LSTM, Neural Computation 12(10), 2000; in the form and gate order of torch.nn.LSTM's
documentation.
"""

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear


def lstm_step(
    gx: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step.

    gx [B, 4*H] is W_ih x_t + b_ih, state is (h, c), each [B, H], w_hh is [4*H, H], b_hh [4*H], all
    in the gate order i, f, g, o. Returns the new state.
    """
    h, c = state
    i, f, g, o = (gx + linear(h, w_hh, b_hh)).chunk(4, dim=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * tanh(c)
    return h, c
