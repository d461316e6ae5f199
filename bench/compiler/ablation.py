"""The loop over time with one part left out, to see what that part costs.

A part is left out by arguments that the kernels have anyway, not by switches for profiling. The
results of such a launch are meaningless.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.recurrence import POINTWISE

# The parts that may be left out, and what is done instead.
WITHOUT = {
    "": "the whole loop",
    "barrier": "no program waits for another",
    "product": "no gather of the state and no product: sums are read from memory",
    "gates": "sums in place of the cell's activations",
    "saving": "nothing kept for the backward pass",
}


@triton.jit
def _total(x, r, GATES: tl.constexpr):
    total = x[0] + r[0]
    for g in tl.static_range(1, GATES):
        total += x[g] + r[g]
    return total


@triton.jit
def one_gate(x, r, state):
    return (_total(x, r, 1),), ()


@triton.jit
def three_gates(x, r, state):
    h = _total(x, r, 3)
    return (h + state[0],), (h, h, h, h)


@triton.jit
def four_gates(x, r, state):
    h = _total(x, r, 4)
    return (h, h + state[1]), (h, h, h, h)


@triton.jit
def one_gradient(dstate, state, previous, saved):
    da = dstate[0] + state[0]
    return (da,), (da,), (da,)


@triton.jit
def three_gradients(dstate, state, previous, saved):
    da = dstate[0] + previous[0] + saved[0] + saved[1] + saved[2] + saved[3]
    return (da, da, da), (da, da, dstate[0]), (da,)


@triton.jit
def four_gradients(dstate, state, previous, saved):
    da = dstate[0] + saved[0] + saved[1] + saved[2] + saved[3]
    dc = dstate[1] + state[1] + previous[1]
    return (da, dc, da, dc), (da, dc, da, dc), (da, dc)


STEPS = {1: one_gate, 3: three_gates, 4: four_gates}
GRADIENTS = {1: one_gradient, 3: three_gradients, 4: four_gradients}


def available(pass_: str) -> tuple[str, ...]:
    """The parts that can be left out of a loop, "fwd" or "bwd"; "" first for the whole."""
    return tuple(name for name in WITHOUT if pass_ == "fwd" or name != "saving")


def leave_out(part: str, pass_: str, values: dict[str, Any]) -> dict[str, Any]:
    """A kernel's arguments without one part of its work."""
    gates, forward = values["GATES"], pass_ == "fwd"
    if part == "barrier":
        return values | {"PERSISTENT": False, "counters_ptr": None, "error_ptr": None}
    if part == "gates":
        name, steps = ("STEP", STEPS) if forward else ("STEP_GRADIENT", GRADIENTS)
        return values | {name: steps[gates]}
    if part == "product" and forward:
        D, B, H = values["D"], values["B"], values["H"]
        sums = torch.zeros(D, B, gates * H, device=values["gx_ptr"].device)
        return values | {"product_ptr": sums, "bias_ptr": None, "RESIDENT": 0, "AHEAD": 1}
    if part == "product":
        values = values | {"PHASE": POINTWISE.value}
        if values["partial_ptr"] is None:
            values["partial_ptr"] = torch.zeros_like(values["dstate_ptr"][:1])
        return values
    if part == "saving" and forward:
        return values | {"saved_ptr": None, "history_ptr": None}
    if part:
        raise ValueError(f"part is {part!r}; accepted: {', '.join(filter(None, available(pass_)))}")
    return values
