"""Launches of the loop: one for all steps, one for each step, or one for each step after a GEMM.

`forward` and `backward` take contiguous tensors of one device that `checks.py` has accepted. Every
mode launches the same two kernels; the arguments differ only in the range of steps.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from . import failures, gemm
from .barrier import ABORTED, COUNTER_STRIDE
from .cells import CELLS
from .inputs import Recurrence
from .plan import Plan
from .recurrence import BOTH, POINTWISE, PRODUCT, backward_kernel, forward_kernel

# A step takes microseconds; so many polls of a word in L2 take several seconds.
MAX_POLLS = 1 << 23


def _fix_cache_keys() -> None:
    """Hash every device function, always in the same order.

    Triton's key of a compiled kernel covers the constants of a function that it calls only if that
    function was hashed before (`DependenciesFinder._update_hash` in 3.6 and 3.7). Without a fixed
    order the key depends on which kernel a process needs first, and each process may compile again
    what another one has compiled.
    """
    steps = [function for cell in CELLS.values() for function in (cell.step, cell.step_gradient)]
    for function in (*steps, forward_kernel, backward_kernel):
        getattr(function, "cache_key", None)  # an interpreted function has none


_fix_cache_keys()


def forward(
    recurrence: Recurrence,
    plan: Plan,
    gx: Tensor,  # [T, B, D, G*H]
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Run the loop: y [T, B, D*H], the final state [STATES, D, B, H] in float32, and with `save`
    the history of the states and the activations, where the cell has any.
    """
    T, B = gx.shape[:2]
    arguments = forward_arguments(recurrence, plan, gx, save)
    y, state = arguments["y_ptr"], arguments["state_ptr"]
    with _current(gx.device):
        if B == 0:
            pass
        elif plan.mode == "persistent":
            _check_targets(plan, T)
            _launch(forward_kernel, plan, arguments, begin=0, end=T)
        elif plan.mode == "stepwise":
            launch_step = _stepwise(forward_kernel, plan, arguments)
            for step in range(T):
                launch_step(step)
        else:
            multiply_step = gemm.forward_products(recurrence, arguments["product_ptr"], y)
            launch_step = _stepwise(forward_kernel, plan, arguments)
            with gemm.rounding(recurrence.precision, gx.dtype):
                for step in range(T):
                    multiply_step(step)
                    launch_step(step)
    return y, state, arguments["history_ptr"], arguments["saved_ptr"]


