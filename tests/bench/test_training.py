"""Training from the same seed: our modules and torch.nn's give the same curve of the loss."""

import json
from functools import partial
from typing import Any

import pytest
import torch

from bench.error import memory, studies, training
from bench.records import environment, files, store
from bench.report import build
from bench.report.error import memory as report
from tests.helpers import synthetic
from tests.helpers.paired_modules import DEVICE

STEPS = 20  # in which most of the loss's fall is over


@pytest.mark.slow
@pytest.mark.parametrize("cell", training.CELLS)
def test_the_loss_curve_is_torchs(cell, seed):
    found = training.curves(cell, seed, DEVICE, STEPS)
    curve, expected = found["ours"], found["torch.nn"]
    assert len(curve) == len(expected) == STEPS
    assert min(expected) < expected[0] - 0.5, "nothing was learned"
    worst = max(abs(a - b) for a, b in zip(curve, expected, strict=True))
    assert worst <= training.LOSS_BOUND, f"the losses differ by up to {worst:.1e}"


def test_the_bound_sees_a_wrong_gradient(seed):
    """Each entry is off by 1 % of their standard deviation."""

    def disturbed(i: int, h: int) -> torch.nn.Module:
        module: Any = torch.nn.GRU(i, h)
        module.weight_hh_l0.register_hook(lambda g: g + 0.01 * g.std())
        return module

    curve, expected = (
        training.losses(kind, seed, DEVICE, STEPS) for kind in (disturbed, torch.nn.GRU)
    )
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


def test_a_constant_answer_has_the_stated_error(seed):
    torch.manual_seed(seed)
    x, sums = memory.adding(6, 4000)
    numbers, marks = x.unbind(-1)
    assert torch.equal(marks[:3].sum(0), torch.ones(4000)) and torch.equal(
        marks.sum(0), 2 * marks[:3].sum(0)
    )
    assert torch.allclose(sums, (numbers * marks).sum(0))
    # The variance of 4,000 squares of standard deviation 0.19.
    assert (sums - 1).square().mean().item() == pytest.approx(memory.BASELINE, abs=0.015)


@pytest.mark.slow
def test_training_moves_the_gate_that_keeps_the_state(tmp_path, monkeypatch):
    """From a bias of 7, in the study's own file, which the report reads."""
    few = partial(memory.measure, [3], 10, {"T": 2, "B": 2, "H": 8})
    monkeypatch.setattr(memory, "measure", few)
    found = store.read_state(studies.memory(tmp_path))
    assert set(found) >= set(synthetic.memory()) - {"functions", "points"}
    moved = {name: curves[0]["moved"] for name, curves in found["curves"].items()}
    assert [len(each) for each in moved.values()] == [1, 1, 1]
    assert moved["fp32"][0] > 0.1
    assert abs(moved["ours"][0] - moved["fp32"][0]) < 0.05, "Adam follows the gradients' signs"
    drawn = {path.name for path in report.figure(found, tmp_path)}
    assert drawn == {f"training-memory.{kind}" for kind in ("pdf", "png", "csv")}
    assert "Adding problem, GRU with update gate bias 7" in report.table(found).caption
