"""Device activations: saturating, accurate near zero, and propagating NaN.

Triton's `tl.exp` is the hardware's `ex2` after one rounded product with log2(e), which loses a bit
of the result for every bit of the argument. `exp_negative` reduces the range first (Cody and Waite,
*Software Manual for the Elementary Functions*, 1980), so that the activations stay within a few
units in the last place over the whole float32 range.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# ln(2) in two parts: the first has few enough bits that its product with an exponent is exact.
LN2_HIGH = tl.constexpr(0.693359375)
LN2_LOW = tl.constexpr(-2.12194440e-4)
# Adding 1.5 * 2**23 rounds to an integer and leaves it in the low bits of the sum.
ROUNDER = tl.constexpr(12582912.0)
# The bits of 2.0**64; results are scaled by it and back, so that subnormal ones round once.
BITS_OF_2_64 = tl.constexpr((127 + 64) << 23)
# Below this, tanh by its exponentials would cancel; an odd polynomial takes over.
TANH_SMALL = tl.constexpr(0.5)


@triton.jit
def exp_negative(x):
    """exp(x) for x <= 0, in float32; 0 at -inf, NaN at NaN."""
    x = tl.maximum(x, -110.0, propagate_nan=tl.PropagateNan.ALL)  # exp(-104) already rounds to zero
    shifted = x * LOG2_E + ROUNDER
    exponent = shifted - ROUNDER
    rest = (x - exponent * LN2_HIGH) - exponent * LN2_LOW
    power = ((shifted.to(tl.int32, bitcast=True) << 23) + BITS_OF_2_64).to(tl.float32, bitcast=True)
    return (tl.exp2(rest * LOG2_E) * power) * 5.421010862427522e-20  # 2**-64


@triton.jit
def reciprocal(d):
    """1 / d for d in [1, 2], without the range checks that a division carries."""
    return tl.rsqrt(d * d)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), in float32."""
    e = exp_negative(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) * reciprocal(1.0 + e)


@triton.jit
def sigmoid_gradient(y):
    """The derivative of sigmoid, from its output y."""
    return y * (1.0 - y)


@triton.jit
def tanh(x):
    """The hyperbolic tangent, in float32."""
    magnitude = tl.abs(x)
    e = exp_negative(-2.0 * magnitude)
    large = (1.0 - e) * reciprocal(1.0 + e)
    # (x - tanh(x)) / x**3 as a polynomial in x**2: its Chebyshev fit, within 0.03 ulp of tanh.
    s = x * x
    p = 0.00694294175
    p = p * s - 0.02147068303
    p = p * s + 0.05393346915
    p = p * s - 0.1333322578
    p = p * s + 0.333333328
    return tl.where(magnitude < TANH_SMALL, x - x * s * p, tl.where(x < 0, -large, large))


@triton.jit
def tanh_gradient(y):
    """The derivative of tanh, from its output y."""
    return (1.0 - y) * (1.0 + y)
