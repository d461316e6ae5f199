"""The reference against torch.nn in float64: outputs, last states and every gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import reference
from tests.helpers.pairwise import label, pairwise
from tests.helpers.tolerances import REORDERED, assert_close

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "rnn_tanh": reference.rnn,
    "rnn_relu": lambda *args, **kw: reference.rnn(*args, nonlinearity="relu", **kw),
    "lstm": reference.lstm,
    "gru": reference.gru,
}
CELLS = list(FUNCTIONS)
EXACT = REORDERED[torch.float64]

# T, B, I, H
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 4), (7, 1, 3, 5), (5, 4, 33, 17), (7, 17, 4, 33)]


def make(cell: str, I: int, H: int, **options: Any) -> nn.RNNBase:
    """torch's module for a cell, in float64."""
    if cell.startswith("rnn_"):
        return nn.RNN(I, H, nonlinearity=cell.removeprefix("rnn_"), **options).double()
    return {"lstm": nn.LSTM, "gru": nn.GRU}[cell](I, H, **options).double()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def draw_lengths(T: int, B: int) -> list[int]:
    return torch.randint(1, T + 1, (B,)).tolist()


def random_hx(cell: str, *shape: int) -> Any:
    return as_hx([random(*shape) for _ in range(2 if cell == "lstm" else 1)])


def as_hx(states: list[Tensor]) -> Any:
    """The states as torch's modules take them, None if there are none."""
    return tuple(states) if len(states) > 1 else states[0] if states else None


def flat(*values: Any) -> list[Tensor]:
    """All tensors in nested tuples and lists, without None."""
    return [leaf for leaf in tree_leaves(values) if leaf is not None]


def assert_same(actual: Any, expected: Any, inputs: list[Tensor]) -> None:
    """The results agree, and so do the gradients of a random weighted sum of them."""
    ours, theirs = flat(actual), flat(expected)
    assert len(ours) == len(theirs)
    weights = [torch.randn_like(t) for t in theirs]
    for k, (a, e) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == e.dtype
        assert_close(a, e, EXACT, f"result {k}")
    gradients = (
        torch.autograd.grad(results, inputs, weights, allow_unused=True, materialize_grads=True)
        for results in (ours, theirs)
    )
    for k, (a, e) in enumerate(zip(*gradients, strict=True)):
        assert_close(a, e, EXACT, f"gradient {k}")


SETTINGS: dict[str, list[Any]] = {
    "cell": CELLS,
    "shape": SHAPES,
    "layers": [1, 2, 3],
    "direction": ["forward", "both"],
    "bias": [True, False],
    "layout": ["time_first", "batch_first", "unbatched", "packed", "packed_batch_first"],
    "hx": [True, False],
}
EMPTY_BATCH = {name: values[0] for name, values in SETTINGS.items()} | {"shape": (3, 0, 2, 4)}


@pytest.mark.parametrize("case", [*pairwise(**SETTINGS), EMPTY_BATCH], ids=label)
def test_equals_torch(case):
    cell, (T, B, I, H) = case["cell"], case["shape"]
    batch_first = case["layout"].endswith("batch_first")
    D = 2 if case["direction"] == "both" else 1
    names = {"num_layers": case["layers"], "bias": case["bias"], "batch_first": batch_first}
    module = make(cell, I, H, bidirectional=D == 2, **names)
    LD = case["layers"] * D
    if case["layout"] == "unbatched":
        x, hx = random(T, I), random_hx(cell, LD, H)
    else:
        x, hx = random(*((B, T) if batch_first else (T, B)), I), random_hx(cell, LD, B, H)
    hx = hx if case["hx"] else None
    lengths = draw_lengths(T, B) if case["layout"].startswith("packed") else None

    if lengths is None:
        expected = module(x, hx)
    else:
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
        output, last = module(packed, hx)
        expected = pad_packed_sequence(output, batch_first, total_length=T)[0], last
    options = {"direction": case["direction"], "batch_first": batch_first, "lengths": lengths}
    actual = FUNCTIONS[cell](x, module.all_weights, hx, **options)
    assert_same(actual, expected, flat(x, hx, module.all_weights))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_sum_adds_the_two_directions_of_each_layer(cell, count):
    T, B, I, H = 5, 3, 4, 6
    modules = [make(cell, I if k == 0 else H, H, bidirectional=True) for k in range(count)]
    weights = [one for module in modules for one in module.all_weights]
    x, hx = random(T, B, I), random_hx(cell, 2 * count, B, H)
    actual = FUNCTIONS[cell](x, weights, hx, direction="both", merge="sum")

    output, lasts = x, []
    for k, module in enumerate(modules):
        own = [s[2 * k : 2 * k + 2] for s in flat(hx)]
        output, last = module(output, as_hx(own))
        output = output[..., :H] + output[..., H:]
        lasts.append(flat(last))
    expected = output, [torch.cat(states) for states in zip(*lasts, strict=True)]
    assert_same(actual, expected, flat(x, hx, weights))


