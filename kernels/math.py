"""Device activations: saturating, accurate near zero, and propagating NaN.

Triton's `tl.exp` is the hardware's `ex2` after one rounded product with log2(e), which loses a bit
of the result for every bit of the argument. The functions here reduce the range first (Cody and
Waite, *Software Manual for the Elementary Functions*, 1980), so that they stay within a few units
in the last place over the whole float32 range.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# ln(2) in two parts: the first has few enough bits that its product with an exponent is exact.
LN2_HIGH = tl.constexpr(0.693359375)
LN2_LOW = tl.constexpr(-2.12194440e-4)
# Adding 1.5 * 2**23 rounds to an integer and leaves it in the low bits of the sum.
ROUNDER = tl.constexpr(12582912.0)
BITS_OF_ROUNDER = tl.constexpr(0x4B400000)
# The bits of 2.0**64; results are scaled by it and back, so that subnormal ones round once.
BITS_OF_2_64 = tl.constexpr((127 + 64) << 23)
SIGN_BIT = tl.constexpr(-(1 << 31))
# Below this, tanh by exponentials would suffer from cancellation; an odd polynomial is used.
TANH_SMALL = tl.constexpr(0.5)
# From |x| = 0.5 on, `tanh_and_packed` packs 1 + 2**16 (1 - |tanh x|): at least 1, as no tanh of a
# smaller x is; 2**16 is the largest power of two with which it fits float16.
TANH_SCALE = tl.constexpr(65536.0)
TANH_UNSCALE = tl.constexpr(1 / 65536)


@triton.jit
def exp_parts(x):
    """exp(x) = mantissa * 2**k, as the mantissa, near 1, and the integer k + BITS_OF_ROUNDER."""
    shifted = x * LOG2_E + ROUNDER
    exponent = shifted - ROUNDER
    rest = (x - exponent * LN2_HIGH) - exponent * LN2_LOW
    return tl.exp2(rest * LOG2_E), shifted.to(tl.int32, bitcast=True)


@triton.jit
def exp_negative(x):
    """exp(x) for x <= 0, in float32; 0 at -inf, NaN at NaN."""
    x = tl.maximum(x, -110.0, propagate_nan=tl.PropagateNan.ALL)  # exp(-104) already rounds to zero
    mantissa, exponent = exp_parts(x)  # the shift below drops all of the exponent but k
    power = ((exponent << 23) + BITS_OF_2_64).to(tl.float32, bitcast=True)
    return (mantissa * power) * 5.421010862427522e-20  # 2**-64


@triton.jit
def exp(x):
    """exp(x), in float32; 0 at -inf, inf from 88.73 on, NaN at NaN."""
    x = tl.maximum(x, -110.0, propagate_nan=tl.PropagateNan.ALL)
    mantissa, exponent = exp_parts(tl.minimum(x, 100.0, propagate_nan=tl.PropagateNan.ALL))
    exponent = exponent - BITS_OF_ROUNDER
    # Two factors, both in float32's range, so that a subnormal or infinite result rounds once.
    half = exponent >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((exponent - half + 127) << 23).to(tl.float32, bitcast=True)
    return (mantissa * first) * second


@triton.jit
def reciprocal(d):
    """1 / d for d in [1, 2], without the range checks that a division carries."""
    return tl.rsqrt(d * d)


@triton.jit
def sigmoid_and_packed(x):
    """s = 1 / (1 + exp(-x)) in float32; and the smaller of s and 1 - s, with a sign bit if 1 - s.

    The second is one number of any floating-point type, from which `unpack_sigmoid` gives s, 1 - s
    and the derivative s (1 - s). A rounded s would not: in bfloat16 it is 1 from x = 6.24 on.
    """
    e = exp_negative(-tl.abs(x))
    larger = reciprocal(1.0 + e)
    smaller = e * larger
    sign = (x.to(tl.int32, bitcast=True) & SIGN_BIT) ^ SIGN_BIT
    packed = (smaller.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return tl.where(x < 0, smaller, larger), packed


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), in float32."""
    return sigmoid_and_packed(x)[0]


