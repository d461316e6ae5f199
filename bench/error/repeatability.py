"""Are the bits the same: asked twice, in another batch, at another place in it, another way?

Of the whole layer and of the loop alone: a layer's input projection is torch's product, whose sums
may be formed in another order in another batch, as the processor and its library have it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import providers
from bench.cases.cases import DEFAULTS, TRACKS, Case, make_case, matches
from bench.cases.problem import BATCHED, Problem, make_problem, take_rows
from bench.measure import interpreter
from bench.measure.runner import Runner
from bench.records import environment, files, provenance

PROVIDERS = ("ours", "ours-persistent", "ours-stepwise", "ours-gemm", "torch.nn", "reference")
SAME_INTERPRETED = "ours-stepwise"  # is what the interpreter runs for "ours" anyway
FEW = 3  # rows of the smaller batch


def part(problem: Problem, rows: Tensor) -> Problem:
    """The same problem for some of its batch rows, in that order."""
    return Problem(
        replace(problem.case, B=len(rows)),
        problem.device,
        take_rows(problem.inputs, rows),
        take_rows(problem.upstream, rows),
        seed=problem.seed,
    )


def compare(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Any]:
    """Whether all tensors are the same bit for bit, and the largest difference."""
    largest = max((a[name].double() - b[name].double()).abs().max().item() for name in a)
    return {"same": all(torch.equal(a[name], b[name]) for name in a), "max_abs": largest}


def rows_of(tensors: dict[str, Tensor], rows: Tensor | slice = slice(None)) -> dict[str, Tensor]:
    """Some batch rows of what has any; weight gradients, which sum over the batch, are left out."""
    return {name: t[:, rows] for name, t in tensors.items() if BATCHED.fullmatch(name)}


@contextlib.contextmanager
def other_tiles() -> Iterator[list[str]]:
    """Let our loops be cut into other tiles than planned: the best plan among those that differ.

    Gives the list that names each cut which was really another one.
    """
    from kernels import autograd, plan

    planned, used = autograd.plans, []

    def other(cell: Any, w_hh: Tensor, batch: int, mode: str = "auto", precision: str = "ieee"):
        size = str(w_hh.dtype).removeprefix("torch.")
        D, H = w_hh.shape[0], w_hh.shape[-1]
        problem = plan.Problem(cell.gates, max(batch, 1), H, D, size, precision)
        device = autograd.device_limits(w_hh.device)
        found = []
        for backward, best in enumerate(planned(cell, w_hh, batch, mode, precision)):
            cuts = [
                p
                for p in plan.persistent_plans(problem, device, bool(backward))
                if tiles(p) != tiles(best)
            ]
            if best.mode == "gemm" or not cuts:
                found.append(best)
                continue
            cut = min(cuts, key=lambda p: p.floor_us)
            found.append(plan.stepwise(cut, batch) if best.mode == "stepwise" else cut)
            used.append("backward" if backward else "forward")
        return tuple(found)

    autograd.plans = other
    try:
        yield used
    finally:
        autograd.plans = planned


def tiles(plan: Any) -> tuple[int, ...]:
    """What of a plan decides which sums a program forms, and in what order."""
    return plan.units, plan.split, plan.block_b, plan.block_k


def questions(
    provider: providers.Provider, problem: Problem, machine: environment.Machine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each question and its answer for one provider."""
    runner = Runner(provider, problem, machine)
    whole = runner.checked_outputs()
    yield "same call twice", compare(whole, runner.checked_outputs())
    yield "prepared anew", compare(whole, Runner(provider, problem, machine).checked_outputs())
    B = problem.case.B
    few = torch.arange(FEW, device=problem.device)
    smaller = Runner(provider, part(problem, few), machine).checked_outputs()
    yield "batch of 3 against 3 of the batch", compare(rows_of(whole, few), rows_of(smaller))
    turned = torch.arange(B - 1, -1, -1, device=problem.device)
    moved = Runner(provider, part(problem, turned), machine).checked_outputs()
    yield "rows in another order", compare(rows_of(whole, turned), rows_of(moved))
    if provider.name.startswith("ours"):
        with other_tiles() as used:
            cut = Runner(provider, problem, machine).checked_outputs()
        if used:
            yield "cut into other tiles", compare(whole, cut)


def measure(cases: list[Case], names: tuple[str, ...] = PROVIDERS) -> dict[str, Any]:
    """All answers, and whether our ways of running agree with each other."""
    machine = environment.machine()
    device = "cuda" if machine.is_cuda else "cpu"
    known = providers.load()
    rows: list[dict[str, Any]] = []
    for case in cases:
        problem = make_problem(case, 0, device)
        ways: dict[str, dict[str, Tensor]] = {}
        for name in names:
            provider = known[name]
            if provider.supports(case, machine) or (
                name == SAME_INTERPRETED and machine.interpreted
            ):
                continue
            for question, answer in questions(provider, problem, machine):
                rows.append(case.fields() | {"provider": name, "question": question} | answer)
            if name.startswith("ours"):
                ways[name] = Runner(provider, problem, machine).checked_outputs()
        first = next(iter(ways), "")
        for other in list(ways)[1:]:
            answer = compare(ways[first], ways[other])
            words = {"provider": other, "question": f"against {first}"}
            rows.append(case.fields() | words | answer)
    return {
        "rows": rows,
        "interpreted": machine.interpreted,
        **provenance.provenance(environment.device_facts()),
    }


def cases(cuda: bool) -> list[Case]:
    """Small on a CPU, where our kernels are interpreted; of real size on a GPU."""
    size = {"B": 40, "T": 64, "H": 512} if cuda else {"B": 9, "T": 3, "H": 33}
    asked = DEFAULTS | size | {"pass": "fwd+bwd"}
    return [
        make_case(**asked | {"track": track, "cell": cell, "dtype": dtype})
        for track in TRACKS
        for cell in ("lstm", "gru", "rnn_tanh", "slstm")
        for dtype in ("fp32", "bf16")
    ]


def main() -> None:
    """``python -m bench.error.repeatability FOLDER [FILTER]``: a process of ``bench.cli.error``."""
    if environment.interpreted():
        interpreter.check()
        interpreter.round_to_nearest()
    path = Path(sys.argv[1]) / files.RECORDS / files.REPEATABILITY
    path.parent.mkdir(parents=True, exist_ok=True)
    which = sys.argv[2] if len(sys.argv) > 2 else ""
    asked = [case for case in cases(torch.cuda.is_available()) if matches(case, which)]
    found = measure(asked)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
