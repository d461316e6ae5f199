"""What each part of the loop over time costs, by leaving it out (``python -m bench profile``).

Without a GPU, in instructions and registers; with one, planned for it as calls are, also in time
per step.
"""

from dataclasses import replace
from typing import Any

import torch
import triton

import kernels
from bench.compiler import compile_kernel, resources
from bench.compiler.ablation import available
from bench.compiler.compile_kernel import Variant
from kernels import launch
from kernels.plan.devices import Device
from kernels.planning import device_limits

STEPS = 512  # enough that starting and ending are negligible
# "saving" is what the forward loop stores for the backward pass.
NO_STORES = (
    "cannot be left out: the backward loop stores the gates' gradients, which its programs exchange"
)


def variants(device: Device, cell: str, H: int, B: int, number: str, loop: str) -> list[Variant]:
    """The planned kernel of a case, whole and with each part left out."""
    planned = resources.plan_variant(device, cell, loop, H, B, number, "persistent")
    whole = replace(planned, features=("bias", "lengths", "save"))
    return [replace(whole, without=part) for part in available(loop)]


def compile_variants(found: list[Variant], device: Device) -> list[dict[str, Any]]:
    """What ``resources.compile_all`` yields for each variant, in order."""
    jobs = [resources.Job(variant, (), device) for variant in found]
    results = {job.variant.without: result for job, result in resources.compile_all(jobs)}
    return [results[variant.without] for variant in found]


def step_microseconds(variant: Variant, B: int) -> float:
    """The median time per step on the present GPU, µs.

    Raises:
        BarrierError: if a barrier gave up, since the time is then meaningless.
    """
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


def present_device() -> Device | None:
    """The GPU that calls here run on, as the plan sees it; None without one."""
    if not torch.cuda.is_available():
        return None
    return device_limits(torch.device("cuda", torch.cuda.current_device()))


def report(device: Device, cell: str, hidden: int, batch: int, dtype: str, timed: bool) -> None:
    """Print the table of each loop; with times, of the present GPU."""
    columns = (
        f"{'without':<10}{'instructions':>13}{'registers':>10}{'tensor cores':>13}{'barriers':>9}"
    )
    for loop, words in (("fwd", "forward"), ("bwd", "backward")):
        found = variants(device, cell, hidden, batch, dtype, loop)
        plan = found[0].plan
        print(
            f"{words} on {device.name}: {plan.mode}, {plan.programs} programs of {plan.units} "
            f"units x {plan.block_b} sequences; expected {plan.floor_us:.2f} µs a step"
        )
        print(columns + (f"{'µs a step':>11}{'less':>8}" if timed else ""))
        whole = None
        for variant, result in zip(found, compile_variants(found, device), strict=True):
            name, seen = variant.without or "nothing", result.get("resources")
            if seen is None:
                print(f"{name:<10}{result['reason'][:200]}")
                continue
            line = (
                f"{name:<10}{seen['loop_instructions']:>13}{seen['registers']:>10}"
                f"{seen['tensor_core']:>13}{seen['barriers']:>9}"
            )
            if timed:
                time = step_microseconds(variant, batch)
                whole = time if whole is None else whole
                line += f"{time:>11.2f}{whole - time:>8.2f}"
            print(line)
        if loop == "bwd":
            print(f"{'saving':<10}{NO_STORES}")
