"""Providers that round at one place only, to see what it adds to an implementation's error.

The reference runs in float64 and rounds at that place. ``effect-all`` rounds where our kernels do,
``effect-all-carry-io`` also keeps the state in the I/O type: they differ by what the fp32 carry
gains. These are models for the error chapter; they are never timed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.cases.cases import Case
from bench.providers import Call, provider, require
from bench.records.environment import Machine

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem


# Where each provider rounds; everything else stays float64.
PLACES = {
    "inputs": "in the truth's inputs, while its own are fp32 numbers: the error of rounding them",
    "projection": "W x + b is stored in the I/O type",
    "product": "the loop multiplies h in the I/O type",
    "sum": "both products accumulate in fp32",
    "activation": "sigmoid, tanh and their like are computed in fp32",
    "carry-fp32": "the state is kept in fp32 between steps",
    "carry-io": "the state is kept in the I/O type between steps",
    "output": "y and the last state are given in the I/O type",
}
OURS = frozenset(PLACES) - {"inputs", "carry-io"}
EFFECTS = {name: frozenset({name}) for name in PLACES} | {
    "all": OURS,
    "all-carry-io": OURS - {"carry-fp32"} | {"carry-io"},
}


def supports(case: Case, machine: Machine) -> str | None:
    reason = require(
        case, track=("layer",), directions=(1,), layers=(1,), resets=(0.0,), **{"pass": ("fwd",)}
    )
    return f"the effects are separated without {reason}" if reason else None


def build(problem: Problem, places: frozenset[str]) -> Call:
    import torch
    from torch.nn.functional import linear, logsigmoid
    from torch.overrides import TorchFunctionMode

    import reference
    from bench.cases.problem import DTYPE, make_problem, named_outputs
    from bench.cases.regimes import apply_regime
    from reference.unroll import unroll

    case = problem.case
    io = DTYPE[case.dtype]
    given = problem.inputs
    if "inputs" in places and case.dtype != "fp32":
        whole = replace(case, dtype="fp32", precision="ieee")
        unrounded = make_problem(whole, problem.seed, problem.device)
        apply_regime(unrounded, problem.regime)
        given = unrounded.inputs
    leaves = {name: value.double() for name, value in given.items()}

    activations = (torch.sigmoid, torch.tanh, torch.exp, logsigmoid)

    def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.to(dtype).double()

    class Loop(TorchFunctionMode):
        """Rounds inside the reference's own step."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in activations and "activation" in places:
                return func(args[0].float()).double()
            if func is linear:
                h, w, *bias = args
                if "product" in places:
                    h = rounded(h, io)
                if "sum" in places:
                    return func(h.float(), w.float(), *(b.float() for b in bias)).double()
                return func(h, w, *bias)
            return func(*args, **(kwargs or {}))

    cell = reference.CELLS[case.cell]
    kept = torch.float32 if "carry-fp32" in places else torch.float64
    kept = io if "carry-io" in places else kept

    def step(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(rounded(state, kept) for state in cell.step(*arguments))

    def forward() -> dict[str, Tensor]:
        operands = (leaves["x"], leaves["w_ih_l0"], leaves["b_ih_l0"])
        if "sum" in places:
            gx = linear(*(operand.float() for operand in operands)).double()
        else:
            gx = linear(*operands)
        if "projection" in places:
            gx = rounded(gx, io)
        initial = tuple(leaves[f"{name}0"][0] for name in case.cell_info.states)
        weights = leaves["w_hh_l0"], leaves["b_hh_l0"]
        with Loop():
            y, last = unroll(cell._replace(step=step), gx, *weights, initial)
        found = named_outputs(case, y, [state[None] for state in last])
        if "output" in places:
            found = {name: rounded(value, io) for name, value in found.items()}
        return found

    return Call(forward, leaves)


for _name, _places in EFFECTS.items():
    provider(f"effect-{_name}", supports=supports, package="torch")(partial(build, places=_places))
