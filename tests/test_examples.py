"""The examples compute with the kernels what they compute with torch.nn."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kernels
import reference
from tests.helpers.tolerances import REORDERED, assert_close

EXAMPLES = sorted(path.stem for path in (Path(__file__).parent / "examples").glob("*_to_*.py"))


def run(name: str) -> dict[str, Tensor]:
    """Run an example as a script, from one seed: its tensors, gradients and text, as tensors."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}
    for key, value in runpy.run_module(f"tests.examples.{name}", run_name="__main__").items():
        if isinstance(value, nn.Module):
            gradients = {f"{key}.{k}": p.grad for k, p in value.named_parameters()}
            found |= {k: g for k, g in gradients.items() if g is not None}
        elif isinstance(value, Tensor):
            found[key] = value
        elif key == "text":
            found[key] = torch.tensor(list(value.encode()))
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_computes_what_torch_would(name, monkeypatch):
    ours = run(name)
    monkeypatch.setattr(kernels, "GRU", nn.GRU)
    monkeypatch.setattr(kernels, "LSTM", nn.LSTM)
    monkeypatch.setattr(kernels, "gru", reference.gru)
    theirs = run(name)
    assert ours.keys() == theirs.keys()
    assert ours.keys() & {"action", "text", "loss"}
    for key, expected in theirs.items():
        assert_close(ours[key], expected, REORDERED[torch.float32], key)