@pytest.mark.parametrize(
    "case",
    pairwise(
        cell=CELLS,
        direction=["forward", "reverse"],
        layers=[1, 2],
        hx=[True, False],
        ragged=[True, False],
        rate=[0.0, 0.3, 1.0],
        layout=["time_first", "batch_first"],
    ),
    ids=label,
)
def test_reversal_and_resets_equal_torch_on_the_pieces_between(case):
    """Each piece runs from the initial state, in the sequence's own order."""
    cell, layers = case["cell"], case["layers"]
    T, B, I, H = 7, 4, 3, 5
    module = make(cell, I, H, num_layers=layers)
    x, hx = random(T, B, I), random_hx(cell, layers, B, H) if case["hx"] else None
    lengths = draw_lengths(T, B) if case["ragged"] else None
    resets = torch.rand(T, B) < case["rate"]
    options: dict[str, Any] = {"direction": case["direction"], "lengths": lengths}
    if case["layout"] == "time_first":
        actual = FUNCTIONS[cell](x, module.all_weights, hx, resets=resets, **options)
    else:
        options |= {"resets": resets.t(), "batch_first": True}
        output, last = FUNCTIONS[cell](x.transpose(0, 1), module.all_weights, hx, **options)
        actual = output.transpose(0, 1), last

    columns, lasts = [], []
    for b, n in enumerate(lengths or [T] * B):
        order = range(n)[::-1] if case["direction"] == "reverse" else range(n)
        starts = [k for k, t in enumerate(order) if k == 0 or resets[t, b]]
        own = [s[:, b : b + 1] for s in flat(hx)]
        column = x.new_zeros(T, H)
        for start, stop in zip(starts, [*starts[1:], n], strict=True):
            times = list(order[start:stop])
            piece, last = module(x[times, b : b + 1], as_hx(own))
            column = column.index_put((torch.tensor(times),), piece[:, 0])
        columns.append(column)
        lasts.append(flat(last))
    expected = torch.stack(columns, 1), [torch.cat(s, dim=1) for s in zip(*lasts, strict=True)]
    assert_same(actual, expected, flat(x, hx, module.all_weights))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_resets_act_in_each_directions_own_order(cell, ragged):
    T, B, I, H = 6, 3, 4, 5
    module = make(cell, I, H, bidirectional=True)
    x, hx = random(T, B, I), random_hx(cell, 2, B, H)
    options = {"resets": torch.rand(T, B) < 0.4, "lengths": draw_lengths(T, B) if ragged else None}
    actual = FUNCTIONS[cell](x, module.all_weights, hx, direction="both", **options)
    halves = []
    for d, direction in enumerate(["forward", "reverse"]):
        own = [s[d : d + 1] for s in flat(hx)]
        weights = module.all_weights[d : d + 1]
        output, last = FUNCTIONS[cell](x, weights, as_hx(own), direction=direction, **options)
        halves.append([output, *flat(last)])
    outputs, *states = zip(*halves, strict=True)
    expected = torch.cat(outputs, dim=-1), [torch.cat(s) for s in states]
    assert_same(actual, expected, flat(x, hx, module.all_weights))


