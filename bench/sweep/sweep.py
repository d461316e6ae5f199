"""Run a sweep: measure what is planned, in order and within a budget, and write records."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import providers
from bench.cases.arguments import SECONDS, SEED, TARGET
from bench.cases.presets import Request
from bench.measure import interpreter
from bench.records import environment, files, provenance, schema, store
from bench.records.environment import Machine
from bench.sweep import toolchain
from bench.sweep.plan import Options, Plan, make_plan, record_file
from bench.sweep.worker_process import Isolated, Stopped

Progress = Callable[[int, int, Request, str, str], None]
NUMBERS = {"seconds": SECONDS, "target": TARGET, "seed": SEED}  # among a worker's settings


def run_plan(
    plan: Plan,
    workers: Callable[[str], Isolated],
    machine: Machine,
    writer: store.Writer,
    max_seconds: float | None,
    progress: Progress,
) -> tuple[Counter[str], int]:
    """Measure a plan's requests in order, writing each record as it comes.

    Args:
        workers: gives the process that measures requests of a kind.

    Returns:
        The number of records by status, and of requests that the budget left undone.
    """
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    counts: Counter[str] = Counter()

    def write(request: Request, values: dict[str, Any], sync: bool = True) -> None:
        common = {"run_id": plan.run_id, "interpreted": False, "kind": request.kind}
        start = request.start if request.kind == "time" else None
        common |= {"regime": request.regime, "seed": request.seed, "start": start}
        facts = provenance.provenance(values["device"])
        record = schema.new_record(**common | facts | request.case.fields() | values)
        writer.append(record, sync=sync)
        counts[record["status"]] += 1

    for each in plan.not_measured:
        device = workers(each.request.kind).hello()["device"]
        why = {"provider": each.provider, "status": each.status, "reason": each.reason}
        write(each.request, {"device": device} | why, sync=False)
    total = len(plan.requests)
    for index, request in enumerate(plan.requests):
        progress(index, total, request, "", "")
        if deadline is not None and time.monotonic() >= deadline:
            return counts, total - index
        note = functools.partial(progress, index, total, request)
        try:
            answers = workers(request.kind).measure(request, note, deadline)
        except Stopped:
            return counts, total - index
        for answer in answers:
            provider = providers.PROVIDERS[answer["provider"]]
            mode = None if request.kind == "error" else provider.mode(machine)
            write(request, {"mode": mode} | answer)
    return counts, 0


def sweep(
    options: Options,
    settings: dict[str, Any],
    results: Path = files.RESULTS,
    max_minutes: float | None = None,
    timeout: float = 180.0,
    progress: Progress = lambda *step: None,
    announce: Callable[[Plan], None] = lambda plan: None,
) -> tuple[Path, Counter[str], int]:
    """Plan and run a sweep; what it has recorded is kept also if it is interrupted.

    Args:
        settings: of ``bench.sweep.worker.Settings``.
        timeout: seconds without a message after which a measuring process counts as hanging.
        announce: called with the plan before anything is measured.

    Returns:
        The device's folder, the number of records by status, and of requests left undone.

    Raises:
        ValueError: for settings or options that are not accepted.
    """
    began = time.monotonic()
    check_settings(settings, timeout)
    check_results(results)
    providers.load(options.plugins)
    probed = environment.probe()
    if probed.is_cuda:
        toolchain.check()  # once, rather than in every case
    elif "error" in options.kinds:
        interpreter.check()
    with ExitStack() as stack:
        folder = results / provenance.slug(probed.name)

        @functools.cache
        def worker(interpreted: bool) -> Isolated:
            isolated = Isolated(settings, folder, interpreted, options.plugins, timeout)
            return stack.enter_context(closing(isolated))

        def workers(kind: str) -> Isolated:
            return worker(kind == "error" and not probed.is_cuda)

        machine = replace(workers(options.kinds[0]).machine(), interpreted=False)
        device_folder = results / provenance.slug(machine.name)
        plan = make_plan(options, machine, device_folder)
        announce(plan)
        # The budget includes starting the measuring process.
        budget = None if max_minutes is None else max_minutes * 60 + began - time.monotonic()
        with store.Writer(record_file(device_folder, plan.run_id, options.shard)) as writer:
            counts, left = run_plan(plan, workers, machine, writer, budget, progress)
    return device_folder, counts, left


def summary_line(counts: Counter[str], left: int) -> str:
    """One line on how a sweep ended."""
    ended = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    tail = f"; {left} cases left for the next call" if left else ""
    return f"records: {ended or 'none new'}{tail}"


def check_settings(settings: Mapping[str, Any], timeout: float) -> None:
    """Raise ValueError unless sampling time, target, seed and timeout are accepted."""
    for name, accepted in NUMBERS.items():
        if name in settings:
            accepted.check(name, settings[name])
    SECONDS.check("timeout", timeout)


def check_results(results: Path) -> None:
    """Raise ValueError unless a folder is there or can be made."""
    there = next(path for path in (results, *results.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"results is {results}, but {there} is a file; accepted: a folder")
