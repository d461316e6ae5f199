"""What ``bench check-gpu`` asks of values, each question a function that runs in a process.

A check returns a line on what it found. It raises ``Failed``, or whatever the kernels raise, if
they are wrong; ``Skipped`` where this machine cannot make it; ``NotDone`` where something around it
kept it from ending.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.cases.cases import CELLS, Case
from bench.cases.numbers import number_type, product_roundoff
from bench.gpu.pool import Failed, Skipped
from bench.records.doubts import Doubt

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.plan import Plan

# Of sqrt(u), for gradients of rnn_relu at the sizes below; see `tolerance`.
RELU = 1.6


@dataclass(frozen=True)
class Value:
    """One comparison with float64: forward and backward of the loop alone."""

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


def first(cell: str, rehearse: bool) -> Value:
    """What tells most of a cell: both passes, both directions, the barrier, all options."""
    if rehearse:
        return Value(cell, "bf16", "none", "both", 2, 2, 5, "auto", masks=True)
    return Value(cell, "bf16", "none", "both", 50, 32, 512, "persistent", masks=True)


def values(cell: str, dtype: str, precision: str, rehearse: bool) -> Iterator[Value]:
    """What is compared of one cell in one number type, the most telling first."""
    if rehearse:
        yield Value(cell, dtype, precision, "both", 2, 2, 5, "auto", masks=True)
        yield Value(cell, dtype, precision, "reverse", 2, 2, 5, "gemm")
        return
    for direction in ("both", "forward", "reverse"):
        yield Value(cell, dtype, precision, direction, 50, 32, 512, "persistent", masks=True)
    yield Value(cell, dtype, precision, "forward", 50, 64, 1024, "auto")
    yield Value(cell, dtype, precision, "both", 50, 17, 100, "auto", masks=True)
    if dtype == "bf16":
        yield Value(cell, dtype, precision, "both", 20, 256, 64, "auto")
        yield Value(cell, dtype, precision, "forward", 20, 16, 2048, "auto")
        yield Value(cell, dtype, precision, "forward", 20, 2048, 256, "persistent")
        yield Value(cell, dtype, precision, "both", 20, 32, 512, "stepwise", masks=True)
        yield Value(cell, dtype, precision, "both", 20, 32, 512, "gemm", masks=True)


def all_values(rehearse: bool) -> list[Value]:
    """Every comparison, those in fp32 last, whose products take long to compile."""
    numbers = sorted(NUMBERS, key=lambda number: number[0] == "fp32")
    return [
        value for number in numbers for cell in kernel_cells()
        for value in values(cell, *number, rehearse)
    ]  # fmt: skip


def loop(
    package: Any, value: Value, inputs: dict[str, Tensor], upstream: dict[str, Tensor],
    lengths: Tensor | None, resets: Tensor | None, **how: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Outputs and gradients of ``package.recurrence``, named as in ``bench.cases.problem``."""
    import torch

    from bench.cases.problem import loop_state, named_outputs

    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    y, *last = package.recurrence(
        value.cell, leaves["gx"], leaves["w_hh"], leaves["b_hh"], *loop_state(leaves),
        reverse=value.direction == "reverse", lengths=lengths, resets=resets, **how,
    )  # fmt: skip
    outputs = named_outputs(value.case, y, last)
    gradients = torch.autograd.grad(
        list(outputs.values()),
        list(leaves.values()),
        [upstream[name].to(output.dtype) for name, output in outputs.items()],
    )
    found = {name: output.detach() for name, output in outputs.items()}
    return found | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def run_kernels(value: Value, problem: Any, lengths: Tensor | None) -> dict[str, Tensor]:
    """Our kernels' outputs and gradients of a comparison."""
    import kernels
    from bench.cases.problem import torch_precision

    precision = None if value.precision == "none" else value.precision
    with torch_precision(value.precision):  # of what torch multiplies, as the benchmark sets it
        return loop(
            kernels, value, problem.inputs, problem.upstream, lengths, problem.resets,
            mode=value.mode, precision=precision,
        )  # fmt: skip


def make_inputs(value: Value, device: str) -> tuple[Any, Tensor | None]:
    """The numbers of a comparison, and lengths from 1 to T."""
    import torch

    from bench.cases.problem import make_problem

    problem = make_problem(value.case, seed=1, device=device)
    lengths = None
    if value.masks:
        lengths = (torch.arange(value.B) * 7 % value.T + 1).to(device)
    return problem, lengths


def plans(value: Value, problem: Any) -> tuple[Plan, Plan]:
    """How the kernels run a comparison, forward and backward."""
    from kernels.autograd import plans
    from kernels.cells import CELLS as KERNEL_CELLS

    precision = "ieee" if value.precision == "none" else value.precision
    w_hh = problem.inputs["w_hh"]
    return plans(KERNEL_CELLS[value.cell], w_hh, value.B, value.mode, precision)


