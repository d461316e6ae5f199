"""sLSTM, which torch has not: the reference against the bare equations, the kernels against it."""

import pytest
import torch
from torch import Tensor

import reference

T, B, H = 6, 3, 5


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, dtype=torch.float64)).requires_grad_()


def bare_equations(gx: Tensor, w_hh: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """y, C and N of the paper's equations (8) to (14), with nothing to keep them from overflow."""
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
    y, h, (c, n, m) = reference.recurrence(
        "slstm",
        gx.unsqueeze(2),
        w_hh.unsqueeze(0),
        None,
        state[0].unsqueeze(0),
        tuple(s.unsqueeze(0) for s in state[1:]),
    )
    actual = (y, (c * m.exp())[0], (n * m.exp())[0])
    expected = bare_equations(gx, w_hh, state)
    assert torch.equal(h[0], y[-1])
    weights = [torch.randn_like(t) for t in expected]
    inputs = [gx, w_hh, *state]
    pairs = zip(
        (*actual, *torch.autograd.grad(actual, inputs, weights)),
        (*expected, *torch.autograd.grad(expected, inputs, weights)),
        strict=True,
    )
    for a, e in pairs:
        # float64 rounds at 1e-16, and C / N passes it on at most a hundredfold.
        assert (a - e).abs().max() <= 1e-12 * max(1.0, e.abs().max())


def test_it_survives_what_overflows_the_bare_equations():
    gx = random(T, B, 1, 4 * H, scale=1000.0)
    w_hh = random(1, 4 * H, H)
    zero = torch.zeros(1, B, H, dtype=torch.float64, requires_grad=True)
    y, h, rest = reference.recurrence("slstm", gx, w_hh, None, zero, (zero, zero, zero))
    total = sum(t.sum() for t in (y, h, *rest))
    gradients = torch.autograd.grad(total, [gx, w_hh])
    assert all(t.isfinite().all() for t in (y, h, *rest, *gradients))
    # The first step has nothing to remember, so h is o z whatever the input gate.
    _, _, z, o = gx[0, :, 0].chunk(4, dim=-1)
    assert torch.allclose(y[0], o.sigmoid() * z.tanh(), rtol=1e-12)
    bare, *_ = bare_equations(gx[:, :, 0], w_hh[0], (zero[0],) * 4)
    assert not bare.isfinite().all()
