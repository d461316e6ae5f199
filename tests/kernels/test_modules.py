"""The modules against torch.nn's: arguments, results, parameters, packed sequences, refusals."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import kernels
from tests.helpers.paired_modules import KINDS, B, H, I, T, assert_close, assert_same, pair, state
from tests.helpers.pairwise import label, pairwise

pytestmark = pytest.mark.usefixtures("on_the_kernels_device")


@pytest.mark.parametrize(
    "case",
    pairwise(
        cell=list(KINDS),
        layers=[1, 2],
        bias=[True, False],
        batch_first=[False, True],
        bidirectional=[False, True],
        input=["batched", "unbatched", "sorted", "unsorted"],
        hx=[False, True],
        training=[True, False],
    ),
    ids=label,
)
def test_equals_torch(case):
    cell, batch_first = case["cell"], case["batch_first"]
    names = {"num_layers": case["layers"], "bias": case["bias"], "batch_first": batch_first}
    module, twin = pair(cell, **names, bidirectional=case["bidirectional"])
    for each in (module, twin):
        each.train(case["training"])
    LD = case["layers"] * (1 + case["bidirectional"])
    x: Any = torch.randn(*((B, T) if batch_first else (T, B)), I)
    shape: tuple[int, ...] = (LD, B, H)
    if case["input"] == "unbatched":
        x, shape = torch.randn(T, I), (LD, H)
    elif case["input"] == "sorted":
        x = pack_padded_sequence(x, [3, 3, 1], batch_first)
    elif case["input"] == "unsorted":
        x = pack_padded_sequence(
            x, torch.tensor([1, 3, 2], device="cpu"), batch_first, enforce_sorted=False
        )
    assert_same(module, twin, x, state(cell, *shape) if case["hx"] else None)
    if isinstance(x, PackedSequence):
        (_, *ours), (_, *theirs) = module(x)[0], twin(x)[0]  # all but the data
        for a, e in zip(ours, theirs, strict=True):
            assert a is e is None or torch.equal(a, e)


def saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("cell", KINDS)
def test_the_same_seed_gives_the_same_parameters_and_checkpoints_load_both_ways(cell):
    ours, theirs, more = KINDS[cell]
    options = {"num_layers": 2, "bidirectional": True, **more}
    torch.manual_seed(7)
    module = ours(I, H, **options)
    torch.manual_seed(7)
    twin = theirs(I, H, **options)
    assert list(module.state_dict()) == list(twin.state_dict())
    for name, value in twin.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert twin.load_state_dict(saved_and_loaded(module.state_dict())).missing_keys == []
    assert module.load_state_dict(twin.state_dict()).unexpected_keys == []
    assert module.extra_repr() == twin.extra_repr()
    assert repr(module) == repr(twin)


@pytest.mark.parametrize("cell", KINDS)
def test_copies_compute_the_same(cell):
    ours, _, more = KINDS[cell]
    module = ours(I, H, bidirectional=True, recompute=True, **more)
    x = torch.randn(1, B, I)
    pickled = pickle.loads(pickle.dumps(module))
    for twin in (copy.deepcopy(module), pickled, saved_and_loaded(module)):
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        assert "recompute=True" in repr(twin)
        assert torch.equal(twin(x)[0], module(x)[0])
        twin.weight_ih_l0.data.zero_()
        assert not torch.equal(twin(x)[0], module(x)[0])


@pytest.mark.parametrize("cell", KINDS)
def test_changed_weights_are_seen(cell):
    module, twin = pair(cell)
    x = torch.randn(2, B, I)
    changes: list[Callable[[Any], Any]] = [
        lambda m: m.weight_hh_l0.data.mul_(0.5),
        lambda m: m.bias_ih_l0.data.copy_(torch.ones(len(m.bias_ih_l0))),
        lambda m: setattr(m, "weight_ih_l0", nn.Parameter(m.weight_ih_l0.detach() * 2)),
        lambda m: m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()}),
    ]
    for change in changes:
        before = module(x)[0]
        for each in (module, twin):
            change(each)
        after = module(x)[0]
        assert not torch.equal(after, before)
        assert_close(after, twin(x)[0], "output")
    for each in (module, twin):
        each.flatten_parameters()
        torch.nn.utils.parametrizations.weight_norm(each, "weight_hh_l0")
    assert_same(module, twin, x)


@pytest.mark.parametrize("cell", KINDS)
def test_functional_call_uses_the_given_weights(cell):
    module, twin = pair(cell)
    x = torch.randn(T, B, I)
    given = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    ours, theirs = (torch.func.functional_call(m, given, (x,))[0] for m in (module, twin))
    assert_close(ours, theirs, "output")
    half = {name: p.half() for name, p in given.items()}
    assert torch.func.functional_call(module, half, (x.half(),))[0].dtype == torch.float16


def test_dropout_is_between_layers_only_in_training_and_follows_the_seed():
    module, twin = pair("lstm", num_layers=2, dropout=0.5)
    x = torch.randn(T, B, I)
    outputs = []
    for each in (module, module, twin):
        torch.manual_seed(1)
        outputs.append(each(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert_close(outputs[0], outputs[2], "with torch's mask")
    assert not torch.equal(module(x)[0], outputs[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    assert_close(module(x)[0], twin.eval()(x)[0], "evaluation")
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        single = kernels.GRU(I, H, dropout=0.9)
    assert torch.equal(single(x)[0], single(x)[0])


def test_resets_return_a_sequence_to_its_initial_state():
    """Two episodes in one sequence equal two sequences, in each layout."""
    module, _ = pair("gru")
    x, h0 = torch.randn(T, 2, I), torch.randn(1, 2, H)
    resets = torch.zeros(T, 2, dtype=torch.bool)
    resets[1, 0] = True
    y, last = module(x, h0, resets=resets)
    first, _ = module(x[:1], h0)
    second, end = module(x[1:], h0)
    straight, _ = module(x, h0)
    assert_close(y[:1], first, "first episode")
    assert_close(y[1:, 0], second[:, 0], "second episode")
    assert_close(y[:, 1], straight[:, 1], "without a reset")
    assert_close(last[:, 0], end[:, 0], "last state")
    assert_close(module(x[:, 0], h0[:, 0], resets=resets[:, 0])[0], y[:, 0], "unbatched")

    lengths = torch.tensor([2, 3], device="cpu")
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    ours, _ = nn.utils.rnn.pad_packed_sequence(module(packed, h0, resets=resets)[0])
    assert_close(ours[:2], y[:2], "packed")
    module.batch_first = True
    again = module(x.transpose(0, 1), h0, resets=resets.t())[0].transpose(0, 1)
    assert_close(again, y, "batch first")
    again = module(packed, h0, resets=resets.t())[0]
    assert torch.equal(nn.utils.rnn.pad_packed_sequence(again)[0], ours)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cell", KINDS)
def test_nan_and_infinity_spread_as_in_torch_and_within_their_sequence(cell, value):
    module, twin = pair(cell)
    x = torch.randn(T, B, I)
    clean = module(x)[0]
    x[1, 1, 0] = value
    ours, theirs = module(x)[0], twin(x)[0]
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())
    finite = theirs.isfinite()
    assert_close(ours[finite], theirs[finite], "finite outputs")
    assert torch.equal(ours[:, [0, 2]], clean[:, [0, 2]])


def test_an_empty_batch_gives_empty_results():
    module, twin = pair("lstm", bidirectional=True)
    for module.recompute in (False, True):
        assert_same(module, twin, torch.zeros(T, 0, I))
        x = torch.zeros(T, 0, I, requires_grad=True)
        gradients = torch.autograd.grad(module(x)[0].sum(), (x, *module.parameters()))
        assert all(not gradient.any() for gradient in gradients)


X = torch.zeros(T, B, I)
PACKED = pack_sequence([X[:, 0]])
# What torch.nn refuses: the input, the shape and options of hx if given, and the message.
REFUSED: list[tuple[Any, Any, str]] = [
    ([[1.0]], None, "input is a list; accepted: a tensor or a PackedSequence"),
    (None, None, "input is None; accepted: a tensor or a PackedSequence"),
    (X[0, 0], None, "Expected input to be 2D or 3D, got 1D"),
    (X[None], None, "Expected input to be 2D or 3D, got 4D"),
    (torch.zeros(T, B, I + 1), None, "Expected 2, got 3"),
    (X[:0], None, r"\[0, 3, 2\] .* at least one time step"),
    (X[:0, 0], None, "Expected sequence length to be larger"),
    (X.half(), None, r"\(torch.float16\) does not match weight dtype"),
    (X.long(), None, r"\(torch.int64\) does not match .* input.to\(torch.float32\)$"),
    (X.double(), None, r"\(torch.float64\) does not match .* input.to\(torch.float32\)$"),
    (X.to("meta"), None, "Input and parameter tensors are not at the same device"),
    (X, {"size": (1, B + 1, H)}, r"\(1, 3, 5\), got \[1, 4"),
    (X, {"size": (2, B, H)}, r"\(1, 3, 5\), got \[2, 3, 5\]"),
    (X, {"size": (B, H)}, "should also be 3-D but got .*2-D"),
    (X[:, 0], {"size": (1, 1, H)}, "should also be 2-D but got .*3-D"),
    (X, {"size": (1, B, H), "dtype": torch.float64}, "is of torch.float64; accepted: the input's"),
    (X, {"size": (1, B, H), "device": "meta"}, "is on meta; accepted: the input's"),
    (X, "zeros", "hx is a str; accepted: a t"),
    (pack_sequence([torch.zeros(T, I + 1)]), None, "Expected 2, got 3"),
    (pack_sequence([X[:, 0, 0]]), None, r"input.data is a tensor \[3\] .*; accepted: \[rows, I\]"),
    (PACKED, {"size": (1, B, H)}, r"\(1, 1, 5\), got \[1, 3, 5\]"),
]
BY_ACCIDENT = (AttributeError, IndexError)  # errors inside torch.nn's code: TypeError is meant


@pytest.mark.parametrize(("given", "hx", "message"), REFUSED)
@pytest.mark.parametrize("cell", KINDS)
def test_what_torch_refuses_is_refused_with_its_exception(cell, given, hx, message):
    if isinstance(hx, dict):
        one = torch.zeros(**hx)
        hx = (one, one) if cell == "lstm" else one
    module, twin = pair(cell)
    with pytest.raises(Exception, match=message) as refusal:
        module(given, hx)
    assert isinstance(refusal.value, ValueError | RuntimeError | TypeError)
    assert "\n" not in str(refusal.value)
    try:
        twin(given, hx)
    except BY_ACCIDENT:
        pass
    except Exception as theirs:
        assert isinstance(refusal.value, type(theirs)), f"torch raises {theirs!r}"


@pytest.mark.parametrize("cell", KINDS)
def test_constructors_refuse_what_torchs_do(cell):
    ours, theirs, more = KINDS[cell]
    changes: dict[str, tuple[Any, ...]] = {
        "dropout": (1.5, True, "a lot"), "hidden_size": (0, 2.0), "input_size": (-1, "3"),
        "num_layers": (0,), "bias": (1,), "batch_first": (None,), "proj_size": ("3",),
        "unknown": (1,), "nonlinearity": ("elu",) if cell.startswith("rnn") else (),
    }  # fmt: skip
    for name, value in ((name, value) for name, values in changes.items() for value in values):
        arguments = {"input_size": I, "hidden_size": H, **more, name: value}
        with pytest.raises((ValueError, TypeError)) as expected:
            theirs(**arguments)
        with pytest.raises(expected.type):
            ours(**arguments)
    with pytest.raises(TypeError, match="recompute is an int; accepted: a bool"):
        ours(I, H, recompute=1)


def test_projections_are_refused():
    for refuse in (
        lambda: kernels.LSTM(I, H, proj_size=2),
        lambda: kernels.LSTM(I, H, 1, True, False, 0.0, False, 2),
        lambda: kernels.GRU(I, H, proj_size=2),
    ):
        with pytest.raises(NotImplementedError, match=r"proj_size is 2; accepted: 0 .*LSTM"):
            refuse()
    assert kernels.LSTM(I, H, proj_size=0)(torch.zeros(T, B, I))[0].shape == (T, B, H)


def test_float64_is_refused_by_name():
    for module in (kernels.GRU(I, H, dtype=torch.float64), kernels.RNN(I, H).double()):
        with pytest.raises(
            TypeError, match=r"^input is of torch.float64; accepted: torch.float32, "
        ):
            module(torch.zeros(T, B, I, dtype=torch.float64))
        assert module.float()(torch.zeros(T, B, I))[0].dtype == torch.float32


def test_a_wrong_mask_is_refused():
    module, packed = kernels.GRU(I, H), pack_sequence([torch.zeros(n, I) for n in (3, 2)])
    for x in (torch.zeros(3, 2, I), packed):
        with pytest.raises(TypeError, match=r"resets is .*; accepted: a bool tensor"):
            module(x, resets=torch.zeros(3, 2))
        with pytest.raises(
            ValueError, match=r"resets .*\[2, 3\] .*; accepted: \[T, B\] = \[3, 2\]"
        ):
            module(x, resets=torch.zeros(2, 3).bool())


def test_constructor_arguments_by_position_dtype_and_device():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = kernels.RNN(I, H, 2, "relu", False, True, 0.5, True, dtype=torch.float16)
    assert (module.nonlinearity, module.bias, module.batch_first) == ("relu", False, True)
    assert (module.num_layers, module.dropout, module.bidirectional) == (2, 0.5, True)
    assert {p.dtype for p in module.parameters()} == {torch.float16}
    assert kernels.LSTM(I, H, device="meta").weight_ih_l0.is_meta


def test_lengths_may_be_numpy_arrays():
    module: Any = kernels.GRU(I, H)
    x, lengths = torch.randn(T, B, I), np.array([3, 1, 2])
    expected, _ = kernels.gru(x, module.all_weights, lengths=[3, 1, 2])
    lasting = lengths.astype(np.int32)
    given: Any
    for given in (list(lengths), lasting):
        y, _ = kernels.gru(x, module.all_weights, lengths=given)
        assert torch.equal(y, expected)
    (wanted,) = torch.autograd.grad(expected.sum(), module.weight_hh_l0)
    lasting[:] = 1  # without effect: the call kept a copy
    (gradient,) = torch.autograd.grad(y.sum(), module.weight_hh_l0)
    assert torch.equal(gradient, wanted)
