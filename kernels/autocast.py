"""Autocast: in which dtype a layer computes, and what the operators do where it is on.

The functions turn it off before they call an operator. So an operator sees it only in a backward
pass, which must compute as its forward pass did, and in a graph that lacks that region: one
captured outside of autocast, or by a tool that records no regions, such as torch.jit.trace. Such a
graph may hold the backward pass too.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import checks
from .cells.cell import Cell
from .operators import LIBRARY, layer, layer_backward, named, recurrence, recurrence_backward

DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}  # the dispatcher's key of each


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for this tensor's device."""
    kind = tensor.device.type  # meta, for one, has no autocast
    return kind in DEVICES and torch.is_autocast_enabled(kind)


def layer_dtype(cell: Cell, x: Tensor, hx: Any) -> torch.dtype:
    """The dtype that torch's layer computes in under autocast: autocast's, with two exceptions.

    cuDNN's layers (and MIOpen's) always compute in float16 (`_cudnn_rnn_cast_reflatten` in torch's
    aten/src/ATen/cudnn/AutocastRNN.cpp), and the GRU on the CPU promotes to the state's dtype.
    """
    if x.device.type == "cuda" and torch.backends.cudnn.enabled:
        return torch.float16
    dtype = torch.get_autocast_dtype(x.device.type)
    if cell.name == "gru" and x.device.type == "cpu":
        dtype = torch.promote_types(dtype, (hx if isinstance(hx, Tensor) else x).dtype)
    return dtype


def cast(dtype: torch.dtype, *values: Any) -> Any:
    """The values with all tensors cast to `dtype`, also those in tuples and lists."""
    return tuple(
        v.to(dtype)
        if isinstance(v, Tensor) and v.dtype in checks.DTYPES
        else cast(dtype, *v)
        if isinstance(v, tuple | list)
        else v
        for v in values
    )


def _with_autocasts_dtype(operator: torch._ops.OpOverload, device: str, *arguments: Any) -> Any:
    """What a forward operator of a graph gives in autocast's dtype, as the graph's GEMMs do."""
    arguments = cast(torch.get_autocast_dtype(device), *arguments)
    return _without(operator, device, *arguments)


def _with_forwards_dtype(operator: torch._ops.OpOverload, device: str, *arguments: Any) -> Any:
    """What a backward operator gives when it computes in the dtype that its forward pass had.

    In a graph, y and the gradients that come back have that dtype, and the weights the one in which
    the graph was captured, which is the results' too. Outside of graphs both are the same.
    """
    given = named(operator, arguments)
    dtype, captured = given.get("y", given["dy"]).dtype, given["w_hh"].dtype
    history = given.get("history")  # float32 in any dtype
    arguments = tuple(v if v is history else cast(dtype, v)[0] for v in arguments)
    return cast(captured, *_without(operator, device, *arguments))


def _without(operator: torch._ops.OpOverload, device: str, *arguments: Any) -> Any:
    """What an operator gives outside of autocast, which would round the GEMMs within it."""
    with torch.autocast(device, enabled=False):
        return operator(*arguments)


for device, key in DEVICES.items():
    for forward in (recurrence, layer):
        LIBRARY.impl(forward, partial(_with_autocasts_dtype, forward, device), key)
    for backward in (recurrence_backward, layer_backward):
        LIBRARY.impl(backward, partial(_with_forwards_dtype, backward, device), key)
