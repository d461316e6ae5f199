"""Bounds of our kernels' numerical error, and results that must not depend on the batch.

The bounds hold for interpreted and compiled kernels.
"""

import math
import os

import numpy as np
import pytest
import torch

import reference
from bench.cases import numbers
from bench.cases.cases import CELLS, DEFAULTS, MEMORY, REGIMES, Case, make_case
from bench.cases.problem import make_problem
from bench.cases.regimes import apply_regime
from bench.error import repeatability, rounding_model
from bench.measure.runner import Runner
from bench.providers import PROVIDERS, load
from bench.records.environment import Machine
from tests.helpers.pairwise import label
from tests.helpers.tolerances import ROUNDOFF

WHERE = "cuda" if torch.cuda.is_available() else "cpu"
MACHINE = Machine(WHERE, "test", interpreted=WHERE == "cpu")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available(),
    reason="kernels need a GPU or TRITON_INTERPRET=1",
)
BUILTIN = ("rnn_tanh", "rnn_relu", "lstm", "gru", "slstm")
load()


def case(**values: object) -> Case:
    sizes = {"B": 3, "T": 7, "H": 33, "dtype": "fp32", "pass": "fwd+bwd"}
    return make_case(**DEFAULTS | sizes | values)


def errors(name: str, asked: Case, regime: str | None = None) -> dict:
    problem = make_problem(asked, 0, WHERE)
    apply_regime(problem, regime)
    return Runner(PROVIDERS[name], problem, MACHINE).errors()


def compare(asked: Case, regime: str | None = None) -> None:
    """Our fp32 error of every output and gradient is at most 4 times that of torch's own layer."""
    theirs = errors("torch.nn" if CELLS[asked.cell].torch_class else "reference", asked, regime)
    ours = errors("ours", asked, regime)
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        # Where torch happens to be exact, one rounding is allowed.
        allowed = 4 * max(theirs[name]["rel_l2"], numbers.ROUNDOFF["fp32"])
        assert found["rel_l2"] <= allowed, (name, found["rel_l2"], theirs[name]["rel_l2"])


@pytest.mark.slow
@pytest.mark.parametrize("cell", BUILTIN)
@pytest.mark.parametrize(
    "shape",
    [{"I": 20}, {"directions": 2, "I": 20}, {"B": 1, "T": 48, "H": 16}, {"T": 1, "B": 17, "H": 5}],
    ids=label,
)
def test_our_fp32_is_within_4x_of_torch(cell: str, shape: dict):
    compare(case(cell=cell, **shape))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "slstm"])
@pytest.mark.parametrize("regime", list(REGIMES))
def test_our_fp32_is_within_4x_of_torch_under_every_regime(cell: str, regime: str):
    if cell == "rnn_tanh" and regime.startswith(MEMORY):
        pytest.skip("it has no gate that keeps the state")
    compare(case(cell=cell, T=12, H=16), regime)


@pytest.mark.parametrize("cell", rounding_model.CELLS)
@pytest.mark.parametrize("name", ["ours", "torch.nn", "effect-all"])
def test_fp32_error_is_what_the_model_says(cell: str, name: str):
    asked = case(cell=cell, T=8, B=8, H=32, **{"pass": "fwd"})
    measured = errors(name, asked)["y"]["rel_l2"]
    modelled = math.sqrt((rounding_model.growth(asked, asked.T) ** 2).mean())
    assert 0.5 * modelled < measured < 1.5 * modelled


HUGE = (3e38, 1e30, 1e4, 88.0, 1e-30, 1e-45, 0.0)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "slstm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_finite_gate_gives_nan(cell: str, dtype: torch.dtype):
    """Pre-activations of every size and sign, up to the largest number, in every gate."""
    import kernels

    T, H, gates = 6, 16, CELLS[cell].gates
    largest = torch.finfo(dtype).max
    sizes = torch.tensor([s for size in HUGE for s in (size, -size)]).clamp(-largest, largest)
    picked = torch.randint(len(sizes), (T, 8, 1, gates * H))
    gx = sizes[picked].to(dtype).to(WHERE)
    assert gx.isfinite().all()
    w_hh = (torch.randn(1, gates * H, H) / H**0.5).to(dtype).to(WHERE)
    gx.requires_grad_()
    w_hh.requires_grad_()
    y, *_ = kernels.recurrence(cell, gx, w_hh)
    assert y.isfinite().all()
    if cell != "slstm":  # its exponents are differences of sums, in which small gates drown
        exact, *_ = reference.recurrence(cell, gx.detach().double(), w_hh.detach().double())
        # In each of six steps a sum of 16 products and some 5 more operations are rounded.
        assert (y.double() - exact).norm() < 128 * ROUNDOFF[dtype] * exact.norm()
    gradients = torch.autograd.grad(y.float().sum(), (gx, w_hh))
    assert all(g.isfinite().all() for g in gradients)


@pytest.fixture
def ordered_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter sum products in the order of K, for every element alike.

    The order of sums of NumPy's BLAS depends on the CPU and perhaps on an element's position.
    """
    if WHERE == "cuda":
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self, left, right, total, *_: object) -> TensorHandle:
        products = left.data.T[:, :, None] * right.data[:, None]  # [K, M, N]
        sums = np.add.accumulate(np.concatenate([total.data[None], products]))
        return TensorHandle(sums[-1], total.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


BATCH = ("batch of 3 against 3 of the batch", "rows in another order")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "dtype"), [*((cell, "fp32") for cell in BUILTIN), ("lstm", "bf16")]
)
def test_a_sequences_bits_depend_on_the_tiles_only(cell: str, dtype: str, ordered_products: None):
    """Not on the other sequences of the batch, nor on its position in it."""
    asked = case(cell=cell, dtype=dtype, track="recurrence", B=5, T=2, H=33)
    rows = repeatability.measure([asked], ("ours",))["rows"]
    found = {row["question"]: row for row in rows}
    assert found.keys() == {"same call twice", "prepared anew", *BATCH, "cut into other tiles"}
    for question in BATCH:
        assert found[question]["same"] and found[question]["max_abs"] == 0, question
    assert found["same call twice"]["same"] and found["prepared anew"]["same"]
    # Other tiles add in another order: in each of 2 steps, forward and backward, some 33 terms of
    # at most 4, each rounded to fp32, and the result to the case's type.
    off = 4 * 4 * (33 * numbers.ROUNDOFF["fp32"] + numbers.ROUNDOFF[dtype])
    assert found["cut into other tiles"]["max_abs"] <= off


@pytest.mark.parametrize("cell", BUILTIN)
def test_part_of_a_batch_has_the_same_tiles_and_other_tiles_differ(cell: str):
    """As the test above assumes."""
    from kernels import planning
    from kernels.cells import CELLS as OURS

    w_hh = torch.zeros(1, CELLS[cell].gates * 33, 33, device=WHERE)
    planned, part = (planning.plans(OURS[cell], w_hh, B) for B in (5, repeatability.FEW))
    with repeatability.other_tiles() as used:
        others = planning.plans(OURS[cell], w_hh, 5)
    assert used == ["forward", "backward"]
    tiles = repeatability.tiles
    for one, few, other in zip(planned, part, others, strict=True):
        assert one.mode == other.mode and tiles(few) == tiles(one) != tiles(other)
    assert planning.plans(OURS[cell], w_hh, 5) == planned
