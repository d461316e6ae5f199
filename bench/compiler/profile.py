"""What each part of the loop over time costs, by leaving it out (``python -m bench profile``).

Without a GPU: the compiler's view, instructions and registers. With one, planned for it as calls
are, and the time per step too.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from bench.cases.cases import CELLS
from bench.cases.numbers import TORCH_NAMES
from bench.compiler import compile_kernel, resources
from kernels.plan import Problem, backward_plan, forward_plan
from kernels.plan.devices import Device

STEPS = 512  # enough that starting and ending do not count
# "saving" is what the forward loop stores for the backward pass.
NO_STORES = (
    "cannot be left out: the backward loop stores the gates' gradients, which its programs exchange"
)


def variants(
    device: Device, cell: str, H: int, B: int, number: str, loop: str
) -> list[compile_kernel.Variant]:
    """The planned kernel of a case, whole and with each part left out."""
    from bench.compiler.ablation import available

    dtype, _, precision = number.partition(":")
    precision = precision or "ieee"
    problem = Problem(CELLS[cell].gates, B, H, 1, TORCH_NAMES[dtype], precision)
    plan = (forward_plan if loop == "fwd" else backward_plan)(problem, device, "persistent")
    whole = compile_kernel.Variant(
        cell, loop, H, 1, dtype, precision, plan, features=("bias", "lengths", "save")
    )
    return [replace(whole, without=part) for part in available(loop)]


def look(variant: compile_kernel.Variant, device: Device) -> compile_kernel.Compiled | str:
    """What the compiler makes of a variant, or why it makes nothing."""
    try:
        return compile_kernel.inspect(
            compile_kernel.compile_variant(variant, device), variant, device
        )
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def compiled(
    found: list[compile_kernel.Variant], device: Device
) -> list[compile_kernel.Compiled | str]:
    """:func:`look` for several variants at once, in processes that compile whatever this one does.

    Raises:
        RuntimeError: if a compiler's process dies.
    """
    workers = min(len(found), os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    with resources.compiling(), ProcessPoolExecutor(workers, spawn) as pool:
        try:
            return list(pool.map(look, found, [device] * len(found)))
        except BrokenProcessPool:
            raise RuntimeError("a process that compiled a variant died") from None


def microseconds(variant: compile_kernel.Variant, B: int) -> float:
    """The median time per step on the present GPU, µs.

    Raises:
        BarrierError: if a barrier gave up, whose time says nothing.
    """
    import torch
    import triton

    import kernels
    from kernels import launch

    kernel, values = compile_kernel.arguments(variant, T=STEPS, B=B, device="cuda")
    options = launch.options(variant.plan)
    if variant.without == "barrier":
        options |= {"launch_cooperative_grid": False}
    counters = values["counters_ptr"]

    def once() -> None:
        if counters is not None:
            counters.zero_()
        kernel[(variant.plan.programs,)](**values, **options)

    once()
    torch.cuda.synchronize()
    taken = float(triton.testing.do_bench(once, return_mode="median")) * 1e3 / STEPS
    kernels.check()
    return taken


def present() -> Device | None:
    """The GPU that calls here run on, as the plan sees it; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    from kernels.autograd import device_limits

    return device_limits(torch.device("cuda", torch.cuda.current_device()))


def report(device: Device, cell: str, hidden: int, batch: int, dtype: str, timed: bool) -> None:
    """Print the table of each loop; with times, of the present GPU."""
    head = (
        f"{'without':<10}{'instructions':>13}{'registers':>10}{'tensor cores':>13}{'barriers':>9}"
    )
    for loop, words in (("fwd", "forward"), ("bwd", "backward")):
        found = variants(device, cell, hidden, batch, dtype, loop)
        plan = found[0].plan
        print(
            f"{words} on {device.name}: {plan.mode}, {plan.programs} programs of {plan.units} "
            f"units x {plan.block_b} sequences; expected {plan.floor_us:.2f} µs a step"
        )
        print(head + (f"{'µs a step':>11}{'less':>8}" if timed else ""))
        whole = None
        for variant, seen in zip(found, compiled(found, device), strict=True):
            name = variant.without or "nothing"
            if isinstance(seen, str):
                print(f"{name:<10}{seen}")
                continue
            line = (
                f"{name:<10}{seen.loop_instructions:>13}{seen.registers:>10}"
                f"{seen.tensor_core:>13}{seen.barriers:>9}"
            )
            if timed:
                time = microseconds(variant, batch)
                whole = time if whole is None else whole
                line += f"{time:>11.2f}{whole - time:>8.2f}"
            print(line)
        if loop == "bwd":
            print(f"{'saving':<10}{NO_STORES}")