def backward(
    recurrence: Recurrence,
    plan: Plan,
    dy: Tensor,  # [T, B, D*H]
    dfinal: Tensor,  # [STATES, D, B, H]
    y: Tensor,
    history: Tensor | None,
    saved: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run back through time: gradients of the input gates and of the recurrent gates [T, B, D, G*H]
    (one tensor where they are equal), and of the initial state [STATES, D, B, H] in float32.
    """
    T, B = dy.shape[:2]
    arguments = backward_arguments(recurrence, plan, dy, dfinal, y, history, saved)
    dgx, dr = arguments["dgx_ptr"], arguments["dr_ptr"]
    with _current(dy.device):
        if B == 0:
            pass
        elif plan.mode == "persistent":
            _check_targets(plan, T + 1)
            _launch(backward_kernel, plan, arguments | {"PHASE": BOTH.value}, begin=0, end=T + 1)
        elif plan.mode == "stepwise":
            phases = [
                _stepwise(backward_kernel, plan, arguments | {"PHASE": phase.value})
                for phase in ((PRODUCT, POINTWISE) if plan.split > 1 else (BOTH,))
            ]
            for item in range(T + 1):
                for launch_item in phases:
                    launch_item(item)
        else:
            multiply_step = gemm.backward_products(recurrence, arguments["partial_ptr"], dr)
            launch_item = _stepwise(backward_kernel, plan, arguments | {"PHASE": POINTWISE.value})
            with gemm.rounding(recurrence.precision, dy.dtype):
                for item in range(T + 1):
                    if item > 0:
                        multiply_step(T - item)
                    launch_item(item)
    dstate, dinitial = arguments["dstate_ptr"], arguments["dinitial_ptr"]
    return dgx, dr, dstate if dinitial is None else dstate + dinitial


def _launch(kernel: Any, plan: Plan, arguments: dict[str, Any], begin: int, end: int) -> Any:
    """Launch for some steps; returns the compiled kernel, or None in the interpreter."""
    return kernel[(plan.programs, 1, 1)](begin=begin, end=end, **arguments, **options(plan))


def _stepwise(kernel: Any, plan: Plan, arguments: dict[str, Any]) -> Callable[[int], None]:
    """A function that launches the kernel for one step.

    At each launch Triton binds the arguments and looks up the compiled kernel, which takes most of
    the launch's time in Python. From step to step only arguments change that are never specialized
    (`RUNTIME`), so every launch but the first reuses the kernel that the first one found.
    """
    found: Callable[..., None] | None = None
    values: list[Any] = []
    place = 0  # index of `begin` among the values; `end` follows it

    def launch(step: int) -> None:
        nonlocal found, values, place
        if found is not None:
            values[place : place + 2] = step, step + 1
            found(*values)
            return
        compiled = _launch(kernel, plan, arguments, step, step + 1)
        if compiled is not None:
            found = compiled[(plan.programs, 1, 1)]
            values = [arguments.get(name) for name in kernel.arg_names]
            place = kernel.arg_names.index("begin")

    return launch


def forward_arguments(recurrence: Recurrence, plan: Plan, gx: Tensor, save: bool) -> dict[str, Any]:
    """All arguments of `forward_kernel` but `begin` and `end`, its new output tensors included."""
    cell, (T, B, D, K), H = recurrence.cell, gx.shape, recurrence.w_hh.shape[-1]
    with_gemm = plan.mode == "gemm"
    initial, resets = recurrence.initial, recurrence.resets
    state = initial.to(torch.float32, copy=True)
    saves_history, saves_gates = save and cell.states > 1, save and cell.saved > 0
    counters = plan.batch_groups * plan.tiles * D
    return _common_arguments(recurrence, plan, gx, counters) | {
        "gx_ptr": gx,
        "bias_ptr": None if with_gemm else recurrence.b_hh,
        "initial_ptr": None if resets is None else initial.float(),
        "state_ptr": state,
        "y_ptr": gx.new_empty(T, B, D * H),
        "history_ptr": state.new_empty(cell.states - 1, T, B, D, H) if saves_history else None,
        "saved_ptr": gx.new_empty(cell.saved, T, B, D, H) if saves_gates else None,
        "product_ptr": state.new_empty(D, B, K) if with_gemm else None,
        "STEP": cell.step,
        "UNITS": plan.units,
    }


def backward_arguments(
    recurrence: Recurrence,
    plan: Plan,
    dy: Tensor,
    dfinal: Tensor,
    y: Tensor,
    history: Tensor | None,
    saved: Tensor | None,
) -> dict[str, Any]:
    """All arguments of `backward_kernel` but `begin`, `end` and `PHASE`, its new output tensors
    included.
    """
    cell, (T, B, _), (D, K, H) = recurrence.cell, dy.shape, recurrence.w_hh.shape
    dgx = dy.new_empty(T, B, D, K)
    dstate = dfinal.to(torch.float32, copy=True)
    sums = plan.split > 1 or plan.mode == "gemm"
    counters = plan.batch_groups * plan.tiles * D * (1 + plan.group // plan.split)
    return _common_arguments(recurrence, plan, dy, counters) | {
        "initial_ptr": recurrence.initial.float(),
        "y_ptr": y,
        "history_ptr": history,
        "saved_ptr": saved,
        "dy_ptr": dy,
        "dgx_ptr": dgx,
        "dr_ptr": torch.empty_like(dgx) if cell.separate else dgx,
        "dstate_ptr": dstate,
        "dinitial_ptr": None if recurrence.resets is None else torch.zeros_like(dstate),
        "partial_ptr": dstate.new_empty(plan.split, D, B, H) if sums else None,
        "STEP_GRADIENT": cell.step_gradient,
        "SEPARATE": cell.separate,
        "BLOCK_M": plan.units,
        "SPLIT": plan.split,
    }


def _common_arguments(
    recurrence: Recurrence,
    plan: Plan,
    sequence: Tensor,  # [T, B, ...]
    counters: int,
) -> dict[str, Any]:
    """The arguments that both kernels share; `counters`: how many a launch with a barrier needs."""
    (T, B), cell = sequence.shape[:2], recurrence.cell
    zeroed = error = None
    if plan.mode == "persistent" and plan.group > 1:
        device = sequence.device
        zeroed = torch.zeros(counters, COUNTER_STRIDE, dtype=torch.int32, device=device)
        error = failures.word(device)
    return {
        "w_ptr": recurrence.w_hh,
        "h0_ptr": recurrence.initial[0],
        "lengths_ptr": recurrence.lengths,
        "resets_ptr": recurrence.resets,
        "counters_ptr": zeroed,
        "error_ptr": error,
        "T": T,
        "B": B,
        "tiles": plan.tiles,
        "batch_groups": plan.batch_groups,
        "reverse": int(recurrence.direction == "reverse"),
        "first_program": 0,
        "max_polls": MAX_POLLS,
        "H": recurrence.w_hh.shape[-1],
        "D": recurrence.w_hh.shape[0],
        "DIRECTIONS": recurrence.directions,
        "OWN_MASKS": recurrence.own_masks,
        "GATES": cell.gates,
        "STATES": cell.states,
        "SAVED": cell.saved,
        "BLOCK_B": plan.block_b,
        "BLOCK_K": plan.block_k,
        "RESIDENT": plan.resident,
        "AHEAD": plan.ahead,
        "INTERLEAVED": plan.tiles > 1,
        "PERSISTENT": plan.mode == "persistent",
        "PRECISION": recurrence.precision,
    }


def options(plan: Plan, hip: bool = bool(torch.version.hip)) -> dict[str, Any]:
    """Launch options: warps, registers, and whether all programs must be co-resident."""
    if hip:
        return {"num_warps": plan.num_warps}
    found: dict[str, Any] = {
        "num_warps": plan.num_warps,
        "launch_cooperative_grid": plan.mode == "persistent" and plan.group > 1,
    }
    if plan.registers is not None:
        found["maxnreg"] = plan.registers
    return found


def _current(device: torch.device) -> AbstractContextManager[object]:
    """A context with `device` as the current one, where Triton launches; does nothing on CPUs."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _check_targets(plan: Plan, steps: int) -> None:
    """Raise ValueError if the barrier's counter could reach ABORTED within `steps` steps."""
    if plan.group > 1 and plan.group * steps >= ABORTED:
        raise ValueError(
            f"{steps} steps of {plan.group} programs exceed the barrier's counter: "
            f"split the sequence into parts of under {ABORTED // plan.group} steps"
        )
