"""Emulated products of tensor cores: their rounding bit by bit, and the error it makes."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from bench.cases.cases import CELLS, DEFAULTS, Case, make_case
from bench.cases.numbers import ROUNDOFF
from bench.cases.problem import make_problem
from bench.cases.regimes import apply_regime
from bench.measure.runner import Runner
from bench.providers import PROVIDERS, Provider, emulated, load, unsupported
from bench.records.environment import Machine

CPU = Machine("cpu", "test")
U = ROUNDOFF["tf32"]
KAPPA = 2 * math.log(2) / 9  # mean square of a rounding's relative error over u^2 (ERROR.md)
load()


def small_case(**values: Any) -> Case:
    given = {"B": 3, "T": 5, "H": 16, "dtype": "fp32", "pass": "fwd+bwd"} | values
    return make_case(**DEFAULTS | given)


def on_grid(value: torch.Tensor, spacings: float) -> np.ndarray:
    """The magnitude in spacings of tf32 (2u at 1), plus ``spacings``, rounded down; signed."""
    mantissa, exponent = np.frexp(value.double().numpy())  # a mantissa in [1/2, 1)
    steps = np.floor(np.abs(mantissa) / U + spacings)
    return np.ldexp(np.sign(mantissa) * steps * U, exponent)


def test_tf32_rounds_and_truncates_by_its_definition(seed):
    torch.manual_seed(seed)
    drawn = torch.randn(4096) * 10.0 ** torch.randint(-30, 30, (4096,))
    steps = torch.randint(1 << 10, 1 << 11, (1024,)).float() * U
    ties = torch.cat([steps + U / 2, steps + U / 2 - 2.0**-24, steps + U / 2 + 2.0**-24])
    values = torch.cat([drawn, ties, -ties, torch.zeros(1)])
    assert np.array_equal(emulated.tf32(values).double().numpy(), on_grid(values, 0.5))
    assert np.array_equal(emulated.tf32_truncated(values).double().numpy(), on_grid(values, 0.0))
    for rounded in (emulated.tf32, emulated.tf32_truncated):
        assert (
            rounded(torch.tensor(math.inf)) == math.inf and rounded(torch.tensor(math.nan)).isnan()
        )
        assert torch.equal(rounded(values[1:].view(-1, 2).T), rounded(values[1:].view(-1, 2)).T)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Each operand rounded once. Truncated, its error is twice as large, and its mean, u times
        # E[1/m] = 1/(2 ln 2), is no longer zero, so that both operands' add up.
        ("tf32", math.sqrt(2 * KAPPA) * U),
        ("tf32-truncated", math.sqrt(8 * KAPPA + 2 / (2 * math.log(2)) ** 2) * U),
        # The rounding of either low piece, and the product of both that is left out.
        ("bf16x3", math.sqrt(3) * KAPPA * ROUNDOFF["bf16"] ** 2),
    ],
    ids=["tf32", "tf32-truncated", "bf16x3"],
)
def test_a_product_has_the_error_that_its_roundings_make(name, expected, seed):
    torch.manual_seed(seed)
    a, b = torch.randn(64, 256), torch.randn(256, 64)
    exact = a.double() @ b.double()
    off = (emulated.PRODUCTS[name](a, b) - exact).norm() / exact.norm()
    assert off.item() == pytest.approx(expected, rel=0.2)  # normal numbers, not logarithmic ones


def test_three_tf32_products_are_nearly_as_exact_as_fp32(seed):
    """Left out of it are (0.4 * 2^-11)^2 = 2.6 u of fp32 and two such roundings, at most."""
    torch.manual_seed(seed)
    a, b = torch.randn(64, 256), torch.randn(256, 64)
    exact = a.double() @ b.double()
    off = (emulated.PRODUCTS["tf32x3"](a, b) - exact).norm() / exact.norm()
    assert off < math.sqrt(3) * KAPPA * U**2 + 4 * ROUNDOFF["fp32"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "values",
    [
        {"layers": 2, "directions": 2},
        {"resets": 0.3},
        {"track": "recurrence"},
        {"regime": "lengths"},
    ],
    ids=["layers", "resets", "recurrence", "lengths"],
)
def test_with_exact_products_it_is_the_reference(cell, values):
    regime = values.get("regime")
    case = small_case(cell=cell, **{name: v for name, v in values.items() if name != "regime"})
    problem = make_problem(case)
    apply_regime(problem, regime)
    exact = Provider("exact", lambda problem: emulated.build(problem, torch.matmul))
    found, expected = (
        Runner(provider, problem, CPU).run() for provider in (exact, PROVIDERS["reference"])
    )
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = expected[name].norm()
        # Sums of up to 50 products in another order; the recursion of 5 steps keeps them apart.
        assert (value - expected[name]).norm() <= 1e-5 * scale, name


@pytest.mark.parametrize("cell", CELLS)
def test_the_products_of_the_backward_pass_are_in_the_format_too(cell):
    """One step of inputs, states and weights that tf32 has, so that forward nothing is lost."""
    problem = make_problem(small_case(cell=cell, T=1, B=16))
    for name, value in problem.inputs.items():
        problem.inputs[name] = emulated.tf32(value)
    found, exact = (
        Runner(PROVIDERS[name], problem, CPU).run() for name in ("emulated-tf32", "reference")
    )
    off = {name: ((found[name] - t).norm() / t.norm()).item() for name, t in exact.items()}
    assert off["y"] < 1e-6
    # Of the gradient at the pre-activations, the only operand that is not exact.
    for name in ("dx", "dw_ih_l0", "dw_hh_l0"):
        assert 0.5 * math.sqrt(KAPPA) * U < off[name] < U, name


@pytest.mark.parametrize("name", emulated.PRODUCTS)
def test_only_fp32_products_are_emulated(name):
    provider = PROVIDERS[f"emulated-{name}"]
    assert unsupported(provider, small_case(), CPU) is None
    for dtype, why in (("bf16", "none"), ("fp32:tf32", "tf32")):
        status, reason = unsupported(provider, small_case(dtype=dtype), CPU) or ("", "")
        assert status == "unsupported" and f"precision {why} (only ieee)" in reason
