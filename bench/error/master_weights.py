"""Weights in fp32, of which a layer in 16 bits computes with a rounded copy."""

import torch
from torch import Tensor, nn


class MasterWeights:
    """The weights of a layer in fp32, in ``exact`` by name, and the layer in another dtype.

    So training loses nothing in the optimiser's small steps, and what differs between runs is the
    layer's own arithmetic. A training step is ``round``, the layer forward and backward,
    ``take_gradients``, and the optimiser's step on ``exact``.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        self.layer = layer
        self.exact: dict[str, Tensor] = {
            name: weight.detach().clone() for name, weight in layer.named_parameters()
        }
        layer.to(dtype)

    @torch.no_grad()
    def round(self) -> None:
        """Let the layer compute with the weights as they are now, rounded."""
        for name, weight in self.layer.named_parameters():
            weight.copy_(self.exact[name])

    def take_gradients(self) -> None:
        """Give the layer's gradients to the weights, and clear the layer's."""
        for name, weight in self.layer.named_parameters():
            assert weight.grad is not None
            self.exact[name].grad = weight.grad.float()
            weight.grad = None
