"""A campaign: everything that a device's page shows, measured in as many calls as it takes.

Its order: compile what comes next, check-gpu, the floor, the first-contact preset's speed, speed
and error of the campaign preset, energy, then speed and error of the paper preset. Each step gets a
share of the time that is left, so that a call of three minutes still measures speed. A call resumes
where the last one ended.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.cases.cases import CELLS
from bench.cases.presets import Request, load_preset
from bench.error import studies
from bench.gpu import floor, launch_checks, precompile, run_checks, value_checks
from bench.records import environment, failed_checks, files, provenance, store
from bench.records.failed_checks import FAIL, NOT_DONE, PASS, Suspect
from bench.sweep import sweep
from bench.sweep.plan import Options, default_run, record_file
from bench.sweep.pool import Pool, calls_elsewhere
from bench.sweep.process import TookTooLong

# A step's limits: a share of the time that is left when it begins, and a number of seconds.
COMPILE = 0.2, 180.0
CHECK = 0.25, 300.0
FLOOR = 0.2, 60.0
SPEED = 0.75, float("inf")  # if the preset's errors are measured too
ALL = 1.0, float("inf")

FIRST_PRESET = "first-contact"
PRESETS = (FIRST_PRESET, "campaign", "energy", "paper")
REHEARSAL = ("tiny",)
STUDIED = ("campaign", "tiny")  # the studies below run after the speed of these presets
# The studies of error, each run in a separate process, its file, and a rehearsal's arguments.
STUDIES: tuple[tuple[Callable[..., Path], str, tuple[Any, ...]], ...] = (
    (studies.activations, files.ACTIVATIONS, (0,)),
    (studies.repeatability, files.REPEATABILITY, ("cell=rnn_tanh dtype=fp32",)),
    (studies.training, files.TRAINING, (("rnn_tanh",), 0)),
)

FIRST_REPORT_SECONDS = 60.0  # assumed of the first report; later ones take as long as the last
LEAST_STUDY_SECONDS = 60.0  # a study is not begun with less: if killed, it leaves no result
LEAST_SWEEP_SECONDS = 20.0  # a sweep is not begun with less: its process takes half to start
END_SECONDS = 3.0  # to end the processes that measure and to save
SAVE_SECONDS = 30.0  # between two saves within a step


@dataclass(frozen=True)
class Outputs:
    """Callbacks of a campaign.

    Args:
        save: puts the results where they outlast this process.
        show_checks: for a number of checks, a context that gives a callback for each outcome.
        show_sweep: for a title and a time limit, a context that gives a progress callback.
        build_report: makes tables, figures and pages in a device's folder; None for no report.
    """

    save: Callable[[], object]
    show_checks: Callable[[int], AbstractContextManager[Callable[[run_checks.Row], object]]]
    show_sweep: Callable[[str, float], AbstractContextManager[sweep.Progress]]
    build_report: Callable[[Path], object] | None = None


@dataclass
class Campaign:
    """One call of ``python -m bench campaign``.

    Args:
        results: the folder of results, with a folder for each device.
        deadline: of ``time.monotonic``.
        settings: of ``bench.sweep.worker.Settings``.
        timeout: seconds of silence after which a measuring process counts as hanging.
        rehearse: run every step on a tiny grid, on any machine.
    """

    results: Path
    deadline: float
    settings: dict[str, Any]
    outputs: Outputs
    timeout: float
    rehearse: bool = False
    failures: list[str] = field(default_factory=list)
    suspects: tuple[Suspect, ...] = ()

    def __post_init__(self) -> None:
        self.machine = environment.probe()
        self.folder = self.results / provenance.slug(self.machine.name)
        self.run_id = default_run("campaign")
        self.state = store.read_state(self.folder / files.CAMPAIGN)
        self._saved = time.monotonic()
        self._report_begun = False

    def seconds_left(self) -> float:
        """Seconds until the deadline, less those that ending the call will take."""
        remaining = self.deadline - time.monotonic()
        if self.outputs.build_report is None:
            return remaining - END_SECONDS
        report = 1.5 * self.state.get("report_seconds", FIRST_REPORT_SECONDS)
        return remaining - min(report, remaining / 2)

    def seconds_for(self, share: float, most: float) -> float:
        """The seconds that a step may take: ``share`` of the time left, at most ``most``."""
        return min(share * self.seconds_left(), most)

    def remember(self, **facts: Any) -> None:
        """Store facts for later calls."""
        self.state |= facts
        store.write_state(self.folder / files.CAMPAIGN, self.state)

    def run(self) -> None:
        """Run all steps in order until the time is up. A step that fails stops no other."""
        presets = REHEARSAL if self.rehearse else PRESETS
        with Pool(run_checks.worker_count()) as pool:
            self.step(self.compile_for_checks, presets[0], pool)
            self.step(self.check, pool)
        self.step(self.measure_floor)
        for preset in presets:
            if preset != presets[0]:
                with Pool(run_checks.worker_count()) as pool:
                    self.step(self.precompile, preset, self.uses(preset), pool)
            kinds = {request.kind for request in load_preset(preset).requests}
            if "time" in kinds:
                self.step(self.sweep, preset, "time", SPEED if "error" in kinds else ALL)
            if "energy" in kinds:
                self.step(self.sweep, preset, "energy", ALL)
            if "error" in kinds:
                if preset in STUDIED:
                    self.step(self.run_studies)
                self.step(self.sweep, preset, "error", ALL)
        self.report()

    def step(self, call: Callable[..., None], *arguments: Any) -> None:
        """Run a step and save; a RuntimeError, ValueError or OSError is recorded as a failure."""
        try:
            call(*arguments)
        except (RuntimeError, ValueError, OSError) as fault:
            self.fail(str(fault))
        self.outputs.save()

    def save_if_due(self) -> None:
        """Save, unless that was done within ``SAVE_SECONDS``."""
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.outputs.save()
            self._saved = time.monotonic()

    def fail(self, sentence: str) -> None:
        """Record and print a failure; the campaign goes on, and its exit code will be 1."""
        self.failures.append(sentence)
        print(f"failed, and the campaign goes on: {sentence}", file=sys.stderr)

    def compile_for_checks(self, preset: str, pool: Pool) -> None:
        """Compile the kernels of the first checks, then the preset's, then the other checks'."""
        first = [value_checks.first(cell, self.rehearse) for cell in value_checks.kernel_cells()]
        first += launch_checks.cases(self.rehearse)
        rest = value_checks.all_comparisons(self.rehearse)
        uses = precompile.of_comparisons(first) + self.uses(preset)
        self.precompile("checks", uses + precompile.of_comparisons(rest), pool)

    def uses(self, preset: str) -> list[precompile.Use]:
        """The kernels that a preset's speed and energy need."""
        loaded = load_preset(preset)
        requests = [request for request in loaded.requests if request.kind != "error"]
        return precompile.of_requests(requests, loaded.providers)

    def precompile(self, what: str, uses: list[precompile.Use], pool: Pool) -> None:
        """Compile kernels before they are launched, into the cache that all processes share."""
        if not self.machine.is_cuda:
            print("compile: Triton's interpreter compiles nothing")
            return
        seconds = self.seconds_for(*COMPILE)
        if seconds <= 0:
            print(f"compile {what}: left for the next call")
            return
        began = time.monotonic()
        rows = precompile.run(uses, seconds, pool)
        spent = time.monotonic() - began
        print(f"compile {what}: {precompile.summary_line(rows)}, in {spent:.0f} s")
        compiled = self.state.get("compiled", {})
        kernels = [asdict(row) for row in rows if row.outcome != NOT_DONE]
        left = len(rows) - len(kernels)
        compiled[what] = {"seconds": round(spent, 1), "kernels": kernels, "left": left}
        self.remember(compiled=compiled)

    def check(self, pool: Pool) -> None:
        """check-gpu: the checks that have no settled outcome with this code, software and device.

        Those not done in time are left for the next call and shown on the page. A failure makes
        kernels suspect: they are not measured, and earlier measurements of them no longer count
        (``bench.records.failed_checks``).
        """
        checks = run_checks.all_checks(self.rehearse, self.machine.is_cuda)
        file = run_checks.ResultFile(self.folder, run_checks.key(self.rehearse))
        with self.outputs.show_checks(len(checks)) as show:

            def on_row(row: run_checks.Row) -> None:
                show(row)
                self.save_if_due()

            rows = run_checks.run(checks, file, self.seconds_for(*CHECK), pool, on_row)
        print(f"check-gpu: {run_checks.summary_line(rows)}")
        if rest := run_checks.unfinished(rows):
            print(f"check-gpu: {len(rest)} of {len(rows)} checks left for the next call")
        if not any(row.check == "values" and row.outcome == PASS for row in rows):
            self.fail("check-gpu: no value was checked, so the kernels may compute wrong results")
        failed = [row.name for row in rows if row.outcome == FAIL]
        self.suspects = run_checks.suspects(rows)
        self.settings["suspects"] = failed_checks.to_json(self.suspects)
        if failed:
            not_measured = "; ".join(dict.fromkeys(map(str, self.suspects))) or "nothing"
            more = f" and {len(failed) - 3} more" if failed[3:] else ""
            names = ", ".join(failed[:3]) + more
            self.fail(f"check-gpu: {names}; not measured therefore: {not_measured}")
            self.replace_records_of_suspects()

    def replace_records_of_suspects(self) -> None:
        """Replace earlier calls' records of suspect kernels by records that say why."""
        paths = store.record_files(self.folder / files.RECORDS, self.run_id)
        records = [record for path in paths for record in store.read(path)]
        if replacements := failed_checks.replacements(records, self.suspects, provenance.now()):
            with store.Writer(record_file(self.folder, self.run_id)) as writer:
                for record in replacements:
                    writer.append(record)
            print(f"check-gpu: {len(replacements)} records of earlier calls no longer count")

    def measure_floor(self) -> None:
        """Measure the bounds of this device that this code has not measured yet.

        Raises:
            RuntimeError: if a microbenchmark fails.
        """
        if floor.is_complete(self.folder):
            print("floor: measured before")
            return
        seconds = self.seconds_for(*FLOOR)
        if seconds < 1:
            print("floor: left for the next call")
            return
        problems = floor.run(self.folder, round(seconds))
        if problems is not None:  # as without a GPU
            if failed := floor.failures(problems):
                raise RuntimeError(f"floor: {' | '.join(failed)}")
            print(f"floor: {files.FLOOR}")

    def run_studies(self) -> None:
        """Run the studies of error that this code has not made yet."""
        for study, name, brief in STUDIES:
            found = store.read_state(self.folder / files.RECORDS / name)
            arguments = list(brief) if self.rehearse else []
            if study is studies.training and self.suspects:
                trained = {cell.name for cell in CELLS.values() if cell.torch_class}
                trained -= {suspect.cell for suspect in self.suspects}
                arguments[:1] = [tuple(sorted(trained))]
            if found.get("code") == provenance.code_hash():
                print(f"{study.__name__}: measured before")
            elif self.seconds_left() < LEAST_STUDY_SECONDS and not self.rehearse:
                print(f"{study.__name__}: left for the next call")
            elif arguments[:1] != [()]:
                self.step(self.run_study, study, *arguments)

    def run_study(self, study: Callable[..., Path], *arguments: Any) -> None:
        """Run a study in a process of its own, which is killed when the time is up."""
        call = partial(study, self.folder, *arguments)
        try:
            with calls_elsewhere([call], self.seconds_left()) as written:
                print(f"{study.__name__}: {next(written).name}")
        except TookTooLong:
            print(f"{study.__name__}: left for the next call, since the time was up")

    def sweep(self, preset: str, kind: str, share: tuple[float, float]) -> None:
        """Measure a preset's speed, energy or error for a share of the time left."""
        title, seconds = f"{preset} {kind}", self.seconds_for(*share)
        if seconds < (0 if self.rehearse else LEAST_SWEEP_SECONDS):
            print(f"{title}: left for the next call")
            return
        options = Options(preset=preset, kinds=(kind,), run=self.run_id)
        with self.outputs.show_sweep(title, seconds) as show:

            def progress(
                done: int, total: int, request: Request, provider: str, doing: str
            ) -> None:
                show(done, total, request, provider, doing)
                if not provider:  # between cases, so that saving disturbs no measurement
                    self.save_if_due()

            _, counts, undone = sweep.sweep(
                options, self.settings, self.results, seconds / 60, self.timeout, progress
            )
        print(f"{title}: {sweep.summary_line(counts, undone)}")

    def report(self) -> None:
        """Report on everything measured so far, if this call reports."""
        if self.outputs.build_report is None:
            return
        if not store.record_files(self.folder / files.RECORDS):
            print("report: nothing has been measured yet")
            return
        self._report_begun, began = True, time.monotonic()
        self.outputs.build_report(self.folder)
        self.remember(report_seconds=time.monotonic() - began)

    def end_early(self) -> None:
        """Save and report after Ctrl-C, unless that came during the report or comes again."""
        print("interrupted; nothing finished is lost, the same command resumes")
        with contextlib.suppress(KeyboardInterrupt):
            self.outputs.save()
            if not self._report_begun:
                self.report()
