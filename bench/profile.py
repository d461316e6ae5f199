"""``python -m bench profile``: what each part of the loop over time costs, by leaving it out.

Without a GPU: the compiler's view, instructions and registers. With one, the time per step too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from bench import compile_kernel, resources
from bench.cases import CELLS
from bench.plan_command import accept
from kernels.devices import DEVICES
from kernels.plan import Problem, backward_plan, forward_plan

STEPS = 512  # enough that starting and ending do not count


def variants(device: str, cell: str, H: int, B: int, number: str, loop: str, mode: str) -> Any:
    """The planned kernel of a case, whole and with each part left out."""
    from bench.parts import available

    dtype, _, precision = number.partition(":")
    precision = precision or "ieee"
    problem = Problem(CELLS[cell].gates, B, H, 1, compile_kernel.TORCH_NAMES[dtype], precision)
    plan = (forward_plan if loop == "fwd" else backward_plan)(problem, DEVICES[device], mode)
    whole = compile_kernel.Variant(
        cell, loop, H, 1, dtype, precision, plan, features=("bias", "lengths", "save")
    )
    return [replace(whole, without=part) for part in available(loop)]


def microseconds(variant: compile_kernel.Variant, B: int) -> float:
    """The median time per step on the present GPU, µs."""
    import torch
    import triton

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
    return float(triton.testing.do_bench(once, return_mode="median")) * 1e3 / STEPS


def command(
    cell: Annotated[str, typer.Option(help=f"One of {', '.join(resources.CELL_NAMES)}.")] = "lstm",
    hidden: Annotated[int, typer.Option(help="Hidden units H.")] = 1024,
    batch: Annotated[int, typer.Option(help="Sequences B.")] = 16,
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(resources.NUMBERS)}.")] = "bf16",
    device: Annotated[
        str, typer.Option(help=f"Compile for: {', '.join(DEVICES)}; times are of the present GPU.")
    ] = "h100",
    mode: Annotated[str, typer.Option(help="The mode to look into.")] = "persistent",
) -> None:
    """Leave out one part of the loop at a time: what remains, and how much less it is."""
    accept("cell", cell, resources.CELL_NAMES)
    accept("dtype", dtype, resources.NUMBERS)
    accept("device", device, DEVICES)
    import torch

    timed = torch.cuda.is_available()
    head = (
        f"{'without':<10}{'instructions':>13}{'registers':>10}{'tensor cores':>13}{'barriers':>9}"
    )
    for loop, words in (("fwd", "forward"), ("bwd", "backward")):
        found = variants(device, cell, hidden, batch, dtype, loop, mode)
        plan = found[0].plan
        print(
            f"{words}: {plan.mode}, {plan.programs} programs of {plan.units} units x "
            f"{plan.block_b} sequences; expected {plan.floor_us:.2f} µs a step"
        )
        print(head + (f"{'µs a step':>11}{'less':>8}" if timed else ""))
        jobs = [resources.Job(variant, (batch,), device) for variant in found]
        results = {job.variant.without: r for job, r in resources.compile_all(jobs)}
        whole = None
        for variant in found:
            result = results[variant.without]
            name = variant.without or "nothing"
            if result["status"] != "ok":
                print(f"{name:<10}{result['reason']}")
                continue
            seen = result["resources"]
            line = (
                f"{name:<10}{seen['loop_instructions']:>13}{seen['registers']:>10}"
                f"{seen['tensor_core']:>13}{seen['barriers']:>9}"
            )
            if timed:
                time = microseconds(variant, batch)
                whole = time if whole is None else whole
                line += f"{time:>11.2f}{whole - time:>8.2f}"
            print(line)
    if not timed:
        print(
            "no GPU here: counts are of machine instructions in the loop over time, times left out"
        )
