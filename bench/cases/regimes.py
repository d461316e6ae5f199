"""Regimes: kinds of weights and inputs that error is measured with, trained-like or extreme."""

import torch
from torch import Tensor

from bench.cases.cases import KEEPING_GATE, MEMORY, check_regime
from bench.cases.problem import DTYPE, Problem, Source


def apply_regime(problem: Problem, regime: str | None) -> None:
    """Change a problem's tensors in place; they stay rounded to the case's dtype.

    Raises:
        ValueError: for an unknown regime, or one that the cell cannot have.
    """
    regime = regime or "default"
    check_regime(regime, problem.case.cell)
    problem.regime = regime
    case, inputs = problem.case, problem.inputs
    dtype = DTYPE[case.dtype]
    input_name = "x" if case.track == "layer" else "gx"
    source = Source(problem.seed, problem.device)
    if regime.startswith("orthogonal"):
        scale = float(regime.split("-")[1])
        for name in [name for name in inputs if name.startswith("w_hh")]:
            drawn = source.normal(f"{name}-orthogonal", *inputs[name].shape)  # [(D,) G*H, H]
            rows = drawn.view(-1, case.H)
            inputs[name] = _orthogonal(rows, case.H, scale).view_as(drawn).to(dtype)
    elif regime == "constant":
        inputs[input_name] = inputs[input_name][:1].expand_as(inputs[input_name]).contiguous()
    elif regime == "large":
        inputs[input_name] = (inputs[input_name].float() * 1000).to(dtype)
    elif regime == "tiny":
        for name in inputs:
            if not name.startswith("w_"):
                inputs[name] = (inputs[name].float() * 1e-4).to(dtype)
    elif regime == "lengths":
        drawn = torch.rand(case.B, generator=torch.Generator().manual_seed(problem.seed))
        problem.lengths = (drawn * case.T).long() + 1
    elif regime.startswith(MEMORY):
        gate = KEEPING_GATE[case.cell]
        entries = slice(gate * case.H, (gate + 1) * case.H)
        for name in [name for name in inputs if name.startswith("b_")]:
            # The two biases of a layer are added, so one of them is 0.
            layer_hh = case.track == "layer" and name.startswith("b_hh")
            inputs[name][..., entries] = 0.0 if layer_hh else float(regime.removeprefix(MEMORY))
            if not layer_hh:
                problem.parts[f"d{name}.gate"] = (f"d{name}", entries)
        problem.upstream["y"].zero_()


def _orthogonal(drawn: Tensor, H: int, scale: float) -> Tensor:
    """Each gate's [H,H] block made orthogonal by QR, times ``scale``.

    The signs of R's diagonal make it uniformly distributed (Mezzadri, How to generate random
    matrices from the classical compact groups, 2007).
    """
    blocks = []
    for block in drawn.double().split(H):
        q, r = torch.linalg.qr(block)
        blocks.append(scale * q * torch.sign(torch.diagonal(r)))
    return torch.cat(blocks)
