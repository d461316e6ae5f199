"""Host time of a call: what Python, torch and Triton take until a kernel would be launched.

`python -m tests.helpers.host_time`, without a GPU. Tensors are on the CPU and the driver launches
nothing (`launch_recorder.py`): the times of the C launcher, cuBLAS, the CUDA driver and torch's
CUDA allocator are not included. The clock is the process's CPU time, to exclude other processes.
"""

import os
import platform
import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from torch import Tensor

import kernels
from bench.records.environment import cpu_name
from kernels import gemm, launch
from kernels.cells import CELLS
from kernels.inputs import Recurrence
from kernels.planning import plans
from tests.helpers import launch_recorder

# float32 and small, so that what torch computes on the CPU takes negligible time, but large enough
# that several programs exchange the state.
T, B, I, H = 4, 1, 16, 40
STEPS = 64
REPEATS = 40


def microseconds(call: Callable[[], Any], calls: int = 50) -> float:
    """CPU time of a call in µs: the least of REPEATS means, after one call that compiles."""
    call()
    samples = timeit.repeat(call, timer=time.process_time, number=calls, repeat=REPEATS)
    return min(samples) / calls * 1e6


def recurrence(units: int) -> Recurrence:
    """An LSTM of this many units, over B sequences."""
    w_hh, initial = torch.zeros(1, 4 * units, units), torch.zeros(2, 1, B, units)
    return Recurrence(CELLS["lstm"], w_hh, None, initial, None, None, "forward", "ieee")


def one_launch() -> Callable[[], Any]:
    """A function that launches the forward kernel, with its arguments prepared."""
    inputs = recurrence(H)
    plan, _ = plans(inputs.cell, inputs.w_hh, B)
    arguments = launch.forward_arguments(inputs, plan, torch.zeros(T, B, 1, 4 * H), save=False)
    return partial(
        launch.forward_kernel[(plan.programs,)], **arguments, **launch.options(plan), begin=0, end=T
    )


def trained(run: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], Any]:
    """`run` followed by its gradient with respect to `leaves`; without leaves only `run`."""
    above = torch.zeros_like(run())
    if not leaves:
        return torch.no_grad()(run)
    for leaf in leaves:
        leaf.requires_grad_()
    return lambda: torch.autograd.grad(run(), leaves, above)


def loop(steps: int, mode: str = "auto", backward: bool = False) -> Callable[[], Any]:
    gx, w_hh = torch.zeros(steps, B, 1, 4 * H), torch.zeros(1, 4 * H, H)
    run = partial(kernels.recurrence, "lstm", gx, w_hh, mode=mode)
    return trained(lambda: run()[0], *((gx, w_hh) if backward else ()))


def layer(backward: bool = False) -> Callable[[], Any]:
    shapes = ((4 * H, I), (4 * H, H), (4 * H,), (4 * H,))
    x, weights = torch.zeros(T, B, I), tuple(torch.zeros(shape) for shape in shapes)
    return trained(lambda: kernels.lstm(x, [weights])[0], *(weights if backward else ()))


def per_step(mode: str) -> float:
    """Host time of a step in µs: the difference between a long and a short call, per step."""
    long, short = (microseconds(loop(steps, mode), 5) for steps in (2 * STEPS, STEPS))
    return (long - short) / STEPS


def one_product() -> Callable[[], Any]:
    """A function that does one step's matrix product of mode="gemm", with one hidden unit."""
    out, y = torch.zeros(1, B, 4), torch.zeros(2, B, 1)
    return partial(gemm.forward_products(recurrence(1), out, y), 1)


def main() -> None:
    torch.set_num_threads(1)
    launch_recorder.install(record=False)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{cpu_name()}, {versions}, Triton {triton.__version__}")
    print(f"Host time in µs, LSTM, float32, T={T}, B={B}, H={H}")
    for what, found in (
        ("one launch of the forward kernel", microseconds(one_launch())),
        ("recurrence, forward", microseconds(loop(T))),
        ("lstm, forward", microseconds(layer())),
        ("recurrence, forward + backward", microseconds(loop(T, backward=True))),
        ("lstm, forward + backward", microseconds(layer(backward=True))),
        ("a step of mode='stepwise', forward", per_step("stepwise")),
        ("a step of mode='gemm', forward", per_step("gemm")),
        ("of it, the product", microseconds(one_product())),
    ):
        print(f"{found:8.1f}  {what}", flush=True)


if __name__ == "__main__":
    main()
