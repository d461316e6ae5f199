"""The profile: planned for the present GPU, timed on no other, nor over a failed barrier."""

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from typer.testing import CliRunner

import kernels
from bench.cli import app
from bench.compiler import compile_kernel, profile
from bench.compiler.ablation import available
from kernels.plan.devices import DEVICES

HERE = replace(DEVICES["h100"], name="half a card", multiprocessors=20)
SEEN = {
    "status": "ok", "reason": None,
    "resources": asdict(compile_kernel.Compiled(90, 0, 0, 1000, 500, 400, 16, 10, 5, 4, 3)),
}  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, here: Any, *words: str) -> tuple[str, list[Any]]:
    timed: list[Any] = []

    def step_microseconds(variant: Any, B: int) -> float:
        timed.append(variant)
        return 3.0 - len(timed) / 4

    monkeypatch.setattr(profile, "present_device", lambda: here)
    monkeypatch.setattr(profile, "compile_variants", lambda found, device: [SEEN] * len(found))
    monkeypatch.setattr(profile, "step_microseconds", step_microseconds)
    found = CliRunner().invoke(app, ["profile", "--hidden", "512", *words])
    assert found.exit_code == 0, found.output
    return found.output, timed


def test_times_are_of_what_is_planned_for_the_present_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    said, timed = run(monkeypatch, HERE)
    assert "forward on half a card" in said and "µs a step" in said
    assert len(timed) == len(available("fwd")) + len(available("bwd"))
    for loop, seen in (("fwd", timed[: len(available("fwd"))]), ("bwd", timed[-1:])):
        (plan,) = {variant.plan for variant in seen}
        case = ("lstm", 512, 16, "bf16", loop)
        assert plan == profile.variants(HERE, *case)[0].plan
        assert plan != profile.variants(DEVICES["h100"], *case)[0].plan


def test_another_gpus_plan_is_not_timed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    said, timed = run(monkeypatch, HERE, "--device", "b200")
    assert not timed and "forward on b200" in said and "times left out" in said
    said, timed = run(monkeypatch, None)
    assert not timed and "forward on h100" in said and "no GPU here" in said
    forward, backward = said.split("backward on")
    assert "saving" in forward and "cannot be left out" not in forward
    assert "saving    cannot be left out: the backward loop stores" in backward


def test_a_time_over_a_barrier_that_gave_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The barrier gives up while the clock runs, which only the check afterwards can see."""
    variant = profile.variants(DEVICES["h100"], "lstm", 512, 16, "bf16", "fwd")[0]
    kernel, check = MagicMock(), Mock()

    def do_bench(once: Any, return_mode: str) -> float:
        once()
        check.side_effect = kernels.BarrierError("a program never arrived")
        return 1.024

    found = (kernel, {"counters_ptr": None})
    monkeypatch.setattr(compile_kernel, "arguments", lambda *a, **k: found)
    monkeypatch.setattr("torch.cuda.synchronize", lambda *_: None)
    monkeypatch.setattr("triton.testing", SimpleNamespace(do_bench=do_bench))
    monkeypatch.setattr(kernels, "check", check)
    with pytest.raises(kernels.BarrierError, match="never arrived"):
        profile.step_microseconds(variant, 16)
    assert kernel[variant.plan.programs,].call_count == 2
    monkeypatch.setattr(kernels, "check", lambda: None)
    assert profile.step_microseconds(variant, 16) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hidden", "0"), "hidden is 0; accepted: an integer from 1 to 65536"),
        (("--hidden", "65537"), "hidden is 65537; accepted"),
        (("--batch", "0"), "batch is 0; accepted: an integer from 1 to 4194304"),
        (("--batch", "-3"), "batch is -3; accepted"),
    ],
)
@pytest.mark.parametrize("command", ["profile", "plan"])
def test_sizes_that_no_loop_has_are_refused(command: str, words: Any, message: str) -> None:
    found = CliRunner().invoke(app, [command, *words])
    assert isinstance(found.exception, ValueError) and message in str(found.exception)
