"""PackedSequences and initial states as no function of torch makes them: refused where torch.nn
fails or misreads them, before anything runs, and else computed alike.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kernels import operators
from tests.helpers.paired_modules import KINDS, H, I, assert_same, pair, state

pytestmark = pytest.mark.usefixtures("on_the_kernels_device")


def host(values: Any, dtype: torch.dtype = torch.int64) -> Tensor:
    """Where batch_sizes are, whatever the default device."""
    return torch.tensor(values, dtype=dtype, device="cpu")


@pytest.fixture
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("an operator ran")

    for name in ("recurrence", "layer", "project_shared"):
        monkeypatch.setattr(operators, name, fail)


# Parts of a PackedSequence of six rows, and how the message begins.
SIX = host([3, 2, 1])
MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"batch_sizes": host([1, 2, 3])}, r"batch_sizes\[1\] is 2; accepted: at most .* 1 and"),
    ({"batch_sizes": host([3, 1, 2])}, r"batch_sizes\[2\] is 2"),
    ({"batch_sizes": host([3, 0, 3])}, r"batch_sizes\[2\] is 3; .* batch_sizes\[1\] = 0"),
    ({"batch_sizes": host([0, 3, 3])}, r"batch_sizes\[1\] is 3"),
    ({"batch_sizes": host([3, 4, -1])}, r"batch_sizes\[1\] is 4"),
    ({"batch_sizes": host([4, 3, -1])}, r"batch_sizes\[2\] is -1"),
    ({"batch_sizes": host([-1, -2])}, r"batch_sizes\[0\] is -1; accepted: at least 0$"),
    ({"batch_sizes": host([3, 2, 2])}, "batch_sizes is of sum 7; accepted: 6, the rows"),
    ({"batch_sizes": host([])}, r"batch_sizes is a tensor \[0\].* at least one step"),
    ({"batch_sizes": host(6)}, r"batch_sizes is a tensor \[\]"),
    ({"batch_sizes": SIX.to("meta")}, "batch_sizes is on meta; accepted: .* on the CPU"),
    *(
        ({"batch_sizes": SIX.to(dtype)}, f"batch_sizes is a tensor .* of {dtype}; accepted: ")
        for dtype in (torch.float32, torch.float16, torch.int32, torch.int16, torch.uint8)
    ),
    ({"batch_sizes": SIX > 2}, "batch_sizes is a tensor .* of torch.bool"),
    ({"batch_sizes": [3, 2, 1]}, "batch_sizes is a list; accepted: a tensor"),
    ({"batch_sizes": np.array([3, 2, 1])}, "batch_sizes is a ndarray"),
    ({"batch_sizes": None}, "batch_sizes is None"),
    ({"data": torch.zeros(6)}, r"input.data is a tensor \[6\] .*; accepted: \[rows, I\]"),
    ({"data": torch.zeros(1, 6, I)}, r"input.data is a tensor \[1, 6, 2\]"),
    ({"data": torch.zeros(6, I + 1)}, "Expected 2, got 3"),
    ({"data": torch.zeros(6, I).long()}, "does not match weight dtype"),
    ({"data": [[0.0] * I] * 6}, "input.data is a list; accepted: a tensor"),
    ({"data": None}, "input.data is None"),
    ({"batch_sizes": SIX.to_sparse()}, r"batch_sizes is of layout torch\.sparse_coo"),
    ({"unsorted_indices": host([1, 2, 0]).to_sparse()}, "unsorted_indices is of layout"),
    ({"unsorted_indices": host([1, 2, 3])}, r"unsorted_indices has the entry 3; .* 0\.\.2$"),
    ({"unsorted_indices": host([1, 2, -1])}, "unsorted_indices has the entry -1"),
    ({"unsorted_indices": host([[1, 2, 0]])}, r"unsorted_indices is a tensor \[1, 3\]"),
    ({"unsorted_indices": host([1.0, 2, 0], torch.float32)}, "unsorted_indices is a .*float32"),
    ({"unsorted_indices": [1, 2, 0]}, "unsorted_indices is a list"),
]
# Parts that torch.nn reads only if there is an initial state.
OF_A_STATE: list[tuple[dict[str, Any], str]] = [
    ({"sorted_indices": host([2, 0, 3])}, "sorted_indices has the entry 3"),
    ({"sorted_indices": host([2, 0, -2])}, "sorted_indices has the entry -2"),
    ({"sorted_indices": host([[2, 0, 1]])}, r"sorted_indices is a tensor \[1, 3\]"),
    ({"sorted_indices": SIX > 1}, "sorted_indices is a .*bool"),
    ({"sorted_indices": [2, 0, 1]}, "sorted_indices is a list"),
    ({"sorted_indices": host([2, 0])}, r"hx.* is a tensor \[1, 2, 5\]"),
]
# What some version of torch.nn computes with, though it ignores rows, a shape or a device.
MISREAD: list[tuple[dict[str, Any], str]] = [
    (
        {"data": torch.zeros(6, I).to_sparse()},
        r"input.data is of layout torch\.sparse_coo; accepted",
    ),
    ({"batch_sizes": host([3, 2])}, "batch_sizes is of sum 5; accepted: 6, the rows"),
    ({"batch_sizes": host([[3, 2, 1]])}, r"batch_sizes is a tensor \[1, 3\]"),
    ({"batch_sizes": host([[3], [2], [1]])}, r"batch_sizes is a tensor \[3, 1\]"),
    ({"sorted_indices": host([2, 0, 1]).to("meta")}, "sorted_indices is on meta"),
    ({"unsorted_indices": host([1, 2, 0]).to("meta")}, "unsorted_indices is on meta"),
]


def packed(**parts: Any) -> PackedSequence:
    """A PackedSequence of three sequences, with these parts as they are."""
    right = {"data": torch.zeros(6, I), "batch_sizes": SIX, "sorted_indices": host([2, 0, 1])}
    right |= {"unsorted_indices": host([1, 2, 0])} | parts
    return tuple.__new__(PackedSequence, right.values())


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(("parts", "message"), [*MALFORMED, *OF_A_STATE, *MISREAD])
@pytest.mark.parametrize("cell", KINDS)
def test_a_malformed_packed_sequence_is_refused(cell, parts, message):
    module, twin = pair(cell)
    given = packed(**parts)
    for hx in (None, state(cell, 1, 3, H)):
        if "sorted_indices" in parts and hx is None:
            continue
        with pytest.raises((ValueError, TypeError), match=message) as refusal:
            module(given, hx)
        assert "\n" not in str(refusal.value)
        if not any(parts is misread for misread, _ in MISREAD):
            with pytest.raises(Exception):  # noqa: B017
                twin(given, hx)


@pytest.mark.parametrize(
    "parts",
    [
        {"batch_sizes": host([3, 3, 0])},
        {"batch_sizes": nn.Parameter(SIX, requires_grad=False)},
        {"data": torch.randn(6, I, device="cpu").t().contiguous().t()},
        {"data": torch.zeros(0, I), "batch_sizes": host([0, 0])}
        | dict.fromkeys(("sorted_indices", "unsorted_indices"), host([])),
        {"sorted_indices": None, "unsorted_indices": None},
        {"sorted_indices": host([2, 0, 1], torch.int32)},
        {"unsorted_indices": host([0, 0])},  # any choice of sequences
        {"sorted_indices": None},
    ],
)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_unusual_one_is_computed_as_by_torch(cell, parts):
    module, twin = pair(cell, bidirectional=True)
    given = packed(**parts)
    given = given._replace(data=torch.randn_like(given.data))
    B = int(given.batch_sizes[0])
    for hx in (None, state(cell, 2, B, H)):
        assert_same(module, twin, given, hx)


def test_batch_sizes_may_have_a_stride():
    """torch.nn reads them as if they had none."""
    module, _ = pair("gru")
    given = packed(data=torch.randn(6, I))
    spread = given._replace(batch_sizes=host([[3, 9], [2, 9], [1, 9]])[:, 0])
    assert torch.equal(module(spread)[0].data, module(given)[0].data)


ONE = torch.zeros(1, 3, H)
STATES: list[tuple[Any, str]] = [
    ([None], "a list"),
    ((None,), "a tuple"),
    ([ONE], "a list"),
    ((ONE, None), "a tuple"),
    ([[ONE]], "a list"),
    ({"h": ONE}, "a dict"),
    (0.0, "a float"),
    (False, "a bool"),
    ((ONE, ONE), "a tuple"),
    ("zeros", "a str"),
]
# Of two tensors, for an LSTM: which entry the message names.
PAIRS: list[tuple[Any, str]] = [
    ([None, ONE], r"hx\[0\] is None"),
    ((ONE, None), r"hx\[1\] is None"),
    ((None, None), r"hx\[0\] is None"),
    ([None], r"hx\[0\] is None"),
    ((ONE, (ONE,)), r"hx\[1\] is a tuple"),
    (((ONE, ONE),), r"hx\[0\] is a tuple"),
    ([[0.0], ONE], r"hx\[0\] is a list"),
    ((ONE,), "hx is 1 tensors"),
    ((), "hx is 0 tensors"),
    ((ONE,) * 3, "hx is 3 tensors"),
    (ONE, r"hx is a tensor \[1, 3, 5\]"),
    (iter((ONE, ONE)), "hx is a tuple_iterator"),
    ({"h": ONE, "c": ONE}, "hx is a dict"),
]


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize("given", ["batched", "packed"])
@pytest.mark.parametrize(
    ("cell", "hx", "message"),
    [
        *((cell, hx, f"hx is {text}") for cell in KINDS if cell != "lstm" for hx, text in STATES),
        *(("lstm", *one) for one in PAIRS),
    ],
)
def test_a_malformed_state_is_refused(cell, hx, message, given):
    module, twin = pair(cell)
    x = torch.zeros(3, 3, I) if given == "batched" else packed()
    with pytest.raises((ValueError, TypeError), match=f"^{message}.*; accepted: a t") as refusal:
        module(x, hx)
    assert "\n" not in str(refusal.value)
    if not isinstance(hx, tuple) or len(hx) != 3:  # of which torch.nn takes two if it is packed
        with pytest.raises(Exception):  # noqa: B017
            twin(x, hx)


def test_the_states_of_an_lstm_may_be_a_list():
    module, _ = pair("lstm")
    x, hx = torch.randn(3, 3, I), state("lstm", 1, 3, H)
    assert torch.equal(module(x, list(hx))[0], module(x, hx)[0])
