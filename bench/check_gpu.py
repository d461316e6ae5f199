"""``python -m bench check-gpu``: whether the kernels are right on the GPU at hand, in minutes.

What the CPU tests cannot show: compiled kernels at real sizes, programs that really run at once,
streams, CUDA graphs. ``--rehearse`` runs the code of these checks at tiny sizes on any machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import environment
from bench.cases import CELLS, Case

if TYPE_CHECKING:
    from torch import Tensor

FILE = "check_gpu.json"
# Compiling is most of the time; these compile beside one another.
WORKERS = 8
SANITIZER_SECONDS = 120.0
SANITIZERS = ("memcheck", "synccheck")


class Skipped(Exception):
    """This machine cannot make this check; it says why."""


@dataclass
class Row:
    """One check's outcome; ``ok`` is None where it was left out, with the reason in ``detail``."""

    check: str
    what: str
    ok: bool | None
    detail: str
    seconds: float = 0.0


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


NUMBERS = (("fp32", "ieee"), ("fp32", "tf32"), ("fp16", "none"), ("bf16", "none"))


def values(cell: str, dtype: str, precision: str, rehearse: bool, cuda: bool) -> Iterator[Value]:
    """What is compared of one cell in one number type."""
    if rehearse:
        yield Value(cell, dtype, precision, "both", 2, 2, 5, "auto", masks=True)
        yield Value(cell, dtype, precision, "reverse", 2, 2, 5, "gemm")
        return
    for direction in ("forward", "reverse", "both"):
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

    precision = None if value.precision == "none" else value.precision
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


def compare(value: Value, device: str) -> str:
    """The largest error of all outputs and gradients, as a share of what is accepted.

    Raises:
        AssertionError: with the tensor and its error, if one is above what is accepted.
    """
    import kernels
    import reference
    from bench.metrics import errors, tolerance

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
        bound = tolerance(value.case, name)
        assert error <= bound, f"{name} is off by {error:.2g} of its norm; accepted: {bound:.2g}"
        if error / bound >= worst:
            worst, where = error / bound, name
    return f"at most {worst:.0%} of the accepted error ({where})"


def attempt(check: str, what: str, body: Callable[[], str]) -> Row:
    """Run one check; whatever it raises becomes its row."""
    began = time.monotonic()
    ok: bool | None = True
    try:
        detail = body()
    except Skipped as reason:
        ok, detail = None, str(reason)
    except Exception as error:
        ok, detail = False, f"{type(error).__name__}: {(str(error) or '?').splitlines()[0][:300]}"
    return Row(check, what, ok, detail, time.monotonic() - began)


def value_rows(cell: str, dtype: str, precision: str, rehearse: bool, cuda: bool) -> list[Row]:
    """All comparisons of one cell in one number type, in a worker process or in this one."""
    device = "cuda" if cuda else "cpu"
    return [
        attempt("values", value.name, lambda value=value: compare(value, device))  # type: ignore[misc]
        for value in values(cell, dtype, precision, rehearse, cuda)
    ]


