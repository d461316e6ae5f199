"""Whether results repeat bit for bit: in a second call, another batch, other rows, another mode.

Measured on both tracks, because a layer's input projection is torch's GEMM, whose order of
summation may depend on the batch.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench import providers
from bench.cases.cases import DEFAULTS, TRACKS, Case, make_case, matches
from bench.cases.problem import BATCHED, Problem, make_problem, select_rows
from bench.measure.runner import Runner
from bench.records import environment

PROVIDERS = ("ours", "ours-persistent", "ours-stepwise", "ours-gemm", "torch.nn", "reference")
FEW = 3  # batch rows of the smaller batch


def compare(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Any]:
    """Whether all tensors are the same bit for bit, and the largest difference."""
    largest = max((a[name].double() - b[name].double()).abs().max().item() for name in a)
    return {"same": all(torch.equal(a[name], b[name]) for name in a), "max_abs": largest}


def batched(tensors: dict[str, Tensor], rows: Tensor | slice = slice(None)) -> dict[str, Tensor]:
    """Batch rows of the tensors that have a batch dimension; weight gradients have none."""
    return {name: t[:, rows] for name, t in tensors.items() if BATCHED.fullmatch(name)}


@contextlib.contextmanager
def other_tiles() -> Iterator[list[str]]:
    """Make our kernels use the next-best tiles; yields a list to which changed loops are added."""
    from kernels import plan, planning

    planned, changed = planning.plans, []

    def replan(cell: Any, w_hh: Tensor, batch: int, mode: str = "auto", precision: str = "ieee"):
        dtype = str(w_hh.dtype).removeprefix("torch.")
        D, H = w_hh.shape[0], w_hh.shape[-1]
        problem = plan.Problem(cell.gates, max(batch, 1), H, D, dtype, precision)
        device = planning.device_limits(w_hh.device)
        found = []
        for backward, best in enumerate(planned(cell, w_hh, batch, mode, precision)):
            others = [
                candidate
                for candidate in plan.persistent_plans(problem, device, bool(backward))
                if tiles(candidate) != tiles(best)
            ]
            if best.mode == "gemm" or not others:
                found.append(best)
                continue
            second = min(others, key=lambda candidate: candidate.floor_us)
            found.append(plan.stepwise(second, batch) if best.mode == "stepwise" else second)
            changed.append("backward" if backward else "forward")
        return tuple(found)

    planning.plans = replan
    try:
        yield changed
    finally:
        planning.plans = planned


def tiles(plan: Any) -> tuple[int, ...]:
    """The fields of a plan that determine the order of summation."""
    return plan.units, plan.split, plan.block_b, plan.block_k


def comparisons(
    provider: providers.Provider, problem: Problem, machine: environment.Machine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run each comparison of one provider's outputs; yields its name and result."""
    runner = Runner(provider, problem, machine)
    whole = runner.checked_outputs()
    yield "same call twice", compare(whole, runner.checked_outputs())
    yield "prepared anew", compare(whole, Runner(provider, problem, machine).checked_outputs())
    B = problem.case.B
    few = torch.arange(FEW, device=problem.device)
    smaller = Runner(provider, select_rows(problem, few), machine).checked_outputs()
    yield "batch of 3 against 3 of the batch", compare(batched(whole, few), batched(smaller))
    turned = torch.arange(B - 1, -1, -1, device=problem.device)
    moved = Runner(provider, select_rows(problem, turned), machine).checked_outputs()
    yield "rows in another order", compare(batched(whole, turned), batched(moved))
    if provider.name.startswith("ours"):
        with other_tiles() as changed:
            found = Runner(provider, problem, machine).checked_outputs()
        if changed:
            yield "cut into other tiles", compare(whole, found)


def measure(cases: list[Case], names: tuple[str, ...] = PROVIDERS) -> dict[str, Any]:
    """Rows of all comparisons within each provider, and between the modes of our kernels."""
    machine = environment.machine()
    device = "cuda" if machine.is_cuda else "cpu"
    known = providers.load()
    rows: list[dict[str, Any]] = []
    for case in cases:
        problem = make_problem(case, 0, device)
        by_mode: dict[str, dict[str, Tensor]] = {}
        for name in names:
            provider = known[name]
            # The interpreter runs "ours" stepwise anyway.
            twice = name == "ours-stepwise" and machine.interpreted
            if twice or provider.supports(case, machine):
                continue
            for question, answer in comparisons(provider, problem, machine):
                rows.append(case.fields() | {"provider": name, "question": question} | answer)
            if name.startswith("ours"):
                by_mode[name] = Runner(provider, problem, machine).checked_outputs()
        first, *others = by_mode or [""]
        for other in others:
            words = {"provider": other, "question": f"against {first}"}
            rows.append(case.fields() | words | compare(by_mode[first], by_mode[other]))
    return {"rows": rows}


def select_cases(filter: str = "") -> list[Case]:
    """Cases of real size on a GPU, small ones on a CPU, where our kernels are interpreted."""
    cuda = torch.cuda.is_available()
    sizes = {"B": 40, "T": 64, "H": 512} if cuda else {"B": 9, "T": 3, "H": 33}
    fixed = DEFAULTS | sizes | {"pass": "fwd+bwd"}
    every = [
        make_case(**fixed | {"track": track, "cell": cell, "dtype": dtype})
        for track in TRACKS
        for cell in ("lstm", "gru", "rnn_tanh", "slstm")
        for dtype in ("fp32", "bf16")
    ]
    return [case for case in every if matches(case, filter)]
