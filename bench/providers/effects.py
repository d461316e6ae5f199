"""One rounding at a time: what each contributes to a 16- or 32-bit implementation's error.

The reference runs in float64 and rounds at one place only. ``effect-all`` rounds where our kernels
do, and ``effect-all-carry-io`` also keeps the state in the I/O type: their difference is what the
fp32 carry buys. These are models for the error chapter; they are never timed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.cases.cases import Case
from bench.providers import Call, provider, require
from bench.records.environment import Machine

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem


@dataclass(frozen=True)
class Roundings:
    """Where to round; everything else stays float64.

    inputs: start from the drawn fp32 numbers instead of their rounded values (the difference to
    the truth is the inputs' own rounding). projection: W x + b is stored in the I/O type. product:
    the loop's operand h is. sum: both products accumulate in fp32. activation: sigmoid, tanh
    and their like are computed in fp32. carry: the state is kept in "fp32" or the "io" type between
    steps. output: y and the last state are given in the I/O type.
    """

    inputs: bool = False
    projection: bool = False
    product: bool = False
    sum: bool = False
    activation: bool = False
    carry: str | None = None
    output: bool = False


EVERYTHING = Roundings(
    projection=True, product=True, sum=True, activation=True, carry="fp32", output=True
)
EFFECTS = {
    "effect-inputs": Roundings(inputs=True),
    "effect-projection": Roundings(projection=True),
    "effect-product": Roundings(product=True),
    "effect-sum": Roundings(sum=True),
    "effect-activation": Roundings(activation=True),
    "effect-carry-fp32": Roundings(carry="fp32"),
    "effect-carry-io": Roundings(carry="io"),
    "effect-output": Roundings(output=True),
    "effect-all": EVERYTHING,
    "effect-all-carry-io": replace(EVERYTHING, carry="io"),
}


def supports(case: Case, machine: Machine) -> str | None:
    reason = require(
        case, track=("layer",), directions=(1,), layers=(1,), resets=(0.0,), **{"pass": ("fwd",)}
    )
    return f"the effects are separated without {reason}" if reason else None


def build(problem: Problem, roundings: Roundings) -> Call:
    import torch
    from torch.nn.functional import linear, logsigmoid
    from torch.overrides import TorchFunctionMode

    import reference
    from bench.cases.problem import DTYPE, make_problem
    from bench.cases.regimes import apply_regime
    from reference.unroll import unroll

    case = problem.case
    io = DTYPE[case.dtype]
    given = problem.inputs
    if roundings.inputs and case.dtype != "fp32":
        whole = replace(case, dtype="fp32", precision="ieee")
        unrounded = make_problem(whole, problem.seed, problem.device)
        apply_regime(unrounded, problem.regime)
        given = unrounded.inputs
    leaves = {name: value.double() for name, value in given.items()}

    activations = (torch.sigmoid, torch.tanh, torch.exp, logsigmoid)

    def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.to(dtype).double()

    class Loop(TorchFunctionMode):
        """Rounds inside the reference's step, which is run as it is."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in activations and roundings.activation:
                return func(args[0].float()).double()
            if func is linear:
                h, w, *bias = args
                if roundings.product:
                    h = rounded(h, io)
                if roundings.sum:
                    return func(h.float(), w.float(), *(b.float() for b in bias)).double()
                return func(h, w, *bias)
            return func(*args, **(kwargs or {}))

    cell = reference.CELLS[case.cell]
    kept = {None: torch.float64, "fp32": torch.float32, "io": io}[roundings.carry]

    def step(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(rounded(state, kept) for state in cell.step(*arguments))

    def forward() -> dict[str, Tensor]:
        operands = (leaves["x"], leaves["w_ih_l0"], leaves["b_ih_l0"])
        if roundings.sum:
            gx = linear(*(operand.float() for operand in operands)).double()
        else:
            gx = linear(*operands)
        if roundings.projection:
            gx = rounded(gx, io)
        initial = tuple(leaves[f"{name}0"][0] for name in case.cell_info.states)
        with Loop():
            y, last = unroll(
                cell._replace(step=step), gx, leaves["w_hh_l0"], leaves["b_hh_l0"], initial
            )
        found = {"y": y} | {
            f"{name}_n": state[None]
            for name, state in zip(case.cell_info.states, last, strict=True)
        }
        if roundings.output:
            found = {name: rounded(value, io) for name, value in found.items()}
        return found

    return Call(forward, leaves)


for _name, _roundings in EFFECTS.items():
    provider(_name, supports=supports, package="torch")(partial(build, roundings=_roundings))
