"""sLSTM, an LSTM whose input gate is an exponential: one time step.

    i_t = exp(W_ii x_t + b_ii + W_hi h_(t-1) + b_hi)         input gate
    f_t = sigmoid(W_if x_t + b_if + W_hf h_(t-1) + b_hf)     forget gate
    z_t =    tanh(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)     candidate
    o_t = sigmoid(W_io x_t + b_io + W_ho h_(t-1) + b_ho)     output gate
    C_t = f_t C_(t-1) + i_t z_t
    N_t = f_t N_(t-1) + i_t                                  normaliser
    h_t = o_t C_t / N_t

C and N outgrow every number type, so the state holds c = C exp(-m) and n = N exp(-m), with

    m_t = max(log f_t + m_(t-1), log i_t)                    stabiliser

but m_t = log i_t where n_(t-1) is 0, that is, where nothing is remembered and m_(t-1) is arbitrary.
Then c_t = exp(log f_t + m_(t-1) - m_t) c_(t-1) + exp(log i_t - m_t) z_t, and n_t likewise; h does
not depend on the choice of m_t.

Source: M. Beck et al., xLSTM: extended long short-term memory, NeurIPS 2024 (arXiv 2405.04517),
section 2.2 and its appendix. Of the two forget gates given there this is the sigmoid, as in the
authors' own code; of the recurrent matrices the one with a single head, [H, H] for each gate.
"""

import math

import torch
from torch import Tensor, exp, sigmoid, tanh
from torch.nn.functional import linear, logsigmoid


def slstm_step(
    gx: Tensor, state: tuple[Tensor, ...], w_hh: Tensor, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step.

    gx [B, 4*H] is W_ih x_t + b_ih, state is (h, c, n, m), each [B, H], w_hh is [4*H, H], b_hh
    [4*H], all in the gate order i, f, z, o. Returns the new state.
    """
    h, c, n, m = state
    log_i, f, z, o = (gx + linear(h, w_hh, b_hh)).chunk(4, dim=-1)
    remembered = logsigmoid(f) + m
    m = torch.where(n == 0, log_i, torch.maximum(remembered, log_i))
    # Above 1 only where n is 0. c is 0 there too, so it must be finite: inf * 0 is NaN.
    most = math.log(torch.finfo(gx.dtype).max) - 1
    i, f = exp(log_i - m), exp((remembered - m).clamp(max=most))
    c = f * c + i * tanh(z)
    n = f * n + i
    h = sigmoid(o) * c / n
    return h, c, n, m
