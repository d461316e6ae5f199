"""The sweep: which cases for which providers, in what order, resumed, within a budget."""

from __future__ import annotations

import functools
import glob
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import providers
from bench.cases import roofline
from bench.cases.cases import matches, shard
from bench.cases.presets import KINDS, PRESETS, load_preset
from bench.measure import interpreter
from bench.records import environment, files, provenance, schema, store
from bench.records.environment import Machine
from bench.sweep import toolchain
from bench.sweep.worker_process import Isolated, Item, Stopped

FAILED = ("error", "oom", "timeout", "incorrect")
CASE_SECONDS = 1.0  # the truth and the checks, for the estimate


@dataclass
class Plan:
    """What a sweep will do: items to measure, and who cannot run what, with the reason.

    ``skipped`` holds a request for all its providers, one of them, and why that one cannot run it;
    ``broken`` likewise those that could not even say whether they can. ``asked`` counts the cases
    of these kinds and filter, before they are cut into shards.
    """

    run_id: str
    items: list[Item] = field(default_factory=list)
    skipped: list[tuple[Item, str, str]] = field(default_factory=list)
    broken: list[tuple[Item, str, str]] = field(default_factory=list)
    done: int = 0
    asked: int = 0

    def seconds(self, machine: Machine, per_provider: float) -> float:
        """A guess of the whole time, from guesses of single calls."""
        return sum(item_seconds(item, machine, per_provider) for item in self.items)


@dataclass(frozen=True)
class Options:
    """A sweep's choices; see the command's own help."""

    preset: str = "quick"
    preset_file: Path = PRESETS
    kinds: tuple[str, ...] = ("time",)
    providers: str | None = None
    filter: str = ""
    shard: str = "1/1"
    run: str | None = None
    rerun: str | None = None
    plugins: tuple[Path, ...] = ()
    seed: int = 0


def item_seconds(item: Item, machine: Machine, per_provider: float) -> float:
    """A guess: truth and check, two calls to prepare, then samples for each provider."""
    total = CASE_SECONDS
    for name in item.providers:
        call = roofline.guess_ms(item.case, name, machine.is_cuda) / 1e3
        total += 4 * call + (0 if item.kind == "error" else max(per_provider, call))
        if name.endswith("compiled"):
            total += item.case.T * item.case.layers * item.case.directions
    return total


def record_file(folder: Path, run_id: str, which: str = "1/1") -> Path:
    """A shard's own file, since two processes never write one."""
    tail = "" if which == "1/1" else "." + which.replace("/", "of")
    return folder / "records" / f"{run_id}{tail}.jsonl"


def default_run(preset: str) -> str:
    """Equal code and preset give equal names, so that the next call resumes the last."""
    return f"{preset}-{provenance.code_hash()}"


