"""The implementations that are measured: a registry, and a file for each. No torch.

Import `provider` to register one, `load` and `PROVIDERS` to have them all.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cases.arguments import check_name, parse_choices
from bench.cases.cases import Case
from bench.records.environment import Machine
from bench.records.provenance import version

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem

ENTRY_POINTS = "rnnbench.plugins"


@dataclass
class Call:
    """A provider's implementation of one case.

    ``forward()`` returns y [T,B,D*H], h_n and, for an LSTM, c_n (views are fine). ``leaves`` are
    the tensors it differentiates, under the problem's names but in the provider's own layout;
    ``standard`` turns their gradients into torch's layout (not timed).
    """

    forward: Callable[[], dict[str, Tensor]]
    leaves: dict[str, Tensor]
    standard: Callable[[dict[str, Tensor]], dict[str, Tensor]] = field(default=lambda found: found)
    plan: dict[str, Any] | None = None
    after: Callable[[], None] = field(default=lambda: None)  # after each sample, not timed


Build = Callable[["Problem"], Call]


@dataclass(frozen=True)
class Provider:
    """An implementation to measure.

    Attributes:
        build: prepares a problem's call; may import torch.
        supports: None, or one sentence why this case cannot run on that machine; no torch.
        package: the installed package that computes, whose version is recorded.
        graph: whether the call is captured into a CUDA graph and replayed; on CUDA devices only.
        algorithm: cuDNN's algorithm by torch's rule, None where cuDNN does not compute.
        patience: seconds without progress after which it counts as hanging, if it compiles or
            tunes for longer than the sweep's own timeout allows.
        baseline: whether others timed by the same clock are compared with it.
    """

    name: str
    build: Build
    supports: Callable[[Case, Machine], str | None] = lambda case, machine: None
    package: str | None = None
    graph: bool = False
    algorithm: Callable[[Case, Machine], str | None] = lambda case, machine: None
    patience: float = 0.0
    baseline: bool = False

    def mode(self, machine: Machine) -> str:
        """The clock this provider is timed with on a machine."""
        if self.graph:
            return "graph"
        return "event" if machine.is_cuda else "host"

    def version(self) -> str | None:
        return version(self.package) if self.package else None


PROVIDERS: dict[str, Provider] = {}
_BUILTIN = ("torch_nn", "plain", "ours", "flashrnn", "torchrl", "effects", "emulated")


def provider(name: str, **options: Any) -> Callable[[Build], Build]:
    """Register a provider: decorates a function from a problem to a :class:`Call`.

    >>> @provider("mine", package="torch")
    ... def mine(problem): ...

    Args:
        options: any of :class:`Provider`'s attributes but ``build``.

    Raises:
        ValueError: if the name is registered, or cannot be a part of a file's name.
    """
    check_name("provider", name)

    def register(build: Build) -> Build:
        if name in PROVIDERS:
            raise ValueError(f"provider is {name!r}; accepted: a name that is not registered yet")
        PROVIDERS[name] = Provider(name, build, **options)
        return build

    return register


def load(plugins: tuple[Path, ...] = ()) -> dict[str, Provider]:
    """All providers: the suite's own, those of installed packages, and those of plugin files.

    Raises:
        FileNotFoundError: for a plugin file that does not exist.
        ValueError: for one that is not Python, or that raises while it is imported, with the line.
    """
    _load_builtin()
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()
    for path in plugins:
        _load_file(path)
    return PROVIDERS


def baselines() -> dict[str, str]:
    """The provider that others timed by a clock ("event", "host", "graph") are compared with."""
    _load_builtin()
    marked = {provider.graph: provider.name for provider in PROVIDERS.values() if provider.baseline}
    return {"event": marked[False], "host": marked[False], "graph": marked[True]}


def _load_builtin() -> None:
    for module in _BUILTIN:
        importlib.import_module(f"{__name__}.{module}")


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"plugin is {path}; accepted: a file that exists")
    if path.suffix != ".py":
        raise ValueError(f"plugin is {path}; accepted: a Python file (.py)")
    name = f"bench_plugin_{path.stem}"
    known = sys.modules.get(name)
    if known is not None:
        if known.__file__ is None or not path.samefile(known.__file__):
            raise ValueError(
                f"plugins are {known.__file__} and {path}; accepted: files with different names"
            )
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        del sys.modules[name]
        text = fault.msg if isinstance(fault, SyntaxError) else " ".join(str(fault).split())
        raise ValueError(
            f"plugin {path}, line {_fault_line(fault, path)}: {type(fault).__name__}: {text}"
        ) from fault


def _fault_line(fault: Exception, path: Path) -> int | None:
    """The last line of a file in an exception's traceback, or that of its syntax error."""
    if isinstance(fault, SyntaxError) and fault.filename == str(path):
        return fault.lineno
    frames = reversed(traceback.extract_tb(fault.__traceback__))
    return next((frame.lineno for frame in frames if frame.filename == str(path)), None)


def unsupported(provider: Provider, case: Case, machine: Machine) -> tuple[str, str] | None:
    """Why a provider cannot run a case, as a record's status and reason; None if it can.

    The status is "error" if its ``supports`` raises, or returns neither None nor a string.
    """
    if provider.graph and not machine.is_cuda:
        return "unsupported", "a CUDA graph needs a CUDA device"
    try:
        reason = provider.supports(case, machine)
    except Exception as fault:
        text = " ".join(str(fault).split())[:500]
        return "error", f"its supports raised {type(fault).__name__}: {text}"
    if reason is not None and not isinstance(reason, str):
        return "error", f"its supports gave {reason!r}; accepted: None, or why not"
    return ("unsupported", reason) if reason else None


def select(names: str | tuple[str, ...]) -> dict[str, Provider]:
    """The loaded providers of a comma-separated list or tuple, in that order.

    Raises:
        ValueError: for an unknown name.
    """
    return {name: PROVIDERS[name] for name in parse_choices("provider", names, PROVIDERS)}


def require(case: Case, **wanted: tuple[Any, ...]) -> str | None:
    """The first field of a case that has none of the values wanted, in words; None if all have."""
    have = case.fields()
    for name, values in wanted.items():
        if have[name] not in values:
            return f"{name} {have[name]} (only {', '.join(map(str, values))})"
    return None
