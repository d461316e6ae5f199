"""Floating-point operations of the operators, for `torch.utils.flop_counter.FlopCounterMode`: two
for each multiplication of a matrix product, as torch counts; the pointwise part is not counted.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from .operators import layer, layer_backward, recurrence, recurrence_backward

Shape = Sequence[int]


def product(sequence: Shape, w_hh: Shape) -> int:
    """Of all steps' products with the recurrent weights [D, G*H, H], for a sequence [T, B, ...]."""
    return 2 * math.prod(sequence[:2]) * math.prod(w_hh)


@register_flop_formula(recurrence.overloadpacket)
def _forward(gx: Shape, w_hh: Shape, *rest: Any, **more: Any) -> int:
    return product(gx, w_hh)


@register_flop_formula(recurrence_backward.overloadpacket)
def _backward(dy: Shape, _dfinal: Shape, w_hh: Shape, *rest: Any, **more: Any) -> int:
    needs_weight = rest[8]
    return product(dy, w_hh) * (1 + needs_weight)


@register_flop_formula(layer.overloadpacket)
def _layer(x: Shape, w_ih: Shape, _b: Any, w_hh: Shape, *rest: Any, **more: Any) -> int:
    return product(x[1:], w_ih) + product(x[1:], w_hh)


@register_flop_formula(layer_backward.overloadpacket)
def _layer_backward(
    dy: Shape, _dfinal: Shape, _x: Shape, w_ih: Shape, _b: Any, w_hh: Shape, *rest: Any, **more: Any
) -> int:
    needs_x, needs_w_ih, _, needs_w_hh, _ = rest[6]
    # Once forward again, and back.
    inputs = product(dy, w_ih) * (1 + needs_x + needs_w_ih)
    return inputs + product(dy, w_hh) * (2 + needs_w_hh)
