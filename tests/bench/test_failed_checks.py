"""What a failed check rules out, and how a worker records it."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.presets import Request
from bench.records.failed_checks import Suspect, to_json, why_not_measured
from bench.sweep.worker_process import Isolated

CASE = make_case(**DEFAULTS | {"cell": "gru", "pass": "fwd+bwd", "dtype": "bf16"})
PLAN = {"mode": "persistent", "backward": {"mode": "gemm"}}


@pytest.mark.parametrize(
    ("suspect", "used"),
    [
        (Suspect("x", "gru"), True),
        (Suspect("x", "lstm"), False),
        (Suspect("x", "gru", "forward", "persistent"), True),
        (Suspect("x", "gru", "forward", "gemm"), False),
        (Suspect("x", "gru", "backward", "gemm"), True),
        (Suspect("x", "gru", None, "gemm"), True),
        (Suspect("x", "gru", None, "stepwise"), False),
        (Suspect("x", "gru", number="bf16"), True),
        (Suspect("x", "gru", number="fp32:tf32"), False),
    ],
)
def test_a_call_is_not_measured_if_it_uses_a_suspect_kernel(suspect: Suspect, used: bool) -> None:
    assert (why_not_measured(CASE, PLAN, [suspect]) is not None) == used
    assert why_not_measured(CASE, None, [suspect]) is None  # no kernels of ours
    forward = replace(CASE, pass_="fwd")
    backward_only = suspect.loop == "backward" or suspect.mode == "gemm"
    assert suspect.is_used_by(forward, {"mode": "persistent"}) == (used and not backward_only)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.slow
def test_suspect_kernels_are_recorded_as_incorrect_and_others_are_measured(tmp_path: Path) -> None:
    case = make_case(**DEFAULTS | {"cell": "gru", "B": 2, "T": 2, "H": 5, "I": 3, "dtype": "fp32"})
    suspect = Suspect("values: gru", "gru", "forward", "stepwise", "fp32:ieee")
    settings = {"suspects": to_json([suspect])}
    with closing(Isolated(settings, tmp_path, interpreted=True)) as worker:
        ours, torch_nn = worker.measure(Request("error", case, providers=("ours", "torch.nn")))
        (lstm,) = worker.measure(Request("error", replace(case, cell="lstm"), providers=("ours",)))
    assert (ours["status"], torch_nn["status"], lstm["status"]) == ("incorrect", "ok", "ok")
    assert ours["reason"] == "not measured, because a check of these kernels failed: values: gru"
