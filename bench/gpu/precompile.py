"""Compile the kernels that cases will launch, each once, on all cores, into Triton's own cache.

A kernel is compiled by Triton's ``warmup`` with the arguments of a launch, so that a later launch
in any process finds it. Imports no torch; the processes that compile do.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.cases.cases import Case
from bench.cases.numbers import number_type
from bench.cases.presets import Request
from bench.gpu.value_checks import Comparison
from bench.providers.ours import MODES
from bench.records.failed_checks import FAIL, PASS
from bench.sweep.pool import Pool, Unit

COMPILED, CLAIMED = "compiled, or found in the cache", "another process compiles it"


@dataclass(frozen=True)
class Use:
    """One use of a kernel: a case's forward or backward loop in a mode.

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
    """One kernel: the first use that needs it, how compiling it ended, and the seconds it took."""

    kernel: str
    outcome: str
    detail: str
    seconds: float


def of_comparisons(comparisons: Iterable[Comparison]) -> list[Use]:
    """The kernels that comparisons with float64 launch."""
    return [
        Use(each.case, each.mode, loop, True, each.masks, each.masks)
        for each in comparisons
        for loop in ("fwd", "bwd")
    ]


def of_requests(requests: Iterable[Request], providers: Sequence[str]) -> list[Use]:
    """The kernels that our providers launch when these cases are measured.

    Args:
        providers: those of the preset, for requests that name none.
    """
    found = []
    for request in requests:
        case, backward = request.case, request.case.pass_ == "fwd+bwd"
        for name in request.providers or providers:
            if name not in MODES or not case.cell_info.kernels:
                continue
            for loop in ("fwd", "bwd") if backward else ("fwd",):
                lengths = request.regime == "lengths"
                found.append(Use(case, MODES[name][0], loop, backward, lengths, case.resets > 0))
    return list(dict.fromkeys(found))


def variant(use: Use) -> Any:
    """The kernel that this use launches on the present GPU."""
    import torch

    from bench.compiler import resources
    from kernels.planning import device_limits

    case = use.case
    number = number_type(case.dtype, case.precision)
    wanted = {
        "bias": case.track == "layer", "loop bias": case.track == "recurrence",
        "lengths": use.lengths, "resets": use.resets, "save": use.save,
    }  # fmt: skip
    features = tuple(name for name, given in wanted.items() if given)
    device = device_limits(torch.device("cuda", 0))
    planned = resources.plan_variant(
        device, case.cell, use.loop, case.H, case.B, number, use.mode, case.directions
    )
    return replace(planned, features=features)


def compile_use(use: Use, claims: Path) -> str:
    """Compile what this use launches, unless another process has begun to.

    Args:
        claims: a folder in which a process makes a file for each kernel that it compiles.

    Returns:
        ``COMPILED`` or ``CLAIMED``.
    """
    from bench.compiler.compile_kernel import arguments, identity
    from kernels import launch

    needed = variant(use)
    try:
        (claims / hashlib.sha256(identity(needed).encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return CLAIMED
    kernel, values = arguments(needed)
    plan = needed.plan
    phases: tuple[dict[str, int], ...] = ({},)
    if use.loop == "bwd" and plan.mode == "stepwise" and plan.split > 1:
        phases = ({"PHASE": launch.PRODUCT.value}, {"PHASE": launch.POINTWISE.value})
    for phase in phases:
        kernel.warmup(**values | phase, **launch.options(plan), grid=(plan.programs,))
    return COMPILED


def run(uses: Sequence[Use], seconds: float, pool: Pool) -> list[Row]:
    """Compile the kernels of these uses in order, each once, until the time is up.

    Returns:
        A row for each kernel, and for each use that was not begun in time.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rnnbench-") as claims:
        units = [
            Unit(f"{index} {use.name}", partial(compile_use, use, Path(claims)))
            for index, use in enumerate(dict.fromkeys(uses))
        ]
        for unit, outcome in pool.run(units, time.monotonic() + seconds):
            if outcome.detail != CLAIMED:
                name = unit.name.partition(" ")[2]
                rows.append(Row(name, outcome.state, outcome.detail, round(outcome.seconds, 2)))
    return rows


def summary_line(rows: Sequence[Row]) -> str:
    """How many kernels were compiled, and the first that could not be."""
    done = [row for row in rows if row.outcome == PASS]
    failed = [row for row in rows if row.outcome == FAIL]
    spent = sum(row.seconds for row in done)
    line = f"{len(done)} kernels compiled, {spent:.0f} s of compiling in all"
    if failed:
        line += f"; {len(failed)} failed, first {failed[0].kernel}: {failed[0].detail}"
    rest = len(rows) - len(done) - len(failed)
    return line + (f"; {rest} uses left to be compiled when launched" if rest else "")