def all_values(rehearse: bool, cuda: bool, deadline: float, tell: Callable[[Row], None]) -> None:
    """Every cell, number type, direction and mode; on a GPU by several processes."""
    units = [
        (cell.name, dtype, precision)
        for cell in CELLS.values()
        for dtype, precision in NUMBERS
        if cell.kernels and (cuda or precision != "tf32")  # the interpreter has no tf32
    ]
    if not cuda:
        for unit in units:
            for row in value_rows(*unit, rehearse, cuda):
                tell(row)
        return
    workers = min(WORKERS, os.cpu_count() or 1)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    pending: dict[Future[list[Row]], str] = {
        pool.submit(value_rows, *unit, rehearse, cuda): " ".join(unit) for unit in units
    }
    while pending:
        left = max(0.0, deadline - time.monotonic())
        done, _ = wait(pending, timeout=left, return_when=FIRST_COMPLETED)
        if not done:
            for name in pending.values():
                tell(Row("values", name, False, "not done in time"))
            break
        for future in done:
            name = pending.pop(future)
            error = future.exception()
            for row in [Row("values", name, False, repr(error))] if error else future.result():
                tell(row)
    for process in list(pool._processes.values()) if pending else []:
        process.kill()  # a worker that hangs must not keep the command
    pool.shutdown(wait=not pending, cancel_futures=True)


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
        assert not int(differences(replayed, eager)), f"replay {turn} differs from the eager call"
    kernels.check()
    return f"{times} replays with new inputs, as the eager call bit for bit"


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
    cell, T, B = KERNEL_CELLS["lstm"], 3, 4
    H = 512 if device == "cuda" else 20
    limits = device_limits(torch.device(device, 0) if device == "cuda" else torch.device("cpu"))
    problem = Problem(gates=4, B=B, H=H, directions=1, dtype="float32", precision="ieee")
    plan = (backward_plan if backward else forward_plan)(problem, limits, "persistent")
    if device == "cpu":  # the least that has a barrier: interpreting a program takes long
        plan = replace(
            plan, units=16, split=1, group=2, batch_groups=1, tiles=1, block_k=32, resident=1,
            ahead=1,
        )  # fmt: skip
    assert plan.group > 1, f"the plan has a group of {plan.group}"

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    w, initial = zeros(1, 4 * H, H), zeros(2, 1, B, H)
    if backward:
        arguments = launch.backward_arguments(
            cell, plan, zeros(T, B, H), zeros(2, 1, B, H), w, initial, None, None, zeros(T, B, H),
            zeros(1, T, B, 1, H), zeros(T, B, 1, H, 4), False, "ieee",
        )  # fmt: skip
        kernel, result = launch.backward_kernel, arguments["dstate_ptr"]
        arguments |= {"begin": 0, "end": T + 1, "PHASE": launch.BOTH.value}
    else:
        arguments = launch.forward_arguments(
            cell, plan, zeros(T, B, 1, 4 * H), w, None, initial, None, None, False, True, "ieee"
        )
        kernel, result = launch.forward_kernel, arguments["state_ptr"]
        arguments |= {"begin": 0, "end": T}
    arguments["max_polls"] = 1000

    def broken() -> None:
        kernel[(plan.programs - 1,)](**arguments, **launch.options(plan))

    if in_graph:
        captured = torch.cuda.CUDAGraph()
        arguments["counters_ptr"].zero_()
        torch.cuda.synchronize()
        with torch.cuda.graph(captured):
            arguments["counters_ptr"].zero_()
            broken()
        kernels.check()  # nothing has run yet
        captured.replay()
    else:
        broken()
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


def sanitize(tool: str, cuda: bool) -> str:
    """Every cell's persistent kernels on a small case under compute-sanitizer."""
    folders = os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin"
    program = shutil.which("compute-sanitizer", path=folders)
    if not cuda or program is None:
        raise Skipped("compute-sanitizer is not installed" if cuda else "needs a GPU")
    words = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", __name__]
    found = subprocess.run(
        words, cwd=environment.ROOT, capture_output=True, text=True, timeout=SANITIZER_SECONDS,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )  # fmt: skip
    last = (found.stdout + found.stderr).strip().splitlines()[-1:] or [""]
    assert found.returncode == 0, f"exit code {found.returncode}: {last[0]}"
    return last[0].strip("= ")


def small() -> None:
    """What compute-sanitizer watches: every cell, groups of several programs, all options."""
    import kernels

    for cell in CELLS.values():
        if cell.kernels:
            value = Value(cell.name, "bf16", "none", "both", 3, 5, 500, "persistent", masks=True)
            problem, lengths = drawn(value, "cuda")
            ours(value, problem, lengths)
            kernels.check()


