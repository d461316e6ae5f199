"""``python -m bench check-gpu``: whether the kernels are right on the GPU at hand, in minutes.

What the CPU tests cannot show: compiled kernels at real sizes, programs that really run at once,
streams, CUDA graphs (``bench.gpu.checks``). Each check runs in a process of a pool, the most
telling first, so compiling uses all cores. ``--rehearse`` runs the code at tiny sizes on any
machine.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cases import arguments
from bench.gpu import checks, repetitions, sanitizer
from bench.gpu.pool import FAIL, LEFT_OUT, NOT_DONE, PASS, Outcome, Pool, Unit
from bench.measure import interpreter
from bench.records import environment, files, provenance, store
from bench.records.doubts import Doubt, from_json, to_json
from bench.sweep import toolchain

MOST_WORKERS = 32  # each holds some 0.5 GB of the GPU
TRIES = 2  # what twice did not end for reasons of its own is not begun again
UNFINISHED = 3  # exit code
MOST_REPORTS = 4  # failures printed whole; the file has the others' reports


@dataclass
class Row:
    """One check's outcome, of the words of ``bench.gpu.pool``, and how often it had a fair try.

    ``report`` is a failure's whole account; ``doubts`` its rows of ``bench.records.doubts``.
    """

    check: str
    what: str
    outcome: str
    detail: str
    seconds: float = 0.0
    tries: int = 1
    report: str = ""
    doubts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.check}: {self.what}"


@dataclass(frozen=True)
class Check:
    """One check: its kind, what is checked, what to do, and what a failure makes doubtful.

    ``doubts`` is for a check that dies or raises; one that finds a wrong value knows better.
    """

    kind: str
    what: str
    unit: Unit
    doubts: tuple[Doubt, ...] = ()


def all_checks(rehearse: bool, cuda: bool) -> list[Check]:
    """Every check, the most telling first.

    A check that needs another's kernels comes after it and finds them compiled.
    """
    found: dict[str, Check] = {}
    device = "cuda" if cuda else "cpu"
    times, few = (2, 1) if rehearse else (1000, 50)

    def add(
        kind: str,
        what: str,
        call: Callable[[], str],
        *after: str,
        doubts: Callable[[str], Doubt] | None = None,
        alone: bool = False,
    ) -> str:
        name = f"{kind}: {what}"
        unit = Unit(name, call, after, alone)
        found.setdefault(name, Check(kind, what, unit, (doubts(name),) if doubts else ()))
        return name

    def about(value: checks.Value, number: str | None = None) -> Callable[[str], Doubt]:
        mode = None if value.mode == "auto" else value.mode
        return lambda name: Doubt(name, value.cell, mode=mode, number=number)

    def add_value(value: checks.Value, *after: str) -> str:
        call = partial(checks.compare, value, device)
        return add("values", value.name, call, *after, doubts=about(value, value.number))

    cells = checks.kernel_cells()
    firsts = {cell: add_value(checks.first(cell, rehearse)) for cell in cells}
    for backward, loop in ((False, "forward"), (True, "backward")):
        missing = partial(repetitions.missing_program, backward, device)
        plain = add("missing program", loop, partial(missing, False))
        add("missing program", f"{loop}, in a graph", partial(missing, True), plain)
    for value in repetitions.exact_cases(rehearse):
        bare = replace(value, masks=False)  # whose lengths no call stops to check
        same = partial(repetitions.repeat, value, device, times)
        add("repetitions", value.name, same, firsts[value.cell], doubts=about(value))
        call = partial(repetitions.streams, bare, device, few)
        beside = add("streams", bare.name, call, doubts=about(bare))
        call = partial(repetitions.graph, bare, device, few)
        add("graph", bare.name, call, beside, doubts=about(bare))
    # What "auto-graph" may choose: torch's GEMMs and our kernels in one graph.
    outside = replace(repetitions.exact_cases(rehearse)[0], masks=False, mode="gemm")
    call = partial(repetitions.graph, outside, device, few)
    add("graph", outside.name, call, doubts=about(outside))

    def compare_in(dtype: str, precision: str) -> None:
        for cell in cells:
            forward: tuple[str, ...] = ()
            for value in checks.values(cell, dtype, precision, rehearse):
                name = add_value(value, *(forward if value.direction == "reverse" else ()))
                forward = (name,) if value.direction == "forward" else forward

    numbers = [n for n in checks.NUMBERS if cuda or n[1] != "tf32"]  # the interpreter has no tf32
    for number in (n for n in numbers if n[0] != "fp32"):
        compare_in(*number)
    for cell in cells if cuda else cells[:1]:
        compiled: tuple[str, ...] = ()
        case = checks.sanitizer_case(cell)
        if cuda:
            run_small = partial(checks.small, cell)
            compiled = (add("small case", cell, run_small, doubts=about(case)),)
        for tool in sanitizer.TOOLS:
            call = partial(sanitizer.run, tool, cell, cuda)
            add("sanitizer", f"{tool} {cell}", call, *compiled, doubts=about(case))
    for number in (n for n in numbers if n[0] == "fp32"):  # whose products take long to compile
        compare_in(*number)
    call = partial(checks.far_offsets, device)
    add("far offsets", "rnn_tanh bf16", call, alone=True)
    return list(found.values())


def key(rehearse: bool) -> dict[str, Any]:
    """What must be equal for an earlier outcome to count."""
    digest = hashlib.sha256()
    for module in (checks.__file__, repetitions.__file__, sanitizer.__file__, __file__):
        digest.update(Path(module).read_bytes())
    software = provenance.software_facts()
    return {
        "device": environment.probe().name,
        "code": provenance.code_hash(),
        "checks": digest.hexdigest()[:12],
        "rehearsal": rehearse,
        **{name: software[name] for name in ("python", "torch", "triton")},
    }


def stored(folder: Path, wanted: dict[str, Any]) -> list[Row]:
    """The outcomes in a folder, if they are of this device, code and software."""
    found = store.read_state(folder / files.CHECKS)
    return [Row(**row) for row in found["rows"]] if found.get("key") == wanted else []


def is_settled(row: Row) -> bool:
    """Whether a next call need not make this check: all but what did not end for want of time.

    What failed once stays failed as long as code and software are the same: a failure that does
    not come again is a race, not a mistake of the check. What twice did not end is left.
    """
    return row.outcome != NOT_DONE or row.tries >= TRIES


def unfinished(rows: Sequence[Row]) -> list[Row]:
    """What a next call would go on with."""
    return [row for row in rows if not is_settled(row)]


def write(folder: Path, rows: Sequence[Row], wanted: dict[str, Any], **facts: Any) -> None:
    """Replace the folder's outcomes at once."""
    found = provenance.provenance({"name": wanted["device"]}, wanted["code"]) | {"key": wanted}
    store.write_state(folder / files.CHECKS, found | facts | {"rows": list(map(asdict, rows))})


