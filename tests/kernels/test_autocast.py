"""The modules under autocast: dtypes and backward passes; graphs are in test_graphs.py."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

import kernels
from kernels import autocast
from tests.helpers.paired_modules import DEVICE, KINDS, B, H, I, T, assert_close, flat, pair, state
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
