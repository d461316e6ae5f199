"""Graphs that torch.export, make_fx and torch.jit.trace capture: they train, and run with other
sizes than those that they were captured with.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import pack_padded_sequence

import kernels
from tests.helpers.paired_modules import (
    DEVICE,
    KINDS,
    B,
    H,
    I,
    T,
    assert_close,
    assert_same,
    flat,
    output,
    pair,
    weights,
)
from tests.helpers.pairwise import label, pairwise
from tests.helpers.tolerances import rounded_loop

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


# Without relu, whose slope jumps where rounding changes the sign of its input.
SMOOTH = [cell for cell in KINDS if cell != "rnn_relu"]


@pytest.mark.slow
@TRACED
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("capture", ["jit.trace", "export"])
@pytest.mark.parametrize("cell", SMOOTH)
def test_a_graph_captured_outside_of_autocast_trains_under_it_in_its_dtype(
    cell, capture, recompute
):
    module, twin = pair(cell)
    module.recompute = recompute
    x, dtype = torch.randn(T, B, I), torch.bfloat16
    captured = CAPTURING[capture](module, x)
    with torch.autocast(DEVICE, dtype=dtype):
        y, last = captured(x)
    assert {t.dtype for t in flat((y, last))} == {dtype}
    exact = twin(x)[0]
    assert_close(y.float(), exact, "output", rounded_loop(dtype, T, I + H))
    for result in (y.float(), exact):
        result.sum().backward()
    for name, p in twin.named_parameters():
        # A gradient sums T * B products of numbers rounded so.
        bound = rounded_loop(dtype, T, T * B * (I + H))
        assert_close(dict(captured.named_parameters())[name].grad, p.grad, name, bound)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", SMOOTH)
def test_a_graph_of_gradients_captured_outside_of_autocast_runs_under_it(cell, recompute):
    module, twin = pair(cell)
    module.recompute = recompute
    own, x, dtype = dict(module.named_parameters()), torch.randn(T, B, I), torch.bfloat16

    def gradients(module: nn.Module, p: dict[str, Tensor], x: Tensor) -> Any:
        loss: Any = sum(each.square().sum() for each in flat(functional_call(module, p, (x,))))
        return torch.autograd.grad(loss, list(p.values()))

    captured = make_fx(partial(gradients, module))(own, x)
    with torch.autocast(DEVICE, dtype=dtype):
        found = captured(own, x)
    exact = gradients(twin, dict(twin.named_parameters()), x)
    for name, ours, theirs in zip(own, found, exact, strict=True):
        # Those of W_ih are torch's, as its GEMM gives them under autocast.
        assert ours.dtype == torch.float32 or (name == "weight_ih_l0" and not recompute), name
        bound = rounded_loop(dtype, T, T * B * (I + H))
        assert_close(ours.float(), theirs, name, bound)


# Other numbers of steps and sequences than those of the capture

SIZES = ((T + 2, B + 1), (T - 1, B - 1), (1, 1))
EXPORTS = pairwise(
    cell=("gru", "lstm"),
    strict=(False, True),
    recompute=(False, True),
    bidirectional=(False, True),
    batch_first=(False, True),
)


@pytest.mark.slow
@pytest.mark.parametrize("setting", EXPORTS, ids=label)
def test_an_exported_layer_takes_any_number_of_steps_and_sequences(setting):
    """torch.nn's has the number of steps that it was exported with."""
    cell, strict, recompute, bidirectional, batch_first = setting.values()
    module, twin = pair(cell, bidirectional=bidirectional, batch_first=batch_first)
    module.recompute = recompute
    sizes = {"time": Dim("time", min=1), "batch": Dim("batch", min=1)}
    names = ("batch", "time") if batch_first else ("time", "batch")
    dynamic = (dict(enumerate(sizes[name] for name in names)),)
    program = torch.export.export(
        module, (torch.randn(T, B, I),), dynamic_shapes=dynamic, strict=strict
    )
    for size in SIZES:
        assert_same(program.module(), twin, torch.randn(*size, I))


class Masked(nn.Module):
    """A GRU of constant weights: its outputs for the lengths that each of `forms` makes of x."""

    def __init__(self, *forms: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.forms, self.weights = forms, weights("gru")

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.weights, x)

    def run(self, weights: Any, x: Tensor) -> Tensor:
        lengths = [form(x) for form in self.forms]
        return output([kernels.gru(x, weights, lengths=n, direction="reverse")[0] for n in lengths])


