"""The reference with padding, NaN, other dtypes and views."""

import pytest
import torch

import reference
from reference import CELLS, layers
from tests.helpers.small_networks import B, H, I, T, tensor, weights_of
from tests.helpers.tolerances import REORDERED, ROUNDOFF, assert_close

EXACT = REORDERED[torch.float64]


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_results_do_not_depend_on_the_padding(cell, direction):
    D, lengths = (2 if direction == "both" else 1), [4, 1, 2]
    weights = weights_of(cell, layers=2, D=D)
    inputs = [w.requires_grad_() for one in weights for w in one]
    results = []
    for padding in (0.0, float("nan"), float("inf")):
        torch.manual_seed(0)
        x = tensor(T, B, I)
        for b, n in enumerate(lengths):
            x[n:, b] = padding
        x.requires_grad_()
        y, last = layers(cell, x, weights, direction=direction, lengths=lengths)
        outputs = [y, *(last if isinstance(last, tuple) else (last,))]
        above = [2 * t.detach() for t in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, [x, *inputs], above)])
    for polluted in results[1:]:
        assert all(map(torch.equal, polluted, results[0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_inf_stay_in_their_own_sequence(cell, bad):
    weights = weights_of(cell, layers=2, D=2)
    x = tensor(T, B, I)
    clean, _ = layers(cell, x, weights, direction="both")
    x[1, 1, 0] = bad
    y, _ = layers(cell, x, weights, direction="both")
    assert torch.equal(y[:, [0, 2]], clean[:, [0, 2]])
    if bad != bad:
        assert y[:, 1].isnan().any(dim=-1).all()  # earlier steps by the reverse direction


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_computes_in_the_inputs_dtype(cell, dtype):
    x, weights = tensor(T, B, I), weights_of(cell, layers=2)
    exact, _ = layers(cell, x, weights, lengths=[4, 2, 1])
    low = [tuple(w.to(dtype) for w in one) for one in weights]
    y, last = layers(cell, x.to(dtype), low, lengths=[4, 2, 1])
    assert {t.dtype for t in (y, *(last if isinstance(last, tuple) else (last,)))} == {dtype}
    # Inputs and every operation are rounded to this dtype; in 30 seeds no value was off by 6 u.
    assert (y - exact).abs().max() < 20 * ROUNDOFF[dtype]


def test_takes_views_and_leaves_its_arguments_unchanged():
    weights = weights_of("gru")
    x = tensor(B, I, T).permute(2, 0, 1)
    h0 = tensor(1, 1, H).expand(1, B, H)
    resets = torch.ones(T, 1, dtype=torch.bool).expand(T, B)
    arguments = [x, h0, resets, *weights[0]]
    before = [a.clone() for a in arguments]
    y, _ = reference.gru(x, weights, h0, resets=resets, lengths=torch.tensor([4, 1, 2]))
    again, _ = reference.gru(
        x.contiguous(), weights, h0.contiguous(), resets=resets.clone(), lengths=(4, 1, 2)
    )
    assert_close(y, again, EXACT, "y")
    assert all(map(torch.equal, arguments, before))
