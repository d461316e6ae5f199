"""The pool of processes: what counts as a failure of which unit, and that no process stays."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.records.failed_checks import FAIL, NOT_DONE, PASS
from bench.records.provenance import ROOT
from bench.sweep import pool
from bench.sweep.pool import Outcome, Pool, Unit, calls_elsewhere
from bench.sweep.process import TookTooLong
from tests.helpers import pool_tasks as tasks
from tests.helpers.pool_tasks import ends_soon, gives, sleeps

LONG = 3600.0  # longer than any test; pytest's own limit comes first


def outcomes(*calls: Callable[[], object], **limits: float) -> list[Outcome]:
    """How the calls ended in a pool of one process."""
    units = [Unit(str(index), call) for index, call in enumerate(calls)]
    with Pool(1) as processes:
        found = list(processes.run(units, time.monotonic() + LONG, **limits))
    assert sorted(unit.name for unit, _ in found) == [unit.name for unit in units]
    return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0].name)]


def test_only_a_wrong_answer_or_a_crash_is_a_failure() -> None:
    no_answer = (tasks.is_not_done, tasks.lacks_memory, tasks.finds_the_card_busy, tasks.is_killed)
    failed, died, *others, right = outcomes(
        tasks.fails, tasks.dies, *no_answer, partial(gives, "right")
    )
    assert failed.state == died.state == FAIL
    assert died.detail == "the process died (exit code 7)"
    assert {outcome.state for outcome in others} == {NOT_DONE}
    assert "most likely for its memory" in others[-1].detail
    assert right.state == PASS and right.detail == right.found == "right"


def test_nothing_is_begun_after_begin_until() -> None:
    (found,) = outcomes(partial(gives, "right"), begin_until=0.0)
    assert (found.state, found.tried, found.detail) == (NOT_DONE, False, "not begun in time")


def test_an_error_that_comes_late_is_the_checks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are asynchronous, so an error may appear only at the next synchronization."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert pool.attempt(partial(gives, "right")).state == PASS
    monkeypatch.setattr(torch.cuda, "synchronize", tasks.poisons)
    assert pool.attempt(partial(gives, "right")).state == FAIL
    tasks.POISON.clear()


def test_a_poisoned_process_is_blamed_on_the_unit_that_poisoned_it() -> None:
    found = outcomes(tasks.poisons, tasks.needs_a_clean_process, tasks.needs_a_clean_process)
    assert [outcome.state for outcome in found] == [FAIL, PASS, PASS]
    assert "illegal memory access" in found[0].detail


def test_what_the_deadline_cuts_off_leaves_no_process_and_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake clock reaches the deadline as soon as the first unit runs."""
    note = tmp_path / "pids"
    units = [Unit("0", partial(sleeps, 3600, note)), Unit("1", partial(gives, "late"))]

    def monotonic() -> float:
        return 8.0 if note.exists() and " " in note.read_text() else 7.5

    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=monotonic))
    with Pool(1) as processes:
        (_, first), (_, second) = processes.run(units, 8.0)
        # The process is gone before the pool is closed.
        assert all(ends_soon(int(pid)) for pid in note.read_text().split())
    assert (first.state, second.state) == (NOT_DONE, NOT_DONE)
    assert "had run for" in first.detail and not first.tried
    assert second.detail == "not begun in time"


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "import time; from functools import partial; from pathlib import Path\n"
        "from bench.sweep.pool import Pool, Unit; from tests.helpers.pool_tasks import sleeps\n"
        f"unit = Unit('a', partial(sleeps, 3600, Path({str(note)!r})))\n"
        "list(Pool(1).run([unit], time.monotonic() + 3600))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (note.exists() and " " in note.read_text()):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert all(ends_soon(int(pid)) for pid in note.read_text().split())


def test_units_wait_for_those_named_in_after_and_an_exclusive_one_runs_without_others() -> None:
    units = [
        Unit("exclusive", partial(gives, ""), exclusive=True),
        Unit("second", partial(gives, ""), after=("first",)),
        Unit("first", partial(gives, "")),
    ]
    with Pool(2) as processes:
        order = [unit.name for unit, _ in processes.run(units, time.monotonic() + LONG)]
    assert order == ["exclusive", "first", "second"]


def test_idle_processes_stay_for_the_next_run_and_end_with_the_pool() -> None:
    unit = Unit("pid", tasks.own_pid)
    with Pool(1) as processes:
        ((_, first),) = processes.run([unit], time.monotonic() + LONG)
        ((_, second),) = processes.run([unit], time.monotonic() + LONG)
    assert first.detail == second.detail and ends_soon(int(first.detail))


def test_calls_elsewhere_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with calls_elsewhere([partial(print, "a warning")]) as values:
        assert next(values) is None
    assert capfd.readouterr() == ("", "")


def test_calls_elsewhere_give_their_values_in_order_or_say_what_failed() -> None:
    calls = [partial(gives, "a"), partial(gives, "b"), partial(tasks.fails)]
    with calls_elsewhere(calls) as values:
        assert [next(values), next(values)] == ["a", "b"]
        with pytest.raises(RuntimeError, match="fails failed: AssertionError: a wrong value"):
            next(values)
    late, death = "sleeps took more than 0 s", r"dies failed: the process died \(exit code 7\)"
    slow, dying = [partial(sleeps, 3600)], [partial(tasks.dies)]
    with calls_elsewhere(slow, 0.0) as values, pytest.raises(TookTooLong, match=late):
        next(values)
    with calls_elsewhere(dying) as values, pytest.raises(RuntimeError, match=death):
        next(values)
