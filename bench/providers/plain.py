"""The reference as a provider: plain PyTorch, eager and under torch.compile."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from bench.cases.cases import Case
from bench.providers import Call, provider
from bench.records.environment import Machine

if TYPE_CHECKING:
    from bench.cases.problem import Problem

# torch.compile unrolls the loop over time: seconds per case and step, so longer ones are left out.
COMPILED_STEPS = 64
COMPILED_STEPS_CPU = 8


def supports(case: Case, machine: Machine) -> str | None:
    if case.precision == "tf32x3":
        return "torch has no tf32x3 products"
    if case.precision == "tf32" and not machine.is_cuda:
        return "tf32 products exist on CUDA devices only"
    return None


def supports_compiled(case: Case, machine: Machine) -> str | None:
    most = COMPILED_STEPS if machine.is_cuda else COMPILED_STEPS_CPU
    if case.T * case.layers * case.directions > most:
        return f"torch.compile unrolls time; its compile time caps steps at {most}"
    if not machine.is_cuda and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler for the CPU"
    if machine.is_cuda and not (shutil.which("gcc") or shutil.which("clang")):
        return "torch.compile needs a C compiler for its launchers"
    return supports(case, machine)


def leaves_of(problem: Problem) -> dict:
    return {name: value.detach() for name, value in problem.inputs.items()}


@provider("reference", supports=supports, package="torch")
def reference(problem: Problem) -> Call:
    from bench.cases.problem import run_reference

    leaves = leaves_of(problem)
    return Call(
        lambda: run_reference(problem.case, leaves, problem.resets, problem.lengths), leaves
    )


@provider("reference-compiled", supports=supports_compiled, package="torch")
def reference_compiled(problem: Problem) -> Call:
    import torch

    from bench.cases.problem import run_reference

    # Graphs of earlier cases would count against the recompilation limit, beyond which torch
    # silently falls back to eager.
    torch._dynamo.reset()
    leaves = leaves_of(problem)
    case, resets, lengths = problem.case, problem.resets, problem.lengths
    compiled = torch.compile(
        lambda tensors: run_reference(case, tensors, resets, lengths), fullgraph=True, dynamic=False
    )
    return Call(lambda: compiled(leaves), leaves)
