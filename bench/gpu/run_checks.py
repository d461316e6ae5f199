"""The checks of ``python -m bench check-gpu``: a list of them, running them, and their outcomes.

They cover what the CPU tests cannot: compiled kernels at real sizes, programs that really run at
once, streams, CUDA graphs (``bench.gpu.value_checks``, ``bench.gpu.launch_checks``). Each runs in
a process of a pool, the most informative first.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu import launch_checks, value_checks
from bench.gpu.value_checks import Comparison
from bench.records import environment, files, provenance, store
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS, Suspect, from_json, to_json
from bench.sweep.pool import Pool, Unit

MOST_WORKERS = 32  # each holds some 0.5 GB of the GPU
TRIES = 2  # fair tries (see bench.sweep.pool) after which a check is given up


@dataclass
class Row:
    """One check's outcome (see ``bench.sweep.pool.Outcome``) and how many fair tries it had.

    ``suspects`` are those of a failure, as ``bench.records.failed_checks.to_json`` writes them.
    """

    check: str
    what: str
    outcome: str
    detail: str
    seconds: float = 0.0
    tries: int = 1
    report: str = ""
    suspects: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.check}: {self.what}"

    @property
    def is_settled(self) -> bool:
        """Whether a later call need not run this check again.

        A failure is settled as long as code and software are the same: if it does not recur, it is
        a race. A check that was not done is settled after ``TRIES`` tries.
        """
        return self.outcome != NOT_DONE or self.tries >= TRIES


@dataclass(frozen=True)
class Check:
    """One check: its kind, what is checked, how, and which kernels are suspect if it fails.

    A check that finds a wrong value names its own suspects; these are for one that dies or raises.
    """

    kind: str
    what: str
    unit: Unit
    suspects: tuple[Suspect, ...] = ()


def all_checks(rehearse: bool, cuda: bool) -> list[Check]:
    """Every check, the most informative first.

    One that launches the same kernels as another runs after it and finds them compiled.
    """
    found: dict[str, Check] = {}
    device = "cuda" if cuda else "cpu"
    many, few = (2, 1) if rehearse else (1000, 50)

    def add(
        kind: str, what: str, call: Callable[[], str], *after: str, of: Comparison | None = None
    ) -> str:
        name = f"{kind}: {what}"
        suspects: tuple[Suspect, ...] = ()
        if of is not None:
            mode = None if of.mode == "auto" else of.mode
            number = of.number if kind == "values" else None
            suspects = (Suspect(name, of.cell, mode=mode, number=number),)
        unit = Unit(name, call, after, exclusive=kind == "far offsets")
        found.setdefault(name, Check(kind, what, unit, suspects))
        return name

    def add_comparison(of: Comparison, *after: str) -> str:
        return add("values", of.name, partial(value_checks.compare, of, device), *after, of=of)

    def add_comparisons(dtype: str, precision: str) -> None:
        for cell in cells:
            forward: tuple[str, ...] = ()
            for each in value_checks.comparisons(cell, dtype, precision, rehearse):
                name = add_comparison(each, *(forward if each.direction == "reverse" else ()))
                forward = (name,) if each.direction == "forward" else forward

    cells = value_checks.kernel_cells()
    firsts = {cell: add_comparison(value_checks.first(cell, rehearse)) for cell in cells}
    for backward, loop in ((False, "forward"), (True, "backward")):
        missing = partial(launch_checks.missing_program, backward, device)
        plain = add("missing program", loop, partial(missing, False))
        add("missing program", f"{loop}, in a graph", partial(missing, True), plain)
    for case in launch_checks.cases(rehearse):
        repeat = partial(launch_checks.repeat, case, device, many)
        add("repetitions", case.name, repeat, firsts[case.cell], of=case)
        bare = replace(case, masks=False)  # checking lengths would make each call wait for the GPU
        streams = partial(launch_checks.streams, bare, device, few)
        compiled = add("streams", bare.name, streams, of=bare)
        graph = partial(launch_checks.graph, bare, device, few)
        add("graph", bare.name, graph, compiled, of=bare)
    # "auto-graph" may choose this: torch's GEMMs and our kernels in one graph.
    gemm = replace(launch_checks.cases(rehearse)[0], masks=False, mode="gemm")
    add("graph", gemm.name, partial(launch_checks.graph, gemm, device, few), of=gemm)
    numbers = [n for n in value_checks.NUMBERS if cuda or n[1] != "tf32"]  # a GPU only
    for number in (n for n in numbers if n[0] != "fp32"):
        add_comparisons(*number)
    for cell in cells if cuda else cells[:1]:
        case = value_checks.sanitizer_case(cell)
        after: tuple[str, ...] = ()
        if cuda:
            small = partial(value_checks.run_sanitizer_case, cell)
            after = (add("small case", cell, small, of=case),)
        for tool in launch_checks.SANITIZERS:
            call = partial(launch_checks.run_sanitizer, tool, cell, cuda)
            add("sanitizer", f"{tool} {cell}", call, *after, of=case)
    for number in (n for n in numbers if n[0] == "fp32"):  # last: slow to compile
        add_comparisons(*number)
    add("far offsets", "rnn_tanh bf16", partial(value_checks.check_far_offsets, device))
    return list(found.values())


def key(rehearse: bool) -> dict[str, Any]:
    """The facts under which an earlier outcome still counts."""
    digest = hashlib.sha256()
    for module in (value_checks.__file__, launch_checks.__file__, __file__):
        digest.update(Path(module).read_bytes())
    software = provenance.software_facts()
    return {
        "device": environment.probe().name,
        "code": provenance.code_hash(),
        "checks": digest.hexdigest()[:12],
        "rehearsal": rehearse,
        **{name: software[name] for name in ("python", "torch", "triton")},
    }


@dataclass(frozen=True)
class ResultFile:
    """``check_gpu.json`` in a folder, whose rows count only under the same :func:`key`."""

    folder: Path
    key: dict[str, Any]

    def rows(self) -> list[Row]:
        """The stored outcomes, if they are of this device, code and software."""
        found = store.read_state(self.folder / files.CHECKS)
        return [Row(**row) for row in found["rows"]] if found.get("key") == self.key else []

    def write(self, rows: Sequence[Row], **facts: Any) -> None:
        """Replace the stored outcomes atomically."""
        found = provenance.provenance({"name": self.key["device"]}, self.key["code"])
        found |= {"key": self.key} | facts | {"rows": [asdict(row) for row in rows]}
        store.write_state(self.folder / files.CHECKS, found)


def unfinished(rows: Sequence[Row]) -> list[Row]:
    """The checks that a later call would run."""
    return [row for row in rows if not row.is_settled]


def suspects(rows: Sequence[Row]) -> tuple[Suspect, ...]:
    """The kernels that the failures among these rows make suspect."""
    return from_json(each for row in rows if row.outcome == FAIL for each in row.suspects)


def worker_count() -> int:
    """How many processes check: one for each core, since compiling takes most of the time."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def run(
    checks: Sequence[Check],
    file: ResultFile | None,
    seconds: float,
    pool: Pool,
    on_row: Callable[[Row], object] = lambda row: None,
) -> list[Row]:
    """Run the checks that have no settled outcome in ``file``, and return all outcomes in order.

    Args:
        file: each outcome is stored as it comes, so that a call that is killed loses none.
        on_row: called with each outcome after it was stored.
    """
    deadline = time.monotonic() + seconds
    by_name = {check.unit.name: check for check in checks}
    earlier = {row.name: row for row in (file.rows() if file else []) if row.name in by_name}
    found: dict[str, Row] = {}

    waiting = []
    for check in checks:
        row = earlier.get(check.unit.name)
        if row is not None and row.is_settled:
            found[row.name] = row
            on_row(row)
        else:
            waiting.append(check.unit)
    for unit, outcome in pool.run(waiting, deadline):
        check, failed = by_name[unit.name], outcome.state == FAIL
        tries = outcome.tried + (earlier[unit.name].tries if unit.name in earlier else 0)
        suspects = to_json(outcome.found or check.suspects) if failed else []
        row = found[unit.name] = Row(
            check.kind, check.what, outcome.state, outcome.detail, outcome.seconds, tries,
            outcome.report, suspects,
        )  # fmt: skip
        if file is not None:
            file.write([(earlier | found)[name] for name in by_name if name in earlier | found])
        on_row(row)
    return [found[name] for name in by_name]


def summary_line(rows: Sequence[Row]) -> str:
    """How many checks have each outcome, in words."""
    counts = Counter(row.outcome for row in rows)
    words = {PASS: "passed", FAIL: "failed", LEFT_OUT: "left out", NOT_DONE: "not done"}
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items())
