"""The recurrent product of one step as a GEMM of torch's, where that beats the persistent loop.

With a large batch, or with exact float32 products, the loop is bound by arithmetic, not by the
distance between steps; then a GEMM a step by cuBLAS, and the cell's pointwise part by our kernel,
are faster.
"""

from collections.abc import Iterator
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


def at_step(
    tensor: Tensor,  # [T, B, D, N]
    step: int,
    direction: int,
    reverse: bool,
    lengths: Tensor | None,
) -> Tensor:
    """The rows [B, N] of one step in the order of computation; arbitrary past a sequence's end."""
    T, B = tensor.shape[:2]
    if not reverse:
        return tensor[step, :, direction]
    if lengths is None:
        return tensor[T - 1 - step, :, direction]
    times = (lengths.long() - 1 - step).clamp(min=0)
    return tensor[times, torch.arange(B, device=tensor.device), direction]


def forward_product(
    out: Tensor,  # [D, B, G*H] float32
    step: int,
    y: Tensor,  # [T, B, D*H]
    h0: Tensor,  # [D, B, H]
    w_hh: Tensor,  # [D, G*H, H]
    b_hh: Tensor | None,  # [D, G*H]
    lengths: Tensor | None,
    resets: Tensor | None,  # [T, B]
    reverse: bool,
) -> None:
    """out = h(step - 1) R^T + b for both directions."""
    D, _, H = w_hh.shape
    for d in range(D):
        backward_in_time = reverse or d == 1
        h = h0[d]
        if step > 0:
            h = at_step(y.unflatten(-1, (D, H)), step - 1, d, backward_in_time, lengths)
            if resets is not None:
                back = at_step(resets[:, :, None, None], step, 0, backward_in_time, lengths)
                h = torch.where(back != 0, h0[d], h)
        multiply(h, w_hh[d].t(), out[d])
        if b_hh is not None:
            out[d] += b_hh[d]


def backward_product(
    out: Tensor,  # [1, D, B, H] float32
    step: int,
    dr: Tensor,  # [T, B, D, G*H]
    w_hh: Tensor,
    lengths: Tensor | None,
    reverse: bool,
) -> None:
    """out = dr(step) R for both directions; the kernel ignores sequences that ended before."""
    for d in range(w_hh.shape[0]):
        multiply(at_step(dr, step, d, reverse or d == 1, lengths), w_hh[d], out[0, d])
