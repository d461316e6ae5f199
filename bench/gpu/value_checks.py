"""Checks of ``bench check-gpu`` that compare values with float64.

Each is a unit of ``bench.sweep.pool`` and returns a line on what it found. It raises ``Failed``, or
whatever the kernels raise, if they are wrong; ``Skipped`` if this machine cannot run it;
``NotDone`` if something other than the kernels stopped it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.cases.cases import CELLS, Case
from bench.cases.numbers import kernel_format, number_type
from bench.records.failed_checks import Suspect
from bench.sweep.pool import Failed, Skipped

if TYPE_CHECKING:
    from torch import Tensor

MOST_RANGES = 6  # of indices, in a report on a wrong tensor
# The axes of each tensor of a comparison; a gradient has those of its tensor.
AXES = {
    "y": ("time", "sequence", "unit"),
    "gx": ("time", "sequence", "direction", "gate row"),
    "w_hh": ("direction", "gate row", "unit"),
    "b_hh": ("direction", "gate row"),
}
STATE_AXES = ("direction", "sequence", "unit")


@dataclass(frozen=True)
class Comparison:
    """One comparison with float64, of both loops without the input GEMM."""

    cell: str
    dtype: str
    precision: str
    direction: str  # "forward", "reverse" or "both"
    T: int
    B: int
    H: int
    mode: str
    masks: bool = False  # lengths and resets

    @property
    def case(self) -> Case:
        return Case(
            self.cell, "fwd+bwd", "recurrence", 2 if self.direction == "both" else 1, self.dtype,
            self.precision, 1, self.B, self.T, 0, self.H, 0.1 if self.masks else 0.0,
        )  # fmt: skip

    @property
    def number(self) -> str:
        return number_type(self.dtype, self.precision)

    @property
    def name(self) -> str:
        masks = ", lengths and resets" if self.masks else ""
        sizes = f"T={self.T} B={self.B} H={self.H}"
        return f"{self.cell} {self.number} {self.direction} {sizes} {self.mode}{masks}"


NUMBERS = (("bf16", "none"), ("fp16", "none"), ("fp32", "tf32"), ("fp32", "ieee"))


def kernel_cells() -> list[str]:
    """The cells that our kernels have."""
    return [cell.name for cell in CELLS.values() if cell.kernels]


def first(cell: str, rehearse: bool) -> Comparison:
    """The most informative comparison of a cell: both directions and every option."""
    return next(comparisons(cell, *NUMBERS[0], rehearse))


def comparisons(cell: str, dtype: str, precision: str, rehearse: bool) -> Iterator[Comparison]:
    """The comparisons of one cell in one number type, the most informative first."""
    if rehearse:
        yield Comparison(cell, dtype, precision, "both", 2, 2, 5, "auto", masks=True)
        yield Comparison(cell, dtype, precision, "reverse", 2, 2, 5, "gemm")
        return
    for direction in ("both", "forward", "reverse"):
        yield Comparison(cell, dtype, precision, direction, 50, 32, 512, "persistent", masks=True)
    yield Comparison(cell, dtype, precision, "forward", 50, 64, 1024, "auto")
    yield Comparison(cell, dtype, precision, "both", 50, 17, 100, "auto", masks=True)
    if dtype == "bf16":
        yield Comparison(cell, dtype, precision, "both", 20, 256, 64, "auto")
        yield Comparison(cell, dtype, precision, "forward", 20, 16, 2048, "auto")
        yield Comparison(cell, dtype, precision, "forward", 20, 2048, 256, "persistent")
        yield Comparison(cell, dtype, precision, "both", 20, 32, 512, "stepwise", masks=True)
        yield Comparison(cell, dtype, precision, "both", 20, 32, 512, "gemm", masks=True)


def all_comparisons(rehearse: bool) -> list[Comparison]:
    """Every comparison; those in fp32 come last, because they take longest to compile."""
    numbers = sorted(NUMBERS, key=lambda number: number[0] == "fp32")
    return [
        each for number in numbers for cell in kernel_cells()
        for each in comparisons(cell, *number, rehearse)
    ]  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """The inputs of a comparison; tensors are named as in ``bench.cases.problem``."""

    comparison: Comparison
    tensors: dict[str, Tensor]
    upstream: dict[str, Tensor]
    lengths: Tensor | None  # from 1 to T
    resets: Tensor | None


def make_inputs(comparison: Comparison, device: str) -> Inputs:
    """Random inputs of a comparison, the same at each call."""
    import torch

    from bench.cases.problem import make_problem

    problem = make_problem(comparison.case, seed=1, device=device)
    lengths = None
    if comparison.masks:
        lengths = (torch.arange(comparison.B) * 7 % comparison.T + 1).to(device)
    return Inputs(comparison, problem.inputs, problem.upstream, lengths, problem.resets)


def run_recurrence(package: Any, inputs: Inputs, **how: Any) -> dict[str, Tensor]:
    """Outputs and gradients of ``package.recurrence``, named as in ``bench.cases.problem``."""
    import torch

    from bench.cases.problem import loop_state, named_outputs

    comparison = inputs.comparison
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.tensors.items()}
    y, *last = package.recurrence(
        comparison.cell, leaves["gx"], leaves["w_hh"], leaves["b_hh"], *loop_state(leaves),
        reverse=comparison.direction == "reverse", lengths=inputs.lengths, resets=inputs.resets,
        **how,
    )  # fmt: skip
    outputs = named_outputs(comparison.case, y, last)
    gradients = torch.autograd.grad(
        list(outputs.values()),
        list(leaves.values()),
        [inputs.upstream[name].to(output.dtype) for name, output in outputs.items()],
    )
    found = {name: output.detach() for name, output in outputs.items()}
    return found | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def run_kernels(inputs: Inputs) -> dict[str, Tensor]:
    """Our kernels' outputs and gradients."""
    import kernels
    from bench.cases.problem import torch_precision

    comparison = inputs.comparison
    precision = None if comparison.precision == "none" else comparison.precision
    with torch_precision(comparison.precision):  # for torch's GEMMs, as in the benchmark
        return run_recurrence(kernels, inputs, mode=comparison.mode, precision=precision)


