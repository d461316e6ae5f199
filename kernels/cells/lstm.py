"""The LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

i, f, o = sigmoid(W x + R h + b)        g = tanh(W x + R h + b)
c' = f c + i g                          h' = o tanh(c')
"""

import triton
import triton.language as tl

from ..math import sigmoid, sigmoid_gradient, tanh, tanh_gradient
from .cell import Cell


@triton.jit
def lstm_step(x, r, state):
    i = sigmoid(x[0] + r[0])
    f = sigmoid(x[1] + r[1])
    g = tanh(x[2] + r[2])
    o = sigmoid(x[3] + r[3])
    c = f * state[1] + i * g
    h = o * tanh(c)
    return (h, c), (i, f, g, o)


@triton.jit
def lstm_step_gradient(dstate, state, previous, saved):
    i, f, g, o = saved
    dh = dstate[0]
    tanh_c = tanh(state[1])
    dc = dstate[1] + dh * o * tanh_gradient(tanh_c)
    di = dc * g * sigmoid_gradient(i)
    df = dc * previous[1] * sigmoid_gradient(f)
    dg = dc * i * tanh_gradient(g)
    do = dh * tanh_c * sigmoid_gradient(o)
    gates = (di, df, dg, do)
    return gates, gates, (tl.zeros_like(dh), dc * f)


LSTM = Cell("lstm", 4, 2, 4, lstm_step, lstm_step_gradient)
