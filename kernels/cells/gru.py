"""The GRU (Cho et al. 2014) in torch's variant, whose reset gate acts after the recurrent product.

r, z = sigmoid(W x + R h + b)           n = tanh(W x + b + r (R h + b_hn))
h' = (1 - z) n + z h
"""

import triton
import triton.language as tl  # noqa: F401 - the interpreter requires it in a kernel's globals

from ..math import sigmoid_and_packed, tanh_and_packed, unpack_sigmoid, unpack_tanh
from .cell import Cell


@triton.jit
def gru_step(x, r, state):
    reset, packed_reset = sigmoid_and_packed(x[0] + r[0])
    update, packed_update = sigmoid_and_packed(x[1] + r[1])
    new, packed_new = tanh_and_packed(x[2] + reset * r[2])
    h = (1.0 - update) * new + update * state[0]
    return (h,), (packed_reset, packed_update, packed_new, r[2])


@triton.jit
def gru_step_gradient(dstate, state, previous, saved):
    reset, _, reset_slope = unpack_sigmoid(saved[0])
    update, one_minus_update, update_slope = unpack_sigmoid(saved[1])
    new, new_slope = unpack_tanh(saved[2])
    dh = dstate[0]
    dnew = dh * one_minus_update * new_slope
    dupdate = dh * (previous[0] - new) * update_slope
    dreset = dnew * saved[3] * reset_slope
    return (dreset, dupdate, dnew), (dreset, dupdate, dnew * reset), (dh * update,)


GRU = Cell("gru", 3, 1, 4, gru_step, gru_step_gradient, separate=True)
