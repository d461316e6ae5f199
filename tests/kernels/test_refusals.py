"""What the kernels refuse: the same as the reference, in the same sentences, and their limits."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
import reference
from kernels import functional
from tests.reference.test_refusals import bad_layers, bad_recurrences, check_refused
from tests.reference.test_robustness import B, H, I, T, tensor, weights_of

ROOT = Path(__file__).parents[2]
# The reference takes any floating-point dtype, and so says less.
OTHER_SENTENCE = "must have a floating-point"


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused is refused before the first operator."""

    def fail(*args: Any) -> None:
        raise AssertionError("an operator ran")

    monkeypatch.setattr(functional, "recurrence_op", fail)
    monkeypatch.setattr(functional, "linear", fail)


def narrowed(name: str, value: Any) -> Any:
    """An argument for the reference as one for the kernels: float64 becomes float32."""
    if isinstance(value, Tensor) and name != "lengths":
        narrower = {torch.float64: torch.float32, torch.float32: torch.float16}
        return value.to(narrower.get(value.dtype, value.dtype))
    if isinstance(value, tuple | list):
        return type(value)(narrowed(name, v) for v in value)
    return value


def in_our_words(message: str) -> str:
    return f"{message.split(' ')[0]} must have dtype" if OTHER_SENTENCE in message else message


@pytest.mark.parametrize("name", bad_layers())
def test_a_network_refuses_what_the_reference_does(name):
    changed, error, message = bad_layers()[name]
    arguments: dict[str, Any] = {
        "cell": "lstm",
        "x": tensor(T, B, I),
        "weights": weights_of("lstm"),
    }
    arguments = {key: narrowed(key, value) for key, value in (arguments | changed).items()}
    check_refused(lambda: kernels.layers(**arguments), error, in_our_words(message))


@pytest.mark.parametrize("name", bad_recurrences())
def test_a_recurrence_refuses_what_the_reference_does(name):
    changed, error, message = bad_recurrences()[name]
    arguments: dict[str, Any] = {"cell": "lstm", "gx": tensor(T, B, 1, 4 * H)}
    arguments |= {"w_hh": tensor(1, 4 * H, H)}
    arguments = {key: narrowed(key, value) for key, value in (arguments | changed).items()}
    check_refused(lambda: kernels.recurrence(**arguments), error, in_our_words(message))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": tensor(T, B, I)}, TypeError, "x must have dtype float32, float16, bfloat16, got"),
        (
            {"x": tensor(T, B, I, dtype=torch.complex64)},
            TypeError,
            "x must have dtype float32, float16, ",
        ),
        ({"recompute": 1}, TypeError, "recompute must be a bool, got an int"),
        ({"mode": "fast"}, ValueError, "mode must be one of 'auto', "),
        ({"mode": None}, ValueError, "mode must be one of"),
        ({"precision": "fp32"}, ValueError, "precision must be one of 'ieee', 'tf32', 'tf32x3'"),
        (
            {"x": tensor(T, B, I).half(), "precision": "tf32", "weights": "half"},
            ValueError,
            "precision must be None or 'ieee' for torch.float16, got 'tf32'",
        ),
    ],
    ids=["float64", "complex", "recompute", "mode", "mode None", "precision", "tf32 of float16"],
)
def test_the_limits_of_the_kernels_are_told(changed, error, message):
    weights = narrowed("weights", weights_of("gru"))
    if changed.get("weights") == "half":
        changed = changed | {"weights": narrowed("weights", weights)}
    arguments = {"x": tensor(T, B, I).float(), "weights": weights} | changed
    check_refused(lambda: kernels.gru(**arguments), error, message)


def test_every_wrong_argument_is_also_a_runtime_error():
    """torch.nn raises one for most of them, and code that catches it must go on working."""
    with pytest.raises(RuntimeError, match="x must have 2 features"):
        kernels.gru(tensor(T, B, I + 1).float(), narrowed("weights", weights_of("gru")))


def test_the_functions_take_the_arguments_of_the_reference():
    more = {"layers": ["recompute", "mode", "precision"], "recurrence": ["mode", "precision"]}
    for name, added in {"rnn": more["layers"], **more}.items():
        ours, theirs = (inspect.signature(getattr(p, name)) for p in (kernels, reference))
        kinds = [(p.name, p.kind, p.default) for p in theirs.parameters.values()]
        assert [(p.name, p.kind, p.default) for p in ours.parameters.values()][
            : len(kinds)
        ] == kinds
        assert list(ours.parameters)[len(kinds) :] == added


@pytest.mark.slow
def test_without_the_interpreter_cpu_tensors_are_refused():
    code = (
        "import torch, kernels\n"
        "try:\n"
        "    kernels.GRU(2, 3)(torch.zeros(1, 1, 2))\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert "the kernels run on a GPU, got CPU tensors" in run.stdout, run.stderr
    assert "TRITON_INTERPRET=1" in run.stdout
