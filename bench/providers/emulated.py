"""Providers that emulate products in formats of tensor cores, to see their error without a GPU.

The reference runs in fp32, and each of its products, forward and backward, takes operands in that
format and accumulates in fp32. These are models for the error chapter; they are never timed. They
lack a tensor core's own accumulation, whose order, width and truncation are not documented.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.cases.cases import Case
from bench.providers import Call, provider, require
from bench.providers.plain import leaves_of
from bench.records.environment import Machine

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem

DROPPED = 13  # bits of fp32's 23-bit mantissa that tf32 has not


def supports(case: Case, machine: Machine) -> str | None:
    reason = require(case, precision=("ieee",))
    return f"emulated products take fp32 tensors; this is {reason}" if reason else None


def tf32_truncated(value: Tensor) -> Tensor:
    """An fp32 tensor without the bits that tf32 lacks, as tensor cores read one not converted."""
    import torch

    return (value.view(torch.int32) & -(1 << DROPPED)).view(torch.float32)


def tf32(value: Tensor) -> Tensor:
    """An fp32 tensor rounded to tf32, to nearest, ties away from zero, as cvt.rna.tf32 rounds."""
    import torch

    bits = value.view(torch.int32) + (1 << (DROPPED - 1))
    return tf32_truncated(bits.view(torch.float32))


def bf16(value: Tensor) -> Tensor:
    """An fp32 tensor rounded to bf16, to nearest, ties to even; in fp32."""
    return value.bfloat16().float()


def single(rounded: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """a @ b of operands that are rounded; accumulated in fp32."""
    return rounded(a) @ rounded(b)


def split(rounded: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """a @ b of operands split into two rounded pieces, as three products, the small ones first.

    The product of both low pieces is left out.
    """
    a_high, b_high = rounded(a), rounded(b)
    a_low, b_low = rounded(a - a_high), rounded(b - b_high)
    return (a_low @ b_high + a_high @ b_low) + a_high @ b_high


Product = Callable[["Tensor", "Tensor"], "Tensor"]
PRODUCTS: dict[str, Product] = {
    "tf32": partial(single, tf32),
    "tf32-truncated": partial(single, tf32_truncated),
    "tf32x3": partial(split, tf32),
    "bf16x3": partial(split, bf16),
}


def build(problem: Problem, product: Product) -> Call:
    import torch
    from torch.nn.functional import linear
    from torch.overrides import TorchFunctionMode

    from bench.cases.problem import run_reference

    class Linear(torch.autograd.Function):
        """x W^T + b [..., N] of x [..., K] and W [N, K], and its gradient, by the products."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            ctx.save_for_backward(x, w)
            found = product(x.flatten(0, -2), w.T).unflatten(0, x.shape[:-1])
            return found if b is None else found + b

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            (z,), (x, w) = gradients, ctx.saved_tensors
            rows = z.flatten(0, -2)
            dx = product(rows, w).unflatten(0, x.shape[:-1])
            db = rows.sum(0) if ctx.needs_input_grad[2] else None
            return dx, product(rows.T, x.flatten(0, -2)), db

    class Products(TorchFunctionMode):
        """Replaces the products of the reference."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return Linear.apply(*args) if func is linear else func(*args, **(kwargs or {}))

    leaves = leaves_of(problem)

    def forward() -> dict[str, Tensor]:
        with Products():
            return run_reference(problem.case, leaves, problem.resets, problem.lengths)

    return Call(forward, leaves)


for _name, _product in PRODUCTS.items():
    provider(f"emulated-{_name}", supports=supports, package="torch")(
        partial(build, product=_product)
    )
