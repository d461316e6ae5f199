"""What the kernels refuse before any launch: all that the reference does, and more."""

import inspect
from typing import Any

import pytest
import torch

import kernels
import reference
from kernels import operators
from tests.helpers import small_networks
from tests.helpers.compiling_process import run_compiling
from tests.helpers.small_networks import B, H, T, assert_refused, tensor

DTYPE = torch.float32


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are refused before the first operator."""

    def fail(*args: Any) -> None:
        raise AssertionError("an operator ran")

    for name in ("recurrence", "layer", "project_shared"):
        monkeypatch.setattr(operators, name, fail)


LAYERS = small_networks.right_network(DTYPE)
X, WEIGHTS = LAYERS["x"], LAYERS["weights"]
W_IH, W_HH = WEIGHTS[0][:2]
ENDS = torch.tensor([4, 1, 2])
STATE = tensor(1, B, H, dtype=DTYPE)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *small_networks.bad_networks(DTYPE),
        ("dropout", {"dropout": True}),
        ("dropout", {"dropout": "0.5"}),
        ("w_hh of weights.0.", {"weights": [(W_IH[:0], W_HH[:0, :0])]}),
        ("hx.1.", {"hx": (STATE, None)}),
        ("lengths", {"lengths": [True, 1, 2]}),
        ("lengths", {"lengths": "123"}),
        ("lengths", {"lengths": [4], "x": X[:, 0]}),
        ("lengths", {"lengths": [torch.tensor(4)] * B}),
        ("lengths", {"lengths": ENDS.to("meta")}),
        ("lengths", {"lengths": ENDS.to_sparse()}),
        ("lengths", {"lengths": torch.nested.nested_tensor([ENDS])}),
        ("resets", {"resets": torch.zeros(T, B, dtype=torch.bool).to_sparse()}),
        ("x", {"x": X.to_sparse()}),
        ("x", {"x": torch.nested.nested_tensor([X[:, 0], X[:2, 1]])}),
        ("x", {"x": torch.nested.nested_tensor([X[:, 0], X[:2, 1]], layout=torch.jagged)}),
        ("w_ih of weights.0.", {"weights": [(W_IH.to_sparse_csr(), W_HH)]}),
        ("hx.1.", {"hx": (STATE, STATE.to_sparse())}),
        ("batch_first", {"batch_first": 1}),
        ("batch_first", {"batch_first": None}),
        ("training", {"training": "no"}),
        ("training", {"training": torch.tensor(True)}),
        ("recompute", {"recompute": 1}),
        ("x", {"x": X.double()}),
        ("x", {"x": X.to(torch.complex64)}),
        ("mode", {"mode": "fast"}),
        ("mode", {"mode": None}),
        ("precision", {"precision": "fp32"}),
        (
            "precision",
            {"precision": "tf32", "x": X.half(), "weights": [tuple(w.half() for w in WEIGHTS[0])]},
        ),
    ],
)
def test_a_network_refuses(name, changed):
    assert_refused(lambda: kernels.layers(**LAYERS | changed), name)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *small_networks.bad_recurrences(DTYPE),
        ("gx", {"gx": X[:, :, None, :0]}),
        ("reverse", {"reverse": 1}),
        ("reverse", {"reverse": "lstm"}),
        ("c0", {"c0": (STATE,)}),
    ],
)
def test_a_recurrence_refuses(name, changed):
    right = small_networks.right_recurrence(DTYPE)
    assert_refused(lambda: kernels.recurrence(**right | changed), name)


def test_every_wrong_argument_is_also_a_runtime_error():
    """As most are in torch.nn, so that code that catches it works."""
    with pytest.raises(RuntimeError, match=r"^x is .*; accepted: 2 features"):
        kernels.lstm(X.repeat(1, 1, 2), WEIGHTS)


def test_the_functions_take_the_arguments_of_the_reference():
    more = {"layers": ["recompute", "mode", "precision"], "recurrence": ["mode", "precision"]}
    for name, added in more.items():
        ours, theirs = (inspect.signature(getattr(p, name)) for p in (kernels, reference))
        mine, kinds = (
            [(p.name, p.kind, p.default) for p in signature.parameters.values()]
            for signature in (ours, theirs)
        )
        assert mine[: len(kinds)] == kinds
        assert list(ours.parameters)[len(kinds) :] == added


@pytest.mark.slow
def test_without_the_interpreter_cpu_tensors_are_refused(tmp_path):
    code = (
        "import torch, kernels\n"
        "try:\n"
        "    kernels.GRU(2, 3)(torch.zeros(1, 1, 2))\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    message = run_compiling("-c", code, cache=tmp_path)
    assert "the kernels run on a GPU, got CPU tensors" in message
    assert "TRITON_INTERPRET=1" in message
