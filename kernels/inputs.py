"""`Recurrence`: the arguments of the loop that always travel together."""

from typing import NamedTuple

from torch import Tensor

from .cells.cell import Cell


class Recurrence(NamedTuple):
    """The cell, the recurrent weights, the initial state and the options of one call.

    T time, B batch, D directions, G gates, H hidden units. All tensors are on one device. (Each
    call makes two: a frozen dataclass would take microseconds to make.)
    """

    cell: Cell
    w_hh: Tensor  # [D, G*H, H]
    b_hh: Tensor | None  # [D, G*H]; the backward pass needs none
    initial: Tensor  # [STATES, D, B, H]
    lengths: Tensor | None  # [B] int32
    resets: Tensor | None  # [T, B] uint8
    reverse: bool  # whether the only direction runs back in time
    precision: str  # of float32 products: "ieee", "tf32" or "tf32x3"

    def mirrored(self, direction: int) -> bool:
        """Whether a direction runs back in time."""
        return self.reverse or direction == 1
