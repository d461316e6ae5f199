"""Are the bits the same: asked twice, in another batch, at another place in it, another way?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import environment, providers
from bench.cases import DEFAULTS, Case, make_case, matches
from bench.measure import Runner
from bench.problem import Problem, make_problem, take_rows

FILE = "repeatability.json"
PROVIDERS = ("ours", "ours-persistent", "ours-stepwise", "ours-gemm", "torch.nn", "reference")
FEW = 3  # rows of the smaller batch
# What belongs to a batch row, and can be compared between batches; weight gradients sum over rows.
ROWS = ("y", "h_n", "c_n", "dx", "dh0", "dc0")


def part(problem: Problem, rows: Tensor) -> Problem:
    """The same problem for some of its batch rows, in that order."""
    return Problem(
        replace(problem.case, B=len(rows)),
        problem.device,
        take_rows(problem.inputs, rows),
        take_rows(problem.upstream, rows),
        seed=problem.seed,
    )


def compare(a: dict[str, Tensor], b: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Any]:
    """Whether all named tensors are the same bit for bit, and the largest difference."""
    shared = [name for name in a if name in names]
    largest = max((a[name].double() - b[name].double()).abs().max().item() for name in shared)
    return {"same": all(torch.equal(a[name], b[name]) for name in shared), "max_abs": largest}


def questions(
    provider: providers.Provider, problem: Problem, machine: environment.Machine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each question and its answer for one provider."""
    runner = Runner(provider, problem, machine)
    whole = runner.values()
    everything = tuple(whole)
    yield "same call twice", compare(whole, runner.values(), everything)
    yield "prepared anew", compare(whole, Runner(provider, problem, machine).values(), everything)
    B = problem.case.B
    few = torch.arange(FEW, device=problem.device)
    smaller = Runner(provider, part(problem, few), machine).values()
    yield "batch of 3 against 3 of the batch", compare(take_rows(whole, few), smaller, ROWS)
    turned = torch.arange(B - 1, -1, -1, device=problem.device)
    moved = Runner(provider, part(problem, turned), machine).values()
    yield "rows in another order", compare(take_rows(whole, turned), moved, ROWS)


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
            if provider.supports(case, machine):
                continue
            for question, answer in questions(provider, problem, machine):
                rows.append(case.fields() | {"provider": name, "question": question} | answer)
            if name.startswith("ours"):
                ways[name] = Runner(provider, problem, machine).values()
        first = next(iter(ways), "")
        for other in list(ways)[1:]:
            answer = compare(ways[first], ways[other], tuple(ways[first]))
            words = {"provider": other, "question": f"against {first}"}
            rows.append(case.fields() | words | answer)
    commit, dirty = environment.git_state()
    return {
        "rows": rows,
        "interpreted": machine.interpreted,
        "device": environment.device_facts(),
        "software": environment.software_facts(),
        "code": environment.code_hash(),
        "commit": commit,
        "dirty": dirty,
    }


def cases(cuda: bool) -> list[Case]:
    """Small on a CPU, where our kernels are interpreted; of real size on a GPU."""
    size = {"B": 40, "T": 64, "H": 512} if cuda else {"B": 20, "T": 4, "H": 33}
    return [
        make_case(**DEFAULTS | size | {"cell": cell, "dtype": dtype, "pass": "fwd+bwd"})
        for cell in ("lstm", "gru", "rnn_tanh")
        for dtype in ("fp32", "bf16")
    ]


def main() -> None:
    """The measuring process of ``bench.error``: ``python -m bench.repeat FOLDER [FILTER]``."""
    if environment.interpreted():
        from bench.interpreter import round_to_nearest

        round_to_nearest()
    path = Path(sys.argv[1]) / "records" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    which = sys.argv[2] if len(sys.argv) > 2 else ""
    asked = [case for case in cases(torch.cuda.is_available()) if matches(case, which)]
    found = measure(asked)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
