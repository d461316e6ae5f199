"""The recurrent product of each step as a GEMM by torch, where that beats the persistent loop.

With a large batch, or with exact float32 products, the loop is bound by arithmetic, not by the
latency of a step. Then a GEMM by cuBLAS for each step, with a launch of our kernel for the cell's
pointwise part, is faster.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .inputs import Recurrence


@contextmanager
def rounding(precision: str, dtype: torch.dtype) -> Iterator[None]:
    """Round torch's float32 GEMMs as the loop rounds its products: "ieee" or "tf32".

    torch has no "tf32x3"; its GEMMs are exact then.
    """
    backend = torch.backends.cuda.matmul
    wanted = "tf32" if precision == "tf32" else "ieee"
    if dtype != torch.float32 or (before := backend.fp32_precision) == wanted:
        yield
        return
    backend.fp32_precision = wanted
    try:
        yield
    finally:
        # What was read may be inherited from the setting of all backends, and then is so again;
        # torch does not say, so a setting that equals the inherited one becomes inherited.
        backend.fp32_precision = "none"
        if backend.fp32_precision != before:
            backend.fp32_precision = before


def multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right with float32 sums, whatever the operands' type."""
    if left.dtype == torch.float32:
        torch.mm(left, right, out=out)
    elif left.is_cuda:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.float(), right.float(), out=out)


def rows_by_step(
    tensor: Tensor,  # [T, B, N]
    mirrored: bool,
    lengths: Tensor | None,  # [B]
) -> Callable[[int], Tensor]:
    """A function of the step, counted in the order of computation, that returns its rows [B, N].

    Past a sequence's end the rows are arbitrary.
    """
    if mirrored and lengths is not None:
        last, batch = lengths.long() - 1, torch.arange(tensor.shape[1], device=tensor.device)
        return lambda step: tensor[(last - step).clamp(min=0), batch]
    rows = tensor.unbind()
    return (rows[::-1] if mirrored else rows).__getitem__


def forward_products(
    recurrence: Recurrence,
    out: Tensor,  # [D, B, G*H] float32
    y: Tensor,  # [T, B, D*H]
) -> Callable[[int], None]:
    """A function of the step that computes out = h(step - 1) R^T + b, for each direction.

    What the steps share is prepared before the loop, since the GPU waits for Python at each step.
    """
    w_hh, b_hh = recurrence.w_hh, recurrence.b_hh
    D, _, H = w_hh.shape
    directions = []
    for d in range(D):
        mirrored, (lengths, resets) = recurrence.mirrored(d), recurrence.masks(d)
        h = rows_by_step(y.unflatten(-1, (D, H))[:, :, d], mirrored, lengths)
        reset = None
        if resets is not None:
            reset = rows_by_step(resets[..., None], mirrored, lengths)
        bias = None if b_hh is None else b_hh[d]
        directions.append((out[d], recurrence.initial[0, d], h, reset, w_hh[d].t(), bias))

    def compute(step: int) -> None:
        for product, h0, h, reset, weights, bias in directions:
            previous = h0
            if step > 0:
                previous = h(step - 1)
                if reset is not None:
                    previous = torch.where(reset(step) != 0, h0, previous)
            multiply(previous, weights, product)
            if bias is not None:
                product.add_(bias)

    return compute


def backward_products(
    recurrence: Recurrence,
    out: Tensor,  # [1, D, B, H] float32
    dr: Tensor,  # [T, B, D, G*H]
) -> Callable[[int], None]:
    """A function of the step that computes out = dr(step) R, for each direction.

    Of sequences that end before the step the result is arbitrary; the kernel ignores it.
    """
    directions = []
    for d, w_hh in enumerate(recurrence.w_hh):
        gradients = rows_by_step(dr[:, :, d], recurrence.mirrored(d), recurrence.masks(d)[0])
        directions.append((out[0, d], gradients, w_hh))

    def compute(step: int) -> None:
        for product, gradients, weights in directions:
            multiply(gradients(step), weights, product)

    return compute
