"""A correct implementation of a case of the recurrence track that rounds where kernels do, and the
same with a race planted in one step of one of its loops."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import reference
from bench.cases.problem import DTYPE, Problem, loop_state, named_outputs

TF32_DROPPED_BITS = 13  # of float32's mantissa


@dataclass(frozen=True)
class Race:
    """A tile that reads what the loop had stored one step before the one it should read.

    Attributes:
        loop: "forward", where h is stale, or "backward", where dz is stale.
        step: the step of that loop, counted from its first.
        rows: the batch rows that are wrong.
        readers: the hidden units that a wrong program computes.
        written: the hidden units of h, or of dz in each gate, that are stale.
    """

    loop: str
    step: int
    rows: slice
    readers: slice = field(default_factory=partial(slice, None))
    written: slice = field(default_factory=partial(slice, None))


def round_to_tf32(x: Tensor) -> Tensor:
    """The nearest float32 numbers with ten bits of mantissa."""
    half, kept = 1 << (TF32_DROPPED_BITS - 1), -(1 << TF32_DROPPED_BITS)
    return ((x.contiguous().view(torch.int32) + half) & kept).view(torch.float32)


def run(problem: Problem, race: Race | None = None) -> dict[str, Tensor]:
    """Outputs and gradients of one direction, computed in float32 and given in the case's dtype.

    The operands of each product are rounded to the case's format, as kernels round what they
    multiply; the state and the gates stay in float32.
    """
    case = problem.case
    io = DTYPE[case.dtype]

    def operand(x: Tensor) -> Tensor:
        return round_to_tf32(x) if case.precision == "tf32" else x.to(io).float()

    counts = {"forward": 0, "backward": 0}
    stored: dict[str, Tensor] = {}

    def multiply(loop: str, x: Tensor, w: Tensor) -> Tensor:
        """x [B, *] @ w.T, of which the race's tile reads the x of the call before."""
        before, stored[loop] = stored.get(loop, x), x
        counts[loop] += 1
        found = x @ w.t()
        if race is not None and race.loop == loop and counts[loop] == race.step + 1:
            stale = x.unflatten(-1, (-1, case.H)).clone()
            old = before.unflatten(-1, (-1, case.H))
            stale[race.rows, :, race.written] = old[race.rows, :, race.written]
            wrong = (stale.flatten(1) @ w.t()).unflatten(-1, (-1, case.H))
            tile = found.unflatten(-1, (-1, case.H))
            tile[race.rows, :, race.readers] = wrong[race.rows, :, race.readers]
        return found

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
            h, w = operand(h), operand(w)
            ctx.save_for_backward(h, w)
            return multiply("forward", h, w) + b

        @staticmethod
        def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, w = ctx.saved_tensors
            rounded = operand(dz)
            return multiply("backward", rounded, w.t()), rounded.t() @ h, dz.sum(0)

    leaves = {name: value.float().requires_grad_() for name, value in problem.inputs.items()}
    with ExitStack() as patches:
        for module in ("rnn", "lstm", "gru", "slstm"):
            patches.enter_context(
                mock.patch.object(sys.modules[f"reference.{module}"], "linear", Linear.apply)
            )
        y, *last = reference.recurrence(
            case.cell, leaves["gx"], leaves["w_hh"], leaves["b_hh"], *loop_state(leaves),
            resets=problem.resets,
        )  # fmt: skip
        outputs = named_outputs(case, y, last)
        gradients = torch.autograd.grad(
            list(outputs.values()),
            list(leaves.values()),
            [problem.upstream[name].float() for name in outputs],
        )
    found = outputs | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {name: value.detach().to(io) for name, value in found.items()}
