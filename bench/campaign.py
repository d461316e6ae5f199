"""``python -m bench campaign``: from a bare GPU to a complete page, in as many calls as it takes.

Needs no network, but Triton needs a C compiler and Python's headers (``bench.toolchain``). The
order: check-gpu, the floor, the campaign preset's speed and error, the rest of the paper grid,
the report. Each call goes on where the last one ended, also on another machine of the same kind if
it is given the earlier output, keeps to its minutes, and leaves a report of what there is so far.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import archive, arguments, check_gpu, environment, model, sweep, toolchain
from bench.archive import STATE
from bench.commands.sweep import outcome
from bench.error import run_alone
from bench.isolation import Item
from bench.pool import FAIL
from bench.progress import bar

PRESETS = ("campaign", "paper")
REHEARSAL = ("tiny",)
SPEED_SHARE = 0.75  # of what is left when the first sweep of speed begins; error gets the rest
FIRST_REPORT_SECONDS = 60.0  # a guess of the first report's time; later ones follow the last
SAVE_SECONDS = 120.0  # between two savings during a sweep
CHECK_SECONDS = 300.0  # the most that check-gpu gets of one call
CHECK_SHARE = 0.25  # of what is left
END_SECONDS = 15.0  # to let go of the GPU
# What error is measured alone, and what a rehearsal asks of it.
ALONE = (
    ("bench.activations", "activations.json", "64"),
    ("bench.repeat", "repeatability.json", "cell=rnn_tanh dtype=fp32"),
    ("bench.training", "training.json", "rnn_tanh"),
)


class WrongValue(Exception):
    """A check of check-gpu failed: nothing that is measured would count."""


def ended(words: list[str], seconds: float) -> int | None:
    """A command's exit code, or None if it was ended for taking longer.

    It leads a session of its own: however this call ends, nothing that it started goes on and keeps
    memory of the GPU.
    """
    process = subprocess.Popen(words, cwd=environment.ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):  # at the first, check-gpu ends its workers
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)


@dataclass
class Campaign:
    """One call.

    Args:
        results: where the device's folder lies.
        deadline: of ``time.monotonic``.
        settings: of ``bench.worker.Settings``.
        save: puts what there is where it outlasts this process.
        rehearse: a tiny grid, on any machine.
        packed: whether ``results`` is gone after the call, so that no path into it helps anyone.
    """

    results: Path
    deadline: float
    settings: dict[str, Any]
    save: Callable[[], object]
    rehearse: bool = False
    timeout: float = 180.0
    packed: bool = False
    reporting: bool = False
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.results / environment.slug(environment.probe().name)
        self.run_id = sweep.default_run("campaign")
        path = self.folder / STATE
        self.state: dict[str, Any] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        )
        self._saved = time.monotonic()

    def left(self) -> float:
        """Seconds for measuring: until the deadline, less what the report will take."""
        report = 1.5 * self.state.get("report_seconds", FIRST_REPORT_SECONDS)
        remaining = self.deadline - time.monotonic()
        return remaining - min(report, remaining / 2)

    def remember(self, **facts: Any) -> None:
        self.state |= facts
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STATE).write_text(json.dumps(self.state, indent=1) + "\n", encoding="utf-8")

    def run(self) -> None:
        """All steps, in order, as far as the time goes.

        Raises:
            WrongValue: if a check of check-gpu failed.
        """
        self.check()
        try:
            self.floor()
            presets = REHEARSAL if self.rehearse else PRESETS
            for preset in presets:
                first = preset == presets[0]
                self.measure(preset, "time", SPEED_SHARE if first else 1.0)
                if first:
                    self.alone()
                self.measure(preset, "error")
        except RuntimeError as fault:  # what was measured before it is reported all the same
            self.fail(fault)
        self.report()

    def fail(self, fault: Exception) -> None:
        """Note what went wrong; the call goes on and ends with exit code 1."""
        self.failures.append(str(fault))
        print(self.shown(f"failed, and the campaign goes on: {fault}"), file=sys.stderr)

    def shown(self, text: str) -> str:
        """A text whose paths are below what will be unpacked, where that is how they are found."""
        if self.packed:
            for path in (str(self.results), os.path.relpath(self.results)):
                text = text.replace(path, "(packed)")
        return text

    def check(self) -> None:
        """check-gpu, unless all was done before with this code and software on such a device.

        It gets a share of the time. What is not done in it is left for the next call and shown on
        the page; only what failed ends the campaign.

        Raises:
            WrongValue: if a check failed.
        """
        key = check_gpu.key(self.rehearse)
        if self.state.get("checked") == key:
            print("check-gpu: done before, with this code and these versions")
            return
        seconds = min(CHECK_SECONDS, CHECK_SHARE * max(4.0, self.deadline - time.monotonic()))
        words = [sys.executable, "-m", "bench", "check-gpu", "--out", str(self.folder)]
        words += ["--max-minutes", str(seconds / 60), *["--rehearse"] * self.rehearse]
        code = ended(words, seconds + 4 * END_SECONDS)
        rows = check_gpu.stored(self.folder, key)
        failed = [row for row in rows if row.outcome == FAIL]
        if failed:
            more = f" and {len(failed) - 1} more" if failed[1:] else ""
            raise WrongValue(f"check-gpu failed, so nothing was measured: {failed[0].name}{more}")
        self.save()
        if code not in (0, check_gpu.UNFINISHED):
            how = "was ended for taking too long" if code is None else f"ended with code {code}"
            self.fail(RuntimeError(f"check-gpu {how}; {check_gpu.counted(rows)}"))
        elif rest := check_gpu.left(rows):
            print(f"check-gpu: {len(rest)} of {len(rows)} checks left for the next call")
        else:
            self.remember(checked=key)

    def floor(self) -> None:
        """The bounds of this device, once."""
        if (self.folder / model.LIMITS_FILE).exists():
            print("floor: measured before")
            return
        self._alone("bench.floor")

    def alone(self) -> None:
        """Activations, repeatability and a training run, unless this code's are there."""
        for module, name, brief in ALONE:
            path = self.folder / "records" / name
            if (
                path.exists()
                and json.loads(path.read_text(encoding="utf-8"))["code"] == environment.code_hash()
            ):
                print(f"{module}: measured before")
                continue
            self._alone(module, *[brief] * self.rehearse)

    def _alone(self, module: str, *words: str) -> None:
        """A process of its own, whose failure costs only what it measures."""
        if self.left() <= 0:
            print(f"{module}: left for the next call")
            return
        try:
            found = run_alone(module, self.folder, *words, seconds=self.left())
            print(f"{module}: {self.shown(found)}")
        except RuntimeError as fault:
            self.fail(fault)
        self.save()

    def measure(self, preset: str, kind: str, share: float = 1.0) -> None:
        """A preset's speed or error, as far as a share of the time left goes."""
        seconds = self.left() * share
        if seconds <= 0:
            print(f"{preset} {kind}: left for the next call")
            return
        options = sweep.Options(preset=preset, kinds=(kind,), run=self.run_id)
        with bar(f"{preset} {kind}", seconds) as progress:

            def follow(done: int, total: int, item: Item, provider: str, doing: str) -> None:
                progress(done, total, item, provider, doing)
                if not provider and time.monotonic() - self._saved > SAVE_SECONDS:
                    self.save()
                    self._saved = time.monotonic()

            _, counts, undone = sweep.sweep(
                options, self.settings, self.results, seconds / 60, self.timeout, follow
            )
        print(f"{preset} {kind}: {outcome(counts, undone)}")
        self.save()

    def report(self) -> None:
        """Tables, figures and page of everything measured so far."""
        from bench.report import build

        if not any((self.folder / "records").glob("*.jsonl")):
            print("report: nothing has been measured yet")
            return
        self.reporting, started = True, time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()) as said:
            build.main(self.folder)
        print(self.shown(said.getvalue()), end="")
        self.remember(report_seconds=time.monotonic() - started)

    def interrupted(self) -> None:
        """Save what there is and report on it, unless interrupted again or in the report."""
        print("interrupted; nothing finished is lost, the same command goes on")
        with contextlib.suppress(KeyboardInterrupt):
            self.save()
            if not self.reporting:
                self.report()


