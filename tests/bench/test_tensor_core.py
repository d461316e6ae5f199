"""The emulation of a tensor core's sums: by hand, and how its errors grow."""

import numpy as np
import pytest
import torch

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.numbers import ROUNDOFF
from bench.error import tensor_core
from bench.measure.metrics import tolerance

U = ROUNDOFF["fp32"]
CARDS = {"8 products": (8, 0), "8, two bits more": (8, 2), "16, two bits more": (16, 2)}


def dot(terms: list[float], block: int, extra_bits: int) -> float:
    a = np.array([terms])
    return tensor_core.matmul(a, np.ones_like(a.T), block, extra_bits).item()


def test_small_products_are_cut_off_at_the_largest():
    small = [2.0**-25] * 6  # together 1.5 of the last place of 1, which is 2^-23
    assert dot([1.0, *small], 8, 0) == 1.0
    assert dot([1.0, *small], 8, 2) == 1.0 + 2.0**-23, "and the sum is cut off, not rounded"
    assert dot([-1.0, *(-x for x in small)], 8, 2) == -1.0 - 2.0**-23, "towards zero"
    assert dot([1.0, *small], 4, 2) == 1.0, "twice 0.75, each lost"
    assert dot([*small, 1.0], 4, 2) == 1.0 + 2.0**-23, "1.0 and then 0.5 of it"
    assert dot([1.0, 2.0**-24, -1.0, 2.0**-24], 4, 2) == 2.0**-23, "only a block's sum is cut off"


def relative(K: int, block: int, extra_bits: int, seed: int) -> tuple[float, float, float]:
    """Of products of weights and states in bf16: the relative L2 errors of the emulated sums and of
    sums rounded to nearest one by one, and how much smaller than the exact sums the emulated are.
    """
    draw = torch.Generator().manual_seed(seed)
    a = (2 * torch.rand(24, K, generator=draw) - 1).bfloat16().float().numpy()
    b = torch.randn(K, 24, generator=draw).bfloat16().float().numpy()
    exact = a.astype(float) @ b.astype(float)
    nearest = np.zeros(exact.shape, np.float32)
    for k in range(K):
        nearest += a[:, k : k + 1] * b[k : k + 1]
    got = tensor_core.matmul(a, b, block, extra_bits)
    off, off_nearest, size = (np.linalg.norm(x) for x in (got - exact, nearest - exact, exact))
    shrunk = ((exact - got) * np.sign(exact)).mean() / np.abs(exact).mean()
    return float(off / size), float(off_nearest / size), float(shrunk)


@pytest.mark.parametrize(("block", "extra_bits"), CARDS.values(), ids=CARDS)
def test_errors_of_cut_off_sums_are_small_for_all_types_but_tf32x3(
    block: int, extra_bits: int, seed: int
):
    """Stated in bench/ERROR.md: 5 to 25 u at K = 1024, 3 to 5 u rounded to nearest."""
    cut, nearest, _ = relative(1024, block, extra_bits, seed)
    assert 4 * U < cut < 30 * U and 2.5 * U < nearest < 5.5 * U
    assert cut < 0.01 * ROUNDOFF["tf32"], "beside the rounding of operands"


def test_a_sum_that_is_cut_off_shrinks_in_proportion_to_its_length(seed: int):
    *_, short = relative(512, 16, 2, seed)
    cut, nearest, long = relative(4096, 16, 2, seed)
    assert 4 < long / short < 16, "a bias; errors of either sign would grow as the root, 2.8 times"
    assert cut > 4 * nearest
    # The longest sums that are planned for: forward over H = 4096.
    case = make_case(**DEFAULTS | {"dtype": "fp32:tf32x3", "H": 4096})
    assert cut < tolerance(case, "y") / 2
