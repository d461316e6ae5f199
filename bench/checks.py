"""What ``bench check-gpu`` asks of the kernels, each question a function that runs in a process.

A check returns a line on what it found. It raises AssertionError, or whatever the kernels raise, if
they are wrong; ``Skipped`` where this machine cannot make it; ``NotDone`` where something around it
kept it from ending.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench import environment
from bench.cases import Case
from bench.pool import NotDone, Skipped

if TYPE_CHECKING:
    from torch import Tensor

SANITIZER_SECONDS = 120.0
FEW_POLLS = 1000  # of a barrier that nobody will complete: about a millisecond
SANITIZERS = ("memcheck", "synccheck")
# Of sqrt(u), for gradients of rnn_relu at the sizes below; see `accepted`.
RELU = 1.6


@dataclass(frozen=True)
class Value:
    """One comparison with float64: forward and backward of the loop alone."""

    cell: str
    dtype: str
    precision: str
    direction: str  # "forward", "reverse" or "both"
    T: int
    B: int
    H: int
    mode: str
    masks: bool = False  # lengths and resets

    @property
    def case(self) -> Case:
        return Case(
            self.cell, "fwd+bwd", "recurrence", 2 if self.direction == "both" else 1, self.dtype,
            self.precision, 1, self.B, self.T, 0, self.H, 0.1 if self.masks else 0.0,
        )  # fmt: skip

    @property
    def name(self) -> str:
        number = self.dtype if self.precision == "none" else f"{self.dtype}:{self.precision}"
        masks = ", lengths and resets" if self.masks else ""
        sizes = f"T={self.T} B={self.B} H={self.H}"
        return f"{self.cell} {number} {self.direction} {sizes} {self.mode}{masks}"


NUMBERS = (("bf16", "none"), ("fp16", "none"), ("fp32", "tf32"), ("fp32", "ieee"))


def first(cell: str, rehearse: bool) -> Value:
    """What tells most of a cell: both passes, both directions, the barrier, all options."""
    if rehearse:
        return Value(cell, "bf16", "none", "both", 2, 2, 5, "auto", masks=True)
    return Value(cell, "bf16", "none", "both", 50, 32, 512, "persistent", masks=True)


def values(cell: str, dtype: str, precision: str, rehearse: bool) -> Iterator[Value]:
    """What is compared of one cell in one number type, the most telling first."""
    if rehearse:
        yield Value(cell, dtype, precision, "both", 2, 2, 5, "auto", masks=True)
        yield Value(cell, dtype, precision, "reverse", 2, 2, 5, "gemm")
        return
    for direction in ("both", "forward", "reverse"):
        yield Value(cell, dtype, precision, direction, 50, 32, 512, "persistent", masks=True)
    yield Value(cell, dtype, precision, "forward", 50, 64, 1024, "auto")
    yield Value(cell, dtype, precision, "both", 50, 17, 100, "auto", masks=True)
    if dtype == "bf16":
        yield Value(cell, dtype, precision, "both", 20, 256, 64, "auto")
        yield Value(cell, dtype, precision, "forward", 20, 16, 2048, "auto")
        yield Value(cell, dtype, precision, "forward", 20, 2048, 256, "persistent")
        yield Value(cell, dtype, precision, "both", 20, 32, 512, "stepwise", masks=True)
        yield Value(cell, dtype, precision, "both", 20, 32, 512, "gemm", masks=True)


def loop(
    package: Any, value: Value, inputs: dict[str, Tensor], upstream: dict[str, Tensor],
    lengths: Tensor | None, resets: Tensor | None, **how: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Outputs and gradients of ``package.recurrence``, named as in ``bench.problem``."""
    import torch

    from bench.problem import loop_state, named_outputs

    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    y, *last = package.recurrence(
        value.cell, leaves["gx"], leaves["w_hh"], leaves["b_hh"], *loop_state(leaves),
        reverse=value.direction == "reverse", lengths=lengths, resets=resets, **how,
    )  # fmt: skip
    outputs = named_outputs(value.case, y, last)
    gradients = torch.autograd.grad(
        list(outputs.values()),
        list(leaves.values()),
        [upstream[name].to(output.dtype) for name, output in outputs.items()],
    )
    found = {name: output.detach() for name, output in outputs.items()}
    return found | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def ours(value: Value, problem: Any, lengths: Tensor | None) -> dict[str, Tensor]:
    import kernels
    from bench.problem import torch_precision

    precision = None if value.precision == "none" else value.precision
    with torch_precision(value.precision):  # of what torch multiplies, as the benchmark sets it
        return loop(
            kernels, value, problem.inputs, problem.upstream, lengths, problem.resets,
            mode=value.mode, precision=precision,
        )  # fmt: skip


