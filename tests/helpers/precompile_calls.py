"""Compile kernels ahead, or launch them. Run as two processes by test_precompile.py, because
kernels are interpreted there.
"""

import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.presets import Request
from bench.cases.problem import make_problem
from bench.gpu import precompile, value_checks
from bench.measure.runner import Runner
from bench.providers import load
from bench.records.environment import Machine
from kernels.plan.devices import DEVICES
from tests.helpers import launch_recorder

CARD = Machine("cuda", "a card", (9, 0), 132)
SMALL = {"T": 2, "B": 3, "H": 136, "I": 8}
REQUESTS = [
    Request("time", make_case(**DEFAULTS | SMALL | changes))
    for changes in (
        {"cell": "lstm", "pass": "fwd+bwd"},
        {"cell": "lstm", "pass": "fwd", "directions": 2},
        {"cell": "gru", "pass": "fwd+bwd", "dtype": "fp16", "resets": 0.5},
        {"cell": "gru", "pass": "fwd", "track": "recurrence", "I": 0},
        {"cell": "rnn_tanh", "pass": "fwd+bwd", "track": "recurrence", "I": 0},
    )
]
PROVIDERS = ("ours", "ours-stepwise", "ours-gemm")
COMPARISONS = [
    value_checks.Comparison("lstm", "bf16", "none", "both", 2, 3, 136, "persistent", masks=True),
    value_checks.Comparison("gru", "bf16", "none", "reverse", 2, 3, 136, "stepwise"),
]


def compile_ahead() -> None:
    uses = precompile.of_comparisons(COMPARISONS) + precompile.of_requests(REQUESTS, PROVIDERS)
    with (
        tempfile.TemporaryDirectory() as claims,
        mock.patch("kernels.planning.device_limits", lambda device: DEVICES["h100"]),
    ):
        for use in uses:
            print(precompile.compile_use(use, Path(claims)))


def launch() -> None:
    """Launch what the benchmark and check-gpu do, with a driver that launches nothing."""
    for comparison in COMPARISONS:
        value_checks.run_kernels(value_checks.make_inputs(comparison, "cpu"))
    providers = load()
    for request in REQUESTS:
        for name in PROVIDERS:
            runner = Runner(providers[name], make_problem(request.case), CARD)
            runner._step()


if __name__ == "__main__":
    recorder = launch_recorder.install()
    torch.manual_seed(0)
    {"compile": compile_ahead, "launch": launch}[sys.argv[1]]()
    print(f"{len(recorder.launches)} launches")
