"""From tensors and a plan to launches: persistent, or stepwise with the same kernels.

Both functions take contiguous tensors of one device and trust them (`checks.py` has looked).
"""

import torch
from torch import Tensor

from .barrier import ABORTED, COUNTER_STRIDE
from .cell import Cell
from .failures import watch
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
    """Run the loop: y [T, B, D*H], the final state [STATES, D, B, H] in float32, and what is saved."""
    (T, B, D, _), H = gx.shape, w_hh.shape[-1]
    y = gx.new_empty(T, B, D * H)
    state = initial.float().clone()
    history = saved = None
    if save and cell.states > 1:
        history = state.new_empty(cell.states - 1, T, B, D, H)
    if save and cell.saved:
        saved = gx.new_empty(T, B, D, H, cell.saved)
    counters, error = _counters(plan, gx.device, plan.batch_groups * plan.tiles * D)

    def launch(begin: int, end: int) -> None:
        if B == 0:
            return
        forward_kernel[(plan.programs,)](
            gx, w_hh, b_hh, initial[0], lengths, resets,
            initial.float() if resets is not None else None,
            state, y, history, saved, None, counters, error,
            T, B, begin, end, plan.tiles, plan.batch_groups, int(reverse), 0, MAX_POLLS,
            STEP=cell.step, H=H, D=D, GATES=cell.gates, STATES=cell.states, SAVED=cell.saved,
            UNITS=plan.units, BLOCK_B=plan.block_b, BLOCK_K=plan.block_k, RESIDENT=plan.resident,
            AHEAD=plan.ahead, INTERLEAVED=plan.tiles > 1, PERSISTENT=plan.mode == "persistent",
            PRECISION=precision, **_options(plan),
        )  # fmt: skip

    if plan.mode == "persistent":
        _check_targets(plan.group, T)
        launch(0, T)
        watch(error, "forward")
    else:
        for step in range(T):
            launch(step, step + 1)
    return y, state, history, saved


def backward(
    cell: Cell,
    plan: Plan,
    dy: Tensor,  # [T, B, D*H]
    dfinal: Tensor,  # [STATES, D, B, H] float32
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
    """Run back through time: the input gates' and the recurrent gates' gradients [T, B, D, G*H] (one
    tensor where they are equal), and the initial state's [STATES, D, B, H] in float32.
    """
    (T, B, _), (D, K, H) = dy.shape, w_hh.shape
    dgx = dy.new_empty(T, B, D, K)
    dr = torch.empty_like(dgx) if cell.separate else dgx
    dstate = dfinal.clone()
    dinitial = torch.zeros_like(dstate) if resets is not None else None
    partial = dstate.new_empty(plan.split, D, B, H) if plan.split > 1 else None
    meetings = plan.batch_groups * plan.tiles * D * (1 + plan.group // plan.split)
    counters, error = _counters(plan, dy.device, meetings)
    initial_state = initial.float()

    def launch(begin: int, end: int, phase: int) -> None:
        if B == 0:
            return
        backward_kernel[(plan.programs,)](
            w_hh, initial[0], initial_state, lengths, resets, y, history, saved, dy, dgx, dr,
            dstate, dinitial, partial, counters, error,
            T, B, begin, end, plan.tiles, plan.batch_groups, int(reverse), 0, MAX_POLLS,
            STEP_GRADIENT=cell.step_gradient, H=H, D=D, GATES=cell.gates, STATES=cell.states,
            SAVED=cell.saved, SEPARATE=cell.separate, BLOCK_M=plan.units, SPLIT=plan.split,
            BLOCK_B=plan.block_b, BLOCK_K=plan.block_k, RESIDENT=plan.resident, AHEAD=plan.ahead,
            INTERLEAVED=plan.tiles > 1, PERSISTENT=plan.mode == "persistent", PHASE=phase,
            PRECISION=precision, **_options(plan),
        )  # fmt: skip

    if plan.mode == "persistent":
        _check_targets(plan.group, T + 1)
        launch(0, T + 1, BOTH.value)
        watch(error, "backward")
    else:
        for item in range(T + 1):
            if plan.split > 1:
                launch(item, item + 1, PRODUCT.value)
                launch(item, item + 1, POINTWISE.value)
            else:
                launch(item, item + 1, BOTH.value)
    return dgx, dr, dstate if dinitial is None else dstate + dinitial


def _counters(plan: Plan, device: torch.device, groups: int) -> tuple[Tensor | None, Tensor | None]:
    """One counter for each group that meets, and the word that tells of a failure; fresh in each call."""
    if plan.mode != "persistent" or plan.group == 1:
        return None, None
    counters = torch.zeros(groups, COUNTER_STRIDE, dtype=torch.int32, device=device)
    return counters, torch.zeros(1, dtype=torch.int64, device=device)


def _options(plan: Plan) -> dict:
    cooperative = plan.mode == "persistent" and plan.group > 1 and not torch.version.hip
    return {"num_warps": plan.num_warps, "launch_cooperative_grid": cooperative}


def _check_targets(group: int, steps: int) -> None:
    if group * steps >= ABORTED:
        raise ValueError(
            f"{steps} steps of {group} programs exceed the barrier's counter: "
            f"split the sequence into parts of under {ABORTED // group} steps"
        )