@contextlib.contextmanager
def tree(out: Path, pack: bool, resume: Path | None) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Where to measure into, holding what earlier calls left, and how to save it.

    Packed or not, what ``out`` holds is taken up, then what ``resume`` does. Without ``pack`` all
    is measured into ``out`` itself, and parts in it give way to the files in them. With it, ``out``
    holds nothing but parts, replaced at each saving, and the last saving comes however the call
    ends.
    """
    sources = [out] if archive.named(out) or archive.outputs(out) else []
    if resume is not None and resume.resolve() != out.resolve():
        sources.append(resume)
    if not pack:
        for source in sources:
            archive.restore(source, out)
        archive.remove_parts(out)
        yield out, lambda: None
        return
    with tempfile.TemporaryDirectory(prefix="rnnbench-") as name:
        inside = Path(name) / "results"
        inside.mkdir()
        for source in sources:
            archive.restore(source, inside)
        save = partial(archive.pack, inside, out)
        if archive.outputs(out):
            save()  # before what is in it goes
            archive.remove_outputs(out)
        try:
            yield inside, save
        finally:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was measured is at stake
            try:
                print(save())
            finally:
                signal.signal(signal.SIGINT, before)


def _terminated(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


def command(
    max_minutes: Annotated[float, typer.Option(help="End after about this, report included.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where results go; results/ by default.")] = None,
    pack: Annotated[
        bool,
        typer.Option(
            help="Leave in --out nothing but up to 4 parts of under 16 MiB, named such as "
            "results.tar.gz.000008.00of01; `cat results.tar.gz.* | tar xz` there unpacks them."
        ),
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Begin with an earlier call's output, packed or not.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Every step with a tiny grid, also without a GPU.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Sampling time per provider and case.")] = 0.5,
    target: Annotated[
        float, typer.Option(help="Relative half-width of the median's interval to stop at.")
    ] = 0.01,
    timeout: Annotated[float, typer.Option(help="Seconds of silence that mean a hang.")] = 180.0,
) -> None:
    """Turn an hour on a GPU into a complete page: values, floor, speed, error, report.

    Stops before measuring if a check of check-gpu fails. The same command goes on where the last
    call ended, also with --pack added or left out; each call leaves a valid report and stops within
    its minutes, and so does one that is interrupted (Ctrl-C), at once. Needs no network; on a
    GPU, Triton needs a C compiler (CC, gcc or clang) and Python's headers.
    """
    arguments.minutes(max_minutes)
    machine = environment.probe()
    if not (machine.is_cuda or rehearse):
        raise RuntimeError(
            f"campaign needs a GPU, and there is none here, only {machine.name}; --rehearse runs "
            "every step with a tiny grid on the CPU"
        )
    if rehearse and out is None:
        raise ValueError("--rehearse needs --out, since what it measures is no result to keep")
    if pack and (out is None or out.resolve() == sweep.RESULTS.resolve()):
        raise ValueError(
            "--pack needs an --out of its own, not results/ of the checkout, since it leaves "
            "nothing but parts there"
        )
    if machine.is_cuda:
        toolchain.check()
        toolchain.check_cache()
    toolchain.check_writable(
        out or sweep.RESULTS, "the campaign writes to", "--out takes another folder"
    )
    deadline = time.monotonic() + max_minutes * 60
    signal.signal(signal.SIGTERM, _terminated)
    settings = {"seconds": seconds, "target": target, "seed": 0}
    with tree(out or sweep.RESULTS, pack, resume) as (results, save):
        campaign = Campaign(results, deadline, settings, save, rehearse, timeout, pack)
        try:
            campaign.run()
        except WrongValue as fault:
            print(f"error: {fault}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            campaign.interrupted()
            raise typer.Exit(130) from None
    if campaign.failures:
        raise typer.Exit(1)
