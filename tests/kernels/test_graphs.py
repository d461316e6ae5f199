"""Graphs that torch.export, make_fx and torch.jit.trace capture, and that train."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from tests.helpers.paired_modules import (
    B,
    I,
    T,
    assert_close,
    output,
    pair,
)
from tests.helpers.pairwise import label, pairwise

TRACED = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated")


def exported(module: nn.Module, x: Tensor) -> Any:
    return torch.export.export(module, (x,)).module()


def exported_and_decomposed(module: nn.Module, x: Tensor) -> Any:
    return torch.export.export(module, (x,)).run_decompositions().module()


def traced(module: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(module, (x,))


def graph(module: nn.Module, x: Tensor) -> Any:
    """make_fx's graph, which goes on to be a function of the parameters."""
    own = dict(module.named_parameters())
    return make_fx(lambda p, x: functional_call(module, p, (x,)))(own, x)


CAPTURING: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "export": exported,
    "decomposed": exported_and_decomposed,
    "jit.trace": traced,
    "make_fx": graph,
}
CAPTURES = pairwise(
    cell=("gru", "lstm"),
    capture=tuple(CAPTURING),
    recompute=(False, True),
    frozen=(False, True),
)


@pytest.mark.slow
@TRACED
@pytest.mark.parametrize("setting", CAPTURES, ids=label)
def test_a_graph_that_is_captured_without_a_gradient_trains(setting):
    cell, capture, recompute, frozen = setting.values()
    module, twin = pair(cell)
    module.recompute = recompute
    x = torch.randn(T, B, I)
    module.requires_grad_(not frozen)
    with torch.set_grad_enabled(frozen):
        captured = CAPTURING[capture](module, x)
    module.requires_grad_()
    own = dict((captured if hasattr(captured, "weight_hh_l0") else module).named_parameters())
    for p in own.values():
        p.requires_grad_()
    result = captured(own, x) if capture == "make_fx" else captured(x)
    output(result).square().sum().backward()
    output(twin(x)).square().sum().backward()
    for name, p in twin.named_parameters():
        assert_close(own[name].grad, p.grad, name)
