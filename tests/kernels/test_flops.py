"""The floating-point operations that torch's counter finds in the layers."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import kernels
from tests.helpers.paired_modules import B, H, I, T, pair


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru"])  # torch fuses its LSTM on some CPUs
def test_flops_are_counted(cell, needs_x, bidirectional):
    """As torch counts its own, whose backward pass leaves out the first step's product, as nobody
    asks for the initial state's gradient; and with `recompute` the forward pass twice.
    """
    module, twin = pair(cell, bidirectional=bidirectional)
    x = torch.randn(T, B, I, requires_grad=needs_x)
    counts = []
    for each, recompute in ((twin, False), (module, False), (module, True)):
        each.recompute = recompute
        with FlopCounterMode(display=False) as counter:
            y, _ = each(x)
            forward = counter.get_total_flops()
            y.sum().backward()
        counts.append((forward, counter.get_total_flops() - forward))
    theirs, ours, recomputed = counts
    rows, D = kernels.CELLS[cell].gates * H, 1 + bidirectional
    assert ours[0] == theirs[0] == 2 * T * B * rows * (I + H) * D
    assert ours[1] == theirs[1] + 2 * B * rows * H * D
    assert recomputed == (ours[0], ours[1] + ours[0])
