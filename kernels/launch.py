"""From tensors and a plan to launches: persistent, stepwise, or with a GEMM for each step.

`forward` and `backward` take contiguous tensors of one device and trust them (`checks.py` has
looked). Every mode launches the same two kernels with the same arguments but for the steps.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from . import failures, gemm
from .barrier import ABORTED, COUNTER_STRIDE
from .cells.cell import Cell
from .plan import Plan
from .recurrence import BOTH, POINTWISE, PRODUCT, backward_kernel, forward_kernel

# A step takes microseconds; this many polls of an L2 word take several seconds.
MAX_POLLS = 1 << 23


def forward(
    cell: Cell,
    plan: Plan,
    gx: Tensor,  # [T, B, D, G*H]
    w_hh: Tensor,  # [D, G*H, H]
    b_hh: Tensor | None,  # [D, G*H]
    initial: Tensor,  # [STATES, D, B, H]
    lengths: Tensor | None,  # [B] int32
    resets: Tensor | None,  # [T, B] uint8
    reverse: bool,
    save: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Run the loop: y [T, B, D*H], the final state [STATES, D, B, H] in float32, what is saved."""
    T, B = gx.shape[:2]
    arguments = forward_arguments(
        cell, plan, gx, w_hh, b_hh, initial, lengths, resets, reverse, save, precision
    )
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
            multiply_step = gemm.forward_products(
                arguments["product_ptr"], y, initial[0], w_hh, b_hh, lengths, resets, reverse
            )
            launch_step = _stepwise(forward_kernel, plan, arguments)
            with gemm.matmul_precision(precision) if gx.dtype == torch.float32 else nullcontext():
                for step in range(T):
                    multiply_step(step)
                    launch_step(step)
    return y, state, arguments["history_ptr"], arguments["saved_ptr"]


