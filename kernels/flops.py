"""Floating-point operations of the operators, for `torch.utils.flop_counter.FlopCounterMode`: two
for each multiplication of a matrix product, as torch counts; the pointwise part is not counted.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from .operators import layer, layer_backward, recurrence, recurrence_backward

Shape = Sequence[int]
Mask = Shape | None


def product_flops(sequence: Shape, weights: Shape) -> int:
    """Of the products of all T*B rows of a sequence [T, B, ...] with weights [D, G*H, K]."""
    return 2 * math.prod(sequence[:2]) * math.prod(weights)


@register_flop_formula(recurrence.overloadpacket)
def _recurrence(gx: Shape, w_hh: Shape, *_: Any, **__: Any) -> int:
    return product_flops(gx, w_hh)


@register_flop_formula(recurrence_backward.overloadpacket)
def _recurrence_backward(
    dy: Shape, dfinal: Shape, w_hh: Shape, initial: Shape, lengths: Mask, resets: Mask, y: Shape,
    history: Shape, saved: Shape, cell: str, direction: str, needs_weight: bool, *_: Any, **__: Any,
) -> int:  # fmt: skip
    return product_flops(dy, w_hh) * (1 + needs_weight)


@register_flop_formula(layer.overloadpacket)
def _layer(x: Shape, w_ih: Shape, b_ih: Shape | None, w_hh: Shape, *_: Any, **__: Any) -> int:
    return product_flops(x[1:], w_ih) + product_flops(x[1:], w_hh)


@register_flop_formula(layer_backward.overloadpacket)
def _layer_backward(
    dy: Shape, dfinal: Shape, x: Shape, w_ih: Shape, b_ih: Shape | None, w_hh: Shape,
    b_hh: Shape | None, initial: Shape, lengths: Mask, resets: Mask, cell: str, direction: str,
    needs: Sequence[bool], *_: Any, **__: Any,
) -> int:  # fmt: skip
    needs_x, needs_w_ih, _needs_b_ih, needs_w_hh, _needs_b_hh = needs
    # Once forward again, and back.
    inputs = product_flops(dy, w_ih) * (1 + needs_x + needs_w_ih)
    return inputs + product_flops(dy, w_hh) * (2 + needs_w_hh)
