"""The process that measures: it takes one case after another and reports each step and result.

It is a process of its own because an illegal memory access makes a CUDA context unusable, and
because a process cannot interrupt its own hang.
"""

import dataclasses
import gc
import json
import os
import random
import secrets
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench import providers
from bench.cases import roofline
from bench.cases.cases import DEFAULTS, make_case
from bench.cases.peaks import why_impossible
from bench.cases.presets import Request
from bench.cases.problem import Problem, make_problem, truth
from bench.cases.regimes import apply_regime
from bench.measure import energy, metrics
from bench.measure.runner import Runner
from bench.measure.sampler import Checks, Sampler, interleave
from bench.measure.settings import unchanged_settings
from bench.measure.statistics import paired_ratio, summary
from bench.records import environment, limits, schema
from bench.records.failed_checks import from_json, why_not_measured
from bench.sweep.process import Answer, is_out_of_memory

# Of the sampling time, the most that a provider may take to warm up.
WARMUP_SHARE = 1 / 3
POISONED = 3  # exit code after an error that leaves the device unusable
# Stands for the fields that the parent adds to a record, to check the others.
COMMON = schema.new_record(
    run_id="", kind="time", seed=0, software={}, code="", time="", **make_case(**DEFAULTS).fields()
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long and how precisely to measure.

    Attributes:
        target: relative half-width of a median's 95 % interval at which sampling stops.
        seconds: time each provider may spend on samples of one case.
        seed: of the order of providers.
        compiled_before: whether our kernels were compiled ahead, so that a first call's time does
            not include compiling.
        suspects: kernels that checks found wrong, which are not measured, as
            ``bench.records.failed_checks.to_json`` gives them.
    """

    target: float = 0.01
    seconds: float = 1.0
    seed: int = 0
    compiled_before: bool = False
    suspects: tuple[dict[str, Any], ...] = ()


class Worker:
    """Measures cases for the parent process; before each step it reports the provider's name."""

    def __init__(self, answer: Answer, settings: Settings, folder: Path) -> None:
        self.answer, self.settings = answer, settings
        self.machine = environment.machine()
        self.device = torch.device("cuda" if self.machine.is_cuda else "cpu")
        self.limits = limits.load_limits(folder)
        self.facts = environment.device_facts()
        self.suspects = from_json(settings.suspects)
        self.kind = "time"  # of what is measured

    def send(self, **message: Any) -> None:
        self.answer(schema.to_json(message))

    def measure(self, request: Request) -> None:
        self.kind = request.kind
        problem = make_problem(request.case, request.seed, self.device)
        apply_regime(problem, request.regime)
        truth(problem, problem.case.pass_ != "fwd")  # before a provider could change its inputs
        if request.kind == "error":
            for name in request.providers:
                self._measure_error(problem, name)
        else:
            measure = self._energy if request.kind == "energy" else self._time
            for name in measure(problem, request.providers, retry=len(request.providers) > 1):
                _free()
                measure(problem, (name,), retry=False)
        del problem
        _free()
        self.send(done=request.case.case_id)

    def _record(self, name: str, **values: Any) -> None:
        """Send a provider's record, of which a part is what the provider says of itself.

        One that could not be written becomes a record of that error: in the parent it would end
        the sweep for all.
        """
        facts: dict[str, Any] = {"provider": name, "status": "ok", "device": self.facts}
        facts["provider_version"] = providers.PROVIDERS[name].version()
        record = facts | values
        try:
            written = json.loads(schema.encode(COMMON | {"kind": self.kind} | record))
            record = {field: written[field] for field in record}
        except (Exception, SystemExit) as fault:
            reason = f"its record cannot be written: {providers.fault_text(fault)}"
            record = facts | {"status": "error", "reason": reason}
        self.send(record=record)

    def _record_fault(self, name: str, fault: BaseException) -> None:
        if isinstance(fault, metrics.Incorrect):
            self._record(name, status="incorrect", reason=providers.safe_text(fault))
            return
        status = "oom" if is_out_of_memory(fault) else "error"
        self._record(name, status=status, reason=providers.fault_text(fault))
        if self.machine.is_cuda and status == "error":
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                self.send(poisoned=name)
                os._exit(POISONED)

    def _excluded(self, runner: Runner) -> bool:
        """Whether a check found these kernels wrong; if so, the record says which check."""
        why = why_not_measured(runner.case, runner.call.plan, self.suspects)
        if why is not None:
            plan = runner.call.plan
            self._record(runner.provider.name, status="incorrect", reason=why, plan=plan)
        return why is not None

    def _measure_error(self, problem: Problem, name: str) -> None:
        provider = providers.PROVIDERS[name]
        self.send(turn=name, doing="error", patience=provider.patience)
        try:
            with unchanged_settings():
                runner = Runner(provider, problem, self.machine)
                if self._excluded(runner):
                    return
                got = runner.checked_outputs()
            errors, by_step = runner.errors(got), runner.errors_by_step(got)
        except Exception as fault:
            self._record_fault(name, fault)
            return
        bad = [tensor for tensor, found in errors.items() if not found["max_abs"] < float("inf")]
        self._record(
            name,
            status="incorrect" if bad else "ok",
            reason=f"not finite where float64 is: {', '.join(bad)}" if bad else None,
            errors=errors,
            by_step=by_step,
            plan=runner.call.plan,
            algorithm=runner.algorithm,
            interpreted=self.machine.interpreted and name.startswith("ours"),
        )

    def _checked(self, problem: Problem, name: str) -> tuple[Runner, dict[str, Any]] | None:
        """A provider that is ready to be timed, and its errors; None if its values are wrong.

        The record of one with wrong values is sent.

        Raises:
            Exception: any that the provider raises.
        """
        provider = providers.PROVIDERS[name]
        self.send(turn=name, doing="check", patience=provider.patience)
        runner = Runner(provider, problem, self.machine)
        if self._excluded(runner):
            return None
        runner.prepare(WARMUP_SHARE * self.settings.seconds)
        errors, wrong = runner.check()
        if wrong is not None:
            self._record(name, status="incorrect", reason=wrong, errors=errors, mode=runner.mode)
            return None
        return runner, errors

    def _ready(
        self, problem: Problem, names: tuple[str, ...], retry: bool
    ) -> tuple[dict[str, Runner], dict[str, Any], list[str]]:
        """The providers with right values, ready to be measured together, and their errors.

        Others get their records.

        Returns:
            Third, with ``retry``, those that ran out of memory, which may fit by themselves.
        """
        ready: dict[str, Runner] = {}
        errors: dict[str, Any] = {}
        retried: list[str] = []
        for name in names:
            try:
                with unchanged_settings():
                    checked = self._checked(problem, name)
            except Exception as fault:
                if retry and is_out_of_memory(fault):
                    retried.append(name)
                    _free()
                else:
                    self._record_fault(name, fault)
                continue
            if checked is not None:
                ready[name], errors[name] = checked
        return ready, errors, retried

    def _time(self, problem: Problem, names: tuple[str, ...], retry: bool) -> list[str]:
        """Check, then time providers together.

        Returns:
            With ``retry``, those that ran out of memory, which may fit when timed by themselves.
        """
        case = problem.case
        ready, errors, retried = self._ready(problem, names, retry)

        def fail(runner: Runner, fault: Exception) -> None:
            del ready[runner.provider.name]
            self._record_fault(runner.provider.name, fault)

        before, settings = environment.sensors(), self.settings
        check_seed = secrets.randbits(31)  # new for every case, so that no provider can know it
        samplers = interleave(
            list(ready.values()), settings.target, settings.seconds, settings.seed, check_seed,
            note=lambda runner: self.send(turn=runner.provider.name, doing="time"), failed=fail,
        )  # fmt: skip
        device = environment.with_sensors(self.facts, before, environment.sensors())
        figures: dict[str, dict[str, Any]] = {}
        for name, sampler in list(samplers.items()):
            figures[name] = summary(sampler.samples, sampler.blocks, settings.target)
            errors[name] = metrics.largest(errors[name], sampler.errors)
            if wrong := why_impossible(case, figures[name]["median_ms"], self.facts):
                facts = {"mode": ready[name].mode, "errors": errors[name]}
                self._record(name, status="incorrect", reason=wrong, **facts)
                del ready[name], samplers[name]  # nothing is compared with it
        medians = {name: sampler.medians for name, sampler in samplers.items()}
        for name, runner in ready.items():
            sampler = samplers[name]
            compiled_before = settings.compiled_before and runner.call.plan is not None
            self._record(
                name,
                mode=runner.mode,
                device=device,
                errors=errors[name],
                peak_bytes=sampler.peak_bytes,
                compile_s=None if compiled_before else runner.compile_s,
                warmup_calls=runner.warmup_calls,
                settled=runner.settled,
                checked_calls=sampler.checked,
                check_seed=check_seed,
                plan=runner.call.plan,
                algorithm=runner.algorithm,
                samples_ms=sampler.samples,
                blocks=sampler.blocks,
                host_ms=median(sampler.host) if sampler.host else None,
                warm_ms=median(sampler.warm) if sampler.warm else None,
                warm_samples_ms=sampler.warm or None,
                versus=self._versus(name, medians, runner.mode),
                **figures[name],
                **roofline.rates(case, figures[name]["median_ms"], self.limits),
            )
        problem.forget_truth()
        return retried

    def _energy(self, problem: Problem, names: tuple[str, ...], retry: bool) -> list[str]:
        """Check, then measure the energy of providers together; as :meth:`_time`."""
        ready, errors, retried = self._ready(problem, names, retry)

        def fail(name: str, fault: Exception) -> None:
            del ready[name]
            self._record_fault(name, fault)

        before, seed = environment.sensors(), self.settings.seed
        check_seed = secrets.randbits(31)
        checks = Checks(problem, random.Random(check_seed))
        samplers: dict[str, Sampler] = {}
        works: dict[str, energy.Work] = {}
        for name, runner in list(ready.items()):
            try:
                with unchanged_settings():
                    samplers[name] = Sampler(runner, checks)
                    works[name] = energy.Calls(samplers[name])
            except Exception as fault:
                fail(name, fault)
        try:
            with environment.energy_counter() as read:
                windows, idle = energy.take_turns(
                    works, energy.Meter(read), seed,
                    note=lambda name: self.send(turn=name, doing="energy"), failed=fail,
                )  # fmt: skip
        except Exception as fault:  # of the counter: no provider can be measured
            for name in list(ready):
                fail(name, fault)
        device = environment.with_sensors(self.facts, before, environment.sensors())
        joules: dict[str, list[float]] = {}
        facts: dict[str, dict[str, Any]] = {}
        for name, runner in list(ready.items()):
            found = metrics.largest(errors[name], samplers[name].errors)
            facts[name] = {
                "mode": runner.mode, "device": device, "errors": found, "plan": runner.call.plan,
            }  # fmt: skip
            call_ms = median(1e3 * each.seconds / each.calls for each in windows[name])
            if wrong := why_impossible(problem.case, call_ms, self.facts):
                self._record(name, status="incorrect", reason=wrong, **facts[name])
                del ready[name]
                continue
            joules[name] = [window.joules for window in windows[name]]
        for name, runner in ready.items():
            self._record(
                name,
                algorithm=runner.algorithm,
                energy=energy.summary(windows[name], idle),
                versus=self._versus(name, joules, runner.mode),
                checked_calls=samplers[name].checked,
                check_seed=check_seed,
                **facts[name],
            )
        problem.forget_truth()
        return retried

    def _versus(self, name: str, found: dict[str, list[float]], mode: str) -> dict[str, Any] | None:
        """The provider's values over its clock's baseline's, by visits; None unless both have some.

        Args:
            found: times or energies of all providers that took turns, by name, one of each visit.
        """
        baseline = providers.baselines()[mode]
        if name == baseline or baseline not in found:
            return None
        return {"provider": baseline} | paired_ratio(found[name], found[baseline])


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def serve(
    settings: dict[str, Any],
    folder: Path,
    plugins: tuple[Path, ...],
    requests: Iterable[Request],
    answer: Answer,
) -> None:
    """Measure each request as it comes.

    Args:
        settings: of :class:`Settings`.
        folder: the device's results folder, where its limits are.
    """
    if environment.interpreted():
        from bench.measure import interpreter

        interpreter.prepare()
    try:
        with unchanged_settings("the import of plugins"):
            providers.load(plugins)
    except RuntimeError as fault:
        answer({"refused": str(fault)})
        return
    worker = Worker(answer, Settings(**settings), folder)
    gc.collect()
    gc.freeze()  # so that garbage collection skips the imported modules
    worker.send(hello=dataclasses.asdict(worker.machine), device=worker.facts)
    for request in requests:
        worker.measure(request)