def test_resets_of_a_single_sequence():
    weights = make("lstm", 3, 4).all_weights
    x, resets = random(5, 3), torch.tensor([False, False, True, False, True])
    batch = reference.lstm(x.unsqueeze(1), weights, resets=resets.unsqueeze(1))
    expected = [t.squeeze(1) for t in flat(batch)]
    assert_same(reference.lstm(x, weights, resets=resets), expected, flat(x, weights))


# On a CPU torch.nn draws its dropout masks layer by layer, as the reference does, so that one seed
# gives both the same masks; on packed sequences it draws fewer numbers: p = 1 below covers these.
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "unbatched"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_dropout_equals_torch_from_the_same_seed(cell, both, layout):
    first = layout == "batch_first"
    options = {"num_layers": 3, "dropout": 0.4, "bidirectional": both, "batch_first": first}
    module = make(cell, 4, 6, **options)
    x = random(5, 4) if layout == "unbatched" else random(5, 3, 4)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    ours = {"direction": "both" if both else "forward", "batch_first": first, "dropout": 0.4}
    actual = FUNCTIONS[cell](x, module.all_weights, training=True, **ours)
    assert not torch.equal(expected[0], module.eval()(x)[0])
    assert_same(actual, expected, flat(x, module.all_weights))


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_acts_between_layers_and_only_in_training(cell):
    function, lengths = FUNCTIONS[cell], [4, 2, 1]
    module = make(cell, 3, 5, num_layers=2)
    x, weights = random(4, 3, 3), module.all_weights
    plain = function(x, weights, lengths=lengths)
    assert_same(function(x, weights, lengths=lengths, dropout=1.0), plain, [x])

    dropped = function(x, weights, lengths=lengths, dropout=1.0, training=True)
    nothing = function(torch.zeros(4, 3, 5).double(), weights[1:], lengths=lengths)
    assert_close(dropped[0], nothing[0], EXACT, "second layer, of zeros")

    single = function(x, weights[:1], dropout=1.0, training=True)
    assert_same(single, function(x, weights[:1]), [x])


@pytest.mark.parametrize(
    "case",
    pairwise(
        cell=CELLS,
        direction=["forward", "reverse", "both"],
        bias=[True, False],
        states=[True, False],
        ragged=[True, False],
        resets=[True, False],
    ),
    ids=label,
)
def test_recurrence_is_the_layer_without_its_input_projection(case):
    cell, direction = case["cell"], case["direction"]
    T, B, I, H = 6, 3, 4, 5
    D = 2 if direction == "both" else 1
    module = make(cell, I, H, bias=case["bias"], bidirectional=D == 2)
    x = random(T, B, I)
    hx = random_hx(cell, D, B, H) if case["states"] else None
    masks: dict[str, Any] = {
        "lengths": torch.tensor(draw_lengths(T, B)) if case["ragged"] else None,
        "resets": torch.rand(T, B) < 0.4 if case["resets"] else None,
    }
    expected = FUNCTIONS[cell](x, module.all_weights, hx, direction=direction, **masks)

    w_ih, w_hh, *biases = (torch.stack(w) for w in zip(*module.all_weights, strict=True))
    b_ih, b_hh = biases or (None, None)
    gx = torch.einsum("tbi,dgi->tbdg", x, w_ih) + (0 if b_ih is None else b_ih)
    reverse = direction == "reverse"
    y, h_n, c_n = reference.recurrence(cell, gx, w_hh, b_hh, *flat(hx), reverse=reverse, **masks)
    assert (c_n is None) == (cell != "lstm")
    assert_same(flat(y, h_n, c_n), expected, flat(x, hx, module.all_weights))
