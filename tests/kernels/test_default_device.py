"""Default devices: what the kernels make is on their arguments' device, parameters follow torch."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils import _device

import kernels
from tests.helpers.paired_modules import DEVICE, KINDS, B, H, I, T, flat, state
from tests.helpers.pairwise import label, pairwise
from tests.helpers.small_networks import weights_of

pytestmark = pytest.mark.usefixtures("on_the_kernels_device")


def assert_ignores_the_default_device(call: Callable[[], Any], inputs: list[Tensor]) -> None:
    """The same results and gradients while new tensors are by default on another device."""
    above: list[Tensor] = []
    found = []
    for default in (DEVICE, "meta"):
        torch.manual_seed(0)
        with torch.device(default):
            results = flat(call())
            above = above or [torch.randn_like(result) for result in results]
            gradients = torch.autograd.grad(
                results, inputs, above, allow_unused=True, retain_graph=True
            )
        found.append([*results, *(g for g in gradients if g is not None)])
    for expected, actual in zip(*found, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "case",
    pairwise(
        cell=["rnn_relu", "lstm", "gru"],
        input=["batched", "unbatched", "sorted", "unsorted"],
        batch_first=[False, True],
        depth=[(1, False, 0.0), (1, True, 0.0), (2, False, 0.5)],
        recompute=[False, True],
        resets=[False, True],
        hx=[False, True],
    ),
    ids=label,
)
def test_modules_ignore_it(case):
    ours, _, more = KINDS[case["cell"]]
    layers, bidirectional, dropout = case["depth"]
    options = {"bidirectional": bidirectional, "dropout": dropout, "recompute": case["recompute"]}
    module = ours(I, H, layers, batch_first=case["batch_first"], **options, **more)
    LD, batched, resets = layers * (1 + bidirectional), case["input"] != "unbatched", None
    shape = (T,) if not batched else (B, T) if case["batch_first"] else (T, B)
    x: Any = torch.randn(*shape, I, requires_grad=True)
    inputs = [x, *module.parameters()]
    if case["resets"]:
        resets = torch.rand(shape) < 0.3
    if "sorted" in case["input"]:
        lengths = [3, 3, 1] if case["input"] == "sorted" else [1, 3, 2]
        x = pack_padded_sequence(
            x, lengths, case["batch_first"], enforce_sorted=case["input"] == "sorted"
        )
    hx = state(case["cell"], LD, *([B] if batched else []), H) if case["hx"] else None
    assert_ignores_the_default_device(lambda: module(x, hx, resets=resets), inputs)


CHOICES: dict[str, list[Any]] = {
    "cell": ["gru", "slstm"],
    "lengths": [None, [3, 1, 2], torch.tensor([3, 1, 2], device="cpu")],
    "resets": [False, True],
    "mode": ["stepwise", "gemm"],
}


@pytest.mark.parametrize("case", pairwise(recompute=[False, True], **CHOICES), ids=label)
def test_networks_ignore_it(case):
    weights = weights_of(case["cell"], 1, 2, dtype=torch.float32)
    inputs = [w.requires_grad_() for one in weights for w in one]
    x, resets = torch.randn(T, B, I), torch.rand(T, B) < 0.3 if case["resets"] else None
    options = {name: case[name] for name in ("lengths", "mode", "recompute")}

    def call() -> Any:
        return kernels.layers(case["cell"], x, weights, direction="both", resets=resets, **options)

    assert_ignores_the_default_device(call, inputs)


@pytest.mark.parametrize("case", pairwise(D=[1, 2], **CHOICES), ids=label)
def test_the_recurrence_ignores_it(case):
    D, rows = case["D"], kernels.CELLS[case["cell"]].gates * H
    inputs = [torch.randn(*s, requires_grad=True) for s in ((T, B, D, rows), (D, rows, H))]
    resets = torch.rand(T, B) < 0.3 if case["resets"] else None
    options = {name: case[name] for name in ("lengths", "mode")}

    def call() -> Any:
        results = kernels.recurrence(case["cell"], *inputs, resets=resets, **options)
        return [result for result in results if result is not None]

    assert_ignores_the_default_device(call, inputs)


@pytest.mark.parametrize("cell", KINDS)
def test_parameters_are_made_where_torchs_are(cell):
    for given in ({}, {"device": "cpu"}):
        with torch.device("meta"):
            module, twin = (kind(I, H, **given, **KINDS[cell][2]) for kind in KINDS[cell][:2])
        devices = [p.device for p in twin.parameters()]
        assert [p.device for p in module.parameters()] == devices
        assert devices[0].type == given.get("device", "meta")


def test_every_new_tensor_names_its_device():
    """A call that no case above makes, as on a GPU, would follow the default device."""
    makers = {f"torch.{made.__name__}" for made in _device._device_constructors()}
    folder = Path(kernels.__file__).parent
    found = {
        f"{path.relative_to(folder)}:{node.lineno}": {keyword.arg for keyword in node.keywords}
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in makers
    }
    assert found
    assert [place for place, given in found.items() if "device" not in given] == []
