"""``python -m bench campaign``: from a bare GPU to a complete page, in as many calls as it takes.

Needs no network, but Triton needs a C compiler and Python's headers (``bench.sweep.toolchain``).
The
order: compile what comes next, check-gpu, the floor, the first-contact preset's speed, then speed
and error of the campaign and paper presets. Each step gets a share of the time that is left, so
that a call of three minutes gets as far as the speed; each call goes on where the last one ended.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cases import arguments
from bench.cases.cases import CELLS
from bench.cases.presets import Request, load_preset
from bench.cli.check_gpu import show_progress
from bench.cli.progress import bar
from bench.gpu import launch_checks, precompile, run_checks, value_checks
from bench.gpu.pool import FAIL, PASS, Pool
from bench.measure import interpreter
from bench.records import archive, environment, failed_checks, files, provenance, store
from bench.sweep import process, sweep, toolchain
from bench.sweep.plan import Options, default_run, record_file

FIRST = "first-contact"
PRESETS = (FIRST, "campaign", "paper")
REHEARSAL = ("tiny",)
STUDIED = ("campaign", "tiny")  # after whose speed the studies below are made
# The share of the time left that a step gets when it begins, and the most seconds.
COMPILE = (0.2, 180.0)
CHECK = (0.25, 300.0)
FLOOR = (0.2, 60.0)
FLOOR_END_SECONDS = 20.0  # after its time, for the kernel that runs then
SPEED = (0.75, float("inf"))  # of a preset that has errors to measure too
FIRST_REPORT_SECONDS = 60.0  # a guess of the first report's time; later ones follow the last
LEAST_STUDY = 60.0  # seconds under which a study is not begun: ended early, it leaves nothing
LEAST_SWEEP = 20.0  # the same for a sweep, whose process takes half of that to start
END_SECONDS = 3.0  # to end the processes that measure and to save
SAVE_SECONDS = 30.0  # between two savings during a sweep
# Seconds of silence that mean a hang: a tenth of the call, from 20 s to 3 minutes.
HANG_SHARE, LEAST_HANG, MOST_HANG = 0.1, 20.0, 180.0
TRAINING = "bench.error.training"
# What error is measured in processes of their own, and what a rehearsal asks of it.
STUDIES = (
    ("bench.error.activations", "activations.json", "64"),
    ("bench.error.repeatability", "repeatability.json", "cell=rnn_tanh dtype=fp32"),
    (TRAINING, "training.json", "rnn_tanh"),
)


@dataclass
class Campaign:
    """One call.

    Args:
        results: where the device's folder lies.
        deadline: of ``time.monotonic``.
        settings: of ``bench.sweep.worker.Settings``.
        save: puts what there is where it outlasts this process.
        rehearse: a tiny grid, on any machine.
        timeout: seconds of silence after which a measuring process counts as hanging.
        reports: whether to end with tables, figures and pages.
    """

    results: Path
    deadline: float
    settings: dict[str, Any]
    save: Callable[[], object]
    rehearse: bool = False
    timeout: float = MOST_HANG
    reports: bool = True
    reporting: bool = False
    failures: list[str] = field(default_factory=list)
    suspects: tuple[failed_checks.Suspect, ...] = ()

    def __post_init__(self) -> None:
        self.machine = environment.probe()
        self.folder = self.results / provenance.slug(self.machine.name)
        self.run_id = default_run("campaign")
        self.state = store.read_state(self.folder / files.CAMPAIGN)
        self._saved = time.monotonic()

    def seconds_left(self) -> float:
        """Until the deadline, less what ending the call will take."""
        remaining = self.deadline - time.monotonic()
        if not self.reports:
            return remaining - END_SECONDS
        report = 1.5 * self.state.get("report_seconds", FIRST_REPORT_SECONDS)
        return remaining - min(report, remaining / 2)

    def share(self, of: tuple[float, float]) -> float:
        """The seconds that a step gets which begins now."""
        part, most = of
        return min(part * self.seconds_left(), most)

    def remember(self, **facts: Any) -> None:
        self.state |= facts
        store.write_state(self.folder / files.CAMPAIGN, self.state)

    def run(self) -> None:
        """All steps, in order, as far as the time goes. A step that fails stops no other."""
        presets = REHEARSAL if self.rehearse else PRESETS
        with Pool(run_checks.workers()) as pool:
            self.step(self.compile_for_checks, presets[0], pool)
            self.step(self.check, pool)
        self.step(self.floor)
        for preset in presets:
            if preset != presets[0]:
                self.step(self.compile_preset, preset)
            kinds = {request.kind for request in load_preset(preset).requests}
            self.step(self.measure, preset, "time", SPEED if "error" in kinds else (1.0, SPEED[1]))
            if "error" in kinds:
                if preset in STUDIED:
                    self.step(self.studies)
                self.step(self.measure, preset, "error")
        if self.reports:
            self.report()

    def step(self, call: Callable[..., None], *words: Any) -> None:
        """One step, whose failure is noted; then what there is is saved."""
        try:
            call(*words)
        except (RuntimeError, ValueError, OSError) as fault:
            self.fail(str(fault))
        self.save()

    def save_at_times(self) -> None:
        """Save, unless that was done a moment ago."""
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()
            self._saved = time.monotonic()

    def fail(self, sentence: str) -> None:
        """Note what went wrong; the call goes on and ends with exit code 1."""
        self.failures.append(sentence)
        print(f"failed, and the campaign goes on: {sentence}", file=sys.stderr)

    def compile_for_checks(self, preset: str, pool: Pool) -> None:
        """The kernels of the first checks, then the preset's, then the other checks'."""
        first = [value_checks.first(cell, self.rehearse) for cell in value_checks.kernel_cells()]
        first += launch_checks.cases(self.rehearse)
        uses = precompile.of_comparisons(first) + self.uses(preset)
        uses += precompile.of_comparisons(value_checks.all_comparisons(self.rehearse))
        self.precompile("checks", uses, pool)

    def compile_preset(self, preset: str) -> None:
        with Pool(run_checks.workers()) as pool:
            self.precompile(preset, self.uses(preset), pool)

    def uses(self, preset: str) -> list[precompile.Use]:
        loaded = load_preset(preset)
        requests = [request for request in loaded.requests if request.kind == "time"]
        return precompile.of_requests(requests, loaded.providers)

    def precompile(self, what: str, uses: list[precompile.Use], pool: Pool) -> None:
        """Compile ahead on all cores, into the cache that every process of the call shares."""
        if not self.machine.is_cuda:
            print("compile: Triton's interpreter compiles nothing")
            return
        seconds = self.share(COMPILE)
        if seconds <= 0:
            print(f"compile {what}: left for the next call")
            return
        began = time.monotonic()
        rows = precompile.run(uses, seconds, pool)
        spent = time.monotonic() - began
        print(f"compile {what}: {precompile.summary_line(rows)}, in {spent:.0f} s")
        compiled = self.state.get("compiled", {})
        compiled[what] = {"seconds": round(spent, 1), "kernels": precompile.to_json(rows)}
        self.remember(compiled=compiled)

    def check(self, pool: Pool) -> None:
        """check-gpu: what is not settled yet for this code and software on such a device.

        It gets a share of the time. What is not done in it is left for the next call and shown on
        the page. What failed costs only what it concerns: those cells, loops and modes are not
        measured, and what was measured of them before does not count
        (``bench.records.failed_checks``).
        """
        checks = run_checks.all_checks(self.rehearse, self.machine.is_cuda)
        file = run_checks.ResultFile(self.folder, run_checks.key(self.rehearse))
        with show_progress(len(checks)) as show:

            def on_row(row: run_checks.Row) -> None:
                show(row)
                self.save_at_times()

            rows = run_checks.run(checks, file, self.share(CHECK), pool, on_row)
        print(f"check-gpu: {run_checks.summary_line(rows)}")
        rest = run_checks.unfinished(rows)
        if rest:
            print(f"check-gpu: {len(rest)} of {len(rows)} checks left for the next call")
        if not any(row.check == "values" and row.outcome == PASS for row in rows):
            self.fail("check-gpu: not one value was checked, so nothing vouches for the kernels")
        failed = [row for row in rows if row.outcome == FAIL]
        self.suspects = run_checks.suspects(rows)
        self.settings["suspects"] = failed_checks.to_json(self.suspects)
        if failed:
            not_measured = "; ".join(dict.fromkeys(map(str, self.suspects))) or "nothing"
            names = ", ".join(row.name for row in failed[:3])
            more = f" and {len(failed) - 3} more" if failed[3:] else ""
            self.fail(f"check-gpu: {names}{more}; not measured therefore: {not_measured}")
            self.withdraw()

    def withdraw(self) -> None:
        """Let what was measured of suspect kernels in earlier calls no longer count."""
        path = record_file(self.folder, self.run_id)
        files = store.record_files(self.folder / "records", self.run_id)
        records = [record for file in files for record in store.read(file)]
        instead = failed_checks.replacements(records, self.suspects, provenance.now())
        if instead:
            with store.Writer(path) as writer:
                for record in instead:
                    writer.append(record)
            print(f"check-gpu: {len(instead)} records of earlier calls no longer count")

    def floor(self) -> None:
        """The bounds of this device, unless this code has measured all of them."""
        found = store.read_state(self.folder / files.FLOOR)
        # While it measures it names what it is at.
        whole = found.get("problems") == {} and "running" in found and found["running"] is None
        if whole and found["code"] == provenance.code_hash():
            print("bench.gpu.floor: measured before")
            return
        seconds = self.share(FLOOR)
        if seconds < 1:
            print("bench.gpu.floor: left for the next call")
            return
        words = ("--max-seconds", f"{seconds:.0f}")
        self.study("bench.gpu.floor", *words, seconds=seconds + FLOOR_END_SECONDS)

    def studies(self) -> None:
        """Activations, repeatability and a training run, unless this code's are there."""
        for module, name, brief in STUDIES:
            found = store.read_state(self.folder / "records" / name)
            words = [brief] * self.rehearse
            if found.get("code") == provenance.code_hash():
                print(f"{module}: measured before")
            elif self.seconds_left() < LEAST_STUDY and not self.rehearse:
                print(f"{module}: left for the next call")
            elif module == TRAINING and self.suspects:
                sound = {cell.name for cell in CELLS.values() if cell.torch_class}
                sound -= {suspect.cell for suspect in self.suspects}
                if sound:
                    self.step(self.study, module, ",".join(sorted(sound)))
            else:
                self.step(self.study, module, *words)

    def study(self, module: str, *words: str, seconds: float | None = None) -> None:
        """A process of its own, whose failure costs only what it measures.

        Raises:
            RuntimeError: if it fails.
        """
        seconds = self.seconds_left() if seconds is None else seconds
        if seconds <= 0:
            print(f"{module}: left for the next call")
            return
        try:
            written = process.run_module(module, self.folder, *words, seconds=seconds)
        except process.TookTooLong as fault:
            print(f"{module}: left for the next call ({fault})")
            return
        print(f"{module}: {Path(written).name}")

    def measure(self, preset: str, kind: str, of: tuple[float, float] = (1.0, SPEED[1])) -> None:
        """A preset's speed or error, as far as a share of the time left goes."""
        seconds = self.share(of)
        if seconds < (0 if self.rehearse else LEAST_SWEEP):
            print(f"{preset} {kind}: left for the next call")
            return
        options = Options(preset=preset, kinds=(kind,), run=self.run_id)
        with bar(f"{preset} {kind}", seconds) as progress:

            def follow(done: int, total: int, request: Request, provider: str, doing: str) -> None:
                progress(done, total, request, provider, doing)
                if not provider:
                    self.save_at_times()

            _, counts, undone = sweep.sweep(
                options, self.settings, self.results, seconds / 60, self.timeout, follow
            )
        print(f"{preset} {kind}: {sweep.summary_line(counts, undone)}")

    def report(self) -> None:
        """Tables, figures and page of everything measured so far."""
        from bench.report import build

        if not store.record_files(self.folder / "records"):
            print("report: nothing has been measured yet")
            return
        self.reporting, started = True, time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            build.main(self.folder)
        print(printed.getvalue(), end="")
        self.remember(report_seconds=time.monotonic() - started)

    def interrupted(self) -> None:
        """Save what there is and report on it, unless interrupted again or in the report."""
        print("interrupted; nothing finished is lost, the same command goes on")
        with contextlib.suppress(KeyboardInterrupt):
            self.save()
            if self.reports and not self.reporting:
                self.report()


