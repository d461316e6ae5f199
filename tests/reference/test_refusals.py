"""What the reference refuses, and that it says so in one clear sentence."""

from typing import Any

import numpy as np
import pytest
import torch

import reference
from reference import layers, recurrence
from tests.reference.test_robustness import B, H, I, T, tensor, weights_of


def check_refused(call: Any, error: type[Exception], message: str) -> None:
    """One sentence that names the argument, what is accepted and what came."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(message), text
    assert "\n" not in text
    assert " must " in text
    assert "got " in text or ": " in text, text


def bad_layers() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    w = weights_of("lstm")
    w_ih, w_hh, b_ih, b_hh = w[0]
    state = torch.zeros(1, B, H).double()
    mask = torch.zeros(T, B, dtype=torch.bool)
    meta = torch.empty(T, B, I, dtype=torch.float64, device="meta")
    return {
        "cell": ({"cell": "lsmt"}, ValueError, "cell must be one of 'rnn_tanh', 'rnn_relu', "),
        "direction": (
            {"direction": "backward"},
            ValueError,
            "direction must be one of 'forward', ",
        ),
        "direction type": ({"direction": 1}, ValueError, "direction must be one of"),
        "merge": (
            {"merge": "mean"},
            ValueError,
            "merge must be one of 'concat', 'sum', got 'mean'",
        ),
        "dropout": (
            {"dropout": 1.5},
            ValueError,
            "dropout must be a probability in [0, 1], got 1.5",
        ),
        "dropout below": ({"dropout": -0.1}, ValueError, "dropout must be"),
        "dropout NaN": ({"dropout": float("nan")}, ValueError, "dropout must be"),
        "dropout bool": ({"dropout": True}, ValueError, "dropout must be"),
        "dropout type": ({"dropout": "0.5"}, ValueError, "dropout must be"),
        "x type": ({"x": [[1.0]]}, TypeError, "x must be a tensor [T, B, I] or [T, I], got a list"),
        "x rank": (
            {"x": torch.zeros(I)},
            ValueError,
            "x must be [T, B, I] or [T, I], got shape [2]",
        ),
        "x rank batch first": (
            {"x": torch.zeros(1, 1, 1, 1), "batch_first": True},
            ValueError,
            "x must be [B, T, I] or [T, I], got shape [1, 1, 1, 1]",
        ),
        "x integers": (
            {"x": torch.ones(T, B, I).long()},
            TypeError,
            "x must have a floating-point",
        ),
        "x features": (
            {"x": tensor(T, B, I + 1)},
            ValueError,
            "x must have 2 features, as the columns of w_ih of weights[0], got shape [4, 3, 3]",
        ),
        "x empty": ({"x": tensor(0, B, I)}, ValueError, "x must have at least one time step, got"),
        "x empty batch first": (
            {"x": tensor(B, 0, I), "batch_first": True},
            ValueError,
            "x must have at least one time step, got shape [3, 0, 2]",
        ),
        "x dtype": ({"x": tensor(T, B, I).float()}, ValueError, "w_ih of weights[0] must have the"),
        "x device": ({"x": meta}, ValueError, "w_ih of weights[0] must be on the input's device"),
        "weights type": ({"weights": w_ih}, TypeError, "weights must be a sequence of tuples"),
        "weights flat": ({"weights": w[0]}, TypeError, "weights[0] must be a tuple (w_ih, "),
        "weights none": ({"weights": []}, ValueError, "weights must hold (w_ih, w_hh, b_ih, b_hh)"),
        "weights odd": (
            {"direction": "both"},
            ValueError,
            "weights must hold (w_ih, w_hh, b_ih, b_hh) or (w_ih, w_hh) for each layer and "
            "direction (2 a layer), got 1 tuples",
        ),
        "weights three": (
            {"weights": [w[0][:3]]},
            ValueError,
            "weights[0] must be a tuple (w_ih, w_hh, b_ih, b_hh) or (w_ih, w_hh) for each layer "
            "and direction, got 3 tensors",
        ),
        "weights mixed": ({"weights": [w[0], w[0][:2]]}, ValueError, "weights must hold"),
        "w_hh type": (
            {"weights": [(w_ih, None)]},
            TypeError,
            "w_hh of weights[0] must be a tensor",
        ),
        "w_hh shape": (
            {"weights": [(w_ih, w_hh[:, 1:])]},
            ValueError,
            "w_hh of weights[0] must be [4*H, H] with H >= 1 for this cell, got [20, 4]",
        ),
        "w_hh rank": (
            {"weights": [(w_ih, b_hh)]},
            ValueError,
            "w_hh of weights[0] must be [4*H, H]",
        ),
        "H zero": (
            {"weights": [(w_ih[:0], w_hh[:0, :0])]},
            ValueError,
            "w_hh of weights[0] must be",
        ),
        "w_ih rows": (
            {"weights": [(w_ih[1:], w_hh)]},
            ValueError,
            "w_ih of weights[0] must be [4*H, I] = [20, 2], got [19, 2]",
        ),
        "w_ih type": ({"weights": [(1.0, w_hh)]}, TypeError, "w_ih of weights[0] must be a tensor"),
        "b_ih": (
            {"weights": [(w_ih, w_hh, b_ih[1:], b_hh)]},
            ValueError,
            "b_ih of weights[0] must",
        ),
        "b_hh": (
            {"weights": [(w_ih, w_hh, b_ih, b_hh[1:])]},
            ValueError,
            "b_hh of weights[0] must",
        ),
        "second layer": (
            {"weights": [*w, *w]},
            ValueError,
            "w_ih of weights[1] must be [4*H, I] = ",
        ),
        "second layer summed": (
            {
                "weights": [*w, *w, *weights_of("lstm", 2, 2)[2:]],
                "direction": "both",
                "merge": "sum",
            },
            ValueError,
            "w_ih of weights[2] must be [4*H, I] = [20, 5], got [20, 10]",
        ),
        "hx tensor": (
            {"hx": state},
            TypeError,
            "hx must be a tuple (h0, c0) of tensors [L*D, B, H]",
        ),
        "hx one": (
            {"hx": (state,)},
            ValueError,
            "hx must be a tuple (h0, c0) of tensors [L*D, B, H]",
        ),
        "h0": (
            {"hx": (state[..., 1:], state)},
            ValueError,
            "h0 of hx must be [L*D, B, H] = [1, 3, 5], got [1, 3, 4]",
        ),
        "c0": (
            {"hx": (state, state[:, 1:])},
            ValueError,
            "c0 of hx must be [L*D, B, H] = [1, 3, 5]",
        ),
        "c0 None": ({"hx": (state, None)}, TypeError, "c0 of hx must be a tensor [L*D, B, H], got"),
        "hx dtype": (
            {"hx": (state.half(), state)},
            ValueError,
            "h0 of hx must have the input's dtype",
        ),
        "hx device": (
            {"hx": (state, state.to("meta"))},
            ValueError,
            "c0 of hx must be on the input's",
        ),
        "hx unbatched": (
            {"x": tensor(T, I), "hx": (state, state)},
            ValueError,
            "h0 of hx must be [L*D, H] = [1, 5], got [1, 3, 5]",
        ),
        "lengths zero": (
            {"lengths": [4, 0, 1]},
            ValueError,
            "lengths must lie in 1..T = 1..4, got [4, 0, 1]",
        ),
        "lengths beyond": ({"lengths": torch.tensor([4, 5, 1])}, ValueError, "lengths must lie in"),
        "lengths count": (
            {"lengths": [4, 1]},
            ValueError,
            "lengths must be [B] = [3], one per sequence, got shape [2]",
        ),
        "lengths rank": (
            {"lengths": torch.ones(3, 1).int()},
            ValueError,
            "lengths must be [B] = [3]",
        ),
        "lengths floats": (
            {"lengths": torch.ones(3)},
            TypeError,
            "lengths must be integers, got a tensor of torch.float32",
        ),
        "lengths bools": ({"lengths": torch.ones(3).bool()}, TypeError, "lengths must be integers"),
        "lengths list": (
            {"lengths": [1.0, 2, 3]},
            TypeError,
            "lengths must be a sequence of ints or an integer tensor, got [1.0, 2, 3]",
        ),
        "lengths number": (
            {"lengths": 3},
            TypeError,
            "lengths must be a sequence of ints or an integer tensor, got 3",
        ),
        "lengths true": ({"lengths": [True, 1, 2]}, TypeError, "lengths must be a sequence of"),
        "lengths text": ({"lengths": "123"}, TypeError, "lengths must be a sequence of ints or"),
        "lengths numpy floats": (
            {"lengths": np.ones(3)},
            TypeError,
            "lengths must be a sequence of ints or an integer tensor, got [1.0, 1.0, 1.0]",
        ),
        "lengths numpy beyond": (
            {"lengths": np.array([5, 1, 1])},
            ValueError,
            "lengths must lie in 1..T = 1..4, got [5, 1, 1]",
        ),
        "lengths numpy rank": (
            {"lengths": np.ones((3, 1), int)},
            TypeError,
            "lengths must be a sequence of ints or an integer tensor, got [[1], [1], [1]]",
        ),
        "batch_first number": (
            {"batch_first": 1},
            TypeError,
            "batch_first must be a bool, got an int",
        ),
        "batch_first None": ({"batch_first": None}, TypeError, "batch_first must be a bool, got N"),
        "training": ({"training": "no"}, TypeError, "training must be a bool, got a str"),
        "training tensor": (
            {"training": torch.tensor(True)},
            TypeError,
            "training must be a bool, got a tensor [] of torch.bool",
        ),
        "lengths unbatched": (
            {"x": tensor(T, I), "lengths": [4]},
            ValueError,
            "lengths must be None",
        ),
        "resets dtype": (
            {"resets": mask.int()},
            TypeError,
            "resets must be a bool tensor [T, B], got a tensor [4, 3] of torch.int32",
        ),
        "resets list": (
            {"resets": [[True]]},
            TypeError,
            "resets must be a bool tensor [T, B], got a",
        ),
        "resets shape": (
            {"resets": mask.t()},
            ValueError,
            "resets must be [T, B] = [4, 3], got [3, 4]",
        ),
        "resets batch first": (
            {"x": tensor(B, T, I), "batch_first": True, "resets": mask},
            ValueError,
            "resets must be [B, T] = [3, 4], got [4, 3]",
        ),
        "resets unbatched": (
            {"x": tensor(T, I), "resets": mask},
            ValueError,
            "resets must be [T] = ",
        ),
        "resets device": ({"resets": mask.to("meta")}, ValueError, "resets must be on the input's"),
    }


@pytest.mark.parametrize("name", bad_layers())
def test_a_network_refuses(name):
    changed, error, message = bad_layers()[name]
    arguments = {"cell": "lstm", "x": tensor(T, B, I), "weights": weights_of("lstm"), **changed}
    check_refused(lambda: layers(**arguments), error, message)
    if "cell" not in changed:
        arguments.pop("cell")
        check_refused(lambda: reference.lstm(**arguments), error, message)


def test_cells_with_one_state_refuse_a_tuple_and_rnn_an_unknown_nonlinearity():
    x, hx = tensor(T, B, I), (tensor(1, B, H), tensor(1, B, H))
    for cell in ("rnn_tanh", "gru"):
        message = "hx must be a tensor [L*D, B, H], got a tuple"
        check_refused(lambda c=cell: layers(c, x, weights_of(c), hx), TypeError, message)
    check_refused(
        lambda: reference.rnn(x, weights_of("rnn_tanh"), nonlinearity="elu"),
        ValueError,
        "nonlinearity must be one of 'tanh', 'relu', got 'elu'",
    )


def bad_recurrences() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    gx, w_hh = tensor(T, B, 1, 4 * H), tensor(1, 4 * H, H)
    state, mask = tensor(1, B, H), torch.zeros(T, B, dtype=torch.bool)
    return {
        "cell": (
            {"cell": "rnn"},
            ValueError,
            "cell must be one of 'rnn_tanh', 'rnn_relu', 'lstm', ",
        ),
        "gx type": ({"gx": None}, TypeError, "gx must be a tensor [T, B, D, G*H], got None"),
        "gx rank": ({"gx": gx[:, :, 0]}, ValueError, "gx must be [T, B, D, G*H], got shape"),
        "gx integers": ({"gx": gx.int()}, TypeError, "gx must have a floating-point dtype, got"),
        "gx empty": ({"gx": gx[:0]}, ValueError, "gx must have at least one time step, got shape"),
        "gx directions": (
            {"gx": gx.expand(-1, -1, 3, -1)},
            ValueError,
            "gx must be [T, B, D, G*H]",
        ),
        "gx features": ({"gx": gx[..., 1:]}, ValueError, "gx must have 4*H features for this cell"),
        "gx no features": ({"gx": gx[..., :0]}, ValueError, "gx must have 4*H features for this"),
        "reverse": (
            {"gx": gx.expand(-1, -1, 2, -1), "w_hh": w_hh.expand(2, -1, -1), "reverse": True},
            ValueError,
            "reverse must be False for two directions, got True with D = 2 in gx",
        ),
        "reverse number": ({"reverse": 1}, TypeError, "reverse must be a bool, got an int"),
        "reverse cell": ({"reverse": "lstm"}, TypeError, "reverse must be a bool, got a str"),
        "w_hh": (
            {"w_hh": w_hh[0]},
            ValueError,
            "w_hh must be [D, G*H, H] = [1, 20, 5], got [20, 5]",
        ),
        "w_hh dtype": ({"w_hh": w_hh.half()}, ValueError, "w_hh must have the input's dtype"),
        "b_hh": ({"b_hh": w_hh[0, :, 0]}, ValueError, "b_hh must be [D, G*H] = [1, 20], got [20]"),
        "h0": ({"h0": state[0]}, ValueError, "h0 must be [D, B, H] = [1, 3, 5], got [3, 5]"),
        "c0": ({"c0": state[:, :2]}, ValueError, "c0 must be [D, B, H] = [1, 3, 5], got [1, 2, 5]"),
        "c0 tuple": ({"c0": (state,)}, TypeError, "c0 must be a tensor [D, B, H], got a tuple"),
        "c0 of gru": (
            {"cell": "gru", "gx": gx[..., : 3 * H], "w_hh": w_hh[:, : 3 * H], "c0": state},
            ValueError,
            "c0 must be None for a cell without a second state, got a tensor [1, 3, 5]",
        ),
        "lengths": ({"lengths": [5, 1, 1]}, ValueError, "lengths must lie in 1..T = 1..4, got"),
        "resets": ({"resets": mask.t()}, ValueError, "resets must be [T, B] = [4, 3], got [3, 4]"),
    }


@pytest.mark.parametrize("name", bad_recurrences())
def test_a_recurrence_refuses(name):
    changed, error, message = bad_recurrences()[name]
    arguments = {"cell": "lstm", "gx": tensor(T, B, 1, 4 * H), "w_hh": tensor(1, 4 * H, H)}
    check_refused(lambda: recurrence(**{**arguments, **changed}), error, message)


def test_lengths_may_be_numpys():
    x, weights, lengths = tensor(T, B, I), weights_of("gru"), np.array([4, 1, 2])
    given: Any
    expected, _ = reference.gru(x, weights, lengths=[4, 1, 2])
    for given in (lengths, list(lengths), tuple(lengths), lengths.astype(np.uint8)):
        assert torch.equal(reference.gru(x, weights, lengths=given)[0], expected)