def make_plan(options: Options, machine: Machine, folder: Path) -> Plan:
    """Which items are left to do for these options on this machine.

    Raises:
        ValueError: for a kind, preset, provider, filter or shard that does not exist, a run's name
            that cannot name a file, and a filter that matches no case.
    """
    for kind in options.kinds:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; accepted: {', '.join(KINDS)}")
    providers.load(options.plugins)  # before the preset, which may name a plugin's cell
    preset = load_preset(options.preset, options.preset_file)
    names = preset.providers or ("torch.nn", "ours", "reference")
    plan = Plan(default_run(options.preset) if options.run is None else options.run)
    if not re.fullmatch(r"\w[\w.+=@ -]*", plan.run_id):
        raise ValueError(
            f"run is {plan.run_id!r}; accepted: a name of letters, digits and _ . + = @ -, "
            "beginning with a letter or digit, because it names a file"
        )
    statuses = finished(folder, plan.run_id)
    again = statuses_to_rerun(options.rerun)
    of_kinds = [
        request for kind in options.kinds for request in preset.requests if request.kind == kind
    ]
    requests = [request for request in of_kinds if matches(request.case, options.filter)]
    if of_kinds and not requests:
        raise ValueError(
            f"filter {options.filter!r} matches none of the {len(of_kinds):,} cases of kind "
            f"{','.join(options.kinds)} in preset {options.preset!r}; accepted: one that does"
        )
    plan.asked = len(requests)
    # What is not timed may run in the interpreter.
    here = {kind: replace(machine, interpreted=_interpreted(kind, machine)) for kind in KINDS}

    @functools.cache
    def asked(names: str | tuple[str, ...]) -> dict[str, providers.Provider]:
        return {each.name: each for each in providers.select(names)}

    for request in shard(requests, options.shard):
        kind, case, regime = request.kind, request.case, request.regime
        seed = options.seed if request.seed is None else options.seed + request.seed
        wanted = asked(options.providers or request.providers or names)
        everyone = Item(kind, case, tuple(wanted), seed, regime)
        able = []
        for name, each in wanted.items():
            if kind == "error" and (each.graph or name.endswith("compiled")):
                continue  # the same arithmetic as without
            status = statuses and statuses.get((kind, case.case_id, name, regime, seed))
            if status and status not in again:
                plan.done += 1
                continue
            try:
                reason = providers.unsupported(each, case, here[kind])
            except RuntimeError as fault:
                plan.broken.append((everyone, name, str(fault)))
                continue
            if reason:
                plan.skipped.append((everyone, name, reason))
            else:
                able.append(name)
        if able:
            plan.items.append(replace(everyone, providers=tuple(able)))
    return plan


def _interpreted(kind: str, machine: Machine) -> bool:
    return kind == "error" and not machine.is_cuda


def statuses_to_rerun(text: str | None) -> tuple[str, ...]:
    """The statuses a ``--rerun`` asks for: "failed", "all", or some of them by name.

    Raises:
        ValueError: for a status that does not exist.
    """
    if text is None:
        return ()
    if text in ("failed", "all"):
        return FAILED if text == "failed" else schema.STATUSES
    asked = tuple(text.split(","))
    for name in asked:
        if name not in schema.STATUSES:
            accepted = ", ".join(("failed", "all", *schema.STATUSES))
            raise ValueError(f"rerun is {name!r}; accepted: {accepted}")
    return asked


def finished(folder: Path, run_id: str) -> dict[tuple[Any, ...], str]:
    """The last status of every question that some file of this run has answered."""
    records = (
        record
        for path in store.record_files(folder / "records", f"{glob.escape(run_id)}*")
        for record in store.read(path)
        if record["run_id"] == run_id
    )
    return {_question(record): record["status"] for record in store.newest(records, _question)}


def _question(record: store.Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("kind", "case_id", "provider", "regime", "seed"))


Progress = Callable[[int, int, Item, str, str], None]


def quiet(done: int, total: int, item: Item, provider: str, doing: str) -> None:
    """A progress that shows nothing."""


def carry_out(
    plan: Plan,
    workers: Callable[[str], Isolated],
    machine: Machine,
    writer: store.Writer,
    settings: dict[str, Any],
    max_seconds: float | None = None,
    progress: Progress = quiet,
) -> tuple[Counter[str], int]:
    """Measure a plan's items in order, writing each record as it comes.

    Returns:
        How many records ended how, and how many items the budget left undone.
    """
    started = time.monotonic()
    deadline = None if max_seconds is None else started + max_seconds
    counts: Counter[str] = Counter()
    base = {"run_id": plan.run_id, "interpreted": False}
    facts = None
    without = [("unsupported", *each) for each in plan.skipped]
    without += [("error", *each) for each in plan.broken]
    for status, item, provider, reason in without:
        facts = facts or workers(item.kind).hello()["device"]
        writer.append(
            schema.new_record(
                **base,
                **provenance.provenance(facts),
                **item.case.fields(),
                kind=item.kind,
                provider=provider,
                status=status,
                reason=reason,
                regime=item.regime,
                seed=item.seed,
            ),
            sync=False,
        )
        counts[status] += 1
    known = providers.PROVIDERS
    for index, item in enumerate(plan.items):
        progress(index, len(plan.items), item, "", "")
        if deadline is not None and time.monotonic() >= deadline:
            return counts, len(plan.items) - index
        try:
            answers = workers(item.kind).measure(
                item,
                note=functools.partial(progress, index, len(plan.items), item),
                deadline=deadline,
            )
        except Stopped:
            return counts, len(plan.items) - index
        for answer in answers:
            mode = known[answer["provider"]].mode(machine) if item.kind == "time" else None
            record = schema.new_record(
                **base
                | provenance.provenance(answer["device"])
                | item.case.fields()
                | {"kind": item.kind, "regime": item.regime, "seed": item.seed, "mode": mode}
                | answer
            )
            writer.append(record)
            counts[record["status"]] += 1
    return counts, 0