def backward(
    cell: Cell,
    plan: Plan,
    dy: Tensor,  # [T, B, D*H]
    dfinal: Tensor,  # [STATES, D, B, H]
    w_hh: Tensor,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    history: Tensor | None,
    saved: Tensor | None,
    reverse: bool,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run back through time: gradients of the input gates and of the recurrent gates [T, B, D, G*H]
    (one tensor where they are equal), and of the initial state [STATES, D, B, H] in float32.
    """
    T, B = dy.shape[:2]
    arguments = backward_arguments(
        cell,
        plan,
        dy,
        dfinal,
        w_hh,
        initial,
        lengths,
        resets,
        y,
        history,
        saved,
        reverse,
        precision,
    )
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
            multiply_step = gemm.backward_products(
                arguments["partial_ptr"], dr, w_hh, lengths, reverse
            )
            launch_item = _stepwise(backward_kernel, plan, arguments | {"PHASE": POINTWISE.value})
            with gemm.matmul_precision(precision) if dy.dtype == torch.float32 else nullcontext():
                for item in range(T + 1):
                    if item > 0:
                        multiply_step(T - item)
                    launch_item(item)
    dstate, dinitial = arguments["dstate_ptr"], arguments["dinitial_ptr"]
    return dgx, dr, dstate if dinitial is None else dstate + dinitial


def _launch(kernel: Any, plan: Plan, arguments: dict[str, Any], begin: int, end: int) -> Any:
    """Launch for these steps; returns the compiled kernel, or None in the interpreter."""
    return kernel[(plan.programs, 1, 1)](begin=begin, end=end, **arguments, **options(plan))


def _stepwise(kernel: Any, plan: Plan, arguments: dict[str, Any]) -> Callable[[int], None]:
    """What launches the kernel for one step.

    Triton binds all arguments and looks their kernel up at each launch, which takes most of the
    launch's time in Python. From step to step no argument changes that a compilation depends on
    (`RUNTIME`), so all launches but the first are of the kernel that the first one found.
    """
    found: Callable[..., None] | None = None
    values: list[Any] = []
    place = 0  # of `begin` among the values, `end` behind it

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


def forward_arguments(
    cell: Cell,
    plan: Plan,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    save: bool,
    precision: str,
) -> dict[str, Any]:
    """All of `forward_kernel`'s arguments but `begin` and `end`, with what it writes."""
    (T, B, D, K), H = gx.shape, w_hh.shape[-1]
    with_gemm = plan.mode == "gemm"
    state = initial.to(torch.float32, copy=True)
    saves_history, saves_gates = save and cell.states > 1, save and cell.saved > 0
    groups = plan.batch_groups * plan.tiles * D
    return _common_arguments(cell, plan, gx, w_hh, reverse, precision, groups) | {
        "gx_ptr": gx,
        "w_ptr": w_hh,
        "bias_ptr": None if with_gemm else b_hh,
        "h0_ptr": initial[0],
        "lengths_ptr": lengths,
        "resets_ptr": resets,
        "initial_ptr": None if resets is None else initial.float(),
        "state_ptr": state,
        "y_ptr": gx.new_empty(T, B, D * H),
        "history_ptr": state.new_empty(cell.states - 1, T, B, D, H) if saves_history else None,
        "saved_ptr": gx.new_empty(T, B, D, H, cell.saved) if saves_gates else None,
        "product_ptr": state.new_empty(D, B, K) if with_gemm else None,
        "STEP": cell.step,
        "UNITS": plan.units,
    }


def backward_arguments(
    cell: Cell,
    plan: Plan,
    dy: Tensor,
    dfinal: Tensor,
    w_hh: Tensor,
    initial: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    history: Tensor | None,
    saved: Tensor | None,
    reverse: bool,
    precision: str,
) -> dict[str, Any]:
    """All of `backward_kernel`'s arguments but `begin`, `end` and `PHASE`, with what it writes."""
    (T, B, _), (D, K, H) = dy.shape, w_hh.shape
    dgx = dy.new_empty(T, B, D, K)
    dstate = dfinal.to(torch.float32, copy=True)
    sums = plan.split > 1 or plan.mode == "gemm"
    groups = plan.batch_groups * plan.tiles * D * (1 + plan.group // plan.split)
    return _common_arguments(cell, plan, dy, w_hh, reverse, precision, groups) | {
        "w_ptr": w_hh,
        "h0_ptr": initial[0],
        "initial_ptr": initial.float(),
        "lengths_ptr": lengths,
        "resets_ptr": resets,
        "y_ptr": y,
        "history_ptr": history,
        "saved_ptr": saved,
        "dy_ptr": dy,
        "dgx_ptr": dgx,
        "dr_ptr": torch.empty_like(dgx) if cell.separate else dgx,
        "dstate_ptr": dstate,
        "dinitial_ptr": None if resets is None else torch.zeros_like(dstate),
        "partial_ptr": dstate.new_empty(plan.split, D, B, H) if sums else None,
        "STEP_GRADIENT": cell.step_gradient,
        "SEPARATE": cell.separate,
        "BLOCK_M": plan.units,
        "SPLIT": plan.split,
    }


def _common_arguments(
    cell: Cell,
    plan: Plan,
    sequence: Tensor,  # [T, B, ...]
    w_hh: Tensor,
    reverse: bool,
    precision: str,
    groups: int,
) -> dict[str, Any]:
    """What both kernels take alike; each of the `groups` that meet has a fresh counter."""
    T, B = sequence.shape[:2]
    meets = plan.mode == "persistent" and plan.group > 1
    counters = None
    if meets:
        counters = torch.zeros(groups, COUNTER_STRIDE, dtype=torch.int32, device=sequence.device)
    return {
        "counters_ptr": counters,
        "error_ptr": failures.word(sequence.device) if meets else None,
        "T": T,
        "B": B,
        "tiles": plan.tiles,
        "batch_groups": plan.batch_groups,
        "reverse": int(reverse),
        "first_program": 0,
        "max_polls": MAX_POLLS,
        "H": w_hh.shape[-1],
        "D": w_hh.shape[0],
        "GATES": cell.gates,
        "STATES": cell.states,
        "SAVED": cell.saved,
        "BLOCK_B": plan.block_b,
        "BLOCK_K": plan.block_k,
        "RESIDENT": plan.resident,
        "AHEAD": plan.ahead,
        "INTERLEAVED": plan.tiles > 1,
        "PERSISTENT": plan.mode == "persistent",
        "PRECISION": precision,
    }


def options(plan: Plan, hip: bool = bool(torch.version.hip)) -> dict[str, Any]:
    """Launch options: warps, registers, and the promise that all programs run at once."""
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
    """Triton launches on the current device, whatever device its arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _check_targets(plan: Plan, steps: int) -> None:
    if plan.group > 1 and plan.group * steps >= ABORTED:
        raise ValueError(
            f"{steps} steps of {plan.group} programs exceed the barrier's counter: "
            f"split the sequence into parts of under {ABORTED // plan.group} steps"
        )
