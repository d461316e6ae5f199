"""`torch.vmap` of the operators: an ensemble of models in one launch.

Models with weights of their own run side by side, as more directions. If no weights are mapped, the
mapped dimension is folded into the batch, unless the weights' gradients are needed, which differ
from model to model.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import ArgumentError
from .inputs import DIRECTIONS
from .operators import (
    LIBRARY,
    layer,
    layer_backward,
    named,
    recurrence,
    recurrence_backward,
    sequence_ends,
)


class Axes(NamedTuple):
    """Which dimension counts models (or all models' directions), and which the batch."""

    models: int
    batch: int | None


# Of an operator's arguments and results, by the arguments' names.
AXES = {
    "x": Axes(0, 2),  # [N, T, B, I]
    "gx": Axes(2, 1),  # [T, B, D, G*H]
    "w_ih": Axes(0, None),
    "b_ih": Axes(0, None),
    "w_hh": Axes(0, None),
    "b_hh": Axes(0, None),
    "initial": Axes(1, 2),  # [STATES, D, B, H]
    "dfinal": Axes(1, 2),
    "lengths": Axes(0, 1),  # [N, B]
    "resets": Axes(0, 2),  # [N, T, B]
    "y": Axes(2, 1),  # [T, B, D*H]
    "dy": Axes(2, 1),
    "history": Axes(3, 2),  # [STATES-1, T, B, D, H]
    "saved": Axes(3, 2),  # [SAVED, T, B, D, H]
}
# Arguments whose dimension of models is 1 if all models share them.
SHARED = ("x", "lengths", "resets")
RESULTS = {
    recurrence: ("y", "initial", "history", "saved"),
    recurrence_backward: ("gx", "w_hh", "b_hh", "initial"),
    layer: ("y", "initial"),
    layer_backward: ("x", "w_ih", "b_ih", "w_hh", "b_hh", "initial"),
}


def side_by_side(
    operator: torch._ops.OpOverload, info: Any, dims: tuple[Any, ...], *arguments: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """The operator's results for all `info.batch_size` models, and their mapped dimensions.

    `dims` are the mapped dimensions of the arguments, None for those that all models share.
    """
    if info.batch_size == 0:
        raise ArgumentError("vmap maps 0 models; accepted: at least 1")
    given, mapped = named(operator, arguments), named(operator, dims)
    tensors = {name: t for name, t in given.items() if isinstance(t, Tensor) and not is_absent(t)}
    needs_x, *needs_weights = given.get(
        "needs", (False, given.get("needs_weight", False), given.get("needs_bias", False))
    )
    with_weights = any(mapped[name] is not None for name in tensors if AXES[name].batch is None)
    axis = 0 if with_weights or any(needs_weights) else 1  # of `Axes`: models or batch
    w_hh, dim = given["w_hh"], mapped["w_hh"]
    one = w_hh if dim is None else w_hh.select(dim, 0)  # perhaps an ensemble itself
    models = len(one) // len(DIRECTIONS[given["direction"]])
    for name, tensor in tensors.items():
        place, shared = AXES[name][axis], axis == 0 and name in SHARED
        if place is None:
            continue
        if mapped[name] is not None:
            tensor = tensor.movedim(mapped[name], 0)
            if shared:
                tensor = tensor.expand(-1, models, *tensor.shape[2:])
        elif shared and len(tensor) == 1 and not (name == "x" and needs_x):
            continue
        else:
            tensor = tensor.expand(info.batch_size, *tensor.shape)
        given[name] = tensor.movedim(0, place).flatten(place, place + 1)

    results, places = [], []
    for name, result in zip(RESULTS[operator], operator(*given.values()), strict=True):
        place = None if is_absent(result) else AXES[name][axis]
        if place is not None:
            result = result.unflatten(place, (info.batch_size, -1))
        results.append(result)
        places.append(place)
    return tuple(results), tuple(places)


def is_absent(tensor: Tensor) -> bool:
    """Whether this is what the operators take and give in place of a tensor that is not needed."""
    return tensor.shape == (0,)


for operator in RESULTS:
    torch.library.register_vmap(operator, partial(side_by_side, operator), lib=LIBRARY)


@partial(torch.library.register_vmap, sequence_ends, lib=LIBRARY)
def _(
    info: Any, dims: tuple[Any, ...], lengths: Tensor, steps: Tensor
) -> tuple[Tensor, int | None]:
    return sequence_ends(lengths, steps), dims[0]
