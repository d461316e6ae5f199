"""``python -m bench check-gpu``: whether the kernels are right on the GPU at hand, in minutes.

What the CPU tests cannot show: compiled kernels at real sizes, programs that really run at once,
streams, CUDA graphs (``bench.checks``). Each check runs in a process of a pool, the most telling
first, so compiling uses all cores. ``--rehearse`` runs the code at tiny sizes on any machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import arguments, checks, environment, toolchain
from bench.cases import CELLS
from bench.pool import FAIL, LEFT_OUT, NOT_DONE, PASS, Outcome, Unit, carry_out

FILE = "check_gpu.json"
MOST_WORKERS = 32  # each holds some 0.5 GB of the GPU
TRIES = 2  # what twice did not end for reasons of its own is not begun again
UNFINISHED = 3  # exit code


@dataclass
class Row:
    """One check's outcome, of the words of ``bench.pool``, and how often it had a fair try."""

    check: str
    what: str
    outcome: str
    detail: str
    seconds: float = 0.0
    tries: int = 1

    @property
    def name(self) -> str:
        return f"{self.check}: {self.what}"


def units(rehearse: bool, cuda: bool) -> list[tuple[str, str, Unit]]:
    """Every check: its kind, what is checked, and what to do.

    A check that needs another's kernels comes after it and finds them compiled.
    """
    found: list[tuple[str, str, Unit]] = []
    device = "cuda" if cuda else "cpu"
    times, few = (2, 1) if rehearse else (1000, 50)

    def add(check: str, what: str, call: Callable[[], str], *after: str, alone: bool = False):
        name = f"{check}: {what}"
        if all(unit.name != name for _, _, unit in found):
            found.append((check, what, Unit(name, call, after, alone)))
        return name

    def add_value(value: checks.Value, *after: str) -> str:
        return add("values", value.name, partial(checks.compare, value, device), *after)

    cells = [cell.name for cell in CELLS.values() if cell.kernels]
    firsts = {cell: add_value(checks.first(cell, rehearse)) for cell in cells}
    for backward, loop in ((False, "forward"), (True, "backward")):
        missing = partial(checks.missing_program, backward, device)
        plain = add("missing program", loop, partial(missing, False))
        add("missing program", f"{loop}, in a graph", partial(missing, True), plain)
    for value in checks.exact_cases(rehearse):
        bare = replace(value, masks=False)  # whose lengths no call stops to check
        same = partial(checks.repeat, value, device, times)
        add("repetitions", value.name, same, firsts[value.cell])
        beside = add("streams", bare.name, partial(checks.streams, bare, device, few))
        add("graph", bare.name, partial(checks.graph, bare, device, few), beside)
    # What "auto-graph" may choose: torch's GEMMs and our kernels in one graph.
    outside = replace(checks.exact_cases(rehearse)[0], masks=False, mode="gemm")
    add("graph", outside.name, partial(checks.graph, outside, device, few))

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
        watched: tuple[str, ...] = ()
        if cuda:
            watched = (add("small case", cell, partial(checks.small, cell)),)
        for tool in checks.SANITIZERS:
            what = f"{tool} {cell}"
            add("sanitizer", what, partial(checks.sanitize, tool, cell, cuda), *watched)
    for number in (n for n in numbers if n[0] == "fp32"):  # whose products take long to compile
        compare_in(*number)
    add("far offsets", "rnn_tanh bf16", partial(checks.far_offsets, device), alone=True)
    return found


def key(rehearse: bool) -> dict[str, Any]:
    """What must be equal for an earlier outcome to stand."""
    digest = hashlib.sha256()
    for module in (checks.__file__, __file__):
        digest.update(Path(module).read_bytes())
    software = environment.software_facts()
    return {
        "device": environment.probe().name,
        "code": environment.code_hash(),
        "checks": digest.hexdigest()[:12],
        "rehearsal": rehearse,
        **{name: software[name] for name in ("python", "torch", "triton")},
    }


def stored(folder: Path, wanted: dict[str, Any]) -> list[Row]:
    """The outcomes in a folder, if they are of this device, code and software."""
    path = folder / FILE
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Row(**row) for row in found["rows"]] if found.get("key") == wanted else []


