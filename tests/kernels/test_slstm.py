"""sLSTM, which torch lacks: the reference against the paper's equations; what overflows them."""

import pytest
import torch
from torch import Tensor

import kernels
import reference
from bench.cases.cases import DEFAULTS, make_case
from bench.cases.problem import layer_weights, make_problem
from tests.helpers.paired_modules import DEVICE, flat
from tests.helpers.tolerances import REORDERED

T, B, H = 6, 3, 5
pytestmark = pytest.mark.usefixtures("on_the_kernels_device")


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, dtype=torch.float64)).requires_grad_()


def bare_equations(gx: Tensor, w_hh: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """y, C and N by the paper's equations (8) to (14), without the stabiliser."""
    h, c, n, m = state
    C, N = c * m.exp(), n * m.exp()
    ys = []
    for x in gx:
        i, f, z, o = (x + h @ w_hh.t()).chunk(4, dim=-1)
        C = f.sigmoid() * C + i.exp() * z.tanh()
        N = f.sigmoid() * N + i.exp()
        h = o.sigmoid() * C / N
        ys.append(h)
    return torch.stack(ys), C, N


@pytest.mark.parametrize("start", ["nothing", "something"])
def test_the_stabiliser_changes_neither_values_nor_gradients(start):
    gx, w_hh = random(T, B, 4 * H), random(4 * H, H, scale=0.5)
    if start == "nothing":
        state = tuple(torch.zeros(B, H, dtype=torch.float64, requires_grad=True) for _ in range(4))
    else:
        n = (1 + torch.rand(B, H, dtype=torch.float64)).requires_grad_()
        state = (random(B, H), random(B, H), n, random(B, H))
    h0, *rest = (s.unsqueeze(0) for s in state)
    y, h, last = reference.recurrence(
        "slstm", gx.unsqueeze(2), w_hh.unsqueeze(0), None, h0, tuple(rest)
    )
    c, n, m = (s[0] for s in flat(last))
    actual = (y, c * m.exp(), n * m.exp())
    expected = bare_equations(gx, w_hh, state)
    assert torch.equal(h[0], y[-1])
    weights = [torch.randn_like(t) for t in expected]
    inputs = [gx, w_hh, *state]
    ours, theirs = ((*r, *torch.autograd.grad(r, inputs, weights)) for r in (actual, expected))
    for a, e in zip(ours, theirs, strict=True):
        # float64 rounds at 1e-16, which C / N amplifies at most a hundredfold.
        assert (a - e).abs().max() <= 1e-12 * e.abs().max().clamp(min=1)


def test_it_survives_what_overflows_the_bare_equations():
    gx = random(T, B, 1, 4 * H, scale=1000.0)
    w_hh = random(1, 4 * H, H)
    zero = torch.zeros(1, B, H, dtype=torch.float64, requires_grad=True)
    y, *last = reference.recurrence("slstm", gx, w_hh, None, zero, (zero, zero, zero))
    results = [y, *flat(last)]
    gradients = torch.autograd.grad(results, [gx, w_hh], [torch.ones_like(t) for t in results])
    assert all(t.isfinite().all() for t in (*results, *gradients))
    # The first step starts from zeros, so that h is o z, whatever the input gate.
    _, _, z, o = gx[0, :, 0].chunk(4, dim=-1)
    assert torch.allclose(y[0], o.sigmoid() * z.tanh(), rtol=REORDERED[torch.float64])
    bare, *_ = bare_equations(gx[:, :, 0], w_hh[0], (zero[0],) * 4)
    assert not bare.isfinite().all()


def test_kernels_survive_what_overflows_the_bare_equations():
    case = make_case(
        **DEFAULTS | {"cell": "slstm", "dtype": "fp32", "B": 3, "T": 5, "I": 4, "H": 8}
    )
    problem = make_problem(case, 0, DEVICE)
    x, (weights,) = 1000 * problem.inputs["x"], layer_weights(case, problem.inputs)
    leaves = [t.requires_grad_() for t in (x, *weights)]
    y, last = kernels.slstm(x, [tuple(leaves[1:])])
    results = [y, *last]
    gradients = torch.autograd.grad(results, leaves, [torch.ones_like(t) for t in results])
    assert all(t.isfinite().all() for t in (*results, *gradients))


def test_a_state_of_other_than_four_tensors_is_refused():
    gx, w_hh, state = torch.zeros(2, 3, 1, 20), torch.zeros(1, 20, 5), torch.zeros(1, 3, 5)
    with pytest.raises(TypeError, match=r"c0 is a tensor.*; accepted: a tuple of 3 .* \[D, B, H\]"):
        kernels.recurrence("slstm", gx, w_hh, c0=state)
    with pytest.raises(ValueError, match="c0 is a tuple of 2; accepted: a tuple of 3 tensors"):
        kernels.recurrence("slstm", gx, w_hh, c0=(state, state))
    with pytest.raises(ValueError, match="hx is a tuple of 2; accepted: a tuple of 4 tensors"):
        kernels.slstm(torch.zeros(2, 3, 1), [(torch.zeros(20, 1), w_hh[0])], (state, state))
