"""Checks of ``bench check-gpu`` on how kernels are launched: repeatedly, on several streams, in
CUDA graphs, with a program missing for which others wait, and under compute-sanitizer.

Each is a unit of ``bench.sweep.pool``, like those of ``bench.gpu.value_checks``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.gpu.value_checks import Comparison, make_inputs, run_kernels
from bench.records.failed_checks import Suspect
from bench.sweep.pool import Failed, NotDone, Skipped
from bench.sweep.process import TookTooLong, run_command

if TYPE_CHECKING:
    from torch import Tensor

FEW_POLLS = 1000  # of a barrier that is never completed: about a millisecond
# Gradients that torch's GEMMs and sums compute from those of our kernels, outside the loop.
BY_TORCH = ("dw_hh", "db_hh")
SANITIZER_SECONDS = 120.0
SANITIZERS = ("memcheck", "synccheck")


def cases(rehearse: bool) -> list[Comparison]:
    """An LSTM, and a GRU, whose candidate keeps the input's and the state's terms apart."""
    if rehearse:
        lstm = Comparison("lstm", "fp32", "ieee", "both", 2, 2, 5, "auto", masks=True)
    else:
        lstm = Comparison("lstm", "bf16", "none", "both", 50, 32, 512, "persistent", masks=True)
    return [lstm, replace(lstm, cell="gru")]


class Repetitions:
    """Compares calls with the first one, on the device and without synchronizing.

    Tensors that our kernels wrote must be equal bit for bit. Those that torch computes from them
    need only be within their tolerance, since cuBLAS may take another algorithm during other work
    or in a graph; in mode "gemm" those are all tensors.

    Args:
        first: the first call's tensors.
    """

    def __init__(self, comparison: Comparison, first: dict[str, Tensor]) -> None:
        import torch

        self.comparison, self.first, self.calls = comparison, first, 0
        self.by_torch = [n for n in first if n in BY_TORCH or comparison.mode == "gemm"]
        self.found = {name: x.new_zeros(1, dtype=torch.float64) for name, x in first.items()}

    def add(self, call: dict[str, Tensor]) -> None:
        """Compare one more call."""
        import torch

        self.calls += 1
        for name, first in self.first.items():
            if name in self.by_torch:
                norm = torch.linalg.vector_norm(first.double())
                off = torch.linalg.vector_norm(call[name].double() - first.double()) / norm
                self.found[name] = torch.maximum(self.found[name], off)  # NaN stays
            else:
                bits, again = (x.contiguous().view(torch.uint8) for x in (first, call[name]))
                self.found[name] += (bits != again).any()

    def check(self, kind: str) -> str:
        """A line on how many calls agreed, and how closely.

        Raises:
            Failed: naming each tensor that differed.
        """
        from bench.measure.metrics import tolerance

        found = {name: value.item() for name, value in self.found.items()}
        lines = []
        for name, value in found.items():
            bound = tolerance(self.comparison.case, name)
            if name not in self.by_torch and value:
                lines.append(f"{name} differed in {value:.0f} of {self.calls} calls")
            elif name in self.by_torch and not value <= bound:
                lines.append(f"{name} was off by up to {value:.2g}; accepted: {bound:.2g}")
        name = f"{kind}: {self.comparison.name}"
        if lines:
            loop = "backward" if all(line.startswith("d") for line in lines) else "forward"
            mode = None if self.comparison.mode == "auto" else self.comparison.mode
            suspect = Suspect(name, self.comparison.cell, loop, mode)
            raise Failed("; ".join(lines), "\n".join([name, *lines]), (suspect,))
        largest = max((found[name] for name in self.by_torch), default=0.0)
        ours = "" if self.comparison.mode == "gemm" else "our kernels' tensors bit for bit, "
        return f"{self.calls} times {ours}torch's within {largest:.2g}"


def repeat(comparison: Comparison, device: str, times: int) -> str:
    """Equal calls give equal bits."""
    import kernels

    inputs = make_inputs(comparison, device)
    repetitions = Repetitions(comparison, run_kernels(inputs))
    for _ in range(times):
        repetitions.add(run_kernels(inputs))
    kernels.check()
    return repetitions.check("repetitions")


def streams(comparison: Comparison, device: str, times: int) -> str:
    """Equal bits while one stream multiplies matrices and another runs the same kernels."""
    import torch

    import kernels

    inputs = make_inputs(comparison, device)
    repetitions = Repetitions(comparison, run_kernels(inputs))
    if device == "cpu":  # no streams: the same code without them
        repetitions.add(run_kernels(inputs))
        repetitions.check("streams")
        raise Skipped("a CPU has no streams")
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    other, second = torch.cuda.Stream(), torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    second.wait_stream(torch.cuda.current_stream())
    concurrent = []
    for turn in range(times):
        with torch.cuda.stream(other):
            for _ in range(4):
                torch.mm(a, a)
        with torch.cuda.stream(second):
            concurrent.append(run_kernels(inputs))
        repetitions.add(run_kernels(inputs))
        if len(concurrent) == 8 or turn == times - 1:
            torch.cuda.synchronize()
            for found in concurrent:
                repetitions.add(found)
            torch.cuda.synchronize()  # the other stream reuses the memory that is freed here
            concurrent.clear()
    kernels.check()
    return repetitions.check("streams")


def graph(comparison: Comparison, device: str, times: int) -> str:
    """A CUDA graph of both passes, replayed with new inputs, agrees with eager calls."""
    import torch

    import kernels

    inputs = make_inputs(comparison, device)
    if device == "cpu":
        run_kernels(inputs)
        raise Skipped("a CPU has no CUDA graphs")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run_kernels(inputs)
    torch.cuda.current_stream().wait_stream(side)
    kernels.check()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        static = run_kernels(inputs)
    line = ""
    for turn in range(times):
        inputs.tensors["gx"].normal_(generator=torch.Generator(device).manual_seed(turn))
        captured.replay()
        replayed = {name: tensor.clone() for name, tensor in static.items()}
        against_eager = Repetitions(comparison, run_kernels(inputs))
        against_eager.add(replayed)
        line = against_eager.check("graph")
    kernels.check()
    return f"{times} replays with new inputs as the eager call, {line.removeprefix('1 times ')}"


def missing_program(backward: bool, device: str, in_graph: bool) -> str:
    """A launch without its last program ends, its failure is reported, and the next call works.

    The interpreter can run this too: the others give up waiting, whether or not they run at once.
    """
    import torch

    import kernels
    from bench.compiler import compile_kernel, resources
    from kernels import failures, launch
    from kernels.planning import device_limits

    if in_graph and device == "cpu":
        raise Skipped("a CPU has no CUDA graphs")
    T, B = 3, 4
    H = 512 if device == "cuda" else 20
    limits = device_limits(torch.device(device, 0) if device == "cuda" else torch.device("cpu"))
    name, pass_ = ("backward", "bwd") if backward else ("forward", "fwd")
    variant = resources.plan_variant(limits, "lstm", pass_, H, B, "bf16", "persistent")
    plan = variant.plan
    if device == "cpu":  # the smallest plan with a barrier, since interpreting is slow
        plan = replace(
            plan, units=16, split=1, group=2, batch_groups=1, tiles=1, block_k=32, resident=1,
            ahead=1,
        )  # fmt: skip
    if plan.group == 1:
        raise NotDone("the plan has no barrier: a group is one program")
    variant = replace(variant, plan=plan, features=("save",))
    kernel, arguments = compile_kernel.arguments(variant, T, B, device)
    result = arguments["dstate_ptr" if backward else "state_ptr"]

    def run(programs: int) -> None:
        kernel[(programs,)](**arguments, **launch.options(plan))

    if in_graph:
        run(plan.programs)  # compile and load the kernel, which a capture does not allow
        failures.check()
        arguments["max_polls"] = FEW_POLLS
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            arguments["counters_ptr"].zero_()
            run(plan.programs - 1)
        kernels.check()  # the graph has not run yet
        captured.replay()
    else:
        arguments["max_polls"] = FEW_POLLS
        run(plan.programs - 1)
    try:
        failures.check()
    except kernels.BarrierError as error:
        reported = str(error)
    else:
        raise Failed("a launch without its last program ended, and no BarrierError was raised")
    if f"the {name} kernel" not in reported:
        raise Failed(f"the BarrierError does not name the {name} kernel: {reported}")
    if not bool(result.isnan().any()):
        raise Failed("the outputs of a launch without its last program hold no NaN")
    run_kernels(make_inputs(cases(rehearse=device == "cpu")[0], device))
    kernels.check()
    return reported.split(": ")[0]


def run_sanitizer(tool: str, cell: str, cuda: bool) -> str:
    """Run a cell's persistent kernels on a small case under one of ``SANITIZERS``.

    Raises:
        Failed: if it found errors.
        Skipped: where it is not installed, or there is no GPU.
        NotDone: if the system refused it, or it took too long.
    """
    folders = os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin"
    program = shutil.which("compute-sanitizer", path=folders)
    if not cuda or program is None:
        raise Skipped("compute-sanitizer is not installed" if cuda else "needs a GPU")
    code = f"from bench.gpu import value_checks; value_checks.run_sanitizer_case({cell!r})"
    command = [program, "--tool", tool, "--error-exitcode", "9"]
    if tool == "memcheck":  # torch and Triton make driver calls that may fail
        command += ["--report-api-errors", "no"]
    try:
        done = run_command(
            [*command, sys.executable, "-c", code], SANITIZER_SECONDS,
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except TookTooLong:
        raise NotDone(f"{tool} did not end within {SANITIZER_SECONDS:.0f} s") from None
    return sanitizer_verdict(done.stdout, done.returncode)


def sanitizer_verdict(output: str, code: int) -> str:
    """The summary line of compute-sanitizer's output.

    Raises:
        Failed: naming the first error it found.
        NotDone: if the system refused it, or the program under it ended early.
    """
    lines = [line.strip("= ") for line in output.splitlines() if line.strip("= ")]
    summary = re.search(r"ERROR SUMMARY: (\d+) error", output)
    if summary and int(summary[1]):
        marked = [line.strip("= ") for line in output.splitlines() if line.startswith("=====")]
        first = next(line for line in marked if line and not line.startswith("COMPUTE-SANITIZER"))
        raise Failed(f"{summary[1]} errors; first: {first}", output)
    if code or not summary:
        last = lines[-1] if lines else "it printed nothing"
        raise NotDone(f"compute-sanitizer did not run (exit code {code}): {last[:200]}")
    return summary.string[summary.start() :].splitlines()[0]
