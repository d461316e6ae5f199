"""The kernels against the reference in float64: outputs, last states and every gradient."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import kernels
import reference.networks
from kernels import gemm
from kernels.cells import CELLS
from tests.helpers.paired_modules import DEVICE
from tests.helpers.pairwise import label, pairwise
from tests.helpers.small_networks import laid_out
from tests.helpers.tolerances import assert_close, rounded_loop, size_of_sums

OTHERS = ["c_n", "n_n", "m_n"]  # last states after h_n
I = 3


pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_the_kernels_device")


def initial_states(cell: str, *shape: int) -> list[Tensor]:
    """Random initial states, as many as the cell has; sLSTM's third is positive."""
    states = [torch.randn(shape) for _ in range(CELLS[cell].states)]
    if cell == "slstm":
        states[2] = states[1].abs() + 0.5
    return states


def random_resets(lengths: Tensor, T: int) -> Tensor:
    """Resets [T, B], with one at time 0, where the longest sequence ends in reverse."""
    resets = torch.rand(T, len(lengths)) < 0.3
    resets[0, lengths.argmax()] = True
    return resets


class Problem:
    """The arguments of one call, for the kernels and in float64 for the reference."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, cell, H = case, case["cell"], case["H"]
        T, B, layers = case["T"], case["B"], case["layers"]
        self.D = 2 if case["direction"] == "both" else 1
        wide = self.D if case["merge"] == "concat" else 1
        G, LD = CELLS[cell].gates, layers * self.D
        self.x = torch.randn(T, B, I)
        self.weights = []
        for k in range(LD):
            features = I if k < self.D else wide * H
            shapes = [(G * H, features), (G * H, H), (G * H,), (G * H,)][: 4 if case["bias"] else 2]
            # torch's initialisation at half its size
            self.weights.append([(torch.rand(shape) - 0.5) / H**0.5 for shape in shapes])
        self.hx = initial_states(cell, LD, B, H)
        if case["hx"] == "zeros":
            self.hx = [torch.zeros_like(state) for state in self.hx]
        if cell == "rnn_relu":
            # Near 0 a rounding would turn the gradient on or off. The first feature is 1, and its
            # weights keep half of the units' sums above 0 and half below.
            self.x[..., 0] = 1
            for one in self.weights[: self.D]:
                one[0][:, 0] = torch.where(torch.arange(H) % 2 == 0, 2.0, -2.0)
            for one in self.weights[self.D :]:
                one[0][:] = one[0].abs() + 0.5 / H
                one[0][1::2] *= -1
        lengths = torch.randint(1, T + 1, (B,))
        self.options: dict[str, Any] = {
            "direction": case["direction"],
            "merge": case["merge"],
            "batch_first": case["batch_first"],
            "lengths": {"none": None, "list": lengths.tolist(), "tensor": lengths}[case["lengths"]],
            "resets": random_resets(lengths, T) if case["resets"] else None,
        }
        if case["batch_first"]:
            self.x = self.x.transpose(0, 1).contiguous()
            if case["resets"]:
                self.options["resets"] = self.options["resets"].t()
        if case["lengths"] != "none":
            padding = torch.arange(T)[:, None] >= lengths
            self.x[padding.t() if case["batch_first"] else padding] = float("nan")

    def leaf(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor rounded as the case says, then in `dtype`."""
        rounded = laid_out(tensor.to(self.case["dtype"]), self.case["layout"])
        return rounded.to(dtype).detach().requires_grad_(self.case["pass"] == "fwd+bwd")

    def run(self, package: Any, dtype: torch.dtype, **more: Any) -> dict[str, Tensor]:
        """All results by name, and all gradients of a random weighted sum of them."""
        cell, case = self.case["cell"], self.case
        x = self.leaf(self.x, dtype)
        weights = [tuple(self.leaf(w, dtype) for w in one) for one in self.weights]
        hx = [self.leaf(s, dtype) for s in self.hx] if case["hx"] else None
        if cell.startswith("rnn_"):
            more["nonlinearity"] = cell.removeprefix("rnn_")
        given = None if hx is None else hx[0] if len(hx) == 1 else tuple(hx)
        function = getattr(package, cell.split("_")[0])
        y, last = function(x, weights, given, **self.options, **more)
        results = [y, *([last] if isinstance(last, Tensor) else last)]
        found = dict(zip(["y", "h_n", *OTHERS], results, strict=False))
        if case["pass"] == "fwd":
            assert not y.requires_grad
            return found
        names, inputs = ["x"], [x]
        for k, one in enumerate(weights):
            names += [f"{name}[{k}]" for name in ("w_ih", "w_hh", "b_ih", "b_hh")[: len(one)]]
            inputs += one
        if hx is not None:
            names += ["h0", "c0", "n0", "m0"][: len(hx)]
            inputs += hx
        generator = torch.Generator(DEVICE).manual_seed(1)
        above = [torch.randn(r.shape, generator=generator).to(case["dtype"]) for r in results]
        gradients = torch.autograd.grad(results, inputs, [g.to(dtype) for g in above])
        return found | {f"d{name}": g for name, g in zip(names, gradients, strict=True)}


