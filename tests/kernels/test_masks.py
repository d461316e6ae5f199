"""Lengths and resets in every form in which callers have them: read right, checked, and copied."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import kernels
from kernels import operators
from kernels.checks import INTEGERS
from tests.helpers.paired_modules import H, I, assert_close
from tests.helpers.small_networks import laid_out

T, B = 4, 3
LENGTHS = [4, 1, 3]


class Subclass(Tensor):
    """As some libraries have."""


def typed(dtype: torch.dtype) -> Callable[[list[int]], Tensor]:
    return lambda lengths: torch.tensor(lengths).to(dtype)


def column(lengths: list[int]) -> Tensor:
    """A column of an int32 table, whose other column holds no lengths."""
    return torch.tensor([[length, -7] for length in lengths], dtype=torch.int32)[:, 0]


FORMS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "column": column,
    "reversed column": lambda lengths: column(lengths[::-1]).flip(0),
    "parameter": lambda lengths: nn.Parameter(column(lengths), requires_grad=False),
    "subclass": lambda lengths: column(lengths).as_subclass(Subclass),
    **{str(dtype): typed(dtype) for dtype in INTEGERS},
}
MODES = ("stepwise", "gemm")


def arguments() -> tuple[Tensor, list[Tensor]]:
    """x and a GRU's weights, always the same."""
    torch.manual_seed(0)
    shapes = ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,))
    return torch.randn(T, B, I), [torch.randn(s) / 2 for s in shapes]


def run(function: str, lengths: Any = None, resets: Tensor | None = None, **more: Any) -> Tensor:
    """The outputs of a public function with these masks."""
    x, weights = arguments()
    masks = {"lengths": lengths, "resets": resets, **more}
    if function == "recurrence":
        gx = nn.functional.linear(x, weights[0])[:, :, None]
        y, h, _ = kernels.recurrence("gru", gx, weights[1][None], reverse=True, **masks)
        return torch.cat([y.flatten(), h.flatten()])
    return kernels.gru(x, [tuple(weights)], direction="reverse", **masks)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", ["layers", "recurrence"])
def test_lengths_in_every_form(function, mode):
    expected = run(function, LENGTHS, mode=mode)
    for name, form in FORMS.items():
        found = run(function, form(LENGTHS), mode=mode)
        assert type(found) is Tensor and torch.equal(found, expected), name
    twos = run(function, [2, 2, 2], mode=mode)
    expanded = torch.tensor(2, dtype=torch.int32).expand(B)
    assert torch.equal(run(function, expanded, mode=mode), twos)


@pytest.mark.parametrize("wrong", [0, T + 1, -1, 2**40])
@pytest.mark.parametrize("function", ["layers", "recurrence"])
def test_lengths_out_of_range_are_refused_in_every_form(function, wrong):
    for form in FORMS.values():
        try:
            given = form([1, wrong, 2])
            if list(map(int, given)) != [1, wrong, 2]:
                continue
        except (OverflowError, RuntimeError):  # the type has no such number
            continue
        with pytest.raises(ValueError, match=r"^lengths is \[1, .*\]; accepted: integers in 1\.\."):
            run(function, given)


