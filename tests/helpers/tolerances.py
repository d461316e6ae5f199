"""Unit roundoffs of the dtypes, and tolerances that several tests share.

A tolerance bounds a tensor's largest absolute error, relative to its largest entry. A wrong or
missing term changes most entries by a tenth or more, a wrong sum by a thousandth, which is well
above every tolerance here.
"""

import torch
from torch import Tensor

# Half the distance from 1 to the next number: the relative error of one rounding.
ROUNDOFF = {
    dtype: torch.finfo(dtype).eps / 2
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}

# For two computations in one dtype that add the same terms in different orders. A sum of K terms is
# off by up to K unit roundoffs u, S steps with a gain near 1 by up to K * S * u:
# float64: K < 300, S <= 21 (seven steps of three layers), 6300 u = 7e-13 (seen: 1e-15);
# float32: K < 50, S <= 6 (three steps of two layers), 300 u = 1.8e-5.
REORDERED = {torch.float64: 1e-12, torch.float32: 3e-5}


def rounded_loop(dtype: torch.dtype, T: int, K: int) -> float:
    """The tolerance of a network in `dtype` against float64, over T steps of up to two layers.

    A value passes at most 2T steps, each with 4 roundings to `dtype` (gates' inputs, outputs, saved
    activations, gates' gradients), which add like a random walk and are not amplified by weights of
    gain below 1. Sums are in float32, of at most K terms.
    """
    return 4 * (2 * T) ** 0.5 * ROUNDOFF[dtype] + K * ROUNDOFF[torch.float32]


def size_of_sums(left: Tensor, right: Tensor) -> float:
    """The largest 2-norm over the terms of a sum over t and b of left[t, b, i] * right[t, b, j].

    The terms' rounding errors are independent, so that a sum's error is relative to this norm. The
    sum may be much smaller: terms cancel, errors do not.
    """
    squares = left.square().flatten(0, -2).t() @ right.square().flatten(0, -2)
    return squares.max().sqrt().item()


def assert_close(
    actual: Tensor, expected: Tensor, tolerance: float, name: str, size: float = 0.0
) -> None:
    """Shapes agree, and no error exceeds `tolerance` times the largest expected entry, or times
    `size` (see `size_of_sums`) if that is larger.
    """
    assert actual.shape == expected.shape, name
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max().item()
        size = max(size, expected.abs().max().item())
        assert error <= tolerance * size, (
            f"{name}: off by {error:.2e}; accepted: {tolerance:.1e} of the largest size {size:.2e}"
        )
