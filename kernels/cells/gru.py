"""The GRU (Cho et al. 2014) in torch's variant, whose reset gate acts after the recurrent product.

r, z = sigmoid(W x + R h + b)           n = tanh(W x + b + r (R h + b_hn))
h' = (1 - z) n + z h
"""

import triton
import triton.language as tl  # noqa: F401 - the interpreter requires it in a kernel's globals

from ..math import sigmoid, sigmoid_gradient, tanh, tanh_gradient
from .cell import Cell


@triton.jit
def gru_step(x, r, state):
    reset = sigmoid(x[0] + r[0])
    update = sigmoid(x[1] + r[1])
    new = tanh(x[2] + reset * r[2])
    h = (1.0 - update) * new + update * state[0]
    return (h,), (reset, update, new, r[2])


@triton.jit
def gru_step_gradient(dstate, state, previous, saved):
    reset, update, new, recurrent = saved
    dh = dstate[0]
    dnew = dh * (1.0 - update) * tanh_gradient(new)
    dupdate = dh * (previous[0] - new) * sigmoid_gradient(update)
    dreset = dnew * recurrent * sigmoid_gradient(reset)
    return (dreset, dupdate, dnew), (dreset, dupdate, dnew * reset), (dh * update,)


GRU = Cell("gru", 3, 1, 4, gru_step, gru_step_gradient, separate=True)