@pytest.mark.gpu
def test_lengths_out_of_range_are_clamped_while_a_cuda_graph_is_captured():
    """As the docstring says: a captured call cannot wait for their values."""
    lengths, steps = torch.tensor([0, 1, T, 9], device="cuda"), torch.empty(T, 0, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ends = operators.sequence_ends(lengths, steps)
    graph.replay()
    assert ends.tolist() == [1, 1, T, T]


@pytest.mark.slow
def test_lengths_are_read_and_checked_in_captured_graphs():
    """Their values are not known when the graph is captured, but when it runs."""
    x, weights = arguments()

    class Model(nn.Module):
        def forward(self, lengths: Tensor) -> Tensor:
            return kernels.gru(x, [tuple(weights)], direction="reverse", lengths=lengths)[0]

    model = Model()
    given = column(LENGTHS)
    captured: dict[str, Callable[[Tensor], Tensor]] = {
        "compiled": torch.compile(model, backend="aot_eager"),
        "make_fx": make_fx(model)(given),
        "exported": torch.export.export(model, (given,)).module(),
    }
    for name, function in captured.items():
        for lengths in (given, torch.tensor([1, 2, 2], dtype=torch.int32)):
            assert torch.equal(function(lengths), run("layers", lengths.tolist())), name
        with pytest.raises(ValueError, match=r"lengths is \[1, 0, 2\]; accepted: integers in 1"):
            function(torch.tensor([1, 0, 2], dtype=torch.int32))


RESETS = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]], dtype=torch.bool)
RESET_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda r: r.t().contiguous().t(),
    "every other row": lambda r: torch.stack([r, ~r], 1).flatten(0, 1)[::2],
    "slice of a table": lambda r: torch.cat([~r, r], 1)[:, B:],
    "subclass": lambda r: r.as_subclass(Subclass),
    "parameter": lambda r: nn.Parameter(r, requires_grad=False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", ["layers", "recurrence"])
def test_resets_in_every_form(function, mode):
    expected = run(function, resets=RESETS, mode=mode)
    for name, form in RESET_FORMS.items():
        found = run(function, resets=form(RESETS), mode=mode)
        assert type(found) is Tensor and torch.equal(found, expected), name
    row = RESETS[:, :1]
    expanded = run(function, resets=row.expand(-1, B), mode=mode)
    assert torch.equal(expanded, run(function, resets=row.repeat(1, B), mode=mode))


@pytest.mark.parametrize("function", ["layers", "layers, recomputed", "recurrence"])
def test_masks_that_are_refilled_after_the_call_change_nothing(function):
    """A rollout buffer is used again before the backward pass."""

    def gradients(refill: bool) -> list[Tensor]:
        x, weights = arguments()
        lengths, resets = torch.tensor(LENGTHS, dtype=torch.int32), RESETS.clone()
        masks: dict[str, Any] = {"lengths": lengths, "resets": resets}
        if function == "recurrence":
            leaves = [torch.randn(T, B, 1, 3 * H), weights[1][None]]
            y, *_ = kernels.recurrence("gru", *(t.requires_grad_() for t in leaves), **masks)
        else:
            leaves, recompute = weights, function != "layers"
            given = [tuple(t.requires_grad_() for t in leaves)]
            y, _ = kernels.gru(x, given, recompute=recompute, **masks)
        if refill:
            lengths.fill_(1)
            resets.logical_not_()
        return list(torch.autograd.grad(y.square().sum(), leaves))

    for kept, refilled in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(kept, refilled)


@pytest.mark.parametrize("operator", ["recurrence", "layer"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_operators_take_tensors_of_any_strides(cell, operator):
    """Also where a graph passes its own views."""
    G, states = kernels.CELLS[cell].gates, kernels.CELLS[cell].states
    first = torch.randn(*((T, B, 2, G * H) if operator == "recurrence" else (1, T, B, I)))
    sizes = {"w_hh": (2, G * H, H), "b_hh": (2, G * H), "initial": (states, 2, B, H)}
    loop = [torch.randn(size) / 2 for size in sizes.values()]
    masks = [torch.tensor([LENGTHS], dtype=torch.int32), RESETS[None].to(torch.uint8)]
    inputs = [torch.randn(2, G * H, I), torch.randn(2, G * H)] if operator == "layer" else []
    how = (cell, "both", *((False,) if operator == "recurrence" else ()), "stepwise", "ieee")
    found = {}
    for layout in ("contiguous", "strided", "transposed"):
        leaves = [laid_out(t, layout).requires_grad_() for t in (first, *inputs, *loop)]
        given = [laid_out(mask, layout) for mask in masks]
        y, final, *saved = getattr(operators, operator)(*leaves, *given, *how)
        above = [laid_out(t.detach().cos(), layout) for t in (y, final)]
        found[layout] = [y, final, *torch.autograd.grad((y, final), leaves, above)]
        if operator == "recurrence":
            _, w_hh, _, initial = (leaf.detach() for leaf in leaves)
            kept = [laid_out(t.detach(), layout) for t in (y, *saved)]
            back = (cell, "both", True, True, "stepwise", "ieee")
            found[layout] += operators.recurrence_backward(
                *above, w_hh, initial, *given, *kept, *back
            )
    for layout, results in found.items():
        for k, (result, expected) in enumerate(zip(results, found["contiguous"], strict=True)):
            assert_close(result, expected, f"result or gradient {k}, {layout}")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_lengths_that_vmap_maps_are_read_and_checked(dtype):
    """In eager and captured graphs, along any dimension, and at two levels."""
    lengths, steps = torch.tensor([LENGTHS, [1, 2, 4]]).to(dtype), torch.empty(T, 0)
    run = torch.vmap(operators.sequence_ends, (1, None), 1)
    graph = make_fx(run, tracing_mode="symbolic")(lengths.t(), steps)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for function in (run, graph, compiled):
        assert torch.equal(function(lengths.t(), steps), lengths.int().t())
    nested = torch.vmap(torch.vmap(operators.sequence_ends, (0, None)), (0, None))
    assert torch.equal(nested(lengths[None], steps), lengths.int()[None])
    with pytest.raises(ValueError, match=r"^lengths is \[4, 1, .*, 4\]; accepted: .* 1\.\.3$"):
        run(lengths.t(), steps[1:])
