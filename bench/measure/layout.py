"""A provider's gradients in torch's layout, by code of the suite: none of the provider's runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.providers import as_they_are, fault_text

Standard = Callable[[dict[str, Tensor]], dict[str, Tensor]]
# What may be done to gradients: to move them, to select and join parts, and to add up.
MOVES = {
    *("_to_copy", "_unsafe_view", "add", "alias", "cat", "chunk", "clone", "contiguous", "detach"),
    *("diagonal", "expand", "flip", "getitem", "index", "index_select", "lift_fresh_copy"),
    *("movedim", "narrow", "permute", "repeat", "reshape", "roll", "select", "slice", "split"),
    *("split_with_sizes", "squeeze", "stack", "sum", "t", "transpose", "unbind", "unsqueeze"),
    "view",
}
ACCEPTED = "accepted: moving, selecting, joining and adding up gradients"


def recorded(standard: Standard, leaves: Mapping[str, Tensor]) -> Standard:
    """The operations of a provider's ``standard``, recorded once, before anything is timed.

    A call's ``standard`` is not timed, so one that computes gradients from the leaves would take
    no time. Recorded, it can only move and add up what it gets.

    Raises:
        ValueError: if it does anything else.
    """
    if standard is as_they_are:
        return standard
    from torch.fx.experimental.proxy_tensor import make_fx

    # Contiguous here and below: what is a view of these numbers would not be one of others.
    zeros = {
        name: torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device)
        for name, leaf in leaves.items()
    }
    try:
        graph = make_fx(standard)(zeros)
    except Exception as fault:
        raise ValueError(f"standard cannot be recorded ({fault_text(fault)}); {ACCEPTED}") from None
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            # Indices; a copy, since the provider still has its own.
            values = getattr(graph, node.target)
            if values.is_floating_point() or values.is_complex():
                raise ValueError(f"standard uses a tensor of its own; {ACCEPTED}")
            setattr(graph, node.target, torch.clone(values))
        elif node.op == "call_function" and not _moves(node):
            raise ValueError(f"standard uses {node.target}; {ACCEPTED}")
    return lambda gradients: graph({n: Tensor.contiguous(g) for n, g in gradients.items()})


def _moves(node: Any) -> bool:
    """Whether an operation moves or adds up numbers, and leaves their bits as they are."""
    what = getattr(node.target, "overloadpacket", node.target).__name__
    if what not in MOVES or str(node.target) == "aten.view.dtype":
        return False
    if what == "add":
        return len(node.all_input_nodes) == len(node.args) == 2 and not node.kwargs
    return what != "_to_copy" or node.kwargs.get("dtype", torch.float32).is_floating_point
