"""`Recurrence`: the arguments of the loop that always travel together."""

from typing import NamedTuple

from torch import Tensor

from .cells.cell import Cell

# For each name, which of its directions run back in time.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "both": (False, True)}


class Recurrence(NamedTuple):
    """The cell, the recurrent weights, the initial state and the options of one call.

    T time, B batch, G gates, H hidden units, D directions: one or two for each of the models that
    run side by side (an ensemble under `torch.vmap`; else there is one). All tensors are on one
    device. (A NamedTuple, because each call makes two, and a frozen dataclass takes microseconds
    more.)
    """

    cell: Cell
    w_hh: Tensor  # [D, G*H, H]
    b_hh: Tensor | None  # [D, G*H]; the backward pass needs none
    initial: Tensor  # [STATES, D, B, H]
    lengths: Tensor | None  # [1, B] int32, or [models, B]
    resets: Tensor | None  # [1, T, B] uint8, or [models, T, B]; as many as `lengths`, if both
    direction: str  # a name in DIRECTIONS: those of one model
    precision: str  # of float32 products: "ieee", "tf32" or "tf32x3"

    @property
    def directions(self) -> int:
        """The directions of one model, 1 or 2."""
        return len(DIRECTIONS[self.direction])

    @property
    def own_masks(self) -> bool:
        """Whether each of several models has lengths and resets of its own."""
        return any(masks is not None and len(masks) > 1 for masks in (self.lengths, self.resets))

    def mirrored(self, direction: int) -> bool:
        """Whether a direction runs back in time."""
        return DIRECTIONS[self.direction][direction % self.directions]

    def masks(self, direction: int) -> tuple[Tensor | None, Tensor | None]:
        """The lengths [B] and the resets [T, B] of a direction."""
        model = direction // self.directions if self.own_masks else 0
        return (
            None if self.lengths is None else self.lengths[model],
            None if self.resets is None else self.resets[model],
        )