def drawn(value: Value, device: str) -> tuple[Any, Tensor | None]:
    """The numbers of a comparison, and lengths from 1 to T."""
    import torch

    from bench.problem import make_problem

    problem = make_problem(value.case, seed=1, device=device)
    lengths = None
    if value.masks:
        lengths = (torch.arange(value.B) * 7 % value.T + 1).to(device)
    return problem, lengths


def accepted(value: Value, name: str) -> float:
    """The relative L2 error up to which a tensor passes: the benchmark's own bound, but at real
    sizes less for gradients of rnn_relu.

    The benchmark leaves them 8 sqrt(u) for tensors of few elements; the comparisons here have
    thousands. The reference run in bf16 and fp16 on them, which rounds more often than the kernels,
    is off by at most 0.57 sqrt(u). So 1.6 sqrt(u), in bf16 0.1: less than what one missing step's
    term makes of a gradient of 50 (1 / sqrt(50) = 0.14).
    """
    from bench.metrics import ROUNDOFF, tolerance

    bound = tolerance(value.case, name)
    if not name.startswith("d") or value.case.kind.nonlinearity != "relu" or value.H < 64:
        return bound
    u = ROUNDOFF["tf32" if value.precision == "tf32" else value.dtype]
    return min(bound, RELU * math.sqrt(u))


def compare(value: Value, device: str) -> str:
    """The largest error of all outputs and gradients, as a share of what is accepted.

    Raises:
        AssertionError: with the tensor and its error, if one is above what is accepted.
    """
    import kernels
    import reference
    from bench.metrics import errors

    problem, lengths = drawn(value, device)
    found = ours(value, problem, lengths)
    kernels.check()
    exact = loop(
        reference, value, {name: x.double() for name, x in problem.inputs.items()},
        problem.upstream, lengths, problem.resets,
    )  # fmt: skip
    worst, where = 0.0, ""
    for name, tensor in found.items():
        error = errors(tensor, exact[name])["rel_l2"]
        bound = accepted(value, name)
        assert error <= bound, f"{name} is off by {error:.2g} of its norm; accepted: {bound:.2g}"
        if error / bound >= worst:
            worst, where = error / bound, name
    return f"at most {worst:.0%} of the accepted error ({where})"


# Bits. One case each for cells with and without gates that share an input.


def exact_cases(rehearse: bool) -> list[Value]:
    T, B, H = (2, 2, 5) if rehearse else (50, 32, 512)
    number = ("fp32", "ieee") if rehearse else ("bf16", "none")
    mode = "auto" if rehearse else "persistent"
    return [Value(cell, *number, "both", T, B, H, mode, masks=True) for cell in ("lstm", "gru")]


def bits(found: dict[str, Tensor]) -> dict[str, Tensor]:
    import torch

    return {name: x.contiguous().view(torch.uint8) for name, x in found.items()}