def dynamic(strict: bool) -> Callable[[nn.Module, Tensor], Any]:
    return lambda module, x: torch.export.export(
        module, (x,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=strict
    ).module()


def symbolic(module: Any, x: Tensor) -> Any:
    run = lambda weights, x: module.run(weights, x)  # noqa: E731
    graph = make_fx(run, tracing_mode="symbolic")(module.weights, x)
    return partial(graph, module.weights)


RESIZABLE: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "export": dynamic(strict=False),
    "strict export": dynamic(strict=True),
    "make_fx": symbolic,
    "jit.trace": lambda module, x: torch.jit.trace(module, (x,), check_trace=False),
}
# Lengths of B = 3 sequences, which depend on the number of steps.
COMPUTED: tuple[Callable[[Tensor], Any], ...] = (
    lambda x: [x.shape[0], 1, x.shape[0] - 1],
    lambda x: x.shape[:1] * B,
    lambda x: torch.full((B,), x.shape[0]),
)
# Numbers of steps that B, I and H are not: make_fx takes equal sizes for one.
LONGER, LONG, SHORT = 9, 7, 4


@pytest.mark.slow
@TRACED
@pytest.mark.parametrize("capture", RESIZABLE)
def test_lengths_may_depend_on_the_number_of_steps(capture):
    x = torch.randn(LONG, B, I)
    forms = COMPUTED
    if capture == "jit.trace":  # which makes tensors of the sizes
        forms = COMPUTED[2:]
        for form in COMPUTED[:2]:
            with pytest.raises(
                TypeError, match=r"^lengths is .* with a tensor \[\] .* at 0; accept"
            ):
                RESIZABLE[capture](Masked(form), x)
    model = Masked(*forms)
    captured = RESIZABLE[capture](model, x)
    for steps in (LONGER, SHORT):
        other = torch.randn(steps, B, I)
        assert torch.equal(captured(other), model(other)), steps


@pytest.mark.slow
@TRACED
@pytest.mark.parametrize("form", ["list", "tensor"])
@pytest.mark.parametrize("capture", RESIZABLE)
def test_lengths_beyond_the_steps_of_a_later_call_are_refused(capture, form):
    """Else the kernels read beyond the end of x."""
    lengths: Any = [LONG, 1, LONG - 1]
    x = torch.randn(LONG, B, I)
    message = r"lengths is \[7, 1, 6\]; accepted: integers in 1\.\.T = 1\.\.4"
    if capture.endswith("export") and form == "list":
        message += "|Guard failed: .*>= 7"  # torch's, of the sizes
    model = Masked(lambda x: lengths if form == "list" else torch.tensor(lengths))
    captured = RESIZABLE[capture](model, x)
    with pytest.raises((ValueError, RuntimeError, AssertionError), match=message):
        captured(x[:SHORT])


@TRACED
def test_a_traced_graph_refuses_shapes_that_do_not_fit_each_other():
    """It has none of the checks of arguments."""
    own = weights("gru")

    def run(x: Tensor, lengths: Tensor, resets: Tensor, hx: Tensor) -> Tensor:
        return kernels.gru(x, own, hx, lengths=lengths, resets=resets)[0]

    def arguments(T: int, B: int) -> list[Tensor]:
        return [
            torch.randn(T, B, I),
            torch.ones(B).int(),
            torch.rand(T, B) < 0.5,
            torch.zeros(1, B, H),
        ]

    traced = torch.jit.trace(run, tuple(arguments(T, B)), check_trace=False)
    right = arguments(T + 1, B + 1)
    assert torch.equal(traced(*right), run(*right))
    wrong: list[tuple[int, Tensor, str]] = [
        (1, torch.ones(1).int(), "lengths"),
        (2, right[2][1:], "resets"),
        (2, right[2][:, 1:], "resets"),
        (3, right[3][:, 1:], "the initial state"),
    ]
    for k, value, name in wrong:
        with pytest.raises(
            RuntimeError, match=rf"ArgumentError: {name} is a tensor .*; accepted: "
        ):
            traced(*right[:k], value, *right[k + 1 :])


@TRACED
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_traced_layer_takes_packed_sequences_of_other_sizes(cell, initial):
    class Packing(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            h = x.new_ones(2, x.shape[1], H)
            hx = (h if cell == "gru" else (h, h)) if initial else None
            y, last = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False), hx)
            return y.data, last

    def run(layer: nn.Module) -> Any:
        example = torch.randn(T, B, I), torch.tensor([2, T, 1])
        return torch.jit.trace(Packing(layer), example, check_trace=False)

    module, twin = pair(cell, bidirectional=True)
    ours, theirs = run(module), run(twin)
    for lengths in ([T, 1, 2], [1, 2, 1], [2, T + 2, 1, 4], [2, 1], [1]):
        x = torch.randn(max(lengths), len(lengths), I)
        given = x, torch.tensor(lengths)
        assert_close(output(ours(*given)), output(theirs(*given)), str(lengths))
