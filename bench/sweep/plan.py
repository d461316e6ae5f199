"""Plan a sweep: what is left to measure, in what order, and for how long. Imports no torch."""

import functools
import glob
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import providers
from bench.cases import roofline
from bench.cases.arguments import check_name, parse_choices
from bench.cases.cases import matches, shard
from bench.cases.presets import KINDS, PRESETS, Preset, Request, load_preset
from bench.records import provenance, schema, store
from bench.records.environment import Machine, why_no_energy

FAILED = ("error", "oom", "timeout", "incorrect")
CASE_SECONDS = 1.0  # the float64 results and the checks, for the estimate
# Of a call too slow for more, for the estimate: to warm up, and one in each visit that must be.
WARMUP_CALLS, LEAST_SAMPLES = 10, 8
ENERGY_SECONDS = 5.0  # all windows of a provider (bench.measure.energy), for the estimate
USUAL_PROVIDERS = ("torch.nn", "ours", "reference")  # if neither options nor preset name any


@dataclass(frozen=True)
class NotMeasured:
    """A request that one of its providers cannot run, with its record's status and reason."""

    request: Request
    provider: str
    status: str
    reason: str


@dataclass
class Plan:
    """What a sweep will do.

    Attributes:
        requests: what to measure, in order, each for the providers that can run it.
        not_measured: the requests and providers that cannot run them.
        done: how many records exist already.
        matched: how many cases the kinds and the filter select, of all shards together.
    """

    run_id: str
    requests: list[Request] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)
    done: int = 0
    matched: int = 0


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
    starts: int = 1


def request_seconds(request: Request, machine: Machine, per_provider: float) -> float:
    """An estimate: float64 results, and of each provider the checks, the warm-up and samples.

    Args:
        per_provider: seconds that each may spend on samples (``--seconds``).
    """
    case, total = request.case, CASE_SECONDS
    for name in request.providers:
        call = roofline.guess_ms(case, name, machine.is_cuda) / 1e3
        warmup = min(WARMUP_CALLS * call, per_provider / 3)
        samples = {
            "time": warmup + max(per_provider, LEAST_SAMPLES * call),
            "energy": warmup + ENERGY_SECONDS,
            "error": 0.0,
        }
        total += 4 * call + samples[request.kind]
        if name.endswith("compiled"):
            total += case.T * case.layers * case.directions
    return total


def record_file(folder: Path, run_id: str, which: str = "1/1") -> Path:
    """The file of a run's records; each shard has its own, as only one process may write it."""
    tail = "" if which == "1/1" else "." + which.replace("/", "of")
    return folder / "records" / f"{run_id}{tail}.jsonl"


def default_run(preset: str, plugins: Iterable[Path] = ()) -> str:
    """The run's default name, the same for the same code and preset, so that a run is resumed.

    Args:
        plugins: files whose contents are a part of the code.
    """
    name = f"{preset}-{provenance.code_hash()}"
    if hashes := {provenance.short_hash(path.read_bytes()) for path in plugins}:
        name += "-" + provenance.short_hash("".join(sorted(hashes)).encode())
    return name


def make_plan(options: Options, machine: Machine, folder: Path) -> Plan:
    """What is left to do for these options on this machine.

    Providers and cells must be loaded (``bench.providers.load``).

    Raises:
        ValueError: for a kind, preset, provider, filter or shard that does not exist, a run's name
            that cannot name a file, and a filter that matches no case.
    """
    preset = load_preset(options.preset, options.preset_file)
    requests = select_requests(preset, options)
    plan = Plan(run_name(options), matched=len(requests))
    statuses = finished(folder, plan.run_id)
    again = statuses_to_rerun(options.rerun)
    # Where there is no GPU, errors are measured in the interpreter; times never are.
    machines = dict.fromkeys(KINDS, machine)
    machines["error"] = replace(machine, interpreted=not machine.is_cuda)
    no_energy = why_no_energy(machine) if any(r.kind == "energy" for r in requests) else None
    select = functools.cache(providers.select)
    starts = (
        replace(request, start=start)
        for start in range(options.starts)  # so that a run that is cut short has whole starts
        for request in shard(requests, options.shard)
        if start == 0 or request.kind == "time"
    )
    for request in starts:
        names = options.providers or request.providers or preset.providers or USUAL_PROVIDERS
        request = replace(request, seed=options.seed + request.seed)
        able = []
        for name, provider in select(names).items():
            if request.kind == "error" and (provider.graph or name.endswith("compiled")):
                continue  # same arithmetic as without a graph or compilation
            asked = request.kind, request.case.case_id, name, request.regime, request.seed
            status = statuses and statuses.get((*asked, request.start))
            if status and status not in again:
                plan.done += 1
                continue
            if request.kind == "energy" and no_energy:
                why_not: tuple[str, str] | None = ("unsupported", no_energy)
            else:
                why_not = providers.unsupported(provider, request.case, machines[request.kind])
            if why_not and request.start == 0:
                plan.not_measured.append(NotMeasured(request, name, *why_not))
            elif not why_not:
                able.append(name)
        if able:
            plan.requests.append(replace(request, providers=tuple(able)))
    return plan


