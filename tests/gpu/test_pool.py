"""The pool of processes: what counts as a failure, who is blamed, and what is left behind."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.gpu import pool
from bench.gpu.pool import Outcome, Pool, Unit
from bench.records.failed_checks import FAIL, NOT_DONE, PASS
from bench.records.provenance import ROOT
from tests.helpers import pool_tasks as tasks
from tests.helpers.pool_tasks import gives, gone, sleeps

LONG = 3600.0  # no machine is so busy; pytest's own limit comes first


def outcomes(*calls: Callable[[], str]) -> list[Outcome]:
    """How the calls ended in a pool of one process."""
    units = [Unit(str(index), call) for index, call in enumerate(calls)]
    found: dict[str, Outcome] = {}

    def on_outcome(unit: Unit, outcome: Outcome) -> None:
        assert unit.name not in found
        found[unit.name] = outcome

    with Pool(1) as processes:
        processes.run(units, time.monotonic() + LONG, on_outcome)
    return [found[unit.name] for unit in units]


def test_only_a_wrong_answer_or_a_crash_is_a_failure() -> None:
    wrong = (tasks.fails, tasks.late, tasks.lacks_memory, tasks.dies, tasks.is_killed)
    found = outcomes(*wrong, partial(gives, "right"))
    states = [outcome.state for outcome in found]
    assert states == [FAIL, NOT_DONE, NOT_DONE, FAIL, NOT_DONE, PASS]
    assert found[3].detail == "the process died (exit code 7)"
    assert "most likely for its memory" in found[4].detail
    assert found[5].detail == "right"


def test_an_error_that_comes_late_is_the_checks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch returns before it ends; what it did wrong shows when the device is waited for."""
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
    """The deadline comes once the first unit runs, however long that takes."""
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


def test_units_wait_for_those_that_they_need_and_run_exclusively_where_asked() -> None:
    order: list[str] = []
    units = [
        Unit("exclusive", partial(gives, ""), exclusive=True),
        Unit("second", partial(gives, ""), after=("first",)),
        Unit("first", partial(gives, "")),
    ]
    with Pool(2) as processes:
        processes.run(units, time.monotonic() + LONG, lambda unit, _: order.append(unit.name))
    assert order == ["exclusive", "first", "second"]


def test_idle_processes_stay_for_the_next_run_and_end_with_the_pool() -> None:
    pids: list[str] = []
    with Pool(1) as processes:
        for _ in range(2):
            unit = Unit("pid", tasks.own_pid)
            processes.run([unit], time.monotonic() + LONG, lambda _, o: pids.append(o.detail))
    assert pids[0] == pids[1] and gone(int(pids[0]))