def sweep(
    options: Options,
    settings: dict[str, Any],
    results: Path = files.RESULTS,
    max_minutes: float | None = None,
    timeout: float = 180.0,
    progress: Progress = quiet,
    announce: Callable[[Plan, Machine, Path], None] = lambda plan, machine, folder: None,
) -> tuple[Path, Counter[str], int]:
    """Plan and carry out a sweep; its records are kept however it ends.

    Returns:
        The device's folder, how many records ended how, and how many items were left undone.

    Raises:
        ValueError: for settings or options that nothing can be measured with.
    """
    began = time.monotonic()
    check_settings(settings, timeout)
    check_results(results)
    providers.load(options.plugins)  # in here a broken plugin is one sentence
    with ExitStack() as stack:
        guess = results / provenance.slug(environment.probe().name)
        started: dict[bool, Isolated] = {}

        def worker(interpreted: bool) -> Isolated:
            if interpreted not in started:
                isolated = Isolated(settings, guess, interpreted, options.plugins, timeout)
                started[interpreted] = stack.enter_context(isolated)
            return started[interpreted]

        cuda = environment.probe().is_cuda
        if cuda:
            toolchain.check()  # before every case fails for it
        elif "error" in options.kinds:
            interpreter.check()

        def workers(kind: str) -> Isolated:
            return worker(kind == "error" and not cuda)

        machine = replace(workers(options.kinds[0]).machine(), interpreted=False)
        folder = results / provenance.slug(machine.name)
        plan = make_plan(options, machine, folder)
        announce(plan, machine, folder)
        # Starting the process that measures takes its share of the time, too.
        budget = None if max_minutes is None else max_minutes * 60 + began - time.monotonic()
        path = record_file(folder, plan.run_id, options.shard)
        with store.Writer(path) as writer:
            counts, left = carry_out(plan, workers, machine, writer, settings, budget, progress)
    return folder, counts, left


def check_settings(settings: Mapping[str, Any], timeout: float) -> None:
    """Raise ValueError unless sampling time, target and timeout are numbers above 0."""
    named = {name: settings[name] for name in ("seconds", "target") if name in settings}
    for name, value in (named | {"timeout": timeout}).items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value:g}; accepted: a number above 0")


def check_results(results: Path) -> None:
    """Raise ValueError unless a folder is there or can be made."""
    there = next(path for path in (results, *results.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"results is {results}, but {there} is a file; accepted: a folder")


def describe(plan: Plan, machine: Machine, per_provider: float) -> Iterable[str]:
    """A dry run's lines."""
    for item in plan.items:
        words = [item.case.case_id, item.regime, f"seed {item.seed}" if item.seed else None]
        yield f"{item.kind:5} {' '.join(filter(None, words))}: {', '.join(item.providers)}"
    for word, those in (("skip ", plan.skipped), ("error", plan.broken)):
        reasons = Counter((name, reason) for _, name, reason in those)
        for (name, reason), count in sorted(reasons.items()):
            yield f"{word} {name} in {count} cases: {reason}"
    yield (
        f"{len(plan.items):,} cases to measure on {machine.name}, {plan.done:,} done before, "
        f"{len(plan.skipped):,} skipped; about {duration(plan.seconds(machine, per_provider))} "
        "(a guess)"
    )


def duration(seconds: float) -> str:
    """A time in the unit that a reader would choose.

    >>> duration(9), duration(600), duration(8 * 3600), duration(6 * 86400)
    ('9 seconds', '10 minutes', '8.0 hours', '6.0 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
