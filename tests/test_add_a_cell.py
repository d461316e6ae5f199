"""Adding a cell in three steps: to the reference, to the kernels, to the table of cases.

The steps are those of sLSTM, here at run time, for three states, two gates and no class in torch.
"""

from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from torch.nn.functional import linear

import kernels
import reference
from bench.cases import cases
from bench.cases.problem import make_problem
from bench.measure.metrics import verdict
from bench.measure.runner import Runner
from bench.providers import PROVIDERS, load
from bench.records.environment import Machine, machine
from kernels.cells.cell import Cell
from kernels.math import sigmoid_and_packed, tanh_and_packed, unpack_sigmoid, unpack_tanh
from kernels.planning import INTERPRETED

load()
DEVICE = "cpu" if INTERPRETED else "cuda"

# A gated average s of candidates, its slow trace k, and the output h = s + k.


def average_step(gx, state, w_hh, b_hh=None):
    h, s, k = state
    gate, new = (gx + linear(h, w_hh, b_hh)).chunk(2, dim=-1)
    gate, new = torch.sigmoid(gate), torch.tanh(new)
    s = s + gate * (new - s)
    k = 0.5 * k + s
    return s + k, s, k


@triton.jit
def device_step(x, r, state):
    gate, packed_gate = sigmoid_and_packed(x[0] + r[0])
    new, packed_new = tanh_and_packed(x[1] + r[1])
    s = state[1] + gate * (new - state[1])
    k = 0.5 * state[2] + s
    return (s + k, s, k), (packed_gate, packed_new)


@triton.jit
def device_step_gradient(dstate, state, previous, saved):
    gate, one_minus_gate, gate_slope = unpack_sigmoid(saved[0])
    new, new_slope = unpack_tanh(saved[1])
    dk = dstate[2] + dstate[0]
    ds = dstate[1] + dstate[0] + dk
    dgate = ds * (new - previous[1]) * gate_slope
    dnew = ds * gate * new_slope
    gates = (dgate, dnew)
    return gates, gates, (tl.zeros_like(ds), ds * one_minus_gate, 0.5 * dk)


@pytest.fixture
def average(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(
        reference.CELLS, "average", reference.Cell(average_step, 2, ("h", "s", "k"))
    )
    cell = Cell("average", 2, 3, 2, device_step, device_step_gradient)
    monkeypatch.setitem(kernels.CELLS, "average", cell)
    cases.add_cell(cases.Cell("average", 2, ("h", "s", "k")))
    yield "average"
    del cases.CELLS["average"]


@pytest.mark.parametrize("track", cases.TRACKS)
def test_its_error_is_measured_for_all_states(average, track):
    sizes = {"cell": average, "pass": "fwd+bwd", "dtype": "fp32", "B": 3, "T": 5, "I": 4, "H": 7}
    asked = cases.make_case(**cases.DEFAULTS | sizes | {"track": track, "resets": 0.3})
    found = Runner(PROVIDERS["ours"], make_problem(asked, 0, DEVICE), machine()).errors()
    assert {"y", "h_n", "s_n", "k_n", "dh0", "ds0", "dk0"} < found.keys()
    assert verdict(found, asked) is None


def test_providers_that_lack_it_say_so(average):
    asked = cases.make_case(**cases.DEFAULTS | {"cell": average})
    h100 = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), 132)
    for name in ("torch.nn", "flashrnn-fused", "torchrl-triton"):
        reason = PROVIDERS[name].supports(asked, h100)
        assert reason is not None and "average" in reason
    assert PROVIDERS["ours"].supports(asked, h100) is None
