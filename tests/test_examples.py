"""The textbook uses in `examples/`: each runs as a script, and computes what torch.nn would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.examples import many_to_many, many_to_one, one_to_many, one_to_one

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*_to_*.py"))
PRINTED = {
    "one_to_one": "step 2: actions [",
    "one_to_many": "a",
    "many_to_one": "loss ",
    "many_to_many": "loss ",
}


def twin(module: Any) -> Any:
    """torch's module with the same parameters."""
    kind = {"GRU": nn.GRU, "LSTM": nn.LSTM}[type(module).__name__]
    same = kind(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
    )
    same.load_state_dict(module.state_dict())
    return same.train(module.training)


@pytest.fixture(autouse=True)
def _weights_of_this_tests_seed() -> None:
    """Else they would depend on what drew numbers before these modules were imported."""
    for module in (one_to_one, one_to_many, many_to_one, many_to_many):
        for part in vars(module).values():
            if isinstance(part, nn.Module):
                part.reset_parameters()  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_a_script(path):
    run = subprocess.run(
        [sys.executable, "-m", f"tests.examples.{path.stem}"],
        cwd=path.parents[2],
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert PRINTED[path.stem] in run.stdout


def test_one_to_one(monkeypatch):
    observations = torch.randn(3, 5, 4)
    found = []
    for policy in (one_to_one.policy, twin(one_to_one.policy)):
        monkeypatch.setattr(one_to_one, "policy", policy)
        state, actions = None, []
        for observation in observations:
            action, state = one_to_one.act(observation, state)
            actions.append(action)
        assert state is not None
        found.append((torch.stack(actions), state))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_one_to_many_step_by_step_equals_one_call_on_what_came_out(monkeypatch):
    text = one_to_many.generate("b", 6)
    assert len(text) == 7
    assert text != one_to_many.generate("b", 6, seed=1)
    monkeypatch.setattr(one_to_many, "decoder", twin(one_to_many.decoder))
    assert one_to_many.generate("b", 6) == text


def test_many_to_one(monkeypatch):
    sequences = [torch.randn(length, 3) for length in (2, 5, 3)]
    ours = many_to_one.classify(sequences)
    alone = [many_to_one.classify([sequence]) for sequence in sequences]
    monkeypatch.setattr(many_to_one, "encoder", twin(many_to_one.encoder))
    assert torch.allclose(ours, many_to_one.classify(sequences), atol=1e-6)
    assert torch.allclose(ours, torch.cat(alone), atol=1e-6)


def test_many_to_many(monkeypatch):
    x, lengths = torch.randn(4, 2, 3), torch.tensor([4, 2])
    monkeypatch.setattr(many_to_many, "tagger", many_to_many.tagger.eval())
    ours = many_to_many.tag(x, lengths)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
    output, _ = nn.utils.rnn.pad_packed_sequence(twin(many_to_many.tagger)(packed)[0])
    assert torch.allclose(ours, many_to_many.head(output), atol=1e-6)