def select_requests(preset: Preset, options: Options) -> list[Request]:
    """A preset's requests of the given kinds that match the filter.

    Raises:
        ValueError: for an unknown kind, and a filter that matches no case.
    """
    kinds = parse_choices("kind", options.kinds, KINDS)
    of_kinds = [each for kind in kinds for each in preset.requests if each.kind == kind]
    found = [each for each in of_kinds if matches(each.case, options.filter)]
    if of_kinds and not found:
        raise ValueError(
            f"filter {options.filter!r} matches none of the {len(of_kinds):,} cases of kind "
            f"{','.join(kinds)} in preset {options.preset!r}; accepted: one that does"
        )
    return found


def run_name(options: Options) -> str:
    """The run's name; raises ValueError for one that cannot name a file."""
    name = options.run
    if name is None:
        name = default_run(options.preset, options.plugins)
    check_name("run", name)
    return name


def statuses_to_rerun(text: str | None) -> tuple[str, ...]:
    """The statuses a ``--rerun`` asks for: "failed", "all", or some of them by name.

    Raises:
        ValueError: for a status that does not exist.
    """
    groups = {None: (), "failed": FAILED, "all": schema.STATUSES}
    if text in groups:
        return groups[text]
    return parse_choices("rerun", str(text), ("failed", "all", *schema.STATUSES))


def finished(folder: Path, run_id: str) -> dict[tuple[Any, ...], str]:
    """The latest status of every request and provider that some file of this run has."""
    records = (
        record
        for path in store.record_files(folder / "records", f"{glob.escape(run_id)}*")
        for record in store.read(path)
        if record["run_id"] == run_id
    )
    return {_key(record): record["status"] for record in store.latest(records, _key)}


def _key(record: store.Record) -> tuple[Any, ...]:
    """What identifies a request and a provider in a record."""
    names = ("kind", "case_id", "provider", "regime", "seed")
    return (*(record[name] for name in names), record["start"] or 0)


def describe(plan: Plan, machine: Machine, per_provider: float) -> Iterable[str]:
    """A dry run's lines."""
    for each in plan.requests:
        words = [each.case.case_id, each.regime, f"seed {each.seed}" if each.seed else None]
        words += [f"start {each.start}"] if each.start else []
        yield f"{each.kind:5} {' '.join(filter(None, words))}: {', '.join(each.providers)}"
    for word, status in (("skip ", "unsupported"), ("error", "error")):
        reasons = Counter(
            (each.provider, each.reason) for each in plan.not_measured if each.status == status
        )
        for (name, reason), count in sorted(reasons.items()):
            yield f"{word} {name} in {count} cases: {reason}"
    skipped = sum(each.status == "unsupported" for each in plan.not_measured)
    seconds = sum(request_seconds(each, machine, per_provider) for each in plan.requests)
    yield (
        f"{len(plan.requests):,} cases to measure on {machine.name}, {plan.done:,} done before, "
        f"{skipped:,} skipped; about {duration(seconds)} (a guess)"
    )


def duration(seconds: float) -> str:
    """A time in a readable unit.

    >>> duration(9), duration(600), duration(8 * 3600), duration(6 * 86400)
    ('9 seconds', '10 minutes', '8.0 hours', '6.0 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
