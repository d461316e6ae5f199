"""Wrong numbers for a command or for `pytest bench`: one sentence, before anything is done."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin

import pytest
from typer.testing import CliRunner

from bench import cli, conftest
from bench.cases.arguments import Number
from bench.records.provenance import ROOT

NEVER = ("-1", "nan", "inf", "-inf", "1e400", "9" * 30, "x", "", "1,5")
NOT_WHOLE = ("1.5", "1e0", "0x1")
ZERO_IS_ACCEPTED = {"seed", "threshold", "input-seed"}


def numeric_options() -> Iterator[tuple[str, str, bool, list[str]]]:
    """Each command's numeric options, by their types, and the arguments that it needs besides."""
    for command in cli.app.registered_commands:
        assert command.callback is not None and command.name is not None
        parameters = inspect.signature(command.callback).parameters.values()
        needed = [
            "nowhere" for each in parameters
            if each.default is each.empty and "ArgumentInfo" in repr(each.annotation)
        ]  # fmt: skip
        for each in parameters:
            assert get_origin(each.annotation) is Annotated
            kinds = {get_args(each.annotation)[0], *get_args(get_args(each.annotation)[0])}
            if kinds & {int, float}:
                yield command.name, each.name.replace("_", "-"), int in kinds, needed


OPTIONS = list(numeric_options())


def wrong_values(name: str, whole: bool) -> list[str]:
    zero = () if name in ZERO_IS_ACCEPTED else ("0", "-0.0")
    return [*NEVER, *zero, *(NOT_WHOLE if whole else ())]


def test_the_commands_have_numeric_options():
    assert len(OPTIONS) >= 18 and {"seed", "seconds", "hidden"} <= {name for _, name, *_ in OPTIONS}


@pytest.mark.parametrize(
    ("command", "name", "whole", "needed"), OPTIONS, ids=[f"{o[0]}-{o[1]}" for o in OPTIONS]
)
def test_a_wrong_number_is_one_sentence(
    command: str, name: str, whole: bool, needed: list[str], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for value in wrong_values(name, whole):
        found = CliRunner().invoke(cli.app, [command, *needed, f"--{name}={value}"])
        assert isinstance(found.exception, ValueError), (value, found.output)
        said = str(found.exception)
        assert said.startswith(f"{name} is {value:.40}; accepted: a"), said
        assert "\n" not in said and found.output == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "1.5", "512,0", "", "512,"])
def test_a_wrong_number_in_a_list_is_one_sentence(value: str, tmp_path: Path):
    words = ["resources", f"--hidden={value}", f"--results={tmp_path}", "--max-minutes=1e-9"]
    found = CliRunner().invoke(cli.app, words)
    assert isinstance(found.exception, ValueError)
    assert "hidden is " in str(found.exception) and "accepted: an integer" in str(found.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_a_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "sweep", "--seed", "-1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    found = capsys.readouterr()
    assert found.err == "error: seed is -1; accepted: an integer from 0 to 2147483647\n"
    assert found.out == ""


# --- pytest bench


class Recorded:
    """Stands for pytest's group of options and collects their names and types."""

    def __init__(self) -> None:
        self.options: dict[str, dict[str, Any]] = {}

    def getgroup(self, name: str) -> "Recorded":
        return self

    def addoption(self, name: str, **more: Any) -> None:
        self.options[name.removeprefix("--")] = more


def configured(**given: str) -> SimpleNamespace:
    """pytest's configuration after ``pytest_configure``, with text where an option is given."""
    found = Recorded()
    conftest.pytest_addoption(found)  # type: ignore[arg-type]
    texts = {name: more.get("default") for name, more in found.options.items()} | given
    option = SimpleNamespace(**{name.replace("-", "_"): text for name, text in texts.items()})
    config = SimpleNamespace(option=option, getoption=lambda name: texts[name.removeprefix("--")])
    conftest.pytest_configure(config)  # type: ignore[arg-type]
    return option


def test_every_numeric_option_of_pytest_is_checked():
    """A default that reads as a number is one; argparse itself converts none."""
    found = Recorded()
    conftest.pytest_addoption(found)  # type: ignore[arg-type]
    assert not any(more.get("type") in (int, float) for more in found.options.values())
    texts = {name: str(more.get("default")) for name, more in found.options.items()}
    assert {name for name, text in texts.items() if text[:1].isdigit()} == set(conftest.NUMBERS)
    option = configured()
    assert (option.seconds, option.target, option.input_seed) == (0.5, 0.02, 0)


@pytest.mark.parametrize("name", conftest.NUMBERS)
def test_a_wrong_number_for_pytest_is_the_same_sentence(name: str):
    accepted = conftest.NUMBERS[name]
    for value in wrong_values(name, accepted.whole):
        with pytest.raises(pytest.UsageError) as refused:
            configured(**{name: value})
        assert str(refused.value) == f"{name} is {value:.40}; accepted: {accepted}"


def test_pytest_refuses_before_anything_is_measured():
    words = ["-m", "pytest", "bench", "-q", "-p", "no:cacheprovider", "--seconds", "0"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    said = (done.stdout + done.stderr).strip()
    assert said == "ERROR: seconds is 0; accepted: a number above 0, at most 1800000"


@pytest.mark.parametrize(
    ("accepted", "good"),
    [
        (Number(0, 1, above=True), ["1", "1e-9", 0.5, 1]),
        (Number(0, 9, whole=True), ["0", "9", 5]),
        (Number(0, 9), ["0", "9", 0.0]),
    ],
)
def test_numbers_within_the_range_are_taken(accepted: Number, good: list[Any]):
    for value in good:
        found = accepted.check("x", value)
        assert found == float(value) and (isinstance(found, int) or not accepted.whole)
