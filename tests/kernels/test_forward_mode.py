"""Forward-mode derivatives (dual tensors, jvp, jacfwd, linearize), by the loop in PyTorch."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import kernels
import reference
from tests.helpers import tolerances
from tests.helpers.paired_modules import B, H, I, T, assert_close, output, pair, weights
from tests.helpers.tolerances import REORDERED

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru", "slstm")
STEPWISE = "ignore:forward-mode derivatives:UserWarning"


def dual(grad: bool) -> Callable[..., Tensor | None]:
    def tangent(f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor | None:
        with torch.set_grad_enabled(grad), forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, direction))).tangent

    return tangent


def product(jacobian: Tensor, direction: Tensor) -> Tensor:
    return jacobian.reshape(-1, direction.numel()) @ direction.flatten()


FORWARD_MODES: dict[str, Callable[..., Tensor | None]] = {
    "dual tensors": dual(True),
    "dual tensors without grad": dual(False),
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,))[1],
    "jacfwd": lambda f, x, v: product(torch.func.jacfwd(f)(x), v),
    "linearize": lambda f, x, v: torch.func.linearize(f, x)[1](v),
    "jacobian": lambda f, x, v: product(
        torch.autograd.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"), v
    ),
    "within a gradient": lambda f, x, v: torch.func.jacrev(
        lambda scale: torch.func.jvp(f, (x,), (scale * v,))[1]
    )(torch.tensor(1.0)),
}


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize(
    ("how", "frozen"),
    [*((how, False) for how in FORWARD_MODES), ("dual tensors", True), ("jvp", True)],
)
def test_forward_mode_equals_torchs(how, frozen):
    """A tangent that is dropped is zero, or None. (torch.nn has not all of the ways.)"""
    module, twin = (each.requires_grad_(not frozen) for each in pair("gru", bidirectional=True))
    x, v = torch.randn(T, B, I), torch.randn(T, B, I)
    ours = FORWARD_MODES[how](lambda x: output(module(x)), x, v)
    assert ours is not None
    assert_close(ours, torch.func.jvp(lambda x: output(twin(x)), (x,), (v,))[1], how)


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_mode_of_each_cell_and_argument(cell, recompute):
    """With respect to all tensors at once, with ends and resets, against the float64 reference."""
    own, x = weights(cell, directions=2), torch.randn(T, B, I)
    states = torch.rand(kernels.CELLS[cell].states, 2, B, H)
    masks = {"lengths": torch.tensor([T, 1, 2]), "resets": torch.rand(T, B) < 0.5}
    primals = (x, states, *(w for one in own for w in one))

    def run(package: Any, dtype: torch.dtype, **more: Any) -> Tensor:
        def f(x: Tensor, states: Tensor, *flat: Tensor) -> Tensor:
            hx = states[0] if len(states) == 1 else tuple(states)
            both = [flat[:4], flat[4:]]
            return output(package.layers(cell, x, both, hx, direction="both", **masks, **more))

        given = tuple(p.to(dtype) for p in primals)
        return torch.func.jvp(f, given, tuple(p.cos() for p in given))[1]

    exact = run(reference, torch.float64)
    ours = run(kernels, torch.float32, recompute=recompute)
    tolerances.assert_close(ours.double(), exact, REORDERED[torch.float32], "tangent")


@pytest.mark.filterwarnings(STEPWISE)
def test_forward_mode_of_an_ensemble_with_padding():
    """Each of two models has lengths and resets of its own; padding holds NaN."""
    gx, v = torch.randn(2, 2, T, B, 2, H)
    lengths, resets = torch.tensor([[T, 1, 2], [1, T, T]]), torch.rand(2, T, B) < 0.4
    own = torch.randn(2, 2, H, H) / 2, lengths, resets

    def run(gx: Tensor, w_hh: Tensor, ends: Tensor, resets: Tensor) -> Tensor:
        results = kernels.recurrence("rnn_tanh", gx, w_hh, lengths=ends, resets=resets)
        return output(results[:2])

    def both(gx: Tensor) -> Tensor:
        return torch.vmap(run)(gx, *own)

    padded = gx.clone()
    padded[torch.arange(T)[:, None] >= lengths[:, None]] = float("nan")
    found = torch.func.jvp(both, (padded,), (v,))
    within = torch.func.jacrev(lambda scale: torch.func.jvp(both, (padded,), (scale * v,))[1])
    assert_close(within(torch.tensor(1.0)), found[1], "tangent within a gradient")
    for model, masks in enumerate(zip(*own, strict=True)):
        single = lambda gx, masks=masks: run(gx, *masks)  # noqa: E731
        expected = torch.func.jvp(single, (gx[model],), (v[model],))
        for name, ours, theirs in zip(("output", "tangent"), found, expected, strict=True):
            assert_close(ours[model], theirs, name)


@pytest.mark.filterwarnings(STEPWISE)
def test_forward_mode_in_16_bit_is_of_float32_sums():
    own, x = weights("gru"), torch.randn(8, B, I)
    run = lambda dtype: torch.func.jvp(  # noqa: E731
        lambda x: kernels.gru(x, [tuple(w.to(dtype) for w in own[0])])[0],
        (x.to(dtype),),
        (torch.ones_like(x, dtype=dtype),),
    )[1]
    rounded = tolerances.rounded_loop(torch.bfloat16, 8, I + H)
    tolerances.assert_close(run(torch.bfloat16).float(), run(torch.float32), rounded, "tangent")


@pytest.mark.slow
@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", ["dual tensors", "jvp", "jacfwd"])
def test_compiled_forward_mode_equals_torchs(how, recompute):
    module, twin = pair("gru")
    module.recompute = recompute
    x, v = torch.randn(2, B, I), torch.randn(2, B, I)
    for each in (module, twin):
        each.requires_grad_(False)

    def run(x: Tensor, v: Tensor) -> Tensor | None:
        return FORWARD_MODES[how](lambda x: output(module(x)), x, v)

    theirs = torch.func.jvp(lambda x: output(twin(x)), (x,), (v,))[1]
    ours = torch.compile(run, backend="aot_eager")(x, v)
    assert ours is not None
    assert_close(ours, theirs, how)


def test_forward_mode_says_that_the_loop_runs_in_pytorch():
    module, _ = pair("lstm")
    x = torch.randn(T, B, I)
    with pytest.warns(UserWarning, match="run the loop in PyTorch, step by step"):
        torch.func.jvp(lambda x: module(x)[0], (x,), (x,))


def test_a_layer_of_constants_runs_in_the_kernels():
    """Below a tangent, in each of the ways to ask for one; with gradients of its own."""
    module, _ = pair("lstm")
    x, scale = torch.randn(T, B, I), torch.tensor(2.0)
    expected = output(module(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="forward-mode")
        for how in ("dual tensors", "dual tensors without grad", "jvp", "jacfwd"):
            found = FORWARD_MODES[how](lambda s: output(module(x)) * s, scale, torch.tensor(1.0))
            assert found is not None, how
            assert torch.equal(found.detach().flatten(), expected.detach()), how
        x.requires_grad_()
        tangent = torch.func.jvp(lambda s: output(module(x)) * s, (scale,), (scale,))[1]
        gradient = torch.autograd.grad(tangent.sum(), x)[0]
    assert torch.equal(gradient, 2 * torch.autograd.grad(output(module(x)).sum(), x)[0])


def test_a_cell_without_a_reference_has_no_forward_mode(monkeypatch):
    monkeypatch.delitem(reference.CELLS, "gru")
    module, _ = pair("gru")
    x = torch.randn(T, B, I)
    with pytest.raises(
        NotImplementedError,
        match=r"^cell is 'gru' in forward-mode differentiation; accepted: rnn_tanh",
    ):
        torch.func.jvp(lambda x: module(x)[0], (x,), (x,))
