"""Error metrics of a tensor against float64, and how large an error still counts as correct."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.cases.cases import Case
from bench.cases.numbers import ROUNDOFF, product_roundoff

LEAST_STEPS, MOST_STEPS = 48, 32  # of a case whose error is kept by time step, and at most kept
QUANTILE_LIMIT = 1 << 24  # torch.quantile accepts no more


class Incorrect(ValueError):
    """A result is wrong in value or shape, or missing."""


def same_shapes(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Check that tensors have the names and shapes of others.

    Args:
        what: "outputs" or "gradients", for the message.

    Raises:
        Incorrect: if one is missing, too many, no plain tensor or of another shape.
    """
    if got.keys() != wanted.keys():
        raise Incorrect(f"{what} are {', '.join(got)}; accepted: {', '.join(wanted)}")
    for name, value in got.items():
        shape = tuple(wanted[name].shape)
        if type(value) not in (Tensor, torch.nn.Parameter):
            raise Incorrect(f"{name} is a {type(value).__name__}; accepted: a tensor {shape}")
        if value.shape != shape:
            raise Incorrect(f"{name} has shape {tuple(value.shape)}; accepted: {shape}")


def ulp(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of ``dtype``'s numbers at each float64 value of ``truth``.

    Below the smallest normal number the spacing is that of the subnormal numbers.
    """
    info = torch.finfo(dtype)
    # frexp's fraction is in [1/2, 1), so its exponent is one above the number's own.
    _, exponent = torch.frexp(truth.abs().clamp_min(info.smallest_normal))
    return torch.ldexp(torch.full_like(truth, info.eps), exponent - 1)


def errors(got: Tensor, truth: Tensor, dtype: torch.dtype | None = None) -> dict[str, float]:
    """max and mean absolute error, relative L2, and the maximum and 99th percentile in ULP.

    Args:
        got: what was computed, any floating type.
        truth: float64, the same shape.
        dtype: whose units in the last place; ``got``'s own unless given.

    Returns:
        The five metrics; NaN or infinite where ``got`` is.

    Raises:
        Incorrect: if the shapes differ.
    """
    if got.shape != truth.shape:
        raise Incorrect(f"got has shape {tuple(got.shape)}; accepted: {tuple(truth.shape)}")
    difference = (got.double() - truth).abs()
    units = (difference / ulp(truth, dtype or got.dtype)).flatten()
    norm = torch.linalg.vector_norm(truth)
    off = torch.linalg.vector_norm(difference)
    every = max(1, -(-units.numel() // QUANTILE_LIMIT))
    return {
        "max_abs": difference.max().item(),
        "mean_abs": difference.mean().item(),
        "rel_l2": (off / norm).item() if norm > 0 else off.item(),
        "max_ulp": units.max().item(),
        "p99_ulp": torch.quantile(units[::every], 0.99).item(),
    }


def by_step(got: Tensor, truth: Tensor, from_last: bool = False) -> list[tuple[int, float]]:
    """The relative L2 error at some time steps, closer together at the first of them.

    Args:
        got: [T, ...], any floating type.
        truth: float64, the same shape.
        from_last: count steps from the last one, as a gradient reaches them.

    Returns:
        At most ``MOST_STEPS`` pairs of a step, counted from 1, and the error there, to three
        digits; absolute where the truth is zero.
    """
    T, norm = len(truth), torch.linalg.vector_norm
    steps = torch.logspace(0, math.log2(T), MOST_STEPS, 2).round().int().unique().tolist()
    found = []
    for step in steps:
        t = T - step if from_last else step - 1
        off, size = norm(got[t].double() - truth[t]).item(), norm(truth[t]).item()
        found.append((step, float(f"{off / size if size > 0 else off:.3g}")))
    return found


def tolerance(case: Case, name: str) -> float:
    """The relative L2 error up to which a provider counts as correct at any benchmarked shape.

    A correct implementation in the I/O type rounds the state once a step. Under torch's default
    weights the loop contracts, so these roundings do not add up over time: torch.nn and the
    reference stay below 2 unit roundoffs u for outputs and 3 u for gradients in 16-bit types. 8 u
    and 16 u allow for gates saved in the I/O type and for another order of summation. Products in
    fp32 sum up to some thousand terms in any order (measured: 10 u at H=512), hence 256 u and
    512 u. A swapped gate is off by 0.1 or more, a wrong direction or state by 1.

    The derivative of a rectifier is a step function: of N pre-activations about N u are so near
    zero that rounding changes their sign, and with it their whole gradient. That is about sqrt(u)
    of the norm for any implementation, more where few elements carry it (measured: 4.4 sqrt(u) for
    dh0 of 128 elements). Gradients of rnn_relu are allowed 8 sqrt(u), which still catches a wrong
    sign or a missing term in any type.
    """
    u = product_roundoff(case.dtype, case.precision)
    factor = 256.0 if u == ROUNDOFF["fp32"] else 8.0
    if not name.startswith("d"):
        return factor * u
    return max(2 * factor * u, 8 * math.sqrt(u) if case.cell_info.nonlinearity == "relu" else 0.0)