def run_reference(inputs: Inputs) -> dict[str, Tensor]:
    """The reference's outputs and gradients in float64."""
    import reference

    exact = {name: tensor.double() for name, tensor in inputs.tensors.items()}
    return run_recurrence(reference, replace(inputs, tensors=exact))


def ranges(indices: Sequence[int]) -> str:
    """Sorted indices as ranges, the first few of them.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    import numpy as np

    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    words = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs[:MOST_RANGES]]
    return ", ".join(words) + (f" and {len(runs) - MOST_RANGES} more" if runs[MOST_RANGES:] else "")


def describe_errors(name: str, found: Tensor, exact: Tensor, bound: float) -> list[str]:
    """Lines on which entries of a tensor are wrong, the first of them, and the worst.

    An entry is listed where it is not finite, or off by more than ``bound`` times the root mean
    square of ``exact``: a tensor one of whose relative errors exceeds ``bound`` has at least one.

    Args:
        found: of any floating type.
        exact: float64, of the same shape.
        bound: the relative error that is accepted.
    """
    import torch

    difference = (found.double() - exact).abs()
    rms = exact.square().mean().sqrt()
    wrong = ~(difference <= bound * rms)
    axes = AXES.get(name.removeprefix("d"), STATE_AXES)
    shape = ", ".join(f"{axis} {size}" for axis, size in zip(axes, found.shape, strict=True))
    infinite = int((~found.isfinite()).sum())
    lines = [
        f"{name} ({shape}): {int(wrong.sum()):,} of {found.numel():,} entries are off by more than "
        f"{bound:.2g} of the root mean square, {float(rms):.3g}; {infinite:,} are not finite"
    ]
    where = wrong.nonzero()
    if not len(where):
        return lines
    lines += [f"  {axis} {ranges(where[:, k].unique().tolist())}" for k, axis in enumerate(axes)]
    largest = difference.nan_to_num(torch.inf, torch.inf).flatten().argmax()
    worst = [int(k) for k in torch.unravel_index(largest, difference.shape)]
    for word, index in (("first", where[0].tolist()), ("worst", worst)):
        at = tuple(index)
        lines.append(
            f"  {word} at {index}: {float(found[at]):.6g} instead of {float(exact[at]):.6g}"
        )
    return lines


def compare(comparison: Comparison, device: str) -> str:
    """A line on the largest error of all outputs and gradients, as a share of its tolerance.

    The tolerances are the benchmark's, by which one tile of 16 batch rows that reads the state of
    a step before, in one step, is wrong in every number type; see bench/README.md.

    Raises:
        Failed: if one is above its tolerance. The report has every tensor's error, the wrong
            entries, and the plans. The suspect is the forward loop if an output is wrong, else the
            backward loop, in the mode that the plan chose.
    """
    import kernels
    from bench.cases.problem import GivenSigns, has_signs
    from bench.measure import metrics
    from kernels.cells import CELLS as KERNEL_CELLS
    from kernels.planning import plans

    inputs = make_inputs(comparison, device)
    found = run_kernels(inputs)
    kernels.check()
    exact = run_reference(inputs)
    case = comparison.case
    if has_signs(case):  # as the benchmark does: see metrics.check
        with GivenSigns(found["y"], case.directions, comparison.direction == "reverse"):
            at_signs = run_reference(inputs)
        exact |= {name: value for name, value in at_signs.items() if name.startswith("d")}
    off = metrics.all_errors(found, exact)
    limits = {name: metrics.nearest_limit(off[name], case, name) for name in found}
    wrong = [name for name, (share, _) in limits.items() if not share <= 1]  # also where it is NaN
    if not wrong:
        name = max(limits, key=limits.__getitem__)
        share, metric = limits[name]
        return f"at most {share:.0%} of the accepted error ({name}, {metrics.GATED[metric]})"
    bounds = {name: metrics.tolerance(case, name, metric) for name, (_, metric) in limits.items()}
    lines = [
        f"{name:8} off by {off[name][metric]:.3g} ({metrics.GATED[metric]}); accepted: "
        f"{bounds[name]:.3g}" + (" WRONG" if name in wrong else "")
        for name, (_, metric) in limits.items()
    ]
    for name in wrong:
        lines += describe_errors(name, found[name], exact[name], bounds[name])
    _, precision = kernel_format(comparison.dtype, comparison.precision)
    cell, w_hh = KERNEL_CELLS[comparison.cell], inputs.tensors["w_hh"]
    chosen = plans(cell, w_hh, comparison.B, comparison.mode, precision)
    by_loop = dict(zip(("forward", "backward"), chosen, strict=True))
    for loop, plan in by_loop.items():
        facts = ", ".join(f"{key}={fact}" for key, fact in asdict(plan).items() if key != "cost")
        lines.append(f"{loop} plan: {facts}")
    outputs = [name for name in wrong if not name.startswith("d")]
    name, loop = (outputs[0], "forward") if outputs else (wrong[0], "backward")
    check, mode = f"values: {comparison.name}", by_loop[loop].mode
    raise Failed(
        str(metrics.verdict({name: off[name]}, case)),
        "\n".join(lines),
        (Suspect(check, comparison.cell, loop, mode, comparison.number),),
    )


def check_far_offsets(device: str) -> str:
    """Tensors of more than 2**31 elements, checked at their first, middle and last sequences."""
    import torch

    import kernels
    import reference
    from bench.measure.metrics import errors, nearest_limit

    of = Comparison("rnn_tanh", "bf16", "none", "forward", 600, 65536, 64, "auto")
    if device == "cpu":
        raise Skipped("needs a GPU with 48 GB")
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        raise Skipped("needs 48 GB of free memory")
    rows = torch.tensor([0, 1, of.B // 2, of.B - 2, of.B - 1], device=device)
    shape = (of.T, of.B, 1, of.H)
    torch.manual_seed(1)
    gx = torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
    dy = torch.randn(of.T, of.B, of.H, device=device, dtype=torch.bfloat16)
    w = (torch.randn(1, of.H, of.H, device=device) / 16).to(torch.bfloat16)
    y, _, _ = kernels.recurrence(of.cell, gx, w, mode=of.mode)
    (dgx,) = torch.autograd.grad(y, gx, dy)
    kernels.check()
    some = gx.detach()[:, rows].double().requires_grad_()
    exact, _, _ = reference.recurrence(of.cell, some, w.double())
    (dexact,) = torch.autograd.grad(exact, some, dy[:, rows].double())
    worst = 0.0
    for name, found, right in (("y", y[:, rows], exact), ("dgx", dgx[:, rows], dexact)):
        share, _ = nearest_limit(errors(found.detach(), right.detach()), of.case, name)
        if not share <= 1:
            raise Failed(f"{name} is off by {share:.2g} times its tolerance")
        worst = max(worst, share)
    return f"{gx.numel():,} elements, at most {worst:.0%} of the accepted error"


def sanitizer_case(cell: str) -> Comparison:
    """The case that runs under compute-sanitizer: groups of several programs, every option."""
    return Comparison(cell, "bf16", "none", "both", 3, 5, 500, "persistent", masks=True)


def run_sanitizer_case(cell: str) -> str:
    """Run that case once, compiling its kernels."""
    import kernels

    run_kernels(make_inputs(sanitizer_case(cell), "cuda"))
    kernels.check()
    return "runs; its kernels are compiled for the sanitizers"
