"""How FlashRNN's and TorchRL's providers map weights and gates, tested on the CPU.

A test is skipped where its package is not installed.
"""

import contextlib
import importlib
import os

import pytest
import torch

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.problem import make_problem
from bench.measure import metrics
from bench.measure.runner import Runner
from bench.providers import PROVIDERS, Provider, load
from bench.records.environment import Machine

CPU = Machine("cpu", "test")
H100 = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), 132)
load()


def need(module: str) -> None:
    """Skip, with the reason, if a package cannot be imported here."""
    try:
        importlib.import_module(module)
    except ImportError as missing:
        pytest.skip(f"{module.split('.')[0]} cannot be imported here: {missing}")


def check(build, case) -> None:
    problem = make_problem(case)
    runner = Runner(Provider("peer", build), problem, CPU)
    for name, found in runner.errors().items():
        # In fp32, only a wrong mapping is off by more than some roundings.
        assert found["rel_l2"] <= 1e-6, (case.case_id, name, found)


@pytest.mark.parametrize("pass_", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("track", ["layer", "recurrence"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_flashrnn_mapping_through_its_vanilla_backend(cell: str, track: str, pass_: str):
    need("flashrnn")
    from bench.providers.flashrnn import build

    shape = {"B": 3, "T": 5, "I": 6, "H": 8, "dtype": "fp32"}
    case = make_case(**DEFAULTS | shape | {"cell": cell, "track": track, "pass": pass_})
    check(lambda problem: build(problem, "vanilla"), case)


@pytest.mark.slow
@pytest.mark.parametrize("resets", [0.0, 0.3])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_torchrl_mapping_in_the_interpreter(cell: str, resets: float, monkeypatch):
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported")
    need("torchrl.modules.tensordict_module._rnn_triton")
    from torchrl.modules.tensordict_module import _rnn_triton
    from triton import language as tl
    from triton.runtime.autotuner import Autotuner

    from bench.providers.torchrl import build

    # Its launchers name a CUDA device, its tuner times tiles on a GPU, and its tanh is a function
    # of CUDA's library. None of them affects the mapping.
    monkeypatch.setattr(tl.extra.cuda.libdevice, "tanh", lambda x: 1 - 2 / (tl.exp(2 * x) + 1))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for kernel in vars(_rnn_triton).values():
        if isinstance(kernel, Autotuner):
            monkeypatch.setattr(kernel, "configs", kernel.configs[:1])
    shape = {"B": 3, "T": 4, "I": 6, "H": 8, "dtype": "fp32", "resets": resets}
    case = make_case(**DEFAULTS | shape | {"cell": cell, "pass": "fwd+bwd"})
    check(build, case)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("flashrnn-fused", {"cell": "gru"}, "cell gru"),
        ("flashrnn-fused", {"directions": 2}, "directions 2"),
        ("flashrnn-fused", {"dtype": "fp32"}, "fp32 ieee"),
        ("flashrnn-fused", {"resets": 0.1}, "resets"),
        ("flashrnn-alternating", {"layers": 2}, "layers 2"),
        ("flashrnn-triton", {"cell": "rnn_tanh"}, "cell rnn_tanh"),
        ("torchrl-triton", {"dtype": "fp16"}, "dtype fp16"),
        ("torchrl-triton", {"cell": "rnn_relu"}, "cell rnn_relu"),
        ("torchrl-triton", {"track": "recurrence"}, "track recurrence"),
    ],
)
def test_unsupported_cases_have_a_reason(name: str, values: dict, reason: str):
    supports = PROVIDERS[name].supports
    assert reason in (supports(make_case(**DEFAULTS | values), H100) or "")
    assert supports(make_case(**DEFAULTS), CPU), "the package is missing, or a GPU"


def test_the_tolerance_catches_swapped_gates():
    """The errors that are tolerated are far below what a wrong mapping causes."""
    from bench.providers.plain import reference

    case = make_case(**DEFAULTS | {"B": 3, "T": 5, "H": 8, "dtype": "bf16", "pass": "fwd+bwd"})
    problem = make_problem(case)

    def swapped(problem):
        call = reference(problem)
        w = call.leaves["w_hh_l0"]
        call.leaves["w_hh_l0"] = torch.cat([w[8:16], w[:8], w[16:]])
        return call

    runner = Runner(Provider("p", swapped), problem, CPU)
    off = runner.errors()["y"]["rel_l2"]
    assert off > 2 * metrics.tolerance(case, "y")