def command(
    max_minutes: Annotated[float, typer.Option(help="End after about this, report included.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where results go; results/ by default.")] = None,
    archive_: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            help="Leave what is measured in this one .tar.gz file and report nothing; "
            "`python -m bench report FILE` does that elsewhere. If it exists, go on with it.",
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Begin with an earlier call's archive.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Every step with a tiny grid, also without a GPU.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Sampling time per provider and case.")] = 0.5,
    target: Annotated[
        float, typer.Option(help="Relative half-width of the median's interval to stop at.")
    ] = 0.01,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds of silence that mean a hang; a tenth of the time, 20 to 180."),
    ] = None,
) -> None:
    """Turn minutes or an hour on a GPU into a page: values, floor, speed, error, report.

    A failed check of check-gpu is printed whole and costs what it concerns; the rest is measured,
    and the exit code is 1. The same command goes on where the last call ended. Each call stops
    within its minutes; one that is interrupted (Ctrl-C) stops measuring at once, and then reports
    or, with --archive, saves. Needs no network; on a GPU, Triton needs a C compiler (CC, gcc or
    clang) and Python's headers.
    """
    arguments.minutes(max_minutes)
    machine = environment.probe()
    if not (machine.is_cuda or rehearse):
        raise RuntimeError(
            f"campaign needs a GPU, and there is none here, only {machine.name}; --rehearse runs "
            "every step with a tiny grid on the CPU"
        )
    if out is not None and archive_ is not None:
        raise ValueError(
            f"out is {out} and archive {archive_}; accepted: one of them, since an archive is all "
            "that is left of its call"
        )
    if archive_ is not None and not archive_.name.endswith(archive.SUFFIX):
        raise ValueError(f"archive is {archive_}; accepted: a name that ends in {archive.SUFFIX}")
    if rehearse and out is None and archive_ is None:
        raise ValueError(
            "--rehearse needs --out or --archive, since what it measures is no result to keep"
        )
    if timeout is None:
        timeout = min(MOST_HANG, max(LEAST_HANG, HANG_SHARE * max_minutes * 60))
    settings = {"seconds": seconds, "target": target, "seed": 0}
    sweep.check_settings(settings, timeout)
    settings["compiled_before"] = machine.is_cuda
    # The processes that measure run in the checkout, wherever this one was started.
    results = (out or files.RESULTS).resolve()
    kept_in = archive_.resolve() if archive_ is not None else None
    if machine.is_cuda:
        toolchain.check()
        toolchain.check_cache()
    else:
        interpreter.check()
        os.environ["TRITON_INTERPRET"] = "1"  # for the processes that check
    toolchain.check_writable(
        results if kept_in is None else kept_in.parent,
        "the campaign writes to",
        "--out or --archive takes another place",
    )
    deadline = time.monotonic() + max_minutes * 60
    with process.exiting_on_signals(), archive.workspace(results, kept_in, resume) as (tree, save):
        campaign = Campaign(
            tree, deadline, settings, save, rehearse, timeout, reports=kept_in is None
        )
        try:
            campaign.run()
        except KeyboardInterrupt:
            campaign.interrupted()
            raise typer.Exit(130) from None
    if campaign.failures:
        raise typer.Exit(1)
