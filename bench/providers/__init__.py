"""Who is measured: the registry, and what every provider must tell. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cases import Case
from bench.environment import Machine, version

if TYPE_CHECKING:
    from torch import Tensor

    from bench.problem import Problem

ENTRY_POINTS = "rnnbench.plugins"


@dataclass
class Call:
    """A provider made ready for one case.

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
Supports = Callable[[Case, Machine], str | None]


@dataclass(frozen=True)
class Provider:
    """Someone to measure.

    Attributes:
        build: makes a problem ready to run; may import torch.
        supports: None, or one sentence why this case cannot run on that machine; no torch.
        version: of whatever computes.
        graph: whether the call is captured into a CUDA graph and replayed.
        algorithm: cuDNN's algorithm as torch's rule predicts it, where that applies.
        patience: seconds it may stay silent while it builds or tunes itself, beyond which it
            counts as hanging; 0 is the sweep's own timeout.
    """

    name: str
    build: Build
    supports: Supports
    version: Callable[[], str | None]
    graph: bool = False
    algorithm: Callable[[Case, Machine], str | None] = lambda case, machine: None
    patience: float = 0.0

    def mode(self, machine: Machine) -> str:
        """The clock this provider is timed with on a machine."""
        if self.graph:
            return "graph"
        return "event" if machine.is_cuda else "host"


PROVIDERS: dict[str, Provider] = {}
_BUILTIN = ("torch_nn", "plain", "ours", "flashrnn", "torchrl", "effects")


def provider(
    name: str,
    *,
    supports: Supports = lambda case, machine: None,
    package: str | None = None,
    graph: bool = False,
    algorithm: Callable[[Case, Machine], str | None] = lambda case, machine: None,
    patience: float = 0.0,
) -> Callable[[Build], Build]:
    """Register a provider: decorates a function from a problem to a :class:`Call`.

    >>> @provider("mine", package="torch")
    ... def mine(problem): ...

    Raises:
        ValueError: if the name is taken.
    """

    def register(build: Build) -> Build:
        if name in PROVIDERS:
            raise ValueError(f"provider {name!r} is registered already")
        PROVIDERS[name] = Provider(
            name,
            build,
            supports,
            lambda: version(package) if package else None,
            graph,
            algorithm,
            patience,
        )
        return build

    return register


def load(plugins: tuple[Path, ...] = ()) -> dict[str, Provider]:
    """All providers: built in, of installed packages' entry points, and of plugin files.

    Raises:
        FileNotFoundError: for a plugin file that does not exist.
    """
    for module in _BUILTIN:
        importlib.import_module(f"{__name__}.{module}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()
    for path in plugins:
        name = f"bench_plugin_{path.stem}"
        if name in sys.modules:
            continue
        if not path.is_file():
            raise FileNotFoundError(f"plugin {path} does not exist")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module_ = importlib.util.module_from_spec(spec)
        sys.modules[name] = module_
        spec.loader.exec_module(module_)
    return PROVIDERS


def chosen(names: str | tuple[str, ...]) -> list[Provider]:
    """The loaded providers of a comma-separated list or tuple, in that order.

    Raises:
        ValueError: for an unknown name.
    """
    wanted = tuple(part.strip() for part in names.split(",")) if isinstance(names, str) else names
    for name in wanted:
        if name not in PROVIDERS:
            raise ValueError(f"provider is {name!r}; accepted: {', '.join(PROVIDERS)}")
    return [PROVIDERS[name] for name in wanted]


def needs(case: Case, **wanted: tuple[Any, ...]) -> str | None:
    """A reason if a field of the case is none of the wanted values."""
    have = case.fields()
    for name, values in wanted.items():
        if have[name] not in values:
            return f"{name} {have[name]} (only {', '.join(map(str, values))})"
    return None
