"""A report of where a tensor is wrong: which time steps, sequences and units, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_RANGES = 6

# What the axes of each tensor of a comparison are; a gradient has those of its tensor.
AXES = {
    "y": ("time", "sequence", "unit"),
    "gx": ("time", "sequence", "direction", "gate row"),
    "w_hh": ("direction", "gate row", "unit"),
    "b_hh": ("direction", "gate row"),
}
STATE_AXES = ("direction", "sequence", "unit")


def axes(name: str) -> tuple[str, ...]:
    """The names of a tensor's axes; those of a state unless ``AXES`` has the tensor."""
    return AXES.get(name.removeprefix("d"), STATE_AXES)


def ranges(indices: Sequence[int]) -> str:
    """Sorted indices as ranges, the first few of them.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    words = [f"{low}-{high}" if high > low else f"{low}" for low, high in runs[:MOST_RANGES]]
    return ", ".join(words) + (f" and {len(runs) - MOST_RANGES} more" if runs[MOST_RANGES:] else "")


def describe(name: str, found: Tensor, exact: Tensor, bound: float) -> list[str]:
    """Which entries of a tensor are wrong, the first of them, and the worst.

    An entry is listed where it is not finite, or off by more than ``bound`` times the root mean
    square of ``exact``: a tensor whose relative L2 error exceeds ``bound`` has at least one.

    Args:
        found: of any floating type.
        exact: float64, of the same shape.
        bound: the relative L2 error that is accepted.
    """
    difference = (found.double() - exact).abs()
    rms = exact.square().mean().sqrt()
    wrong = ~(difference <= bound * rms)
    shape = ", ".join(f"{axis} {size}" for axis, size in zip(axes(name), found.shape, strict=True))
    infinite = int((~found.isfinite()).sum())
    lines = [
        f"{name} ({shape}): {int(wrong.sum()):,} of {found.numel():,} entries are off by more than "
        f"{bound:.2g} of the root mean square, {float(rms):.3g}; {infinite:,} are not finite"
    ]
    where = wrong.nonzero()
    if not len(where):
        return lines
    lines += [
        f"  {axis} {ranges(where[:, k].unique().tolist())}" for k, axis in enumerate(axes(name))
    ]
    largest = difference.nan_to_num(torch.inf, torch.inf).flatten().argmax()
    worst = [int(k) for k in torch.unravel_index(largest, difference.shape)]
    for word, index in (("first", where[0].tolist()), ("worst", worst)):
        at = tuple(index)
        lines.append(
            f"  {word} at {index}: {float(found[at]):.6g} instead of {float(exact[at]):.6g}"
        )
    return lines
