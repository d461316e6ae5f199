"""The GPU check, rehearsed on the CPU: exit codes, what fails it, what does not, resuming."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench.cases.cases import CELLS, DEFAULTS, make_case
from bench.cli import app
from bench.compiler.compile_kernel import TORCH_NAMES
from bench.gpu import check_gpu, checks, differences, pool, repetitions, sanitizer
from bench.gpu.pool import FAIL, LEFT_OUT, NOT_DONE, PASS, Failed, NotDone, Outcome, Pool, Unit
from bench.measure.metrics import tolerance
from bench.records import doubts, files
from bench.report.device import checks as check_table
from bench.report.pages import device_page
from bench.report.style import typeset
from bench.sweep.worker_process import Isolated, Item
from kernels.plan import Problem, backward_plan, forward_plan
from kernels.plan.devices import DEVICES
from tests.helpers.pool_tasks import (
    POISON,
    dies,
    fails,
    finds,
    gives,
    gone,
    is_killed,
    lacks_memory,
    late,
    needs_a_clean_process,
    own_pid,
    poisons,
    sleeps,
)

ROOT = Path(__file__).parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
LONG = 3600.0  # no machine is so busy; pytest's own limit comes first
KERNEL_CELLS = [cell.name for cell in CELLS.values() if cell.kernels]


@NO_GPU
def test_without_a_gpu_it_says_so() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "bench", "check-gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "needs a GPU and finds none here; --rehearse" in found.stderr


@NO_GPU
@pytest.mark.slow
def test_the_rehearsal_runs_every_check_once(tmp_path: Path) -> None:
    words = ["check-gpu", "--rehearse", "--out", str(tmp_path), "--max-minutes", "60"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert " 0 failed" in found.output and " 0 not done" in found.output
    told = json.loads((tmp_path / files.CHECKS).read_text())
    assert told["key"]["rehearsal"] and told["software"]["torch"] == torch.__version__
    assert told["device"]["kind"] == "cpu"
    outcomes: dict[str, list[Any]] = {}
    for row in told["rows"]:
        outcomes.setdefault(row["check"], []).append(row["outcome"])
    # Two comparisons of each cell in fp32, fp16 and bf16; what needs a GPU is left out.
    assert outcomes.pop("values") == [PASS] * 6 * len(KERNEL_CELLS)
    assert outcomes.pop("repetitions") == [PASS] * 2
    assert outcomes.pop("missing program") == [PASS, LEFT_OUT] * 2
    assert outcomes == {
        "streams": [LEFT_OUT] * 2,
        "graph": [LEFT_OUT] * 3,
        "far offsets": [LEFT_OUT],
        "sanitizer": [LEFT_OUT] * 2,
    }
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    rows = json.loads((tmp_path / files.CHECKS).read_text())["rows"]
    # What passed is not made again: its seconds too are the first call's.
    assert [r for r in rows if r["outcome"] == PASS] == [
        r for r in told["rows"] if r["outcome"] == PASS
    ]


# --- values and bits


def change(
    monkeypatch: pytest.MonkeyPatch, module: Any, *calls: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Let the first call of the kernels through, and change what each later one gives."""
    right, turns = checks.run_kernels, iter(calls)

    def run_kernels(*args: Any) -> dict[str, Any]:
        found = right(*args)
        return found | next(turns, lambda _: {})(found)

    monkeypatch.setattr(module, "run_kernels", run_kernels)


