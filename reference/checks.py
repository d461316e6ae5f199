"""Argument checks of the public functions: bad input raises an error before anything is computed.

They check only what torch would broadcast, promote, or refuse without naming the argument.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor


def check_choice(name: str, value: str, accepted: Collection[str]) -> str:
    """Return `value`; raise ValueError unless it is one of `accepted`."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted: {', '.join(map(repr, accepted))}")
    return value


def check_input(name: str, value: Tensor, ranks: Collection[int], shape: str) -> None:
    """Require a floating-point tensor whose number of dimensions is in `ranks`."""
    accepted = f"a floating-point tensor {shape}"
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} is {describe(value)}; accepted: {accepted}")
    if value.dim() not in ranks:
        raise ValueError(f"{name} is {describe(value)}; accepted: {accepted}")


def check_tensor(
    name: str, value: Tensor, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """Require a tensor of this shape, on `like`'s device, of `dtype` (by default `like`'s)."""
    dtype = dtype or like.dtype
    accepted = f"a tensor {list(shape)} of {dtype} on {like.device}"
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {describe(value)}; accepted: {accepted}")
    if (value.shape, value.dtype, value.device) != (torch.Size(shape), dtype, like.device):
        raise ValueError(f"{name} is {describe(value)}; accepted: {accepted}")


def check_weights(
    weights: Sequence[Sequence[Tensor]], G: int, D: int, merge: str, x: Tensor
) -> int:
    """Require a tuple of tensors per layer and direction, of shapes that fit x; return H."""
    counts = [
        sum(isinstance(w, Tensor) for w in one) if isinstance(one, Sequence) else 0
        for one in weights
    ]
    if not counts or len(counts) % D or set(counts) not in ({2}, {4}):
        raise ValueError(
            f"weights is tuples of {counts} tensors; accepted: (w_ih, w_hh, b_ih, b_hh), or all "
            f"(w_ih, w_hh), {D} for each layer"
        )
    H, I = len(weights[0][0]) // G, x.shape[-1]
    for k, one in enumerate(weights):
        if k == D:
            I = D * H if merge == "concat" else H
        shapes = {"w_ih": (G * H, I), "w_hh": (G * H, H), "b_ih": (G * H,), "b_hh": (G * H,)}
        for (name, shape), value in zip(shapes.items(), one, strict=False):
            check_tensor(f"{name} of weights[{k}]", value, shape, x)
    return H


def check_lengths(lengths: Sequence[int] | Tensor, T: int, B: int) -> None:
    """Raise ValueError unless `lengths` is B integers in 1..T."""
    values = torch.as_tensor(lengths)
    whole = not values.is_floating_point() and values.dtype != torch.bool
    if values.shape != (B,) or not whole or ((values < 1) | (values > T)).any():
        raise ValueError(f"lengths is {values.tolist()}; accepted: {B} integers in 1..{T}")


def describe(value: object) -> str:
    """A value for a message: a tensor's shape, dtype and device, anything else's type."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype} on {value.device}"
    return f"of type {type(value).__name__}"
