"""The error by time step: of y from the first step, of the input's gradient from the last."""

import math
from typing import Any

import pytest
import torch

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.presets import Request
from bench.cases.problem import make_problem, run_reference, truth
from bench.cases.regimes import apply_regime
from bench.measure import metrics
from bench.measure.runner import Runner
from bench.providers import PROVIDERS, Call, Provider, load
from bench.records.environment import Machine
from bench.sweep import worker

CPU = Machine("cpu", "test")
load()


def runner(build: Any = None, regime: str | None = None, seed: int = 0, **values: Any) -> Runner:
    """The reference, or a provider of this build, at a small case of enough steps."""
    given = {"cell": "gru", "B": 2, "T": 64, "H": 4, "dtype": "fp32", "pass": "fwd+bwd"} | values
    problem = make_problem(make_case(**DEFAULTS | given), seed)
    apply_regime(problem, regime)
    provider = PROVIDERS["reference"] if build is None else Provider("mine", build)
    return Runner(provider, problem, CPU)


@pytest.mark.parametrize("T", [1, 2, 48, 4096])
def test_steps_are_few_and_reach_from_the_first_to_the_last(T):
    value = torch.rand(T, 2, dtype=torch.float64)
    steps = [step for step, _ in metrics.by_step(value.float(), value)]
    assert steps == sorted(set(steps)) and len(steps) <= metrics.MOST_STEPS
    assert (steps[0], steps[-1]) == (1, T) and steps[: min(T, 5)] == list(range(1, min(T, 5) + 1))


@pytest.mark.parametrize(("from_last", "third"), [(False, 2), (True, -3)])
def test_an_error_of_one_step_is_at_that_step(from_last, third):
    exact = torch.full((50, 2, 3), 2.0, dtype=torch.float64)
    got = exact.clone()
    got[third] += 0.5
    found = metrics.by_step(got, exact, from_last)
    assert all(off == (0.25 if step == 3 else 0.0) for step, off in found)
    assert found[2] == (3, 0.25)
    zero = torch.zeros_like(exact)
    assert dict(metrics.by_step(zero + 0.5, zero))[1] == pytest.approx(0.5 * math.sqrt(6), rel=0.01)
    assert math.isnan(dict(metrics.by_step(got * math.nan, exact))[1])


@pytest.mark.parametrize("track", ["layer", "recurrence"])
def test_a_record_has_the_error_of_y_and_of_the_inputs_gradient(track):
    made = runner(track=track)
    got = made.checked_outputs()
    name = "dx" if track == "layer" else "dgx"
    found = made.errors_by_step(got)
    assert found is not None and found.keys() == {"y", name}
    exact = truth(made.problem, backward=True)
    for tensor, steps in found.items():
        for step, off in steps:
            t = step - 1 if tensor == "y" else 64 - step
            expected = (got[tensor][t] - exact[tensor][t]).norm() / exact[tensor][t].norm()
            assert off == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize(
    "values",
    [{"pass": "fwd"}, {"T": 47}, {"directions": 2}, {"regime": "lengths"}, {"seed": 1}],
    ids=["forward", "short", "two directions", "lengths", "another seed"],
)
def test_where_steps_say_nothing_new_they_are_not_kept(values):
    made = runner(**values)
    assert made.errors_by_step(made.checked_outputs()) is None


@pytest.mark.parametrize(("T", "tensors"), [(48, {"y", "dx"}), (47, None)])
def test_the_sweep_records_it(T, tensors, tmp_path):
    sent: list[dict[str, Any]] = []
    case = runner(T=T).case
    worker.Worker(sent.append, worker.Settings(), tmp_path).measure(
        Request("error", case, None, 0, ("reference",))
    )
    (found,) = (message["record"] for message in sent if "record" in message)
    assert (found["by_step"] and found["by_step"].keys()) == tensors
    assert found["errors"].keys() >= {"y", "dx"}


def test_a_gradient_that_is_cut_off_is_wrong_beyond_that_distance():
    """As truncated backpropagation would make it, which a norm over all steps hides."""

    def build(problem: Any) -> Call:
        leaves = PROVIDERS["reference"].build(problem).leaves

        def forward() -> dict[str, torch.Tensor]:
            x = torch.cat([leaves["x"][:-20].detach(), leaves["x"][-20:]])
            return run_reference(problem.case, leaves | {"x": x})

        return Call(forward, leaves)

    made = runner(build)
    found = made.errors_by_step(made.checked_outputs())
    assert found is not None
    assert all((off == 1.0) == (step > 20) for step, off in found["dx"])
    assert all(off < 1e-5 for _, off in found["y"])
