"""Gradients of torch.func: grad, vjp and jacrev, second derivatives, no_grad within a transform."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from tests.helpers.paired_modules import B, I, T, assert_close, output, pair

STEPWISE = "ignore:forward-mode derivatives:UserWarning"


# Both ways of the GRU, whose loop has a bias of its own.
@pytest.mark.parametrize(
    ("cell", "recompute"),
    [("rnn_tanh", False), ("rnn_relu", True), ("lstm", True), ("gru", False), ("gru", True)],
)
def test_gradients_of_torch_func_equal_backwards(cell, recompute):
    module, _ = pair(cell)
    module.recompute = recompute
    x = torch.randn(T, B, I)
    own = dict(module.named_parameters())

    def loss(parameters: Any) -> Tensor:
        return output(functional_call(module, parameters, (x,))).square().sum()

    loss(own).backward()
    given = {name: p.detach() for name, p in own.items()}
    found = {
        "grad": torch.func.grad(loss)(given),
        "vjp": torch.func.vjp(loss, given)[1](torch.tensor(1.0))[0],
        "jacrev": torch.func.jacrev(loss)(given),
    }
    for how, gradients in found.items():
        for name, p in own.items():
            assert_close(gradients[name], p.grad, f"{how} of {name}")


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "second",
    [
        lambda loss, x: torch.func.jacrev(torch.func.grad(loss))(x),
        lambda loss, x: torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())(x),
        lambda loss, x: torch.func.jvp(torch.func.grad(loss), (x,), (x,)),
        lambda loss, x: torch.func.hessian(loss)(x),
    ],
    ids=["jacrev of grad", "grad of grad", "jvp of grad", "hessian"],
)
def test_second_derivatives_of_torch_func_are_refused(second, recompute):
    module, _ = pair("gru")
    module.recompute = recompute
    with pytest.raises(RuntimeError, match="no second derivative"):
        second(lambda x: module(x)[0].square().sum(), torch.randn(T, B, I))


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", ["grad", "vjp", "jvp", "vmap of grad"])
def test_no_grad_within_a_transform_stops_all_gradients(how, recompute):
    """Also those of the weights, which the transform does not differentiate."""
    module, _ = pair("gru")
    module.recompute = recompute
    x, scale = torch.randn(T, B, I), torch.tensor(0.5)

    def f(scale: Tensor, stopped: bool) -> Tensor:
        with torch.set_grad_enabled(not stopped):
            target = module(x)[0]
        return (scale * target).sum()

    for stopped in (False, True):
        one = lambda s, stopped=stopped: f(s, stopped)  # noqa: E731
        found = {
            "grad": lambda: torch.func.grad(one)(scale),  # noqa: B023
            "vjp": lambda: torch.func.vjp(one, scale)[1](scale)[0],  # noqa: B023
            "jvp": lambda: torch.func.jvp(one, (scale,), (scale,))[1],  # noqa: B023
            "vmap of grad": lambda: torch.vmap(torch.func.grad(one))(scale.expand(2)),  # noqa: B023
        }[how]()
        assert found.requires_grad is not stopped
