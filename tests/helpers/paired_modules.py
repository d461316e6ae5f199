"""Pairs of our module and torch.nn's with the same parameters, and comparisons of their results."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import kernels
from kernels.planning import INTERPRETED
from tests.helpers import tolerances
from tests.helpers.tolerances import REORDERED

DEVICE = "cpu" if INTERPRETED else "cuda"
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "rnn_tanh": (kernels.RNN, nn.RNN, {}),
    "rnn_relu": (kernels.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (kernels.LSTM, nn.LSTM, {}),
    "gru": (kernels.GRU, nn.GRU, {}),
}
T, B, I, H = 3, 3, 2, 5


def pair(cell: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """Our module and torch's, with the same parameters."""
    ours, theirs, more = KINDS[cell]
    module = ours(*(sizes or (I, H)), **options, **more)
    twin = theirs(*(sizes or (I, H)), **options, **more)
    twin.load_state_dict(module.state_dict())
    return module, twin


def state(cell: str, *shape: int) -> Any:
    """A random state as the cell's module takes it."""
    one = torch.randn(shape)
    return (one, torch.randn(shape)) if cell == "lstm" else one


def flat(value: Any) -> list[Tensor]:
    """All tensors in nested tuples and lists; of a packed sequence, its data."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)]


def weights(cell: str, *stack: int, directions: int = 1) -> list[tuple[Tensor, ...]]:
    """The weights of one layer, with leading dimensions for an ensemble."""
    K = kernels.CELLS[cell].gates * H
    shapes = ((K, I), (K, H), (K,), (K,))
    return [tuple(torch.randn(*stack, *s) / 2 for s in shapes) for _ in range(directions)]


def output(result: Any) -> Tensor:
    """All of a layer's results in one tensor."""
    return torch.cat([tensor.flatten() for tensor in flat(result)])


def assert_close(
    actual: Tensor, expected: Tensor, name: str, tolerance: float = REORDERED[torch.float32]
) -> None:
    """The same dtype and shape, and values as close as two orders of float32 sums."""
    assert actual.dtype == expected.dtype, name
    tolerances.assert_close(actual, expected, tolerance, name)


def assert_alike(results: Callable[[Any], list[Tensor | None]], *modules: nn.Module) -> None:
    """From the same seed, `results` of all modules are close, or None for all of them."""
    found = []
    for module in modules:
        torch.manual_seed(0)
        found.append(results(module))
    for k, (ours, theirs) in enumerate(zip(*found, strict=True)):
        assert (ours is None) == (theirs is None), k
        if ours is not None:
            assert_close(ours, theirs, f"result or gradient {k}")


def assert_same(module: nn.Module, twin: nn.Module, *arguments: Any) -> None:
    """The same results, and the same gradients of the arguments and the parameters."""

    def results_and_gradients(each: nn.Module) -> list[Tensor | None]:
        given = [_leaves(a) for a in arguments]
        results = flat(each(*given))
        inputs = [t for t in flat([a for a in given if a is not None]) if t.is_leaf]
        inputs += list(each.parameters())
        above = [torch.linspace(-1, 1, r.numel()).view(r.shape) for r in results]
        return [*results, *torch.autograd.grad(results, inputs, above, allow_unused=True)]

    assert_alike(results_and_gradients, module, twin)


def _leaves(argument: Any) -> Any:
    if isinstance(argument, PackedSequence):
        return argument._replace(data=argument.data.detach().requires_grad_())
    if isinstance(argument, tuple):
        return tuple(_leaves(part) for part in argument)
    return argument if argument is None else argument.detach().requires_grad_()