def tolerance(value: Value, name: str) -> float:
    """The relative L2 error up to which a tensor passes: the benchmark's own bound, but at real
    sizes less for gradients of rnn_relu.

    The benchmark leaves them 8 sqrt(u) for tensors of few elements; the comparisons here have
    thousands. The reference run in bf16 and fp16 on them, which rounds more often than the kernels,
    is off by at most 0.57 sqrt(u). So 1.6 sqrt(u), in bf16 0.1: less than what one missing step's
    term makes of a gradient of 50 (1 / sqrt(50) = 0.14).
    """
    from bench.measure.metrics import tolerance as at_any_shape

    bound = at_any_shape(value.case, name)
    if not name.startswith("d") or value.case.cell_info.nonlinearity != "relu" or value.H < 64:
        return bound
    u = product_roundoff(value.dtype, value.precision)
    return min(bound, RELU * math.sqrt(u))


def compare(value: Value, device: str) -> str:
    """The largest error of all outputs and gradients, as a share of what is accepted.

    Raises:
        Failed: if one is above what is accepted. Its report has every tensor's error, where the
            wrong ones are wrong, and the plans; it doubts the forward loop if an output is wrong,
            else the backward loop, in the mode that the plan chose.
    """
    import kernels
    import reference
    from bench.gpu import differences
    from bench.measure.metrics import errors

    problem, lengths = make_inputs(value, device)
    found = run_kernels(value, problem, lengths)
    kernels.check()
    exact = loop(
        reference, value, {name: x.double() for name, x in problem.inputs.items()},
        problem.upstream, lengths, problem.resets,
    )  # fmt: skip
    off = {name: errors(tensor, exact[name])["rel_l2"] for name, tensor in found.items()}
    bounds = {name: tolerance(value, name) for name in found}
    wrong = [name for name in found if not off[name] <= bounds[name]]  # also where it is NaN
    if not wrong:
        share, where = max((off[name] / bounds[name], name) for name in found)
        return f"at most {share:.0%} of the accepted error ({where})"
    lines = [
        f"{name:8} off by {off[name]:.3g} of its norm; accepted: {bounds[name]:.3g}"
        + (" WRONG" if name in wrong else "")
        for name in found
    ]
    for name in wrong:
        lines += differences.describe(name, found[name], exact[name], bounds[name])
    outputs = [name for name in wrong if not name.startswith("d")]
    forward, backward = plans(value, problem)
    loop_name, plan = ("forward", forward) if outputs else ("backward", backward)
    for word, each in (("forward", forward), ("backward", backward)):
        facts = ", ".join(f"{key}={fact}" for key, fact in asdict(each).items() if key != "cost")
        lines.append(f"{word} plan: {facts}")
    name = (outputs or wrong)[0]
    raise Failed(
        f"{name} is off by {off[name]:.2g} of its norm; accepted: {bounds[name]:.2g}",
        "\n".join(lines),
        (Doubt(f"values: {value.name}", value.cell, loop_name, plan.mode, value.number),),
    )


def far_offsets(device: str) -> str:
    """Tensors of more than 2**31 elements, checked at their first, middle and last sequences."""
    import torch

    import kernels
    import reference
    from bench.measure.metrics import errors

    value = Value("rnn_tanh", "bf16", "none", "forward", 600, 65536, 64, "auto")
    if device == "cpu":
        raise Skipped("needs a GPU with 48 GB")
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        raise Skipped("needs 48 GB of free memory")
    rows = torch.tensor([0, 1, value.B // 2, value.B - 2, value.B - 1], device=device)
    shape = (value.T, value.B, 1, value.H)
    torch.manual_seed(1)
    gx = torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
    dy = torch.randn(value.T, value.B, value.H, device=device, dtype=torch.bfloat16)
    w = (torch.randn(1, value.H, value.H, device=device) / 16).to(torch.bfloat16)
    y, _, _ = kernels.recurrence(value.cell, gx, w, mode=value.mode)
    (dgx,) = torch.autograd.grad(y, gx, dy)
    kernels.check()
    some = gx.detach()[:, rows].double().requires_grad_()
    exact, _, _ = reference.recurrence(value.cell, some, w.double())
    (dexact,) = torch.autograd.grad(exact, some, dy[:, rows].double())
    worst = 0.0
    for name, found, right in (("y", y[:, rows], exact), ("dgx", dgx[:, rows], dexact)):
        share = errors(found.detach(), right.detach())["rel_l2"] / tolerance(value, name)
        if not share <= 1:
            raise Failed(f"{name} is off by {share:.2g} times what is accepted")
        worst = max(worst, share)
    return f"{gx.numel():,} elements, at most {worst:.0%} of the accepted error"


def sanitizer_case(cell: str) -> Value:
    """What compute-sanitizer watches of a cell: groups of several programs, all options."""
    return Value(cell, "bf16", "none", "both", 3, 5, 500, "persistent", masks=True)


def small(cell: str) -> str:
    """That case, and nothing else of the cell."""
    import kernels

    value = sanitizer_case(cell)
    problem, lengths = make_inputs(value, "cuda")
    run_kernels(value, problem, lengths)
    kernels.check()
    return "runs; its kernels are compiled for the sanitizers"
