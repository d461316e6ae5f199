"""A provider's gradients in torch's layout, by code of the suite: none of the provider's runs."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bench.providers import as_they_are

Standard = Callable[[dict[str, Tensor]], dict[str, Tensor]]
# What may be done to gradients: to move them, to select and join parts, and to add up.
MOVES = {
    *("_to_copy", "_unsafe_view", "alias", "cat", "chunk", "clone", "contiguous", "detach"),
    *("expand", "flip", "index", "index_select", "lift_fresh_copy", "movedim", "narrow"),
    *("permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "stack"),
    *("sum", "t", "transpose", "unbind", "unsqueeze", "view"),
}


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
    graph = make_fx(standard)(zeros)
    for node in graph.graph.nodes:
        if node.op == "call_function":
            what = getattr(node.target, "overloadpacket", node.target).__name__
            known = what in MOVES
        else:
            what = "a tensor of its own"
            known = node.op != "get_attr" or not getattr(graph, node.target).is_floating_point()
        if not known:
            raise ValueError(
                f"standard uses {what}; accepted: moving, selecting, joining and adding up "
                "gradients"
            )
    return lambda gradients: graph({name: g.contiguous() for name, g in gradients.items()})
