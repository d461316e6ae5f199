"""The LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

i, f, o = sigmoid(W x + R h + b)        g = tanh(W x + R h + b)
c' = f c + i g                          h' = o tanh(c')
"""

import triton
import triton.language as tl

from ..math import (
    sigmoid_and_packed,
    tanh,
    tanh_and_packed,
    tanh_gradient,
    unpack_sigmoid,
    unpack_tanh,
)
from .cell import Cell


@triton.jit
def lstm_step(x, r, state):
    i, packed_i = sigmoid_and_packed(x[0] + r[0])
    f, packed_f = sigmoid_and_packed(x[1] + r[1])
    g, packed_g = tanh_and_packed(x[2] + r[2])
    o, packed_o = sigmoid_and_packed(x[3] + r[3])
    c = f * state[1] + i * g
    h = o * tanh(c)
    return (h, c), (packed_i, packed_f, packed_g, packed_o)


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
