"""Training from the same seed: our modules and torch.nn's give the same curve of the loss."""

import json
from functools import partial
from typing import Any

import pytest
import torch

from bench.error import studies, training
from bench.records import environment, files, store
from bench.report import build
from tests.helpers import synthetic
from tests.helpers.paired_modules import DEVICE


@pytest.mark.slow
@pytest.mark.parametrize("cell", training.CELLS)
def test_the_loss_curve_is_torchs(cell, seed):
    found = training.curves(cell, seed, DEVICE)
    curve, expected = found["ours"], found["torch.nn"]
    assert len(curve) == len(expected) >= 50
    assert expected[-1] < expected[0] - 0.5, "nothing was learned"
    worst = max(abs(a - b) for a, b in zip(curve, expected, strict=True))
    assert worst <= training.LOSS_BOUND, f"the losses differ by up to {worst:.1e}"


def test_the_bound_sees_a_wrong_gradient(seed):
    """Each entry is off by 1 % of their standard deviation."""

    def disturbed(i: int, h: int) -> torch.nn.Module:
        module: Any = torch.nn.GRU(i, h)
        module.weight_hh_l0.register_hook(lambda g: g + 0.01 * g.std())
        return module

    curve, expected = (training.losses(kind, seed, DEVICE) for kind in (disturbed, torch.nn.GRU))
    assert max(abs(a - b) for a, b in zip(curve, expected, strict=True)) > 10 * training.LOSS_BOUND


def test_the_report_draws_the_curves(tmp_path):
    folder = tmp_path / "device"
    synthetic.save(folder, synthetic.small()[:3])
    (folder / "records" / files.TRAINING).write_text(json.dumps(synthetic.training()))
    names = {path.name for path in build.build_report([folder])}
    assert {"training.png", "training.pdf", "training.md", "data.zip"} <= names
    assert len(synthetic.data(folder, "figures/training")) == 2 * 50
    page = (folder / "README.md").read_text()
    assert "figures/training.png" in page and "A training run from the same seed" in page


def test_the_file_has_what_the_report_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "measure", partial(training.measure, steps=2))
    found = store.read_state(studies.training(tmp_path, ["gru"]))
    assert set(found) >= set(synthetic.training()) - {"functions", "points"}
    assert [len(curve) for curve in found["losses"]["gru"].values()] == [2, 2]
    assert found["device"]["name"] == environment.machine().name and found["software"]["torch"]