@pytest.mark.parametrize(("name", "loop"), [("dgx", "backward"), ("y", "forward")])
def test_a_wrong_value_is_seen_and_reported_whole(
    name: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = checks.first("gru", rehearse=True)
    assert pool.attempt(partial(checks.compare, value, "cpu")).state == PASS

    def wrong(found: dict[str, Any]) -> dict[str, Any]:
        changed = found[name].clone()
        changed[1] *= 1.5
        changed[1, 1] = math.nan
        return {name: changed}

    change(monkeypatch, checks, wrong)
    outcome = pool.attempt(partial(checks.compare, value, "cpu"))
    assert outcome.state == FAIL and outcome.detail.startswith(f"{name} is off by nan")
    lines = outcome.report.splitlines()
    # Every tensor, the wrong one marked; where it is wrong; and how the kernels ran.
    assert {line.split()[0] for line in lines if " off by " in line} >= {"y", "h_n", "dgx", "dw_hh"}
    assert [line.split()[0] for line in lines if line.endswith("WRONG")] == [name]
    assert "  time 1" in lines and any(line.startswith("  first at [1, 1") for line in lines)
    assert any(line.startswith("  worst at [1, 1") and " nan instead " in line for line in lines)
    assert (
        sum(line.startswith(("forward plan: mode=", "backward plan: mode=")) for line in lines) == 2
    )
    # In the interpreter "auto" runs stepwise: that is what is doubtful.
    name_of = f"values: {value.name}"
    assert outcome.doubts == (doubts.Doubt(name_of, "gru", loop, "stepwise", "bf16"),)


def test_where_a_tensor_is_wrong_is_said_by_its_axes() -> None:
    exact = torch.ones(6, 4, 8, dtype=torch.float64)
    found = exact.clone()
    found[2:4, 1, [0, 1, 5]] = 2
    found[3, 1, 5] = -7
    head, *lines = differences.describe("y", found.float(), exact, 0.1)
    assert head.startswith("y (time 6, sequence 4, unit 8): 6 of 192 entries are off by more than")
    assert lines == [
        "  time 2-3", "  sequence 1", "  unit 0-1, 5",
        "  first at [2, 1, 0]: 2 instead of 1", "  worst at [3, 1, 5]: -7 instead of 1",
    ]  # fmt: skip
    assert len(differences.describe("y", exact, exact, 0.1)) == 1
    assert differences.ranges(range(0, 20, 2)).endswith("10 and 4 more")


def next_bits(tensor: Any) -> Any:
    return torch.nextafter(tensor, tensor + 1)


@pytest.mark.parametrize("name", ["y", "dgx"])
def test_bits_of_our_kernels_that_differ_fail_the_repetitions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstm, _ = repetitions.exact_cases(rehearse=True)
    change(monkeypatch, repetitions, lambda _: {}, lambda found: {name: next_bits(found[name])})
    outcome = pool.attempt(partial(repetitions.repeat, lstm, "cpu", 2))
    assert outcome.state == FAIL and outcome.detail == f"{name} differed in 1 of 2 calls"
    loop = "backward" if name == "dgx" else "forward"
    assert outcome.doubts and outcome.doubts[0].loop == loop


@pytest.mark.parametrize("name", repetitions.BY_TORCH)
@pytest.mark.parametrize("factor", [None, 1.001, math.nan])
def test_what_torch_sums_outside_the_loop_is_held_to_a_bound(
    name: str, factor: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstm, _ = repetitions.exact_cases(rehearse=True)

    def changed(found: dict[str, Any]) -> dict[str, Any]:
        tensor = found[name]
        return {name: next_bits(tensor) if factor is None else tensor * factor}

    change(monkeypatch, repetitions, lambda _: {}, changed)
    outcome = pool.attempt(partial(repetitions.repeat, lstm, "cpu", 1))
    assert outcome.state == (PASS if factor is None else FAIL)
    assert (f"{name} was off by up to" in outcome.detail) == (factor is not None)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
def test_a_missing_first_steps_term_of_a_gradient_is_caught(nonlinearity: str, dtype: str) -> None:
    """Of dw over 50 steps it is some 14 %; the reference in the type itself passes."""
    import reference
    from bench.measure.metrics import errors

    value = checks.Value(f"rnn_{nonlinearity}", dtype, "none", "forward", 50, 8, 256, "auto")
    problem, _ = checks.make_inputs(value, "cpu")
    exact = checks.loop(
        reference, value, {name: x.double() for name, x in problem.inputs.items()},
        problem.upstream, None, None,
    )  # fmt: skip
    found = checks.loop(reference, value, problem.inputs, problem.upstream, None, None)
    for name, tensor in found.items():
        assert errors(tensor, exact[name])["rel_l2"] <= checks.tolerance(value, name) / 2
    first = exact["dgx"][0, :, 0].t() @ problem.inputs["h0"][0].double()
    missing = errors(exact["dw_hh"][0] - first, exact["dw_hh"][0])["rel_l2"]
    assert 0.05 < missing < 0.2
    # Five sequences or a weaker initial state make it smaller than in check-gpu's own cases.
    assert checks.tolerance(value, "dw_hh") < 1 / math.sqrt(50)


def test_gradients_of_few_elements_keep_the_benchmarks_bound() -> None:
    value = checks.first("rnn_relu", rehearse=True)
    assert checks.tolerance(value, "dh0") == tolerance(value.case, "dh0")
    assert checks.tolerance(checks.first("lstm", False), "dh0") == 16 * 2**-8
    assert checks.tolerance(checks.first("rnn_relu", False), "dh0") == pytest.approx(0.1)


# --- outcomes: what fails, what is only not done


def outcomes(*calls: Callable[[], str]) -> dict[str, Outcome]:
    units = [Unit(str(index), call) for index, call in enumerate(calls)]
    found: dict[str, Outcome] = {}

    def on_outcome(unit: Unit, outcome: Outcome) -> None:
        assert unit.name not in found
        found[unit.name] = outcome

    with Pool(1) as processes:
        processes.run(units, time.monotonic() + LONG, on_outcome)
    return found


def test_only_a_wrong_answer_or_a_crash_is_a_failure() -> None:
    found = outcomes(fails, late, lacks_memory, dies, is_killed, partial(gives, "right"))
    states = [found[str(index)].state for index in range(6)]
    assert states == [FAIL, NOT_DONE, NOT_DONE, FAIL, NOT_DONE, PASS]
    assert found["3"].detail == "its process died (exit code 7)"
    assert "most likely for its memory" in found["4"].detail
    assert found["5"].detail == "right"


def test_an_error_that_comes_late_is_the_checks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch returns before it ends; what it did wrong shows when the device is waited for."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert pool.attempt(partial(gives, "right")).state == PASS
    monkeypatch.setattr(torch.cuda, "synchronize", poisons)
    assert pool.attempt(partial(gives, "right")).state == FAIL
    POISON.clear()


def test_a_poisoned_process_is_blamed_on_the_unit_that_poisoned_it() -> None:
    found = outcomes(poisons, needs_a_clean_process, needs_a_clean_process)
    assert [found[str(i)].state for i in range(3)] == [FAIL, PASS, PASS]
    assert "illegal memory access" in found["0"].detail


def test_what_the_deadline_cuts_off_leaves_no_process_and_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline comes once the first unit is under way, however long that takes."""
    note = tmp_path / "pids"
    found: dict[str, Outcome] = {}
    units = [Unit("0", partial(sleeps, 3600, note)), Unit("1", partial(gives, "late"))]

    def monotonic() -> float:
        return 8.0 if note.exists() and " " in note.read_text() else 7.5

    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=monotonic))
    with Pool(1) as processes:
        processes.run(units, 8.0, lambda unit, outcome: found.update({unit.name: outcome}))
        # What the deadline cut off is gone before the pool is closed.
        assert all(gone(int(pid)) for pid in note.read_text().split())
    assert {found[name].state for name in found} == {NOT_DONE}
    assert "had run for" in found["0"].detail and not found["0"].tried
    assert found["1"].detail == "not begun in time"
    assert all(gone(int(pid)) for pid in note.read_text().split())


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "import time; from functools import partial; from pathlib import Path\n"
        "from bench.gpu.pool import Pool, Unit; from tests.helpers.pool_tasks import sleeps\n"
        f"unit = Unit('a', partial(sleeps, 3600, Path({str(note)!r})))\n"
        "Pool(1).run([unit], time.monotonic() + 3600, print)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (note.exists() and " " in note.read_text()):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert all(gone(int(pid)) for pid in note.read_text().split())


def test_units_wait_for_those_that_they_need_and_run_alone_where_asked(tmp_path: Path) -> None:
    order: list[str] = []
    units = [
        Unit("alone", partial(gives, ""), alone=True),
        Unit("second", partial(gives, ""), after=("first",)),
        Unit("first", partial(gives, "")),
    ]
    with Pool(2) as processes:
        processes.run(units, time.monotonic() + LONG, lambda unit, _: order.append(unit.name))
    assert order == ["alone", "first", "second"]


CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
WRONG = (
    "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n"
    "=========     at forward_kernel+0x10\n========= ERROR SUMMARY: 12 errors\n"
)
REFUSED = "========= COMPUTE-SANITIZER\n========= Error: Device not supported by this tool.\n"


def test_a_sanitizer_that_may_not_look_is_not_a_failure() -> None:
    assert sanitizer.verdict(CLEAN, 0) == "ERROR SUMMARY: 0 errors"
    with pytest.raises(Failed, match="12 errors; first: Invalid __global__ read of size 4"):
        sanitizer.verdict(WRONG, 9)
    for said, code in ((REFUSED, 1), ("", 0), (CLEAN, 1), ("no such option", 2)):
        with pytest.raises(NotDone, match="could not look"):
            sanitizer.verdict(said, code)


# --- resuming


def table_of(*units: Unit) -> list[check_gpu.Check]:
    doubtful = (doubts.Doubt("", "lstm"),)
    return [
        check_gpu.Check("values", unit.name.removeprefix("values: "), unit, doubtful)
        for unit in units
    ]


def make_checks(
    todo: list[check_gpu.Check], key: dict[str, Any], out: Path | None, seconds: float
) -> list[check_gpu.Row]:
    with Pool(2) as processes:
        return check_gpu.check(todo, key, out, seconds, processes)


def test_idle_processes_stay_for_the_next_run_and_end_with_the_pool() -> None:
    pids: list[str] = []
    with Pool(1) as processes:
        for _ in range(2):
            unit = Unit("pid", own_pid)
            processes.run([unit], time.monotonic() + LONG, lambda _, o: pids.append(o.detail))
    assert pids[0] == pids[1] and gone(int(pids[0]))


def test_the_next_call_goes_on_with_what_is_left(tmp_path: Path) -> None:
    key = {"code": "abc", "device": "card"}
    todo = table_of(
        Unit("values: right", partial(gives, "first")),
        Unit("values: wrong", fails),
        Unit("values: late", late),
    )
    written: list[int] = []
    with Pool(2) as processes:
        rows = check_gpu.check(todo, key, tmp_path, LONG, processes, lambda: written.append(0))
    assert [row.outcome for row in rows] == [PASS, FAIL, NOT_DONE] and len(written) == 3
    assert [row.name for row in check_gpu.unfinished(rows)] == ["values: late"]
    rows = make_checks(todo, key, tmp_path, -1)
    assert [row.outcome for row in rows] == [PASS, FAIL, NOT_DONE]
    assert rows[2].tries == 1  # there was no time to try
    todo = table_of(
        Unit("values: right", partial(gives, "second")),
        Unit("values: wrong", partial(gives, "right this time")),
        Unit("values: late", late),
    )
    rows = make_checks(todo, key, tmp_path, LONG)
    # What failed once with this code stays failed: the next time it may only be lucky.
    assert [(row.outcome, row.detail) for row in rows[:2]] == [
        (PASS, "first"), (FAIL, "AssertionError: a wrong value"),
    ]  # fmt: skip
    assert rows[2].tries == check_gpu.TRIES and not check_gpu.unfinished(rows)
    assert check_gpu.stored(tmp_path, key) == rows
    assert check_gpu.stored(tmp_path, key | {"code": "another"}) == []
    rows = make_checks(todo, key | {"code": "mended"}, tmp_path, LONG)
    assert rows[1].outcome == PASS


def test_a_failure_is_printed_whole_and_kept_whole(tmp_path: Path, capsys) -> None:
    many = check_gpu.MOST_REPORTS + 1
    todo = table_of(*(Unit(f"values: {i}", partial(finds, i)) for i in range(many)))
    rows = make_checks(todo, {"code": "abc", "device": "card"}, tmp_path, LONG)
    printed = capsys.readouterr().err
    for i, row in enumerate(rows):
        assert f"FAIL values: {i}: y is wrong" in printed
        assert row.report == f"all about {i}\n[in] many lines" and f"report {i}" not in row.detail
    # Whoever looks at a terminal's last lines sees the summary; the file has every report.
    assert sum(f"all about {i}\n[in] many lines" in printed for i in range(many)) == many - 1
    assert check_gpu.doubts(check_gpu.stored(tmp_path, {"code": "abc", "device": "card"})) == tuple(
        doubts.Doubt("values", "gru", "forward", "gemm", "bf16") for _ in rows
    )


def test_what_a_check_that_dies_makes_doubtful_is_known_beforehand(tmp_path: Path) -> None:
    todo = table_of(Unit("values: dies", dies), Unit("values: raises", fails))
    rows = make_checks(todo, {"code": "abc", "device": "card"}, None, LONG)
    assert [row.outcome for row in rows] == [FAIL, FAIL]
    assert check_gpu.doubts(rows) == (doubts.Doubt("", "lstm"),) * 2
    assert "a wrong value" in rows[1].report and "Traceback" in rows[1].report


def test_every_check_of_a_cell_says_what_its_failure_makes_doubtful() -> None:
    for check in check_gpu.all_checks(rehearse=False, cuda=True):
        if check.kind in ("values", "repetitions", "streams", "graph", "sanitizer", "small case"):
            (doubt,) = check.doubts
            assert doubt.cell in check.what.split() and doubt.check == check.unit.name
            assert doubt.mode is None or doubt.mode in ("persistent", "stepwise", "gemm")
        else:  # that a barrier gives up, and tensors larger than any case of a preset
            assert check.kind in ("missing program", "far offsets")
            assert not check.doubts


CASE = make_case(**DEFAULTS | {"cell": "gru", "pass": "fwd+bwd", "dtype": "bf16"})
PLAN = {"mode": "persistent", "backward": {"mode": "gemm"}}


@pytest.mark.parametrize(
    ("doubt", "concerned"),
    [
        (doubts.Doubt("x", "gru"), True),
        (doubts.Doubt("x", "lstm"), False),
        (doubts.Doubt("x", "gru", "forward", "persistent"), True),
        (doubts.Doubt("x", "gru", "forward", "gemm"), False),
        (doubts.Doubt("x", "gru", "backward", "gemm"), True),
        (doubts.Doubt("x", "gru", None, "gemm"), True),
        (doubts.Doubt("x", "gru", None, "stepwise"), False),
        (doubts.Doubt("x", "gru", number="bf16"), True),
        (doubts.Doubt("x", "gru", number="fp32:tf32"), False),
    ],
)
def test_a_doubt_concerns_the_calls_that_use_its_loop(doubt: doubts.Doubt, concerned: bool) -> None:
    assert (doubts.why_not_measured(CASE, PLAN, [doubt]) is not None) == concerned
    assert doubts.why_not_measured(CASE, None, [doubt]) is None  # no kernels of ours
    forward = replace(CASE, pass_="fwd")
    plan = {"mode": "persistent"}
    backward_only = doubt.loop == "backward" or doubt.mode == "gemm"
    assert doubt.concerns(forward, plan) == (concerned and not backward_only)


@NO_GPU
@pytest.mark.slow
def test_what_is_doubtful_is_recorded_as_incorrect_and_the_rest_is_measured(tmp_path: Path) -> None:
    case = make_case(**DEFAULTS | {"cell": "gru", "B": 2, "T": 2, "H": 5, "I": 3, "dtype": "fp32"})
    doubtful = doubts.Doubt("values: gru", "gru", "forward", "stepwise", "fp32:ieee")
    settings = {"doubts": doubts.to_json([doubtful])}
    with Isolated(settings, tmp_path, interpreted=True) as worker:
        ours, torch_nn = worker.measure(Item("error", case, ("ours", "torch.nn")))
        (lstm,) = worker.measure(Item("error", replace(case, cell="lstm"), ("ours",)))
    assert (ours["status"], torch_nn["status"], lstm["status"]) == ("incorrect", "ok", "ok")
    assert ours["reason"] == "not measured, because a check of these kernels failed: values: gru"


@pytest.mark.parametrize(
    ("calls", "code"),
    [((gives,), 0), ((fails, late), 1), ((gives, late), check_gpu.UNFINISHED)],
)
@NO_GPU
def test_exit_codes(calls: Any, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    named = [partial(call, "fine") if call is gives else call for call in calls]
    todo = table_of(*(Unit(f"values: {i}", call) for i, call in enumerate(named)))
    monkeypatch.setattr(check_gpu, "all_checks", lambda *_: todo)
    found = CliRunner().invoke(app, ["check-gpu", "--rehearse"])
    assert found.exit_code == code, found.output


# --- which checks there are


def test_the_most_telling_checks_come_first_and_names_are_unlike() -> None:
    todo = check_gpu.all_checks(rehearse=False, cuda=True)
    names = [check.unit.name for check in todo]
    assert len(set(names)) == len(names)
    kinds = [check.kind for check in todo]
    firsts = names[: len(KERNEL_CELLS)]
    for cell, name in zip(KERNEL_CELLS, firsts, strict=True):
        assert f"{cell} bf16 both T=50 B=32 H=512 persistent" in name
    assert kinds[len(firsts)] == "missing program"
    assert len(names) - 1 - kinds[::-1].index("graph") < names.index(
        next(n for n in names if "fp16" in n)
    )
    for index, check in enumerate(todo):  # or a unit might wait for one that waits for it
        assert set(check.unit.after) <= set(names[:index])
    assert todo[-1].unit.alone and sum(check.unit.alone for check in todo) == 1
    for cell in KERNEL_CELLS:  # compiled before a sanitizer's minutes run
        name = f"sanitizer: memcheck {cell}"
        assert todo[names.index(name)].unit.after == (f"small case: {cell}",)


@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_real_sizes_cover_every_way_to_run(cell: str) -> None:
    cases = [
        value
        for dtype, precision in checks.NUMBERS
        for value in checks.values(cell, dtype, precision, rehearse=False)
    ]
    assert {value.direction for value in cases} == {"forward", "reverse", "both"}
    assert {value.mode for value in cases} == {"auto", "persistent", "stepwise", "gemm"}
    assert {value.masks for value in cases} == {False, True}
    assert max(value.H for value in cases) == 2048
    assert checks.first(cell, rehearse=False) in cases


@pytest.mark.parametrize("multiprocessors", [132, 114])  # of an H100, SXM and PCIe
def test_every_value_has_a_plan_on_an_h100(multiprocessors: int) -> None:
    """A mode that cannot run there would fail the check, and cost what it concerns."""
    device = replace(DEVICES["h100"], multiprocessors=multiprocessors)
    cases = [
        value
        for cell in KERNEL_CELLS
        for dtype, precision in checks.NUMBERS
        for value in checks.values(cell, dtype, precision, rehearse=False)
    ]
    cases += repetitions.exact_cases(rehearse=False)
    cases += [checks.sanitizer_case(cell) for cell in KERNEL_CELLS]
    for value in cases:
        directions = 2 if value.direction == "both" else 1
        precision = "ieee" if value.precision == "none" else value.precision
        problem = Problem(
            CELLS[value.cell].gates, value.B, value.H, directions, TORCH_NAMES[value.dtype],
            precision,
        )  # fmt: skip
        for plan in (forward_plan, backward_plan):
            found = plan(problem, device, value.mode)
            assert value.mode in ("auto", found.mode), value.name


@pytest.mark.gpu
@pytest.mark.slow
def test_this_gpu_passes() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "bench", "check-gpu"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode in (0, check_gpu.UNFINISHED), found.stdout + found.stderr


# --- on the page


def test_the_page_tells_what_failed_and_what_was_not_done(tmp_path: Path) -> None:
    assert check_table.tables(tmp_path) == [] and check_table.caveats(tmp_path) == []
    rows = [
        check_gpu.Row("values", "lstm bf16", PASS, "at most 10%"),
        check_gpu.Row(
            "values",
            "gru bf16",
            FAIL,
            "y is off | by 1",
            report="many\nlines",
            doubts=doubts.to_json([doubts.Doubt("x", "gru", "forward", "persistent")]),
        ),
        check_gpu.Row("sanitizer", "memcheck lstm", NOT_DONE, "did not end within 120 s"),
        check_gpu.Row("far offsets", "rnn_tanh bf16", LEFT_OUT, "needs 48 GB"),
    ]
    check_gpu.write(tmp_path, rows, {"code": "abc", "device": "a card"})
    (found,) = check_table.tables(tmp_path)
    assert list(found.full["outcome"]) == [PASS, FAIL, NOT_DONE, LEFT_OUT]
    text = typeset.markdown(found)
    assert "memcheck lstm: did not end within 120 s (not done)" in text
    assert "rnn_tanh bf16: needs 48 GB (left out)" in text
    assert typeset.write(found, tmp_path / "tables")
    failed, unfinished = check_table.caveats(tmp_path)
    assert failed.startswith("1 of 4 checks") and "failed: values (gru bf16)" in failed
    assert failed.endswith("Not measured therefore: gru forward persistent.")
    assert "many" not in found.full.to_csv()  # the account is in check_gpu.json
    assert "were not done: sanitizer (memcheck lstm)" in unfinished
    shown = device_page.sections([], [found])
    assert [section.title for section in shown] == ["Are the kernels right here?"]