def expected_of(problem: Problem) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The reference's results and gradients, and the size of each gradient that is a sum over time
    and batch (of a gate's gradient times a layer's input, its output, or 1).
    """
    inputs: list[Tensor] = []
    sizes: dict[str, float] = {}
    unroll = reference.networks.unroll

    def recording_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs.append(x.detach())
        return torch.nn.functional.linear(x, weight, bias)

    def recording_unroll(cell: Any, gx: Tensor, *args: Any, **options: Any) -> Any:
        y, state = unroll(cell, gx, *args, **options)
        k, one = len(inputs) - 1, y.new_ones(*y.shape[:-1], 1)
        factors = {"w_ih": inputs[k], "w_hh": y.detach(), "b_ih": one, "b_hh": one}

        def record(dgx: Tensor) -> None:
            for name, factor in factors.items():
                sizes[f"d{name}[{k}]"] = size_of_sums(dgx, factor)

        if gx.requires_grad:
            gx.register_hook(record)
        return y, state

    with mock.patch.multiple(reference.networks, linear=recording_linear, unroll=recording_unroll):
        found = problem.run(reference, torch.float64)
    return found, sizes


def check(case: dict[str, Any]) -> None:
    problem = Problem(case)
    actual = problem.run(kernels, case["dtype"], recompute=case["recompute"])
    expected, sizes = expected_of(problem)
    terms = max(case["T"] * case["B"], 2 * case["H"], I)
    bound = rounded_loop(case["dtype"], case["T"], terms)
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == case["dtype"], name
        assert_close(actual[name], value, bound, name, sizes.get(name, 0.0))


SETTINGS: dict[str, list[Any]] = {
    "cell": list(CELLS),
    "pass": ["fwd", "fwd+bwd"],
    "direction": ["forward", "reverse", "both"],
    "bias": [True, False],
    "lengths": ["none", "list", "tensor"],
    "resets": [False, True],
    "dtype": [torch.float32, torch.float16, torch.bfloat16],
    "B": [1, 3, 17],
    "T": [1, 2, 4],
    "hx": ["random", "zeros", None],
    "merge": ["concat", "sum"],
    "batch_first": [False, True],
    "layout": ["contiguous", "strided", "transposed"],
    "recompute": [False, True],
}


@pytest.mark.parametrize("case", pairwise(**SETTINGS, H=[1, 5, 33], layers=[1, 2]), ids=label)
def test_equals_the_reference(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", pairwise(**SETTINGS, H=[48, 100], layers=[1]), ids=label)
def test_equals_the_reference_in_several_programs(case):
    check(case)


LOOPS = pairwise(
    cell=list(CELLS),
    time=["forward", "reverse", "both"],
    b_hh=[True, False],
    initial=["none", "h0", "all"],
    lengths=[False, True],
    resets=[False, True],
    mode=["auto", "stepwise", "gemm"],
    layout=["contiguous", "strided", "transposed"],
    T=[1, 4],
    B=[1, 3],
    H=[1, 17],
)
# Direction, lengths, resets and mode decide together which rows a step reads.
MASKED = {"b_hh": True, "initial": "all", "lengths": True, "T": 4, "B": 3, "H": 5}
LOOPS += [
    MASKED | {"cell": cell, "time": time, "resets": resets, "mode": mode, "layout": "contiguous"}
    for cell, time, resets, mode in (
        ("lstm", "reverse", False, "gemm"),
        ("gru", "both", True, "gemm"),
        ("rnn_tanh", "both", True, "stepwise"),
    )
]


@pytest.mark.parametrize("case", LOOPS, ids=label)
def test_a_recurrence_equals_the_reference(case):
    cell, (T, B, H) = case["cell"], (case["T"], case["B"], case["H"])
    D, K = 2 if case["time"] == "both" else 1, CELLS[cell].gates * H
    # Sums below 1.5: for large ones tanh's gradient, 1 - h^2, would magnify the rounding of h.
    tensors = {"gx": torch.rand(T, B, D, K) - 0.5, "w_hh": (torch.rand(D, K, H) - 0.5) / H**0.5}
    if case["b_hh"]:
        tensors["b_hh"] = torch.rand(D, K) - 0.5
    states = initial_states(cell, D, B, H)
    if case["initial"] != "none":
        tensors["h0"] = states[0]
    rest = states[1:] if case["initial"] == "all" else []
    options: dict[str, Any] = {"reverse": case["time"] == "reverse"}
    lengths = torch.randint(1, T + 1, (B,))
    if case["lengths"]:
        options["lengths"] = lengths
        tensors["gx"][torch.arange(T)[:, None] >= lengths] = float("nan")
    if case["resets"]:
        options["resets"] = random_resets(lengths, T)

    def run(function: Callable[..., Any], dtype: torch.dtype) -> list[Tensor]:
        leaves = {
            name: laid_out(t.to(dtype), case["layout"]).requires_grad_()
            for name, t in tensors.items()
        }
        others = [laid_out(t.to(dtype), case["layout"]).requires_grad_() for t in rest]
        c0 = tuple(others) if len(others) > 1 else others[0] if others else None
        y, h_n, c_n = function(cell, **leaves, c0=c0, **options)
        results = [y, h_n, *([] if c_n is None else [c_n] if isinstance(c_n, Tensor) else c_n)]
        assert len(results) == 1 + CELLS[cell].states
        above = [torch.linspace(-1, 1, r.numel()).view(r.shape).to(dtype) for r in results]
        return [*results, *torch.autograd.grad(results, [*leaves.values(), *others], above)]

    def ours(*args: Any, **more: Any) -> Any:
        return kernels.recurrence(*args, **more, mode=case["mode"])

    bound = rounded_loop(torch.float32, T, max(T * B, H))
    names = ["y", "h_n", *OTHERS[: CELLS[cell].states - 1], *(f"d{name}" for name in tensors)]
    names += [f"d{name}" for name in ("c0", "n0", "m0")[: len(rest)]]
    actual, expected = run(ours, torch.float32), run(reference.recurrence, torch.float64)
    found = dict(zip(names, expected, strict=True))
    dgx, y = found["dgx"], found["y"].unflatten(-1, (D, H))
    sizes = {
        "dw_hh": max(size_of_sums(dgx[:, :, d], y[:, :, d]) for d in range(D)),
        "db_hh": size_of_sums(dgx.flatten(2), torch.ones(T, B, 1, dtype=torch.float64)),
    }
    for name, a in zip(names, actual, strict=True):
        assert_close(a, found[name], bound, name, sizes.get(name, 0.0))


@pytest.fixture
def backends() -> Iterator[Any]:
    """`torch.backends`, whose settings of rounding the test may change."""
    every: Any = torch.backends
    before = every.fp32_precision, every.cuda.matmul.fp32_precision
    yield every
    every.fp32_precision, every.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
def test_each_steps_gemm_is_rounded_as_asked_and_torchs_setting_kept(
    precision, monkeypatch, backends
):
    backend = backends.cuda.matmul
    rounded = "tf32" if precision == "tf32" else "ieee"  # torch's GEMMs have no "tf32x3"
    other = {"ieee": "tf32", "tf32": "ieee"}[rounded]
    seen = []

    def multiply(*args: Tensor) -> None:
        seen.append(backend.fp32_precision)
        original(*args)

    original = gemm.multiply
    monkeypatch.setattr(gemm, "multiply", multiply)
    gx, w_hh = torch.randn(2, 1, 1, 3), torch.randn(1, 3, 3, requires_grad=True)
    backend.fp32_precision = other
    y, *_ = kernels.recurrence("rnn_tanh", gx, w_hh, mode="gemm", precision=precision)
    assert (seen, backend.fp32_precision) == ([rounded] * 2, other)
    y.sum().backward()
    assert (seen, backend.fp32_precision) == ([rounded] * 4, other)
    with pytest.raises(MemoryError), gemm.rounding(precision, torch.float32):
        raise MemoryError
    assert backend.fp32_precision == other


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_a_gemms_rounding_keeps_a_setting_of_its_own_that_equals_that_of_all_backends(
    precision, backends
):
    backends.fp32_precision = backends.cuda.matmul.fp32_precision = precision
    with gemm.rounding(precision, torch.float32):
        pass
    backends.fp32_precision = "ieee" if precision == "tf32" else "tf32"
    assert backends.cuda.matmul.fp32_precision == precision


def test_a_gemms_rounding_goes_on_to_follow_the_setting_of_all_backends(backends):
    gx, w_hh = torch.randn(2, 1, 1, 3), torch.randn(1, 3, 3)
    backends.cuda.matmul.fp32_precision = "none"
    for setting in ("tf32", "ieee"):
        backends.fp32_precision = setting
        kernels.recurrence("rnn_tanh", gx, w_hh, mode="gemm", precision="ieee")
        assert backends.cuda.matmul.fp32_precision == setting


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_inputs_give_the_same_bits(cell):
    case = {name: values[-1] for name, values in SETTINGS.items()} | {"cell": cell, "bias": True}
    problem = Problem(
        case | {"dtype": torch.float32, "B": 3, "T": 2, "H": 17, "layers": 1, "hx": "random"}
    )
    first, second = (problem.run(kernels, torch.float32) for _ in range(2))
    again = problem.run(kernels, torch.float32, recompute=True)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.equal(value, again[name]), f"{name}, recomputed"
