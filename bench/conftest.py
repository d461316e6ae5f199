"""``pytest bench``: the same cases, filters and engine as the command line."""

import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import providers
from bench.cases.arguments import SECONDS, SEED, TARGET
from bench.cases.presets import PRESETS, Request
from bench.records import environment, files, provenance, store
from bench.sweep.plan import Options, make_plan
from bench.sweep.worker_process import Isolated

Records = dict[str, store.Record]  # by provider
NUMBERS = {"seconds": SECONDS, "target": TARGET, "input-seed": SEED}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rnnbench")
    group.addoption("--preset", default="quick", help="which preset to measure (default: quick)")
    group.addoption("--preset-file", type=Path, default=PRESETS, help="a file of presets")
    group.addoption("--providers", default=None, help="only these providers, comma-separated")
    group.addoption("--filter", default="", help='only matching cases, such as "cell=lstm T<=64"')
    group.addoption("--plugin", type=Path, action="append", default=[], help="a provider file")
    group.addoption("--seconds", default="0.5", help="sampling time per provider")
    group.addoption("--target", default="0.02", help="relative half-width to stop at")
    group.addoption("--input-seed", default="0", help="seed of the inputs and the providers' order")


def pytest_configure(config: pytest.Config) -> None:
    """Check the numbers as the command line does; as they are text, argparse has let them pass."""
    for name, accepted in NUMBERS.items():
        try:
            value = accepted.check(name, config.getoption(f"--{name}"))
        except ValueError as fault:
            raise pytest.UsageError(str(fault)) from None
        setattr(config.option, name.replace("-", "_"), value)


def selected_options(config: pytest.Config) -> Options:
    option = config.getoption
    return Options(
        preset=option("--preset"),
        preset_file=option("--preset-file"),
        providers=option("--providers"),
        filter=option("--filter"),
        plugins=tuple(path.resolve() for path in option("--plugin")),
        run="pytest",
        seed=option("--input-seed"),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case and provider; a provider that cannot run it is skipped with the reason."""
    if "measured" not in metafunc.fixturenames:
        return
    config = metafunc.config
    machine = environment.probe()
    nowhere = Path(config.rootpath, "no-such-folder")  # where no records are
    options = selected_options(config)
    try:
        providers.load(options.plugins)
        plan = make_plan(options, machine, nowhere)
    except (ValueError, FileNotFoundError) as fault:
        raise pytest.Collector.CollectError(str(fault)) from None
    parameters: list[Any] = [
        pytest.param((each, name), id=f"{each.case.case_id}-{name}")
        for each in plan.requests
        for name in each.providers
    ]
    for each in plan.not_measured:
        skip = [pytest.mark.skip(reason=each.reason)] if each.status == "unsupported" else []
        name = f"{each.request.case.case_id}-{each.provider}"
        parameters.append(pytest.param(each.reason, id=name, marks=skip))
    metafunc.parametrize("measured", parameters, indirect=True)


@pytest.fixture(scope="session")
def measure(request: pytest.FixtureRequest) -> Iterator[Callable[[Request], Records]]:
    """A function that measures a request's providers, those that -k selects, once and together."""
    option = request.config.getoption
    settings = {name: option(f"--{name}") for name in ("seconds", "target")}
    settings["seed"] = option("--input-seed")
    folder = files.RESULTS / provenance.slug(environment.probe().name)
    plugins = selected_options(request.config).plugins
    selected: list[Any] = [
        each.callspec.params.get("measured")
        for each in request.session.items
        if isinstance(each, pytest.Function) and hasattr(each, "callspec")
    ]
    with closing(Isolated(settings, folder, plugins=plugins)) as worker:

        @functools.cache
        def records(wanted: Request) -> Records:
            names = tuple(name for name in wanted.providers if (wanted, name) in selected)
            measured = worker.measure(replace(wanted, providers=names))
            return {record["provider"]: record for record in measured}

        yield records


@pytest.fixture
def measured(request: pytest.FixtureRequest, measure: Callable[[Request], Records]) -> store.Record:
    """The record of one case and provider."""
    if isinstance(request.param, str):
        pytest.fail(request.param, pytrace=False)
    wanted, name = request.param
    return wanted.case.fields() | measure(wanted)[name]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Put the device and versions into pytest-benchmark's JSON."""
    machine_info["rnnbench"] = {
        "device": environment.device_facts(),
        "software": provenance.software_facts(),
        "code": provenance.code_hash(),
    }


def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, machine_info: dict, compared_benchmark: dict
) -> None:
    """Refuse to compare different devices, where pytest-benchmark itself only warns."""
    here, there = (
        info.get("rnnbench", {}).get("device", {}).get("name")
        for info in (machine_info, compared_benchmark["machine_info"])
    )
    if here != there:
        raise pytest.UsageError(
            f"the stored benchmark is of another device ({there}, this is {here}); "
            "their times are not comparable"
        )
