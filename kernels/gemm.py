"""The recurrent product of one step as a GEMM of torch's, where that beats the persistent loop.

With a large batch, or with exact float32 products, the loop is bound by arithmetic, not by the
distance between steps; then a GEMM a step by cuBLAS, and the cell's pointwise part by our kernel,
are faster.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Round float32 GEMMs as the loop's own products: "ieee" or "tf32"; for "tf32x3", which torch
    lacks, exactly.
    """
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before


def multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right with float32 sums, whatever the operands' type."""
    if left.dtype == torch.float32:
        torch.mm(left, right, out=out)
    elif left.is_cuda:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left.float(), right.float(), out=out)


def in_order(
    tensor: Tensor,  # [T, B, D, N]
    direction: int,
    reverse: bool,
    lengths: Tensor | None,
) -> Callable[[int], Tensor]:
    """What gives the rows [B, N] of a step, counted in the order of computation.

    They are arbitrary past a sequence's end.
    """
    if reverse and lengths is not None:
        last, batch = lengths.long() - 1, torch.arange(tensor.shape[1], device=tensor.device)
        return lambda step: tensor[(last - step).clamp(min=0), batch, direction]
    rows = tensor[:, :, direction].unbind()
    return (rows[::-1] if reverse else rows).__getitem__


def forward_products(
    out: Tensor,  # [D, B, G*H] float32
    y: Tensor,  # [T, B, D*H]
    h0: Tensor,  # [D, B, H]
    w_hh: Tensor,  # [D, G*H, H]
    b_hh: Tensor | None,  # [D, G*H]
    lengths: Tensor | None,
    resets: Tensor | None,  # [T, B]
    reverse: bool,
) -> Callable[[int], None]:
    """What computes out = h(step - 1) R^T + b of a step, for each direction.

    Everything that steps have in common is made once, for the loop waits for Python at each step.
    """
    D, _, H = w_hh.shape
    directions = []
    for d in range(D):
        mirrored = reverse or d == 1
        h = in_order(y.unflatten(-1, (D, H)), d, mirrored, lengths)
        back = None
        if resets is not None:
            back = in_order(resets[:, :, None, None], 0, mirrored, lengths)
        bias = None if b_hh is None else b_hh[d]
        directions.append((out[d], h0[d], h, back, w_hh[d].t(), bias))

    def compute(step: int) -> None:
        for product, first, h, back, weights, bias in directions:
            previous = first
            if step > 0:
                previous = h(step - 1)
                if back is not None:
                    previous = torch.where(back(step) != 0, first, previous)
            multiply(previous, weights, product)
            if bias is not None:
                product.add_(bias)

    return compute


def backward_products(
    out: Tensor,  # [1, D, B, H] float32
    dr: Tensor,  # [T, B, D, G*H]
    w_hh: Tensor,
    lengths: Tensor | None,
    reverse: bool,
) -> Callable[[int], None]:
    """What computes out = dr(step) R of a step, for each direction; of sequences that ended before
    it, what the kernel ignores.
    """
    directions = [
        (out[0, d], in_order(dr, d, reverse or d == 1, lengths), w_hh[d])
        for d in range(w_hh.shape[0])
    ]

    def compute(step: int) -> None:
        for product, gradients, weights in directions:
            multiply(gradients(step), weights, product)

    return compute