def doubts(rows: Sequence[Row]) -> tuple[Doubt, ...]:
    """What the failures among these rows make doubtful."""
    return from_json(doubt for row in rows if row.outcome == FAIL for doubt in row.doubts)


def workers() -> int:
    """How many processes to check with: one for each core, as compiling takes most of the time."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def run(
    todo: Sequence[Check],
    before: Sequence[Row],
    seconds: float,
    on_row: Callable[[Row], None],
    pool: Pool,
) -> None:
    """Make the checks that are not settled, in order; each outcome is handed on as it comes."""
    deadline = time.monotonic() + seconds
    earlier = {row.name: row for row in before}
    by_name = {check.unit.name: check for check in todo}

    def on_outcome(unit: Unit, outcome: Outcome) -> None:
        old = earlier.get(unit.name)
        check = by_name[unit.name]
        tries = (old.tries if old else 0) + outcome.tried
        doubtful = check.doubts if outcome.doubts is None else outcome.doubts
        row = Row(
            check.kind, check.what, outcome.state, outcome.detail, outcome.seconds, tries,
            outcome.report, to_json(doubtful) if outcome.state == FAIL else [],
        )  # fmt: skip
        on_row(row)

    waiting = []
    for check in todo:
        old = earlier.get(check.unit.name)
        if old is not None and is_settled(old):
            on_row(old)
        else:
            waiting.append(check.unit)
    pool.run(waiting, deadline, on_outcome)


def table(rows: Sequence[Row]) -> Any:
    """The outcomes: one line for each check of each cell, all lines of what did not pass."""
    from rich.table import Table

    shown = Table("check", "what", "outcome", "detail", "s")
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together = row.check == "values" and row.outcome == PASS
        what = " ".join(row.what.split()[:2]) if together else row.what
        groups.setdefault((row.check, what, row.outcome), []).append(row)
    colours = {PASS: "green", FAIL: "bold red", LEFT_OUT: "yellow", NOT_DONE: "bold yellow"}
    for (check, what, outcome), group in groups.items():
        detail = group[0].detail if len(group) == 1 else f"{len(group)} comparisons with float64"
        spent = sum(row.seconds for row in group)
        colour = f"[{colours[outcome]}]{outcome}"
        shown.add_row(check, what, colour, detail.replace("[", r"\["), f"{spent:.1f}")
    return shown


def summary_line(rows: Sequence[Row]) -> str:
    """How many ended how, in words."""
    counts = Counter(row.outcome for row in rows)
    words = {PASS: "passed", FAIL: "failed", LEFT_OUT: "left out", NOT_DONE: "not done"}
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items())


def _terminated(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


def command(
    rehearse: Annotated[
        bool, typer.Option(help="The same checks at tiny sizes, on any machine.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help=f"A folder to keep outcomes in ({files.CHECKS}); the next call goes on."),
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="What is not done by then is left.")] = 5.0,
) -> None:
    """Check the kernels on this GPU: values, repetitions, streams, graphs, failures, memory.

    A failure is printed whole: every tensor's error, where the wrong entries are, and the plans.

    Exit code 0 if all that can be checked here passed, 1 if anything failed (a wrong value, bits
    that differ, a barrier's failure, a crash), 2 without a GPU or a C compiler, 3 if nothing failed
    but something was not done, for want of time or by the fault of what is around it.
    """
    arguments.minutes(max_minutes)
    cuda = environment.probe().is_cuda or environment.machine().is_cuda
    if not cuda and not rehearse:
        print(
            "error: check-gpu needs a GPU and finds none here; --rehearse runs its code at tiny "
            "sizes in Triton's interpreter",
            file=sys.stderr,
        )
        raise typer.Exit(2)
    if cuda:
        toolchain.check()
        toolchain.check_cache()
    else:
        interpreter.check()
        os.environ["TRITON_INTERPRET"] = "1"  # for the processes of the pool
    out = out.resolve() if out is not None else None
    with Pool(workers()) as pool:
        rows = check(all_checks(rehearse, cuda), key(rehearse), out, max_minutes * 60, pool)
    if out is not None:
        write(out, rows, key(rehearse), device=environment.device_facts())
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    print(summary_line(rows))
    if any(row.outcome == FAIL for row in rows):
        raise typer.Exit(1)
    if any(row.outcome == NOT_DONE for row in rows):
        raise typer.Exit(UNFINISHED)


def check(
    todo: Sequence[Check],
    wanted: dict[str, Any],
    out: Path | None,
    seconds: float,
    pool: Pool,
    on_written: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Make the checks, printing failures whole and at once, and keeping each outcome in ``out``.

    Args:
        on_written: called after each outcome that was kept.
    """
    from rich.console import Console

    order = {check.unit.name: index for index, check in enumerate(todo)}
    before = [row for row in (stored(out, wanted) if out else []) if row.name in order]
    known = {row.name: row for row in before}  # what a call that is ended leaves behind
    found: dict[str, Row] = {}
    console = Console(stderr=True)
    handler = signal.signal(signal.SIGTERM, _terminated)
    try:
        with console.status("checking") as status:

            def on_row(row: Row) -> None:
                found[row.name] = known[row.name] = row
                status.update(f"{len(found)} of {len(todo)} done, last: {row.name}")
                if row.outcome == FAIL:
                    reports = sum(bool(each.report) for each in found.values())
                    whole = row.report if reports <= MOST_REPORTS else ""
                    console.print(
                        f"FAIL {row.name}: {row.detail}\n{whole}".rstrip(), markup=False,
                        highlight=False, soft_wrap=True,
                    )  # fmt: skip
                if out is not None:
                    rows = sorted(known.values(), key=lambda row: order[row.name])
                    write(out, rows, wanted)
                    on_written()

            run(todo, before, seconds, on_row, pool)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return sorted(found.values(), key=lambda row: order[row.name])
