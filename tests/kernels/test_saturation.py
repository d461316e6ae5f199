"""Saturated gates: their derivatives are as precise as any other number of the I/O type.

Gates are saved in the I/O type. The derivative s (1 - s) of a rounded s is 0 in bfloat16 from a
pre-activation of 6.24 on, and then a layer with long memory does not learn.
"""

import math
from typing import Any

import pytest
import torch
import triton
import triton.language as tl  # noqa: F401 - the interpreter requires it in a kernel's globals
from torch import Tensor

import kernels
import reference
from bench.error.activations import apply
from kernels.cells import CELLS
from kernels.math import sigmoid_and_packed, tanh_and_packed, unpack_sigmoid, unpack_tanh
from kernels.planning import INTERPRETED
from tests.helpers.tolerances import ROUNDOFF

WHERE = "cpu" if INTERPRETED else "cuda"
pytestmark = pytest.mark.usefixtures("rounding_to_nearest")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


# Of each cell the gates but sLSTM's exponential one, which does not saturate.
SIGMOIDS = {"lstm": (0, 1, 3), "gru": (0, 1), "slstm": (1, 3)}
TANHS = {"lstm": (2,), "gru": (2,), "slstm": (2,)}
CASES = [
    *((cell, gate, (3.0, 5.0, 7.0, -7.0)) for cell in SIGMOIDS for gate in SIGMOIDS[cell]),
    *((cell, gate, (2.0, 3.5, 5.0, -5.0)) for cell in TANHS for gate in TANHS[cell]),
]
# Of a gradient's norm. It passes some 6 independent roundings to the type (of saved gates, of the
# gates' gradients), of which each is off by a third to a half of the roundoff in the mean; in
# float32 the activations' own errors and the sums add to them. y (1 - y) of a rounded y is off by
# up to the roundoff over 1 - y: 20 times the roundoff at 3, 1000 times at 7.
BOUND = {dtype: (16 if dtype == torch.float32 else 4) * ROUNDOFF[dtype] for dtype in DTYPES}
HOW = [("auto", False), ("stepwise", True), ("gemm", False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "gate", "biases"), CASES)
def test_gradients_of_a_saturated_gate(
    cell: str, gate: int, biases: tuple[float, ...], dtype: torch.dtype
):
    """From the last state only, with a bias for each quarter of the units, in a mode and direction
    that differ from case to case.
    """
    mode, reverse = HOW[(gate + DTYPES.index(dtype)) % len(HOW)]
    T, B, H, gates = 6, 2, 8, CELLS[cell].gates
    gx = torch.randn(T, B, 1, gates, H) / 2
    gx[..., gate, :] += torch.tensor(biases).repeat_interleave(H // 4)
    # No gradient is subnormal in float16.
    above = 256 * torch.randn(1, B, H)
    tensors = [gx.flatten(3), torch.randn(1, gates * H, H) / (2 * H**0.5), above]
    gx, w_hh, above = (t.to(dtype).to(WHERE) for t in tensors)

    def gradient(recurrence: Any, dtype: torch.dtype, **options: Any) -> Tensor:
        leaf = gx.to(dtype).requires_grad_()
        _, h_n, *_ = recurrence(cell, leaf, w_hh.to(dtype), reverse=reverse, **options)
        (found,) = torch.autograd.grad(h_n, leaf, above.to(dtype).view(h_n.shape))
        return found.double().unflatten(3, (gates, 4, H // 4))[..., gate, :, :]

    exact = gradient(reference.recurrence, torch.float64)
    off = gradient(kernels.recurrence, dtype, mode=mode) - exact

    def norm(x: Tensor) -> Tensor:
        return x.square().sum((0, 1, 2, 4)).sqrt()

    assert (norm(off) <= BOUND[dtype] * norm(exact)).all(), norm(off) / norm(exact)


@triton.jit
def _identity(packed):
    return packed


@triton.jit
def _sigmoid(packed):
    return unpack_sigmoid(packed)[0]


@triton.jit
def _complement(packed):
    return unpack_sigmoid(packed)[1]


@triton.jit
def _pack_sigmoid(x):
    return sigmoid_and_packed(x)[1]


@triton.jit
def _pack_tanh(x):
    return tanh_and_packed(x)[1]


@triton.jit
def _sigmoid_slope(packed):
    return unpack_sigmoid(packed)[2]


@triton.jit
def _tanh(packed):
    return unpack_tanh(packed)[0]


@triton.jit
def _tanh_slope(packed):
    return unpack_tanh(packed)[1]


ZERO_AND_INFINITY = (0.0, -0.0, 1e-30, -1e-30, math.inf, -math.inf)
NEAR_ZERO = torch.logspace(-12, 0, 601)
SWEEP = torch.cat(
    [torch.linspace(-110, 110, 44001), NEAR_ZERO, -NEAR_ZERO, torch.tensor(ZERO_AND_INFINITY)]
).to(WHERE)
# Errors of the functions in float32, in units of its roundoff: 2 of the exponential, 2 of the
# reciprocal, and one for each further operation.
FP32 = 8 * ROUNDOFF[torch.float32]


def assert_within(actual: Tensor, exact: Tensor, bound: Tensor) -> None:
    excess = (actual.double() - exact).abs() - bound
    worst = int(excess.argmax())
    assert excess[worst] <= 0, f"at x = {SWEEP[worst]}: {actual[worst]}, exactly {exact[worst]}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_sigmoid_gives_the_value_its_complement_and_its_slope(dtype: torch.dtype):
    packed = apply(_pack_sigmoid, SWEEP).to(dtype).float()
    s, complement = SWEEP.double().sigmoid(), (-SWEEP.double()).sigmoid()
    smaller = torch.minimum(s, complement)
    # The smaller one is rounded to the type (a subnormal to a multiple of the smallest), and the
    # larger one is 1 minus that.
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    off = (ROUNDOFF[dtype] + FP32) * smaller + subnormal
    assert_within(apply(_sigmoid, packed), s, off + FP32 * s)
    assert_within(apply(_complement, packed), complement, off + FP32 * complement)
    assert_within(apply(_sigmoid_slope, packed), s * complement, off + FP32 * s * complement)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_tanh_gives_the_value_and_its_slope(dtype: torch.dtype):
    packed = apply(_pack_tanh, SWEEP).to(dtype).float()
    y = SWEEP.double().tanh()
    rest = 2 * (-2 * SWEEP.double().abs()).sigmoid()  # 1 - |y|
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    # What is rounded to the type: y, or 1 + 2**16 (1 - |y|).
    rounded = torch.where(SWEEP.abs() < 0.5, y.abs(), rest + 2.0**-16)
    off = (ROUNDOFF[dtype] + FP32) * rounded + subnormal
    slope = rest * (2 - rest)
    assert_within(apply(_tanh, packed), y, off + FP32 * y.abs())
    assert_within(apply(_tanh_slope, packed), slope, 2 * y.abs() * off + off**2 + FP32 * slope)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("unpacked", [_sigmoid, _complement, _sigmoid_slope, _tanh, _tanh_slope])
def test_a_packed_nan_stays_nan(unpacked: Any, dtype: torch.dtype):
    nan = torch.tensor([math.nan, -math.nan], device=WHERE)
    pack = _pack_tanh if unpacked in (_tanh, _tanh_slope) else _pack_sigmoid
    assert apply(unpacked, apply(pack, nan).to(dtype).float()).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["auto", "stepwise", "gemm"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_gate_of_exactly_one_keeps_the_state(cell: str, mode: str, dtype: torch.dtype):
    """1 - s is zero, and only the sign of that zero says that s is 1."""
    T, B, gates, sizes = 3, 2, CELLS[cell].gates, [20.0, 40.0, 120.0, 1e4, 6e4]
    H = len(sizes)
    gx = torch.randn(T, B, 1, gates, H)
    gx[..., 1, :] = torch.tensor(sizes)  # the forget or the update gate
    gx = gx.flatten(3).to(dtype).to(WHERE)
    w_hh = torch.zeros(1, gates * H, H, dtype=dtype, device=WHERE)
    kept = torch.ones(1, B, H, dtype=dtype, device=WHERE).requires_grad_()
    h0, c0 = (kept, None) if cell == "gru" else (None, kept)
    last: Any = kernels.recurrence(cell, gx, w_hh, h0=h0, c0=c0, mode=mode)[1:]
    above = torch.randn(1, B, H).to(dtype).to(WHERE)
    (found,) = torch.autograd.grad(last[0 if cell == "gru" else 1], kept, above)
    assert torch.equal(found, above)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", SIGMOIDS)
def test_a_nan_gate_has_a_nan_gradient(cell: str, dtype: torch.dtype):
    gates, H = CELLS[cell].gates, 5
    gx = torch.randn(2, gates + 1, 1, gates, H)
    for gate in range(gates):
        gx[1, gate, 0, gate, 2] = math.nan
    leaf = gx.flatten(3).to(dtype).to(WHERE).requires_grad_()
    w_hh = torch.zeros(1, gates * H, H, dtype=dtype, device=WHERE)
    _, h_n, _ = kernels.recurrence(cell, leaf, w_hh)
    (found,) = torch.autograd.grad(h_n.float().sum(), leaf)
    found = found.unflatten(3, (gates, H))
    assert found[1].diagonal(dim1=0, dim2=2)[0, 2].isnan().all()
    assert found[:, -1].isfinite().all()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", SIGMOIDS)
def test_a_layer_with_long_memory_learns_in_bf16(cell: str, recompute: bool):
    """In both directions, with a forget or update bias of 7: gradients of the input, and of that
    bias, which was off by half and more.
    """
    T, B, H, gates = 6, 2, 8, CELLS[cell].gates
    weights = []
    for _ in range(2):
        w_ih, w_hh = (torch.randn(gates * H, H) / (2 * H**0.5) for _ in range(2))
        b_ih, b_hh = torch.zeros(2, gates * H)
        b_ih[H : 2 * H] = 7
        weights.append([w_ih, w_hh, b_ih, b_hh])
    x, above = torch.randn(T, B, H), torch.randn(2, B, H).bfloat16()

    def gradients(package: Any, dtype: torch.dtype, **options: Any) -> list[Tensor]:
        leaf = x.bfloat16().to(dtype).to(WHERE).requires_grad_()
        own = [[w.bfloat16().to(dtype).to(WHERE).requires_grad_() for w in one] for one in weights]
        _, last = package.layers(cell, leaf, own, direction="both", **options)
        h_n = last if isinstance(last, Tensor) else last[0]
        leaves = [leaf, own[0][2], own[1][2]]
        dx, *dbs = torch.autograd.grad(h_n, leaves, above.to(dtype).to(WHERE))
        return [dx, *(db[H : 2 * H] for db in dbs)]

    expected = gradients(reference, torch.float64)
    actual = gradients(kernels, torch.bfloat16, recompute=recompute)
    for name, a, e in zip(("dx", "db", "db in reverse"), actual, expected, strict=True):
        assert (a.double() - e).norm() <= BOUND[torch.bfloat16] * e.norm(), name


@pytest.mark.parametrize("bias", [3.0, 5.0, 7.0])
def test_gradients_of_slstms_scaled_states_jump_at_a_tie_but_not_those_of_h(bias: float):
    """Which of log i and log f + m is the larger decides what c, n and m are relative to.
    Where they are nearly equal a rounding decides, in 16 bits that of h.
    """
    T, B, H = 2, 1, 4
    base = torch.randn(T, B, 1, 4, H) / 2
    base[..., 1, :] += bias
    # m is log i after the first step: in the second both terms are equal but for `more`.
    tie = base[0, ..., 0, :] + torch.nn.functional.logsigmoid(base[1, ..., 1, :])
    w_hh, above = torch.zeros(1, 4 * H, H, device=WHERE), torch.randn(1, B, H).to(WHERE)
    found = []
    for more in (-1e-4, 1e-4):
        gx = base.clone()
        gx[1, ..., 0, :] = tie + more
        leaf = gx.flatten(3).to(WHERE).requires_grad_()
        _, h, scaled = kernels.recurrence("slstm", leaf, w_hh)
        found.append(
            [
                torch.autograd.grad(s, leaf, above, retain_graph=True)[0]
                for s in (h, *(scaled or ()))
            ]
        )
    of_h, *of_scaled = (((a - b).norm() / a.norm()).item() for a, b in zip(*found, strict=True))
    assert of_h < 1e-3  # a difference of 2e-4 in log i, once or twice
    assert min(of_scaled) > 0.1, of_scaled
