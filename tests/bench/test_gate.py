"""The gate: what is correct passes; a race of one tile in one step is rejected."""

import math

import pytest
import torch

from bench.cases.cases import CELLS, DEFAULTS, make_case
from bench.cases.problem import Problem, make_problem, truth
from bench.measure import metrics
from bench.measure.runner import Runner
from bench.providers import PROVIDERS, load
from bench.records.environment import Machine
from tests.helpers.planted_races import Race, run

load()
NUMBERS = ("bf16", "fp16", "fp32:tf32", "fp32")
GATED_CELLS = ("lstm", "gru", "slstm", "rnn_tanh", "rnn_relu")
ROWS, UNITS = slice(16, 32), slice(32, 64)  # of one program's tile
RACES = {
    "all units of a tile of rows": {},
    "the units that one program computes": {"readers": UNITS},
    "the units that one program wrote": {"written": UNITS},
}


def make(cell: str, number: str, T: int, B: int, H: int) -> Problem:
    axes = {"cell": cell, "dtype": number, "T": T, "B": B, "H": H, "track": "recurrence"}
    return make_problem(make_case(**DEFAULTS | axes | {"pass": "fwd+bwd"}))


def races(problem: Problem, loop: str, step: int) -> list[tuple[str, dict, str | None]]:
    """Each race by name, with the errors and the gate's verdict."""
    found = ((name, Race(loop, step, ROWS, **tile)) for name, tile in RACES.items())
    return [(name, *metrics.check(problem, run(problem, race))) for name, race in found]


def wrong_in_l2(errors: dict, problem: Problem) -> list[str]:
    """The tensors whose relative L2 error is not accepted."""
    return [
        name for name, found in errors.items()
        if found["rel_l2"] > metrics.tolerance(problem.case, name, "rel_l2")
    ]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("cell", GATED_CELLS)
def test_a_race_of_one_tile_in_one_step_is_rejected(cell: str, number: str):
    problem = make(cell, number, T=64, B=32, H=128)
    assert metrics.check(problem, run(problem))[1] is None, "a correct implementation"
    for loop, tensor in (("forward", "y"), ("backward", "dgx")):
        for name, errors, wrong in races(problem, loop, step=30):
            assert str(wrong).startswith(f"{tensor} is off by"), (loop, name)
            # Relative L2 of the whole tensor sees it in exact types only.
            if number == "bf16" and not cell.startswith("rnn"):
                assert not wrong_in_l2(errors, problem), (loop, name)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh", "rnn_relu"])
def test_a_race_of_one_tile_in_one_of_many_steps_is_rejected(cell: str):
    """In bf16, at a real size: the error of one step in 512 is lost in the norm of all."""
    problem = make(cell, "bf16", T=512, B=64, H=128)
    assert metrics.check(problem, run(problem))[1] is None, "a correct implementation"
    for loop in ("forward", "backward"):
        errors, wrong = metrics.check(problem, run(problem, Race(loop, 200, ROWS)))
        assert wrong is not None, loop
        # Those of rnn_relu are off by sqrt(u) in any case.
        assert cell == "rnn_relu" or not wrong_in_l2(errors, problem), loop


@pytest.mark.parametrize("number", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("cell", GATED_CELLS)
@pytest.mark.parametrize("axes", [{"T": 1, "B": 1, "H": 16}, {"T": 40, "B": 3, "H": 33, "layers": 2,
                                                            "directions": 2}])  # fmt: skip
def test_what_rounds_after_every_operation_is_correct(cell: str, number: str, axes: dict):
    case = make_case(**DEFAULTS | axes | {"cell": cell, "dtype": number, "pass": "fwd+bwd"})
    machine = Machine("cpu", "test")
    for name in ("reference", "torch.nn"):
        if PROVIDERS[name].supports(case, machine) is None:
            for seed in range(3):
                _, wrong = Runner(PROVIDERS[name], make_problem(case, seed), machine).check()
                assert wrong is None, (name, seed)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("resets", [0.0, 0.2])
def test_gradients_of_a_rectifier_are_judged_at_the_signs_of_the_outputs(
    directions: int, resets: float
):
    axes = {"cell": "rnn_relu", "dtype": "bf16", "T": 20, "B": 8, "H": 64, "resets": resets}
    case = make_case(**DEFAULTS | axes | {"directions": directions, "pass": "fwd+bwd"})
    problem = make_problem(case)
    runner = Runner(PROVIDERS["reference"], problem, Machine("cpu", "test"))
    errors, wrong = runner.check()
    assert wrong is None
    flipped = errors["dx"]["rel_l2_slice"]
    assert flipped > metrics.tolerance(case, "dx", "rel_l2_slice"), "some sign differs"
    # A gradient at other signs than those of its outputs is wrong.
    got = runner.checked_outputs() | {"dx": truth(problem, True)["dx"]}
    assert str(metrics.check(problem, got)[1]).startswith("dx is off by")


@pytest.mark.parametrize("metric", ["rel_l2", "rel_max", "rel_l2_slice"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.5])
def test_each_relative_error_is_gated(metric: str, bad: float):
    problem = make("lstm", "bf16", T=3, B=2, H=16)
    errors, wrong = metrics.check(problem, run(problem))
    assert wrong is None
    for name in errors:
        spoiled = errors | {name: errors[name] | {metric: bad}}
        found = str(metrics.verdict(spoiled, problem.case))
        assert found.startswith(f"{name} is off by {bad:.3g} ({metrics.GATED[metric]})")


def test_every_cell_of_the_suite_is_gated():
    assert set(GATED_CELLS) == {cell.name for cell in CELLS.values() if cell.kernels}


def test_a_nan_that_a_tile_left_is_rejected():
    problem = make("gru", "fp16", T=3, B=20, H=16)
    got = run(problem)
    got["dgx"][1, 16:] = torch.nan
    assert str(metrics.check(problem, got)[1]).startswith("dgx is off by nan")
