"""Options of commands: numbers within a range, and the fields of dataclasses."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cases.arguments import MINUTES, SECONDS, SEED, STARTS, TARGET, Number
from bench.cases.presets import PRESETS
from bench.records import files
from bench.sweep.plan import Options


def number(accepted: Number, about: str) -> Any:
    """An option that takes these numbers; any other value is a ValueError that says so."""

    def check(param: typer.CallbackParam, value: Any) -> Any:
        name = str(param.name).replace("_", "-")
        return None if value is None else accepted.check(name, value)

    # `parser=str` leaves text as it is, which Typer would refuse with a page of usage.
    kind = "<int>" if accepted.whole else "<float>"
    return typer.Option(help=about, parser=str, callback=check, metavar=kind)


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """A command as Typer reads it, with an option for each field of its dataclass parameters."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if dataclasses.is_dataclass(parameter.annotation)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        fields = inspect.signature(groups[name], eval_str=True) if name in groups else None
        flat += fields.parameters.values() if fields else [parameter]

    @functools.wraps(command)
    def flat_command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
        command(**values)

    keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in flat]
    flat_command.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
    flat_command.__annotations__ = {each.name: each.annotation for each in flat}
    return flat_command


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How long and how often `sweep` times a case."""

    seconds: Annotated[float, number(SECONDS, "Sampling time per provider and case.")] = 1.0
    target: Annotated[
        float, number(TARGET, "Relative half-width of the median's interval to stop at.")
    ] = 0.01
    starts: Annotated[
        int, number(STARTS, "Times each case is timed, in a process of its own; compare needs 3.")
    ] = 1
    timeout: Annotated[float, number(SECONDS, "Seconds of silence that mean a hang.")] = 180.0


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options that `sweep` and `error` share."""

    preset_file: Annotated[Path, typer.Option(help="A file of presets of your own.")] = PRESETS
    providers: Annotated[str | None, typer.Option(help="Names, comma-separated.")] = None
    filter: Annotated[
        str, typer.Option(help='Only matching cases, such as "cell=lstm,gru T<=512".')
    ] = ""
    max_minutes: Annotated[float | None, number(MINUTES, "Stop after this many.")] = None
    rerun: Annotated[
        str | None, typer.Option(help="Measure again the records with this status, failed, or all.")
    ] = None
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A Python file with providers or cells.")
    ] = None
    run: Annotated[str | None, typer.Option(help="The run's name; the same name resumes.")] = None
    seed: Annotated[int, number(SEED, "First seed of the inputs.")] = 0
    results: Annotated[Path, typer.Option(help="Where results go.")] = files.RESULTS

    def of_sweep(self, preset: str, kinds: tuple[str, ...], shard: str = "1/1") -> Options:
        """The sweep's options, for a preset and the kinds of record to measure."""
        return Options(
            preset=preset,
            preset_file=self.preset_file,
            kinds=kinds,
            providers=self.providers,
            filter=self.filter,
            shard=shard,
            run=self.run,
            rerun=self.rerun,
            plugins=tuple(path.resolve() for path in self.plugin or ()),
            seed=self.seed,
        )
