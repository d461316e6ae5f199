"""The LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

i, f, o = sigmoid(W x + R h + b)        g = tanh(W x + R h + b)
c' = f c + i g                          h' = o tanh(c')
"""

import triton
import triton.language as tl

from ..math import (
    pack_sigmoid,
    pack_tanh,
    sigmoid,
    tanh,
    tanh_gradient,
    unpack_sigmoid,
    unpack_tanh,
)
from .cell import Cell


@triton.jit
def lstm_step(x, r, state):
    a_i, a_f, a_g, a_o = x[0] + r[0], x[1] + r[1], x[2] + r[2], x[3] + r[3]
    c = sigmoid(a_f) * state[1] + sigmoid(a_i) * tanh(a_g)
    h = sigmoid(a_o) * tanh(c)
    return (h, c), (pack_sigmoid(a_i), pack_sigmoid(a_f), pack_tanh(a_g), pack_sigmoid(a_o))


@triton.jit
def lstm_step_gradient(dstate, state, previous, saved):
    i, _, i_slope = unpack_sigmoid(saved[0])
    f, _, f_slope = unpack_sigmoid(saved[1])
    g, g_slope = unpack_tanh(saved[2])
    o, _, o_slope = unpack_sigmoid(saved[3])
    dh = dstate[0]
    tanh_c = tanh(state[1])
    dc = dstate[1] + dh * o * tanh_gradient(tanh_c)
    di = dc * g * i_slope
    df = dc * previous[1] * f_slope
    dg = dc * i * g_slope
    do = dh * tanh_c * o_slope
    gates = (di, df, dg, do)
    return gates, gates, (tl.zeros_like(dh), dc * f)


LSTM = Cell("lstm", 4, 2, 4, lstm_step, lstm_step_gradient)