def stands(row: Row) -> bool:
    """Whether a next call need not make this check: it passed, or did not end time and again."""
    return row.outcome == PASS or (row.outcome == NOT_DONE and row.tries >= TRIES)


def left(rows: Sequence[Row]) -> list[Row]:
    """What a next call would go on with; machines that cannot make a check are not asked again."""
    return [row for row in rows if not stands(row) and row.outcome != LEFT_OUT]


def write(folder: Path, rows: Sequence[Row], wanted: dict[str, Any], **facts: Any) -> None:
    """Replace the folder's outcomes at once."""
    folder.mkdir(parents=True, exist_ok=True)
    commit, dirty = environment.git_state()
    found = {
        "key": wanted,
        "code": wanted["code"],
        "commit": commit,
        "dirty": dirty,
        "software": environment.software_facts(),
        "device": {"name": wanted["device"]},
    }
    fresh = folder / f".{FILE}"
    rows_ = [asdict(row) for row in rows]
    fresh.write_text(json.dumps(found | facts | {"rows": rows_}, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, folder / FILE)


def run(
    todo: list[tuple[str, str, Unit]],
    before: Sequence[Row],
    seconds: float,
    tell: Callable[[Row], None],
) -> None:
    """Make the checks that do not stand, in order; each outcome is told as it comes."""
    deadline = time.monotonic() + seconds
    earlier = {row.name: row for row in before}
    which = {unit.name: (check, what) for check, what, unit in todo}

    def ended(unit: Unit, outcome: Outcome) -> None:
        old = earlier.get(unit.name)
        if old is not None and old.outcome == FAIL and outcome.state == NOT_DONE:
            tell(old)  # until it passes
            return
        tries = (old.tries if old else 0) + outcome.tried
        tell(Row(*which[unit.name], outcome.state, outcome.detail, outcome.seconds, tries))

    waiting = []
    for _, _, unit in todo:
        old = earlier.get(unit.name)
        if old is not None and stands(old):
            tell(old)
        else:
            waiting.append(unit)
    waiting.sort(key=lambda unit: unit.name not in earlier or earlier[unit.name].outcome != FAIL)
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)), max(1, len(waiting)))
    carry_out(waiting, workers, deadline, ended)


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


def counted(rows: Sequence[Row]) -> str:
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
        typer.Option(help=f"A folder that gets every outcome as {FILE}; the next call goes on."),
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="What is not done by then is left.")] = 5.0,
) -> None:
    """Check the kernels on this GPU: values, repetitions, streams, graphs, failures, memory.

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
        os.environ["TRITON_INTERPRET"] = "1"  # for the processes of the pool
    rows = check(units(rehearse, cuda), key(rehearse), out, max_minutes * 60)
    if out is not None:
        write(out, rows, key(rehearse), device=environment.device_facts())
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    print(counted(rows))
    if any(row.outcome == FAIL for row in rows):
        raise typer.Exit(1)
    if any(row.outcome == NOT_DONE for row in rows):
        raise typer.Exit(UNFINISHED)


def check(
    todo: list[tuple[str, str, Unit]], wanted: dict[str, Any], out: Path | None, seconds: float
) -> list[Row]:
    """Make the checks, telling of failures at once and keeping each outcome in ``out``."""
    from rich.console import Console

    order = {unit.name: index for index, (_, _, unit) in enumerate(todo)}
    before = [row for row in (stored(out, wanted) if out else []) if row.name in order]
    known = {row.name: row for row in before}  # what a call that is ended leaves behind
    told: dict[str, Row] = {}
    console = Console(stderr=True)
    handler = signal.signal(signal.SIGTERM, _terminated)
    try:
        with console.status("checking") as status:

            def tell(row: Row) -> None:
                told[row.name] = known[row.name] = row
                status.update(f"{len(told)} of {len(todo)} done, last: {row.name}")
                if row.outcome == FAIL:
                    console.print(f"FAIL {row.name}: {row.detail}", markup=False)
                if out is not None:
                    rows = sorted(known.values(), key=lambda row: order[row.name])
                    write(out, rows, wanted)

            run(todo, before, seconds, tell)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return sorted(told.values(), key=lambda row: order[row.name])
