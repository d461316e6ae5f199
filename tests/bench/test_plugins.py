"""What a plugin gets wrong costs its own providers' records, or the command one sentence."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bench import providers
from bench.cases.cases import DEFAULTS, make_case
from bench.measure import metrics
from bench.providers import PROVIDERS, fault_text, plain, provider, unsupported
from bench.records import provenance, schema
from bench.records.environment import Machine
from bench.sweep.plan import Options, default_run, run_name
from bench.sweep.worker import Settings, Worker

CASE, MACHINE = make_case(**DEFAULTS), Machine("cpu", "test")


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(str):
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def raising(fault: BaseException) -> Callable[..., Any]:
    def function(*arguments: object) -> None:
        raise fault

    return function


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (raising(KeyError("mood")), "raised KeyError: 'mood'"),
        (raising(Silent()), "raised Silent: (its text cannot be made)"),
        (raising(SystemExit(0)), "raised SystemExit: 0"),
        (raising(GeneratorExit()), "raised GeneratorExit: "),
        (lambda case, machine: Odd("hm"), "gave (its text cannot be made); accepted: None, or "),
        (lambda case, machine: 7, "gave 7; accepted: None, or "),
        (7, "raised TypeError: 'int' object is not callable"),
    ],
)
@pytest.mark.parametrize("name", ["supports", "algorithm"])
def test_a_wrong_answer_of_a_provider_is_its_error(name: str, answer: Any, said: str):
    provider("mine", **{name: answer})(plain.reference)
    found = unsupported(PROVIDERS["mine"], CASE, MACHINE)
    assert found is not None and found[0] == "error"
    assert found[1].startswith(f"its {name} {said}")


def test_ctrl_c_stops_whatever_a_provider_is_asked():
    provider("mine", supports=raising(KeyboardInterrupt()))(plain.reference)
    with pytest.raises(KeyboardInterrupt):
        unsupported(PROVIDERS["mine"], CASE, MACHINE)


def test_a_text_is_one_printable_line():
    provider("mine", supports=lambda case, machine: "a\ud800\x1b[2J\n b\0" + "z" * 999)(
        plain.reference
    )
    found = unsupported(PROVIDERS["mine"], CASE, MACHINE)
    assert found is not None and found[0] == "unsupported" and len(found[1]) == 500
    assert found[1].startswith("a\\ud800\\x1b[2J b\\x00zzz")
    assert fault_text(RuntimeError("a\n\ud800")) == "RuntimeError: a \\ud800"


def test_a_provider_that_hangs_when_asked_is_not_asked_again(tmp_path: Path, monkeypatch):
    path = tmp_path / "hanging.py"
    path.write_text(
        "import time\nfrom bench.providers import provider\nasked = []\n"
        "def supports(case, machine): asked.append(case); time.sleep(3600)\n"
        "provider('mine', supports=supports)(None)\n"
    )
    monkeypatch.setattr(providers, "ASKED_SECONDS", 0.01)
    providers.load((path,))
    timer, handler = signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)
    for _ in range(2):
        found = unsupported(PROVIDERS["mine"], CASE, MACHINE)
        assert found == ("error", "its supports raised TimeoutError: it took more than 0.01 s")
    assert len(sys.modules["bench_plugin_hanging"].asked) == 1
    assert signal.getsignal(signal.SIGALRM) == handler  # such as pytest's, whose limit goes on
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer[0] > 0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"patience": float("inf")}, "patience is inf; accepted: a number from 0 to"),
        ({"patience": float("nan")}, "patience is nan; accepted: a number from 0 to"),
        ({"patience": -1}, "patience is -1; accepted: a number from 0 to"),
        ({"patience": 1e300}, "patience is 1e+300; accepted: a number from 0 to"),
        ({"package": 7}, "package is 7; accepted: str or NoneType"),
        ({"graph": "no"}, "graph is 'no'; accepted: bool"),
        ({"baseline": None}, "baseline is None; accepted: bool"),
        ({"baseline": True}, "baseline is 'mine', but 'torch.nn' is that of the same clock"),
        (
            {"baseline": True, "graph": True},
            "baseline is 'mine', but 'torch.nn-graph' is that of the same clock",
        ),
    ],
)
def test_a_wrong_option_of_a_provider_is_refused(options: dict[str, Any], complaint: str):
    with pytest.raises(ValueError) as refused:
        provider("mine", **options)(plain.reference)
    assert str(refused.value).startswith(complaint) and "mine" not in PROVIDERS
    assert providers.baselines()["host"] == "torch.nn"


@pytest.fixture
def worker(tmp_path: Path) -> tuple[Worker, list[dict[str, Any]]]:
    """A worker in this process, and the records that it sends."""
    sent: list[dict[str, Any]] = []
    return Worker(lambda message: sent.append(message["record"]), Settings(), tmp_path), sent


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"plan": {"mode": {1, 2}}}, "TypeError: Object of type set is not JSON serializable"),
        ({"plan": [1, 2]}, "BadRecord: plan is [1, 2]; accepted: object"),
        ({"plan": {"mode": Silent}}, "TypeError: Object of type type is not JSON serializable"),
        ({"algorithm": 7}, "BadRecord: algorithm is 7; accepted: string"),
        ({"samples_ms": [float("nan")]}, "BadRecord: samples_ms has an item that is no number"),
    ],
)
def test_a_record_that_cannot_be_written_is_its_providers_error(worker, values, complaint: str):
    measurer, sent = worker
    provider("mine")(plain.reference)
    measurer._record("mine", **values, median_ms=1.0)
    (record,) = sent
    assert record["status"] == "error" and "median_ms" not in record
    assert record["reason"].startswith(f"its record cannot be written: {complaint}")
    schema.encode(schema.new_record(**_common(), **record))


def test_a_good_record_is_sent_as_json(worker):
    measurer, sent = worker
    provider("mine")(plain.reference)
    measurer._record("mine", plan={"tiles": (1, 2)}, median_ms=float("1.5"))
    (record,) = sent
    assert record["status"] == "ok" and record["plan"] == {"tiles": [1, 2]}
    assert json.loads(json.dumps(record)) == record and "case_id" not in record


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (Silent(), "error", "Silent: (its text cannot be made)"),
        (metrics.Incorrect("y is\noff"), "incorrect", "y is off"),
        (MemoryError("no room"), "oom", "MemoryError: no room"),
    ],
)
def test_a_fault_is_a_record(worker, fault: Exception, status: str, reason: str):
    measurer, sent = worker
    provider("mine")(plain.reference)
    measurer._record_fault("mine", fault)
    assert [(each["status"], each["reason"]) for each in sent] == [(status, reason)]


def _common() -> dict[str, Any]:
    facts = provenance.provenance({"name": "test"})
    del facts["device"]
    return {"run_id": "run", "kind": "time", "seed": 0, **facts, **CASE.fields()}


def test_a_plugin_files_contents_are_its_version(tmp_path: Path, monkeypatch):
    """Those that run, also after an edit that Python's cached bytecode does not notice."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    for answer in (1, 2):
        path.write_text(
            "from bench.providers import provider\n"
            f"@provider('mine')\ndef mine(problem): return {answer}\n"
            "provider('packed', package='torch')(mine)\n"
        )
        os.utime(path, (0, 0))
        with patch.dict(PROVIDERS), patch.dict(sys.modules):
            providers.load((path,))
            assert PROVIDERS["mine"].build(None) == answer  # type: ignore[arg-type]
            assert PROVIDERS["mine"].version() == provenance.short_hash(path.read_bytes())
            assert PROVIDERS["packed"].version() == provenance.version("torch")
    assert PROVIDERS["torch.nn"].version() == provenance.version("torch")
    assert PROVIDERS["ours"].file_hash is None


def test_a_plugin_files_contents_are_a_part_of_the_runs_name(tmp_path: Path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1\n")
    two.write_text("x = 2\n")
    usual = f"tiny-{provenance.code_hash()}"
    assert default_run("tiny") == usual == run_name(Options("tiny"))
    names = [run_name(Options("tiny", plugins=files)) for files in ((one,), (two,), (one, two))]
    assert len({usual, *names}) == 4 and all(name.startswith(f"{usual}-") for name in names)
    assert run_name(Options("tiny", plugins=(two, one, one))) == names[2]
    assert run_name(Options("tiny", plugins=(one,), run="mine")) == "mine"
    one.write_text("x = 3\n")
    assert run_name(Options("tiny", plugins=(one,))) not in names
