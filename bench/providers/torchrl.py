"""TorchRL's Triton kernels (PyPI ``torchrl``, MIT), optional.

They take and return fp32 tensors in any precision of products; a bf16 case gets its inputs widened
(their values do not change) and bf16 products. Batch first; the state after a reset is an input of
every step, so h0 is repeated over time and its gradients are summed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cases.cases import Case
from bench.providers import Call, provider, require
from bench.records.environment import Machine
from bench.records.provenance import version

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem

# It tunes itself anew for every T and H, which takes minutes.
PATIENCE = 900.0


def supports(case: Case, machine: Machine) -> str | None:
    reason = require(
        case, track=("layer",), cell=("lstm", "gru"), directions=(1,), layers=(1,),
        dtype=("fp32", "bf16"),
    )  # fmt: skip
    if reason:
        return f"TorchRL does not support {reason}"
    for package in ("torchrl", "tensordict"):
        if version(package) is None:
            return f"the package {package} is not installed"
    if not machine.is_cuda:
        return "TorchRL's kernels need a CUDA device"
    return None


@provider("torchrl-triton", supports=supports, package="torchrl", patience=PATIENCE)
def build(problem: Problem) -> Call:
    import torch
    from torchrl.modules.tensordict_module import _rnn_triton as kernels

    case, inputs = problem.case, problem.inputs
    weights = ("w_ih_l0", "w_hh_l0", "b_ih_l0", "b_hh_l0")
    states = [name for name in ("h0", "c0") if name in inputs]

    def per_step(state: Tensor) -> Tensor:
        return state[0].float()[:, None].expand(case.B, case.T, case.H).contiguous()

    leaves = {"x": inputs["x"].float().transpose(0, 1).contiguous()}
    leaves |= {name: per_step(inputs[name]) for name in states}
    leaves |= {name: inputs[name].float().detach() for name in weights}
    never = torch.zeros(case.B, case.T, dtype=torch.bool, device=problem.device)
    function = kernels.lstm_triton if case.cell == "lstm" else kernels.gru_triton
    arguments = [leaves[name] for name in ("x", *states, *weights)]
    compute = torch.float32 if case.dtype == "fp32" else torch.bfloat16
    precision = case.precision if case.dtype == "fp32" else "ieee"  # ignored with bf16 products

    def forward() -> dict[str, Tensor]:
        # Resets change between timed calls, so they are read in each.
        starts = never if problem.resets is None else problem.resets.T.contiguous()
        found = function(*arguments, starts, compute, input_precision=precision)
        last = found[len(states) :]
        outputs = {"y": found[0].transpose(0, 1), "h_n": last[0][None]}
        return outputs | ({"c_n": last[1][None]} if case.cell == "lstm" else {})

    def standard(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        found = dict(gradients)
        found["x"] = found["x"].transpose(0, 1)
        for name in states:
            found[name] = found[name].sum(1)[None]
        return found

    return Call(forward, leaves, standard)
