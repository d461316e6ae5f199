"""Training from the same seed: our modules and torch.nn's give the same curve of the loss."""

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from bench.error import equivalence, memory, studies, training
from bench.error.master_weights import MasterWeights
from bench.records import environment, files, store
from bench.report import build
from bench.report.error import equivalence as comparison
from bench.report.error import memory as report
from bench.report.style import looks
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
    found = store.read_state(studies.training(tmp_path, ["gru"], 0))
    assert set(found) >= set(synthetic.training()) - {"functions", "points", "exponential"}
    assert [len(curve) for curve in found["losses"]["gru"].values()] == [2, 2]
    assert found["device"]["name"] == environment.machine().name and found["software"]["torch"]


def test_training_in_bf16_is_paired_by_seed(tmp_path, monkeypatch):
    """In the study's own file, which the report reads: equal starts, then different roundings."""
    few = partial(equivalence.measure, steps=3, sizes={"T": 2, "B": 2, "I": 4, "H": 8})
    monkeypatch.setattr(equivalence, "measure", few)
    monkeypatch.setattr(training, "measure", partial(training.measure, steps=1))
    found = store.read_state(studies.training(tmp_path, ["gru"], 2))
    study = found["bf16"]
    assert study.keys() == synthetic.training_in_bf16().keys() and study["seeds"] == [0, 1]
    firsts = [{run: curve[0] for run, curve in runs.items()} for runs in study["curves"]["gru"]]
    for runs in firsts:
        # The first loss is of the initial weights, before rounding has moved any.
        assert max(runs.values()) - min(runs.values()) < 2**-8
        assert all(runs[name] != runs["fp32"] for name in ("ours", "torch.nn")), "none is in bf16"
    assert abs(firsts[0]["fp32"] - firsts[1]["fp32"]) > 1e-3, "seeds give the same weights"
    assert comparison.table(found).shown["verdict"].isin(["equivalent", "undecided"]).all()


def test_weights_in_fp32_keep_what_a_rounded_weight_loses():
    layer = torch.nn.Linear(3, 1, bias=False)
    weights = MasterWeights(layer, torch.bfloat16)
    start = weights.exact["weight"].clone()
    optimiser = torch.optim.SGD(weights.exact.values(), 2.0**-12)
    for _ in range(64):
        weights.round()
        optimiser.zero_grad()
        layer(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
        weights.take_gradients()
        optimiser.step()
    moved = weights.exact["weight"] - start
    assert torch.allclose(moved, torch.full_like(moved, -(2.0**-6)), atol=1e-6)
    assert layer.weight.dtype == torch.bfloat16 and layer.weight.grad is None
    weights.round()
    assert torch.equal(layer.weight, weights.exact["weight"].bfloat16())


def test_an_interval_and_its_verdict_by_hand():
    """Of 1, 2, 3, 4, 5: mean 3, standard deviation 1.5811, t(0.95, 4) = 2.1318."""
    low, high = comparison.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 1.5074, 3 + 1.5074), abs=1e-3)
    assert comparison.verdict(low, high, 4.6) == "equivalent"
    assert comparison.verdict(low, high, 4.5) == "undecided"
    assert comparison.verdict(low, high, 1.4) == "different"
    assert comparison.verdict(-high, -low, 1.4) == "different"
    assert comparison.verdict(*comparison.interval([0.0]), 9.0) == "undecided"


def test_equivalence_is_rarely_found_at_the_bound(seed):
    """A true difference of the bound itself is called equivalent in at most 5 % of studies."""
    draw = np.random.default_rng(seed)
    studies_of_5 = 1.0 + 0.3 * draw.standard_normal((1000, 5))
    found = [comparison.verdict(*comparison.interval(list(each)), 1.0) for each in studies_of_5]
    # 50 are expected; four standard deviations of a count of 1,000 are 28.
    assert 22 <= found.count("equivalent") <= 78


def test_the_report_compares_training_in_bf16(tmp_path):
    found = synthetic.training()
    shown = comparison.table(found).shown.set_index(["cell", "difference of last losses"])
    verdicts = shown["verdict"].unstack("cell")
    assert verdicts["LSTM"].eq("equivalent").all()
    assert verdicts["GRU"].value_counts().to_dict() == {"different": 2, "equivalent": 1}
    assert "`ours` in 2 of 2 cells, `torch.nn` in 1 of 2 cells" in comparison.headline(found)
    looks.apply_style()
    drawn = {path.name for path in comparison.figure(found, tmp_path)}
    assert drawn == {f"training-bf16.{kind}" for kind in ("pdf", "png", "csv")}


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
    assert set(found) >= set(synthetic.memory()) - {"functions", "points", "exponential"}
    moved = {name: curves[0]["moved"] for name, curves in found["curves"].items()}
    assert [len(each) for each in moved.values()] == [1, 1, 1]
    assert moved["fp32"][0] > 0.1
    assert abs(moved["ours"][0] - moved["fp32"][0]) < 0.05, "Adam follows the gradients' signs"
    drawn = {path.name for path in report.figure(found, tmp_path)}
    assert drawn == {f"training-memory.{kind}" for kind in ("pdf", "png", "csv")}
    assert "Adding problem, GRU with update gate bias 7" in report.table(found).caption
