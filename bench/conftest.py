"""``pytest bench``: the same cases, filters and engine as the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cases.presets import PRESETS
from bench.records import environment, files, provenance, store
from bench.sweep import sweep
from bench.sweep.worker_process import Isolated


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rnnbench")
    group.addoption("--preset", default="quick", help="which preset to measure (default: quick)")
    group.addoption("--preset-file", type=Path, default=PRESETS, help="a file of presets")
    group.addoption("--providers", default=None, help="only these, comma-separated")
    group.addoption("--filter", default="", help='only matching cases, such as "cell=lstm T<=64"')
    group.addoption("--plugin", type=Path, action="append", default=[], help="more providers")
    group.addoption("--seconds", type=float, default=0.5, help="sampling time per provider")
    group.addoption("--target", type=float, default=0.02, help="relative half-width to stop at")
    group.addoption(
        "--input-seed", type=int, default=0, help="of inputs and of the providers' order"
    )


def chosen_options(config: pytest.Config) -> sweep.Options:
    option = config.getoption
    return sweep.Options(
        preset=option("--preset"),
        preset_file=option("--preset-file"),
        providers=option("--providers"),
        filter=option("--filter"),
        plugins=tuple(path.resolve() for path in option("--plugin")),
        run="pytest",
        seed=option("--input-seed"),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case and provider; who cannot run there is skipped with the reason."""
    if "measured" not in metafunc.fixturenames:
        return
    config = metafunc.config
    machine = environment.probe()
    nowhere = Path(config.rootpath, "no-such-folder")  # nothing was measured before
    try:
        plan = sweep.make_plan(chosen_options(config), machine, nowhere)
    except (ValueError, FileNotFoundError) as fault:
        raise pytest.Collector.CollectError(str(fault)) from None
    parameters: list[Any] = [
        pytest.param((item, name), id=f"{item.case.case_id}-{name}")
        for item in plan.items
        for name in item.providers
    ]
    parameters += [
        pytest.param(None, id=f"{item.case.case_id}-{name}", marks=pytest.mark.skip(reason=reason))
        for item, name, reason in plan.skipped
    ]
    parameters += [
        pytest.param(reason, id=f"{item.case.case_id}-{name}") for item, name, reason in plan.broken
    ]
    metafunc.parametrize("measured", parameters, indirect=True)


@pytest.fixture(scope="session")
def worker(request: pytest.FixtureRequest) -> Iterator[Isolated]:
    """The measuring process, as in a sweep."""
    option = request.config.getoption
    settings = {name: option(f"--{name}") for name in ("seconds", "target")}
    settings["seed"] = option("--input-seed")
    folder = files.RESULTS / provenance.slug(environment.probe().name)
    plugins = chosen_options(request.config).plugins
    with Isolated(settings, folder, plugins=plugins) as isolated:
        yield isolated


@pytest.fixture(scope="session")
def answers() -> dict[Any, dict[str, store.Record]]:
    """What each case's providers gave; they are measured together and shown one by one."""
    return {}


@pytest.fixture
def measured(
    request: pytest.FixtureRequest, worker: Isolated, answers: dict[Any, dict[str, store.Record]]
) -> store.Record:
    """The record of one case and provider.

    All providers of the case that were selected (also with -k) take turns in one measurement.
    """
    if isinstance(request.param, str):
        pytest.fail(request.param, pytrace=False)
    item, name = request.param
    if item not in answers:
        parameters: list[Any] = [
            each.callspec.params.get("measured")
            for each in request.session.items
            if isinstance(each, pytest.Function) and hasattr(each, "callspec")
        ]
        pairs = [chosen for chosen in parameters if isinstance(chosen, tuple)]
        wanted = {other for asked_for, other in pairs if asked_for == item}
        names = tuple(other for other in item.providers if other in wanted)
        asked = sweep.Item(item.kind, item.case, names, item.seed, item.regime)
        answers[item] = {record["provider"]: record for record in worker.measure(asked)}
    return item.case.fields() | answers[item][name]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Put the device and versions into the JSON, beside what pytest-benchmark knows."""
    machine_info["rnnbench"] = {
        "device": environment.device_facts(),
        "software": provenance.software_facts(),
        "code": provenance.code_hash(),
    }


def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, machine_info: dict, compared_benchmark: dict
) -> None:
    """Refuse to compare different devices, where pytest-benchmark itself only warns."""
    names = [
        info.get("rnnbench", {}).get("device", {}).get("name")
        for info in (machine_info, compared_benchmark["machine_info"])
    ]
    if names[0] != names[1]:
        raise pytest.UsageError(
            f"the stored benchmark is of another device ({names[1]}, this is {names[0]}); "
            "their times are not comparable"
        )