@triton.jit
def unpack_sigmoid(packed):
    """s, 1 - s and the derivative of sigmoid, from what `sigmoid_and_packed` returned."""
    smaller = tl.abs(packed)
    larger = 1.0 - smaller
    complement = packed.to(tl.int32, bitcast=True) < 0  # of the bits: -0.0 means s = 1
    s = tl.where(complement, larger, smaller)
    return s, tl.where(complement, smaller, larger), smaller * larger


@triton.jit
def log_sigmoid(x):
    """-log(1 + exp(-x)), in float32."""
    # log(1 + e) = 2 atanh(s) with s = e / (2 + e), which is at most 1/3.
    half = 0.5 * exp_negative(-tl.abs(x))
    s = half * reciprocal(1.0 + half)
    # (atanh(s) - s) / s**3 as a polynomial in s**2: its Chebyshev fit, within 0.01 ulp of atanh.
    square = s * s
    p = 0.116195253
    p = p * square + 0.108516575
    p = p * square + 0.142962917
    p = p * square + 0.199998507
    p = p * square + 0.333333337
    return tl.minimum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - 2.0 * (s + s * square * p)


@triton.jit
def tanh_and_packed(x):
    """y = tanh(x) in float32; and y if x is small, else 1 + 2**16 (1 - |y|) with the sign of y.

    The second is one number of any floating-point type, from which `unpack_tanh` gives y and its
    derivative: that within two roundoffs up to |x| = 5.9, and above with an absolute error of
    2**-14 roundoffs. From a rounded y it would be neither: in bfloat16 y is 1 from x = 3.47 on.
    """
    magnitude = tl.abs(x)
    e = exp_negative(-2.0 * magnitude)
    inverse = reciprocal(1.0 + e)
    # (x - tanh(x)) / x**3 as a polynomial in x**2: its Chebyshev fit, within 0.03 ulp of tanh.
    s = x * x
    p = 0.00694294175
    p = p * s - 0.02147068303
    p = p * s + 0.05393346915
    p = p * s - 0.1333322578
    p = p * s + 0.333333328
    small = x - x * s * p
    sign = x.to(tl.int32, bitcast=True) & SIGN_BIT
    large = ((1.0 - e) * inverse).to(tl.int32, bitcast=True) | sign
    packed = (1.0 + e * inverse * (2.0 * TANH_SCALE)).to(tl.int32, bitcast=True) | sign
    is_small = magnitude < TANH_SMALL
    return (
        tl.where(is_small, small, large.to(tl.float32, bitcast=True)),
        tl.where(is_small, small, packed.to(tl.float32, bitcast=True)),
    )


@triton.jit
def tanh(x):
    """The hyperbolic tangent, in float32."""
    return tanh_and_packed(x)[0]


@triton.jit
def tanh_gradient(y):
    """The derivative of tanh, from its output y; inexact near |y| = 1, as 1 - y cancels."""
    return (1.0 - y) * (1.0 + y)


@triton.jit
def unpack_tanh(packed):
    """y = tanh(x) and its derivative, from what `tanh_and_packed` returned, after rounding."""
    magnitude = tl.abs(packed)
    above = 1.0 - magnitude  # 1 - |y| of a small x; of a large one at most 0
    scaled = above * TANH_UNSCALE
    rest = tl.maximum(above, -scaled, propagate_nan=tl.PropagateNan.ALL)  # 1 - |y|
    # |y| as it is, or 1 - (1 - |y|): each is the smaller where it is right.
    y = tl.minimum(magnitude, 1.0 + scaled, propagate_nan=tl.PropagateNan.ALL)
    sign = packed.to(tl.int32, bitcast=True) & SIGN_BIT
    signed = (y.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
    return signed, rest * (2.0 - rest)
