"""The modules under autocast: dtypes and backward passes; graphs are in test_graphs.py."""

import inspect
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

import kernels
from kernels import autocast, functional
from tests.helpers.paired_modules import (
    DEVICE,
    KINDS,
    B,
    H,
    I,
    T,
    assert_close,
    flat,
    pair,
    state,
    weights,
)
from tests.helpers.tolerances import rounded_loop

pytestmark = pytest.mark.usefixtures("on_the_kernels_device")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", KINDS)
def test_autocast_gives_torchs_dtypes(cell, dtype):
    module, twin = pair(cell)
    # torch has a 16-bit LSTM on some CPUs only; its dtypes are the plain RNN's.
    plain = DEVICE == "cpu" and cell == "lstm"
    typed = pair("rnn_tanh")[1] if plain else twin
    for x in (torch.randn(T, B, I), torch.randn(T, B, I).to(dtype)):
        for hx in (None, state(cell, 1, B, H)):
            with torch.autocast(DEVICE, dtype=dtype):
                ours, theirs = flat(module(x, hx)), flat(typed(x, None if plain else hx))
            assert {t.dtype for t in ours[1:]} == {theirs[1].dtype}
            assert ours[0].dtype == theirs[0].dtype
            exact = twin(x.float(), hx)[0]  # not torch's own rounding under autocast
            assert_close(ours[0].float(), exact, "output", rounded_loop(dtype, T, I + H))
            ours[0].float().sum().backward()
            assert {p.grad.dtype for p in module.parameters()} == {torch.float32}


def test_autocast_takes_packed_sequences_named_tuples_and_the_recurrence():
    States = namedtuple("States", "h c")
    module: Any = kernels.LSTM(I, H)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        hx = States(torch.randn(1, 2, H), torch.randn(1, 2, H))
        packed, _ = module(pack_sequence([torch.randn(n, I) for n in (3, 1)]), hx)
        gx = nn.functional.linear(torch.randn(T, B, I), module.weight_ih_l0)[:, :, None]
        y, _, _ = kernels.recurrence("lstm", gx, module.weight_hh_l0[None])
    assert gx.dtype == y.dtype == torch.bfloat16
    assert packed.data.dtype == (torch.bfloat16 if DEVICE == "cpu" else torch.float16)


def test_autocast_on_a_gpu_follows_cudnn(monkeypatch):
    """float16, whatever autocast's dtype is; without cuDNN, autocast's dtype."""
    before = torch.get_autocast_dtype("cuda")
    try:
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        with FakeTensorMode():
            x = torch.empty(T, B, I, device="cuda")
        assert autocast.layer_dtype(kernels.CELLS["gru"], x, None) == torch.float16
        monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
        assert autocast.layer_dtype(kernels.CELLS["gru"], x, None) == torch.bfloat16
    finally:
        torch.set_autocast_dtype("cuda", before)


def every_argument(name: str) -> dict[str, Any]:
    """Each argument of a function, none of them at its default."""
    h, c = torch.ones(2, 2, B, H)
    given: dict[str, Any] = {"cell": "lstm", "lengths": [T, 1, 2], "resets": torch.ones(T, B) > 0}
    given |= {"mode": "gemm", "precision": "ieee"}
    if name == "recurrence":
        given |= {"gx": torch.ones(T, B, 1, 4 * H), "w_hh": torch.ones(1, 4 * H, H)}
        return given | {"b_hh": torch.ones(1, 4 * H), "h0": h, "c0": (c,), "reverse": True}
    given |= {"x": torch.ones(B, T, I), "weights": weights("lstm", directions=2), "hx": (h, c)}
    given |= {"direction": "both", "merge": "sum", "batch_first": True, "recompute": True}
    return given | {"dropout": 0.5, "training": True}


@pytest.mark.parametrize("name", ["layers", "recurrence"])
def test_autocast_changes_the_arguments_dtypes_and_nothing_else(name, monkeypatch):
    function, given = getattr(functional, name), every_argument(name)
    signature, seen = inspect.signature(function), {}
    assert given.keys() == signature.parameters.keys()

    def called(*positional: Any, **named: Any) -> None:
        seen.update(signature.bind(*positional, **named).arguments)

    monkeypatch.setattr(functional, name, called)  # as the function calls itself
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        function(**given)
    assert seen.keys() == given.keys()
    dtype = torch.float16 if DEVICE == "cuda" and name == "layers" else torch.bfloat16
    for argument, value in seen.items():
        if argument not in ("lengths", "resets") and isinstance(value, Tensor | tuple | list):
            before, after = flat(given[argument]), flat(value)
            assert all(map(torch.equal, after, [t.to(dtype) for t in before])), argument
            assert {t.dtype for t in after} == {dtype}, argument
        else:
            assert value is given[argument], argument


def test_autocast_takes_no_number_types_that_are_refused_without_it():
    x = torch.randn(T, B, I, dtype=torch.float64)
    with (
        torch.autocast(DEVICE, dtype=torch.bfloat16),
        pytest.raises(TypeError, match=r"^x is of torch\.float64"),
    ):
        kernels.lstm(x, weights("lstm"))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", KINDS)
def test_a_backward_pass_under_autocast_computes_as_its_forward_pass_did(cell, recompute, within):
    """`within` says whether the forward pass was under autocast too. The input projection of a
    layer that is not recomputed is an operation of torch's, whose own GEMMs autocast rounds.
    """
    module, _ = pair(cell)
    module.recompute = recompute
    # On a CPU a GRU's dtype under autocast is its state's, which is x's here.
    x = torch.randn(T, B, I).to(torch.bfloat16 if within else torch.float32)
    loops = [module.weight_hh_l0, module.bias_hh_l0]
    weights = list(module.parameters()) if recompute else loops
    gradients = []
    for enabled in (False, True):
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=within):
            loss = module(x)[0].float().square().sum()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(loss, weights))
    assert all(map(torch.equal, *gradients))
