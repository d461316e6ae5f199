"""Calls measured in a CUDA graph; the capture is simulated."""

import contextlib
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

import kernels
from bench.cases.cases import DEFAULTS, make_case
from bench.cases.problem import make_problem
from bench.measure.runner import Runner
from bench.providers import Call, Provider, load
from bench.records.environment import Machine


def test_a_call_is_warmed_up_before_its_capture(monkeypatch):
    """A first call compiles and starts libraries, which a capture does not allow."""
    capturing: list[bool] = []

    @contextlib.contextmanager
    def graph(_: Any):
        capturing.append(True)
        yield
        capturing.pop()

    for name in ("Stream", "current_stream", "stream", "synchronize", "CUDAGraph"):
        monkeypatch.setattr(f"torch.cuda.{name}", MagicMock())
    monkeypatch.setattr("torch.cuda.graph", graph)
    case = make_case(**DEFAULTS | {"T": 2, "B": 2, "H": 4, "I": 3, "pass": "fwd+bwd"})
    warm: list[bool] = []

    def build(problem: Any) -> Call:
        w = problem.inputs["w_hh_l0"].detach()

        def forward() -> dict[str, torch.Tensor]:
            assert warm or not capturing, "compiled inside a capture"
            warm.append(True)
            return {name: w.sum() * torch.ones_like(x) for name, x in problem.upstream.items()}

        return Call(forward, {"w": w})

    provider = Provider("p", build, graph=True)
    card = Machine("cuda", "a card", (9, 0), 132)
    runner = Runner(provider, make_problem(case), card)
    runner.prepare()
    assert warm and not capturing
    warm.clear()
    with pytest.raises(AssertionError, match="inside a capture"), graph(None):
        runner._step()  # without the warm-up the test fails


def test_ours_in_a_graph_is_warmed_up_in_the_mode_that_is_captured(monkeypatch):
    modes = []

    def layers(*_: Any, mode: str, **rest: Any) -> Any:
        modes.append(mode)
        raise StopIteration

    monkeypatch.setattr(kernels, "layers", layers)
    problem = make_problem(make_case(**DEFAULTS | {"T": 2, "B": 2, "H": 16, "I": 16}))
    call = load()["ours-graph"].build(problem)
    for _ in range(3):
        with pytest.raises(StopIteration):
            call.forward()
    assert modes == ["auto-graph"] * 3