def run(rehearse: bool, cuda: bool, seconds: float, tell: Callable[[Row], None]) -> None:
    """All checks in order; each outcome is told as it comes."""
    deadline = time.monotonic() + seconds
    device = "cuda" if cuda else "cpu"
    times = 2 if rehearse else 1000
    few = 1 if rehearse else 50
    all_values(rehearse, cuda, deadline, tell)
    later: list[tuple[str, str, Callable[[], str]]] = []
    for value in exact_cases(rehearse):
        bare = replace(value, masks=False)  # whose lengths no call stops to check
        later += [
            ("repetitions", value.name, lambda v=value: repeat(v, device, times)),  # type: ignore[misc]
            ("streams", bare.name, lambda v=bare: streams(v, device, few)),  # type: ignore[misc]
            ("graph", value.name, lambda v=value: graph(v, device, few)),  # type: ignore[misc]
        ]
    for backward in (False, True):
        for in_graph in (False, True):
            what = ("backward" if backward else "forward") + (", in a graph" if in_graph else "")
            later.append((
                "missing program",
                what,
                lambda b=backward, g=in_graph: missing_program(b, device, g),  # type: ignore[misc]
            ))  # fmt: skip
    later.append(("far offsets", "rnn_tanh bf16", lambda: far_offsets(device)))
    for tool in SANITIZERS:
        later.append(("sanitizer", tool, lambda t=tool: sanitize(t, cuda)))  # type: ignore[misc]
    for check, what, body in later:
        if time.monotonic() > deadline:
            tell(Row(check, what, False, "not begun in time"))
        else:
            tell(attempt(check, what, body))


def table(rows: list[Row]) -> Any:
    """The outcomes: one line for each check of each cell, all lines of those that failed."""
    from rich.table import Table

    shown = Table("check", "what", "outcome", "detail", "s")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        what = " ".join(row.what.split()[:2]) if row.check == "values" and row.ok else row.what
        groups.setdefault((row.check, what), []).append(row)
    words = {True: "[green]pass", False: "[bold red]FAIL", None: "[yellow]left out"}
    for (check, what), group in groups.items():
        first = group[0]
        detail = first.detail if len(group) == 1 else f"{len(group)} comparisons with float64"
        spent = sum(row.seconds for row in group)
        shown.add_row(check, what, words[first.ok], detail.replace("[", r"\["), f"{spent:.1f}")
    return shown


def command(
    rehearse: Annotated[
        bool, typer.Option(help="The same checks at tiny sizes, on any machine.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help=f"A folder that gets every outcome as {FILE}.")
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="What is not done by then has failed.")] = 5.0,
) -> None:
    """Check the kernels on this GPU: values, repetitions, streams, graphs, failures, memory.

    Exit code 0 if all that could be checked passed, 1 if anything failed, 2 without a GPU.
    """
    cuda = environment.probe().is_cuda or environment.machine().is_cuda
    if not cuda and not rehearse:
        print(
            "error: check-gpu needs a GPU and finds none here; --rehearse runs its code at tiny "
            "sizes in Triton's interpreter",
            file=sys.stderr,
        )
        raise typer.Exit(2)
    if not cuda:
        os.environ["TRITON_INTERPRET"] = "1"  # before kernels is imported

    from rich.console import Console

    rows: list[Row] = []
    console = Console(stderr=True)
    with console.status("checking") as status:

        def tell(row: Row) -> None:
            rows.append(row)
            status.update(f"{len(rows)} done, last: {row.check}, {row.what}")
            if row.ok is False:
                console.print(f"FAIL {row.check}, {row.what}: {row.detail}", markup=False)

        run(rehearse, cuda, max_minutes * 60, tell)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        facts = {
            "device": environment.device_facts(),
            "software": environment.software_facts(),
            "code": environment.code_hash(),
            "rehearsal": rehearse,
            "rows": [asdict(row) for row in rows],
        }
        (out / FILE).write_text(json.dumps(facts, indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    failed = sum(row.ok is False for row in rows)
    left = sum(row.ok is None for row in rows)
    print(f"{len(rows) - failed - left} passed, {failed} failed, {left} left out")
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    small()
