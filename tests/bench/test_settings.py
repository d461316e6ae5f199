"""A provider's code that changes settings is refused, and others run with those that were there."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cases.cases import DEFAULTS, make_case
from bench.cases.problem import Problem, make_problem
from bench.measure.runner import Runner
from bench.measure.sampler import interleave
from bench.measure.settings import SETTINGS, unchanged_settings
from bench.providers import PROVIDERS, Call, Provider, load
from bench.records.environment import Machine

CPU = Machine("cpu", "test")
load()


def _watches(*_: Any) -> None:
    """A profiler's function."""


def other(value: Any) -> Any:
    """A value that a setting could have instead of its own."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value
    if isinstance(value, tuple):
        return tuple(2 * each + 1 for each in value)
    if isinstance(value, set):
        return {min(value)}
    if callable(value) or value is None:  # a profiler's or debugger's function
        return _watches if value is None else None
    return {
        torch.dtype: torch.float64,
        torch.device: torch.device("meta"),
        str: "tf32",
    }[type(value)]  # fmt: skip


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [FunctionMode, DispatchMode])
def test_a_mode_that_is_not_left_is_named_and_left(kind: type[Any]):
    """It would run in all torch calls of the others, and of the suite."""
    depths = [get() for name, (get, _) in SETTINGS.items() if "modes" in name]
    with pytest.raises(RuntimeError, match="modes is 1 after a provider"), unchanged_settings():
        kind().__enter__()
    assert [get() for name, (get, _) in SETTINGS.items() if "modes" in name] == depths


@pytest.mark.parametrize("name", [name for name in SETTINGS if "modes" not in name])
def test_a_changed_setting_is_named_and_gets_its_value_again(name: str):
    read, write = SETTINGS[name]
    before = {each: get() for each, (get, _) in SETTINGS.items()}
    if before[name] == (changed := other(before[name])):
        pytest.skip("one core only")
    with pytest.raises(RuntimeError) as refused, unchanged_settings("a plugin"):
        write(changed)
        assert read() == changed
    assert f" after a plugin ran and was {before[name]} before" in str(refused.value)
    # Torch shows some in more than one place, and the first of them is named.
    assert str(refused.value).split(" is ")[0] in SETTINGS
    assert {each: get() for each, (get, _) in SETTINGS.items()} == before


def test_what_is_left_alone_or_fails_by_itself_keeps_its_message():
    with unchanged_settings():
        pass
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), unchanged_settings():
        torch.set_num_threads(threads + 1)
        _ = 1 / 0
    assert torch.get_num_threads() == threads


def test_others_are_timed_with_the_settings_that_were_there():
    threads, seen = torch.get_num_threads(), []

    def build(problem: Problem, changes: bool) -> Call:
        call = PROVIDERS["reference"].build(problem)

        def forward() -> dict[str, torch.Tensor]:
            if changes:
                torch.set_num_threads(threads + 1)
            else:
                seen.append(torch.get_num_threads())
            return call.forward()

        return Call(forward, call.leaves)

    small = {"B": 4, "T": 3, "I": 5, "H": 6, "dtype": "fp32", "pass": "fwd"}
    problem = make_problem(make_case(**DEFAULTS | small))
    runners = [
        Runner(Provider("changes", lambda of: build(of, True)), problem, CPU),
        Runner(Provider("honest", lambda of: build(of, False)), problem, CPU),
    ]
    faults = []
    found = interleave(runners, 1.0, 0.0, failed=lambda *fault: faults.append(fault))
    assert list(found) == ["honest"] and set(seen) == {threads}
    assert [runner.provider.name for runner, _ in faults] == ["changes"]
    assert "torch.get_num_threads() is" in str(faults[0][1])
