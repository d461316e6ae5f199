"""sLSTM (Beck et al., *xLSTM: Extended Long Short-Term Memory*, 2024): an exponential input gate.

i = exp(a_i)   f = sigmoid(a_f)   z = tanh(a_z)   o = sigmoid(a_o)        a = W x + R h + b
C' = f C + i z                    N' = f N + i                            h' = o C' / N'

The state holds c = C exp(-m) and n = N exp(-m): C and N would overflow. So the gates are scaled, i
to i exp(-m') and f to f exp(m - m'), with m' = max(a_i, log f + m), or a_i where n = 0.
"""

import triton
import triton.language as tl

from ..math import (
    exp,
    log_sigmoid,
    sigmoid,
    sigmoid_and_packed,
    tanh_and_packed,
    unpack_sigmoid,
    unpack_tanh,
)
from .cell import Cell


@triton.jit
def scaled_gates(ratio, n):
    """i and f as scaled, from the logarithm of their ratio; and whether m' is log i."""
    i_leads = (ratio >= 0.0) | (n == 0.0)
    # exp(88) is finite: where n is 0, c is 0 too, and inf * 0 would be NaN.
    other = tl.where(i_leads, -ratio, ratio)
    other = exp(tl.minimum(other, 88.0, propagate_nan=tl.PropagateNan.ALL))
    return tl.where(i_leads, 1.0, other), tl.where(i_leads, other, 1.0), i_leads


@triton.jit
def slstm_step(x, r, state):
    log_i = x[0] + r[0]
    a_f, a_z, a_o = x[1] + r[1], x[2] + r[2], x[3] + r[3]
    remembered = log_sigmoid(a_f) + state[3]
    ratio = log_i - remembered
    i, f, _ = scaled_gates(ratio, state[2])
    larger = tl.maximum(log_i, remembered, propagate_nan=tl.PropagateNan.ALL)
    m = tl.where(state[2] == 0.0, log_i, larger)
    z, packed_z = tanh_and_packed(a_z)
    o, packed_o = sigmoid_and_packed(a_o)
    c = f * state[1] + i * z
    n = f * state[2] + i
    h = o * (c / n)
    return (h, c, n, m), (ratio, sigmoid(-a_f), packed_z, packed_o)


@triton.jit
def slstm_step_gradient(dstate, state, previous, saved):
    ratio, one_minus_f = saved[0], saved[1]
    z, z_slope = unpack_tanh(saved[2])
    o, _, o_slope = unpack_sigmoid(saved[3])
    i, f, i_leads = scaled_gates(ratio, previous[2])
    dh, dc, dn, dm = dstate[0], dstate[1], dstate[2], dstate[3]
    quotient = state[1] / state[2]
    do = dh * quotient * o_slope
    dq = dh * o / state[2]
    dz = (dc + dq) * i * z_slope
    # The larger scaled gate is 1 and the other is their ratio. The ratio's gradient goes to the
    # smaller gate and, negated, to the larger, which also gets the gradient of m', its logarithm.
    di = i * (dc * z + dn + dq * (z - quotient))
    df = f * (dc * previous[1] + dn * previous[2] + dq * (previous[1] - quotient * previous[2]))
    di, df = tl.where(i_leads, dm - df, di), tl.where(i_leads, df, dm - di)
    gates = (di, df * one_minus_f, dz, do)
    dprevious = (tl.zeros_like(dh), (dc + dq) * f, (dn - dq * quotient) * f, df)
    return gates, gates, dprevious


SLSTM = Cell("slstm", 4, 4, 4, slstm_step, slstm_step_gradient)
