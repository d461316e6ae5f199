"""This project's kernels, one provider for each mode."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.cases.cases import Case
from bench.cases.numbers import kernel_format
from bench.providers import Call, provider
from bench.records.environment import Machine

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem


def supports(case: Case, machine: Machine, mode: str = "auto") -> str | None:
    if not case.cell_info.kernels:
        return f"kernels has no cell {case.cell}"
    if not machine.is_cuda and not machine.interpreted:
        return "the kernels need a GPU; on the CPU they run only in Triton's interpreter"
    if not machine.is_cuda and case.precision in ("tf32", "tf32x3"):
        return "the interpreter multiplies in ieee fp32 whatever precision is asked for"
    if not machine.is_cuda and mode not in ("auto", "auto-graph", "stepwise"):
        return "the interpreter runs programs one after another, so only step by step"
    return None


def build(problem: Problem, mode: str = "auto") -> Call:
    """The public functions of ``kernels`` on the problem's tensors."""
    import kernels
    from bench.cases.problem import bind

    case = problem.case
    leaves = {name: value.detach() for name, value in problem.inputs.items()}
    precision = None if case.precision == "none" else case.precision
    masks = {"lengths": problem.lengths, "resets": problem.resets}
    forward = bind(kernels, case, leaves, mode=mode, precision=precision, **masks)
    return Call(forward, leaves, plan=plan_of(case, leaves, mode), after=kernels.check)


def plan_of(case: Case, leaves: dict[str, Tensor], mode: str) -> dict[str, Any]:
    """What the kernels' plan decides for this case, the backward loop's under "backward"."""
    import torch

    from kernels.cells import CELLS
    from kernels.planning import plans

    if case.track == "layer":
        names = ["w_hh_l0"] + ["w_hh_l0_reverse"] * (case.directions == 2)
        w_hh = torch.stack([leaves[name] for name in names])
    else:
        w_hh = leaves["w_hh"]
    _, precision = kernel_format(case.dtype, case.precision)
    forward, backward = map(asdict, plans(CELLS[case.cell], w_hh, case.B, mode, precision))
    return forward | ({} if case.pass_ == "fwd" else {"backward": backward})


# Seconds: the slowest kernel on record takes 56 s to compile, and a call needs two.
PATIENCE = 120.0
# Each provider's mode of the kernels, and whether its calls are replayed from a CUDA graph.
MODES = {
    "ours": ("auto", False),
    "ours-persistent": ("persistent", False),
    "ours-stepwise": ("stepwise", False),
    "ours-gemm": ("gemm", False),
    "ours-graph": ("auto-graph", True),
    "ours-stepwise-graph": ("stepwise", True),
}
for _name, (_mode, _graph) in MODES.items():
    provider(
        _name,
        supports=partial(supports, mode=_mode),
        package="triton",
        graph=_graph,
        patience=PATIENCE,
    )(partial(build, mode=_mode))