def differences(first: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """On the device, how many of the tensors differ in any bit."""
    import torch

    pairs = [(left, bits(found)[name]) for name, left in bits(first).items()]
    return torch.stack([(left != right).any() for left, right in pairs]).sum()


def repeat(value: Value, device: str, times: int) -> str:
    """The same call again and again gives the same bits."""
    import kernels

    problem, lengths = drawn(value, device)
    first = ours(value, problem, lengths)
    different = differences(first, first)
    for _ in range(times):
        different += differences(first, ours(value, problem, lengths))
    kernels.check()
    assert not int(different), f"{int(different)} tensors differed in {times} repetitions"
    return f"{times} repetitions, forward and backward, bit for bit"


def streams(value: Value, device: str, times: int) -> str:
    """The barrier while another stream keeps the GPU busy, and with a second loop beside it."""
    import torch

    import kernels

    problem, lengths = drawn(value, device)
    first = ours(value, problem, lengths)
    different = differences(first, first)
    if device == "cpu":  # no streams: the same code without them
        different += differences(first, ours(value, problem, lengths))
        assert not int(different), "two calls differed"
        raise Skipped("a CPU has no streams")
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    other, second = torch.cuda.Stream(), torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    second.wait_stream(torch.cuda.current_stream())
    beside = []
    for _ in range(times):
        with torch.cuda.stream(other):
            for _ in range(4):
                torch.mm(a, a)
        with torch.cuda.stream(second):
            beside.append(ours(value, problem, lengths))
        different += differences(first, ours(value, problem, lengths))
        if len(beside) == 8:
            torch.cuda.synchronize()
            for found in beside:
                different += differences(first, found)
            beside.clear()
    kernels.check()
    assert not int(different), f"{int(different)} tensors differed in {times} repetitions"
    return f"{times} repetitions beside GEMMs and beside another loop, bit for bit"


def graph(value: Value, device: str, times: int) -> str:
    """Captured once and replayed with new inputs, forward and backward."""
    import torch

    import kernels
    from bench.metrics import errors

    problem, lengths = drawn(value, device)
    if device == "cpu":
        ours(value, problem, lengths)
        raise Skipped("a CPU has no CUDA graphs")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            ours(value, problem, lengths)
    torch.cuda.current_stream().wait_stream(side)
    kernels.check()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        static = ours(value, problem, lengths)
    for turn in range(times):
        problem.inputs["gx"].normal_(generator=torch.Generator(device).manual_seed(turn))
        captured.replay()
        replayed = {name: tensor.clone() for name, tensor in static.items()}
        eager = ours(value, problem, lengths)
        if value.mode != "gemm":
            same = not int(differences(replayed, eager))
            assert same, f"replay {turn} differs from the eager call"
            continue
        for name, tensor in replayed.items():  # cuBLAS may take another algorithm in a graph
            error = errors(tensor, eager[name].double())["rel_l2"]
            assert error <= accepted(value, name), f"replay {turn}: {name} is off by {error:.2g}"
    kernels.check()
    how = "within the accepted error" if value.mode == "gemm" else "bit for bit"
    return f"{times} replays with new inputs, as the eager call {how}"


def missing_program(backward: bool, device: str, in_graph: bool) -> str:
    """A launch without its last program ends by itself, is told of, and the next call works.

    Needs no second program to run at the same time, so the interpreter can do it too.
    """
    import torch

    import kernels
    from kernels import failures, launch
    from kernels.autograd import device_limits
    from kernels.cells import CELLS as KERNEL_CELLS
    from kernels.plan import Problem, backward_plan, forward_plan

    if in_graph and device == "cpu":
        raise Skipped("a CPU has no CUDA graphs")
    cell, T, B, io = KERNEL_CELLS["lstm"], 3, 4, torch.bfloat16
    H = 512 if device == "cuda" else 20
    limits = device_limits(torch.device(device, 0) if device == "cuda" else torch.device("cpu"))
    problem = Problem(gates=4, B=B, H=H, directions=1, dtype="bfloat16", precision="ieee")
    plan = (backward_plan if backward else forward_plan)(problem, limits, "persistent")
    if device == "cpu":  # the least that has a barrier: interpreting a program takes long
        plan = replace(
            plan, units=16, split=1, group=2, batch_groups=1, tiles=1, block_k=32, resident=1,
            ahead=1,
        )  # fmt: skip
    assert plan.group > 1, f"the plan has a group of {plan.group}"

    def zeros(*shape: int, dtype: torch.dtype = io) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    w, initial = zeros(1, 4 * H, H), zeros(2, 1, B, H)
    if backward:
        arguments = launch.backward_arguments(
            cell, plan, zeros(T, B, H), zeros(2, 1, B, H, dtype=torch.float32), w, initial, None,
            None, zeros(T, B, H), zeros(1, T, B, 1, H, dtype=torch.float32),
            zeros(T, B, 1, H, 4), False, "ieee",
        )  # fmt: skip
        kernel, result = launch.backward_kernel, arguments["dstate_ptr"]
        arguments |= {"begin": 0, "end": T + 1, "PHASE": launch.BOTH.value}
    else:
        arguments = launch.forward_arguments(
            cell, plan, zeros(T, B, 1, 4 * H), w, None, initial, None, None, False, True, "ieee"
        )
        kernel, result = launch.forward_kernel, arguments["state_ptr"]
        arguments |= {"begin": 0, "end": T}

    def run(programs: int) -> None:
        kernel[(programs,)](**arguments, **launch.options(plan))

    if in_graph:
        run(plan.programs)  # compiled and loaded before the capture, which allows neither
        failures.check()
        arguments["max_polls"] = FEW_POLLS
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            arguments["counters_ptr"].zero_()
            run(plan.programs - 1)
        kernels.check()  # nothing has run yet
        captured.replay()
    else:
        arguments["max_polls"] = FEW_POLLS
        run(plan.programs - 1)
    try:
        failures.check()
    except kernels.BarrierError as error:
        told = str(error)
    else:
        raise AssertionError("no BarrierError came")
    name = "backward" if backward else "forward"
    assert f"the {name} kernel" in told, told
    assert bool(result.isnan().any()), "the outputs hold no NaN"
    kernels.recurrence("lstm", zeros(T, B, 1, 4 * H), w)
    kernels.check()
    return told.split(": ")[0]


def far_offsets(device: str) -> str:
    """Tensors of more than 2**31 elements, checked at their first, middle and last sequences."""
    import torch

    import kernels
    import reference
    from bench.metrics import errors, tolerance

    value = Value("rnn_tanh", "bf16", "none", "forward", 600, 65536, 64, "auto")
    if device == "cpu":
        raise Skipped("needs a GPU with 48 GB")
    if torch.cuda.mem_get_info()[0] < 48 << 30:
        raise Skipped("needs 48 GB of free memory")
    rows = torch.tensor([0, 1, value.B // 2, value.B - 2, value.B - 1], device=device)
    shape = (value.T, value.B, 1, value.H)
    gx = torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
    dy = torch.randn(value.T, value.B, value.H, device=device, dtype=torch.bfloat16)
    w = (torch.randn(1, value.H, value.H, device=device) / 16).to(torch.bfloat16)
    y, _, _ = kernels.recurrence(value.cell, gx, w, mode=value.mode)
    (dgx,) = torch.autograd.grad(y, gx, dy)
    kernels.check()
    some = gx.detach()[:, rows].double().requires_grad_()
    exact, _, _ = reference.recurrence(value.cell, some, w.double())
    (dexact,) = torch.autograd.grad(exact, some, dy[:, rows].double())
    worst = 0.0
    for name, found, right in (("y", y[:, rows], exact), ("dgx", dgx[:, rows], dexact)):
        error = errors(found.detach(), right.detach())["rel_l2"] / tolerance(value.case, name)
        assert error <= 1, f"{name} is off by {error:.2g} times what is accepted"
        worst = max(worst, error)
    return f"{gx.numel():,} elements, at most {worst:.0%} of the accepted error"


def watched(cell: str) -> Value:
    """What compute-sanitizer watches of a cell: groups of several programs, all options."""
    return Value(cell, "bf16", "none", "both", 3, 5, 500, "persistent", masks=True)


def small(cell: str) -> str:
    """That case, and nothing else of the cell."""
    import kernels

    value = watched(cell)
    problem, lengths = drawn(value, "cuda")
    ours(value, problem, lengths)
    kernels.check()
    return "runs; its kernels are compiled for the sanitizers"


def need_sanitizer(cuda: bool) -> str:
    """compute-sanitizer's path.

    Raises:
        Skipped: where it is not installed, or there is no GPU.
    """
    folders = os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin"
    program = shutil.which("compute-sanitizer", path=folders)
    if not cuda or program is None:
        raise Skipped("compute-sanitizer is not installed" if cuda else "needs a GPU")
    return program


def sanitize(tool: str, cell: str, cuda: bool) -> str:
    """A cell's persistent kernels on a small case under compute-sanitizer."""
    words = [need_sanitizer(cuda), "--tool", tool, "--error-exitcode", "9"]
    if tool == "memcheck":  # torch and Triton ask the driver things that it may refuse
        words += ["--report-api-errors", "no"]
    with tempfile.TemporaryFile("w+") as said:
        try:
            code = subprocess.run(
                [*words, sys.executable, "-m", __name__, cell], cwd=environment.ROOT, stdout=said,
                stderr=said, timeout=SANITIZER_SECONDS,
                env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NotDone(f"{tool} did not end within {SANITIZER_SECONDS:.0f} s") from None
        said.seek(0)
        return sanitized(said.read(), code)


def sanitized(said: str, code: int) -> str:
    """What compute-sanitizer found, from its words and exit code.

    Raises:
        AssertionError: with its first words if it found errors.
        NotDone: if it could not look: refused by the system, or the program ended under it.
    """
    lines = [line.strip("= ") for line in said.splitlines() if line.strip("= ")]
    summary = re.search(r"ERROR SUMMARY: (\d+) error", said)
    if summary and int(summary[1]):
        told = [line.strip("= ") for line in said.splitlines() if line.startswith("=====")]
        told = [line for line in told if line and not line.startswith("COMPUTE-SANITIZER")]
        raise AssertionError(f"{summary[1]} errors; first: {told[0]}")
    if code or not summary:
        last = lines[-1] if lines else "it said nothing"
        raise NotDone(f"compute-sanitizer could not look (exit code {code}): {last[:200]}")
    return summary.string[summary.start() :].splitlines()[0]


if __name__ == "__main__":
    small(sys.argv[1])
