"""Compile ahead what cases will launch: each kernel once, on all cores, into Triton's own cache.

A kernel is compiled by Triton's ``warmup`` with the very arguments of a launch, so that the launch
finds it, in whatever process. Imports no torch; the processes that compile do.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench.cases import Case
from bench.checks import Value
from bench.pool import PASS, Outcome, Unit, run_units
from bench.presets import Request
from bench.providers.ours import MODES

LISTING_SECONDS = 60.0  # the most that finding the distinct kernels may take


@dataclass(frozen=True)
class Use:
    """A way to call the kernels: a case in a mode, with or without lengths and resets.

    ``loop`` is "fwd" or "bwd"; ``save`` whether the forward loop keeps what a backward loop reads.
    """

    case: Case
    mode: str
    loop: str
    save: bool
    lengths: bool = False
    resets: bool = False

    @property
    def name(self) -> str:
        case = self.case
        number = f"{case.dtype} {case.precision}".removesuffix(" none")
        return f"{case.cell} {self.loop} {number} B={case.B} H={case.H} {self.mode}"


@dataclass(frozen=True)
class Row:
    """One kernel: what needs it first, how compiling it ended, and the seconds that it took."""

    kernel: str
    outcome: str
    detail: str
    seconds: float


def of_values(values: Iterable[Value]) -> list[Use]:
    """What comparisons with float64 launch."""
    return [
        Use(value.case, value.mode, loop, True, value.masks, value.masks)
        for value in values
        for loop in ("fwd", "bwd")
    ]


def of_requests(requests: Iterable[Request], providers: Sequence[str]) -> list[Use]:
    """What our providers launch when these cases are measured.

    Args:
        providers: those of the preset, for requests that name none.
    """
    found = []
    for request in requests:
        case, backward = request.case, request.case.pass_ == "fwd+bwd"
        for name in request.providers or providers:
            if name not in MODES or not case.kind.kernels:
                continue
            for loop in ("fwd", "bwd") if backward else ("fwd",):
                lengths = request.regime == "lengths"
                found.append(Use(case, MODES[name][0], loop, backward, lengths, case.resets > 0))
    return list(dict.fromkeys(found))


def variant(use: Use) -> Any:
    """The kernel that this use launches on the GPU at hand, by its plan."""
    import torch

    from bench.compile_kernel import TORCH_NAMES, Variant
    from kernels.autograd import device_limits
    from kernels.plan import Problem, backward_plan, forward_plan

    case = use.case
    precision = "ieee" if case.precision == "none" else case.precision
    gates, D = case.kind.gates, case.directions
    problem = Problem(gates, case.B, case.H, D, TORCH_NAMES[case.dtype], precision)
    limits = device_limits(torch.device("cuda", 0))
    plan = (forward_plan if use.loop == "fwd" else backward_plan)(problem, limits, use.mode)
    wanted = {
        "bias": case.track == "layer", "loop bias": case.track == "recurrence",
        "lengths": use.lengths, "resets": use.resets, "save": use.save,
    }  # fmt: skip
    features = tuple(name for name, given in wanted.items() if given)
    return Variant(case.cell, use.loop, case.H, D, case.dtype, precision, plan, features)


def distinct(uses: Sequence[Use]) -> str:
    """The indices of those uses that need a kernel which none before them needs, as JSON."""
    from bench.compile_kernel import identity

    found: dict[str, int] = {}
    for index, use in enumerate(uses):
        found.setdefault(json.dumps(identity(variant(use), hip=False), sort_keys=True), index)
    return json.dumps(sorted(found.values()))


def compile_use(use: Use) -> str:
    """Compile what this use launches, unless the cache has it; how long that took."""
    from bench.compile_kernel import arguments
    from kernels import launch

    began = time.monotonic()
    needed = variant(use)
    kernel, values = arguments(needed)
    plan = needed.plan
    phases: tuple[dict[str, int], ...] = ({},)
    if use.loop == "bwd" and plan.mode == "stepwise" and plan.split > 1:
        phases = ({"PHASE": launch.PRODUCT.value}, {"PHASE": launch.POINTWISE.value})
    for phase in phases:
        kernel.warmup(**values | phase, **launch.options(plan), grid=(plan.programs,))
    return f"{time.monotonic() - began:.2f} s"


def run(uses: Sequence[Use], seconds: float) -> list[Row]:
    """Compile the distinct kernels of these uses, the first ones first, on all cores.

    What is not compiled when the time is up is compiled where it is first launched.

    Raises:
        RuntimeError: if the kernels cannot even be listed.
    """
    began = time.monotonic()
    listed: list[Outcome] = []
    unit = Unit("distinct kernels", partial(distinct, uses))
    until = began + min(seconds, LISTING_SECONDS)
    run_units([unit], 1, until, lambda _, outcome: listed.append(outcome))
    if listed[0].state != PASS:
        raise RuntimeError(f"the kernels to compile cannot be listed: {listed[0].detail}")
    needed = [uses[index] for index in json.loads(listed[0].detail)]
    units = [Unit(f"{index} {use.name}", partial(compile_use, use)) for index, use in
             enumerate(needed)]  # fmt: skip
    rows: list[Row] = []

    def on_outcome(unit: Unit, outcome: Outcome) -> None:
        name = unit.name.partition(" ")[2]
        rows.append(Row(name, outcome.state, outcome.detail, round(outcome.seconds, 2)))

    workers = max(1, min(len(os.sched_getaffinity(0)), len(units)))
    run_units(units, workers, began + seconds, on_outcome)
    return rows


def to_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def summary_line(rows: Sequence[Row]) -> str:
    """How many kernels were compiled, and the first that could not be."""
    done = [row for row in rows if row.outcome == PASS]
    spent = sum(row.seconds for row in done)
    line = f"{len(done)} of {len(rows)} kernels compiled, {spent:.0f} s of compiling in all"
    failed = [row for row in rows if row.outcome == "FAIL"]
    if failed:
        line += f"; {len(failed)} failed, first {failed[0].kernel}: {failed[0].detail}"
    return line
