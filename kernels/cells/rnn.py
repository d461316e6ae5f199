"""The simple recurrent cell (Elman, *Finding structure in time*, 1990): h' = f(W x + R h + b)."""

import triton
import triton.language as tl

from ..math import tanh, tanh_gradient
from .cell import Cell


@triton.jit
def tanh_step(x, r, state):
    return (tanh(x[0] + r[0]),), ()


@triton.jit
def tanh_step_gradient(dstate, state, previous, saved):
    da = dstate[0] * tanh_gradient(state[0])
    return (da,), (da,), (tl.zeros_like(da),)


@triton.jit
def relu_step(x, r, state):
    return (tl.maximum(x[0] + r[0], 0.0, propagate_nan=tl.PropagateNan.ALL),), ()


@triton.jit
def relu_step_gradient(dstate, state, previous, saved):
    # torch's rule: no gradient where the output is zero, and NaN passes it on.
    da = tl.where(state[0] <= 0.0, 0.0, dstate[0])
    return (da,), (da,), (tl.zeros_like(da),)


RNN_TANH = Cell("rnn_tanh", 1, 1, 0, tanh_step, tanh_step_gradient)
RNN_RELU = Cell("rnn_relu", 1, 1, 0, relu_step, relu_step_gradient)
