"""A module of ours beside torch.nn's with the same parameters, and how their results compare."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import kernels
from kernels.autograd import INTERPRETED
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


@pytest.fixture(autouse=True)
def where_the_kernels_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New tensors are where the kernels run, and float32 products are exact in torch's layers too.

    For each test of a module that imports this.
    """
    if DEVICE == "cpu":
        yield
        return
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    with torch.device(DEVICE):
        yield


def pair(cell: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """Our module and torch's, with the same parameters."""
    ours, theirs, more = KINDS[cell]
    module = ours(*(sizes or (I, H)), **options, **more)
    twin = theirs(*(sizes or (I, H)), **options, **more)
    twin.load_state_dict(module.state_dict())
    return module, twin


def state(cell: str, *shape: int) -> Any:
    one = torch.randn(shape)
    return (one, torch.randn(shape)) if cell == "lstm" else one


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)]


def assert_close(
    actual: Tensor, expected: Tensor, name: str, tolerance: float = REORDERED[torch.float32]
) -> None:
    """The same dtype and shape, and values as close as two orders of float32 sums."""
    assert actual.dtype == expected.dtype, name
    tolerances.assert_close(actual, expected, tolerance, name)


def assert_same(module: nn.Module, twin: nn.Module, *arguments: Any) -> None:
    """The same results, and the same gradients of the arguments and the parameters."""
    found = []
    for each in (module, twin):
        given = [_leaves(a) for a in arguments]
        results = flat(each(*given))
        inputs = [t for t in flat([a for a in given if a is not None]) if t.is_leaf]
        inputs += list(each.parameters())
        above = [torch.linspace(-1, 1, r.numel()).view(r.shape) for r in results]
        gradients = torch.autograd.grad(results, inputs, above, allow_unused=True)
        found.append([*results, *(g for g in gradients if g is not None)])
    for k, (ours, theirs) in enumerate(zip(*found, strict=True)):
        assert_close(ours, theirs, f"result or gradient {k}")


def _leaves(argument: Any) -> Any:
    if isinstance(argument, PackedSequence):
        return argument._replace(data=argument.data.detach().requires_grad_())
    if isinstance(argument, tuple):
        return tuple(_leaves(part) for part in argument)
    return argument if argument is None else argument.detach().requires_grad_()
