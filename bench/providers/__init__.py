"""The implementations that are measured: a registry, and a file for each. No torch.

Import `provider` to register one, `load` and `PROVIDERS` to have them all, and `fault_text` for
what a provider's exception says.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cases.arguments import SECONDS, Number, check_name, parse_choices
from bench.cases.cases import Case
from bench.records.environment import Machine
from bench.records.provenance import short_hash, version

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem

ENTRY_POINTS = "rnnbench.plugins"
PATIENCE = Number(0, SECONDS.most)
ASKED_SECONDS = 10.0  # the longest wait for a plugin file's `supports`, which runs in the parent
_OPTIONS: dict[str, tuple[type, ...]] = {
    "package": (str, type(None)), "graph": (bool,), "baseline": (bool,)
}  # fmt: skip


def as_they_are(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of leaves that are in torch's layout."""
    return found


@dataclass
class Call:
    """A provider's implementation of one case.

    ``forward()`` returns y [T,B,D*H], h_n and, for an LSTM, c_n (views are fine). ``leaves`` are
    the tensors it differentiates, under the problem's names but in the provider's own layout;
    ``standard`` turns their gradients into torch's layout, not timed: it may only move, select,
    join and add them up (``bench.measure.layout``).
    """

    forward: Callable[[], dict[str, Tensor]]
    leaves: dict[str, Tensor]
    standard: Callable[[dict[str, Tensor]], dict[str, Tensor]] = field(default=as_they_are)
    plan: dict[str, Any] | None = None
    after: Callable[[], None] = field(default=lambda: None)  # after each sample, not timed


Build = Callable[["Problem"], Call]


@dataclass(frozen=True)
class Provider:
    """An implementation to measure.

    Attributes:
        build: prepares a problem's call; may import torch.
        supports: None, or one sentence why this case cannot run on that machine; no torch.
        package: the installed package that computes, whose version is recorded; without one, the
            version of a plugin file's provider is a hash of that file.
        graph: whether the call is captured into a CUDA graph and replayed; on CUDA devices only.
        algorithm: cuDNN's algorithm by torch's rule, None where cuDNN does not compute.
        patience: seconds without progress after which it counts as hanging, if it compiles or
            tunes for longer than the sweep's own timeout allows.
        baseline: whether others timed by the same clock are compared with it.
        file_hash: of the plugin file that registered it; set by :func:`load`.
    """

    name: str
    build: Build
    supports: Callable[[Case, Machine], str | None] = lambda case, machine: None
    package: str | None = None
    graph: bool = False
    algorithm: Callable[[Case, Machine], str | None] = lambda case, machine: None
    patience: float = 0.0
    baseline: bool = False
    file_hash: str | None = None

    def mode(self, machine: Machine) -> str:
        """The clock this provider is timed with on a machine."""
        if self.graph:
            return "graph"
        return "event" if machine.is_cuda else "host"

    def version(self) -> str | None:
        return version(self.package) if self.package else self.file_hash


PROVIDERS: dict[str, Provider] = {}
_BUILTIN = ("torch_nn", "plain", "ours", "flashrnn", "torchrl", "effects", "emulated")


def provider(name: str, **options: Any) -> Callable[[Build], Build]:
    """Register a provider: decorates a function from a problem to a :class:`Call`.

    >>> @provider("mine", package="torch")
    ... def mine(problem): ...

    Args:
        options: any of :class:`Provider`'s attributes but ``build`` and ``file_hash``.

    Raises:
        ValueError: if the name is registered, or cannot be a part of a file's name; for an option
            of another type, a patience that is no finite number of seconds, and a second baseline
            of a clock.
    """
    check_name("provider", name)
    for option, kinds in _OPTIONS.items():
        if option in options and type(options[option]) not in kinds:
            accepted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{option} is {options[option]!r:.40}; accepted: {accepted}")
    options["patience"] = PATIENCE.check("patience", options.get("patience", 0.0))

    def register(build: Build) -> Build:
        if name in PROVIDERS:
            raise ValueError(f"provider is {name!r}; accepted: a name that is not registered yet")
        added = Provider(name, build, **options)
        known = next((p for p in PROVIDERS.values() if p.baseline and p.graph == added.graph), None)
        if added.baseline and known:
            raise ValueError(
                f"baseline is {name!r}, but {known.name!r} is that of the same clock; accepted: "
                "one for each clock"
            )
        PROVIDERS[name] = added
        return build

    return register


def load(plugins: tuple[Path, ...] = ()) -> dict[str, Provider]:
    """All providers: the suite's own, those of installed packages, and those of plugin files.

    Raises:
        FileNotFoundError: for a plugin file that does not exist.
        ValueError: for one that is not Python, or that raises while it is imported, with the line;
            for a package that does so.
    """
    _load_builtin()
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except BaseException as fault:
            _raise_interrupt(fault)
            raise ValueError(f"plugin {entry.name}: {fault_text(fault)}") from fault
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
    before = set(PROVIDERS)
    try:
        # Run what is hashed: Python's own cached bytecode may be that of an edit a moment ago.
        source = path.read_bytes()
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        for new in PROVIDERS.keys() - before:
            PROVIDERS[new] = replace(
                PROVIDERS[new],
                supports=_limited(PROVIDERS[new].supports),
                algorithm=_limited(PROVIDERS[new].algorithm),
                file_hash=short_hash(source),
            )
    except BaseException as fault:
        del sys.modules[name]
        _raise_interrupt(fault)
        line = _fault_line(fault, path)
        raise ValueError(f"plugin {path}, line {line}: {fault_text(fault)}") from fault


def _raise_interrupt(fault: BaseException) -> None:
    """Raise Ctrl-C again; all else that a plugin raises, also SystemExit, is a fault of its own."""
    if isinstance(fault, KeyboardInterrupt):
        raise fault


def safe_text(value: object, text: Callable[[Any], str] = str, most: int = 500) -> str:
    """What a plugin's object says, in one printable line of at most so many characters.

    Whatever the object does when it is asked, only KeyboardInterrupt is raised.
    """
    try:
        line = " ".join(str.split(text(value)))
    except BaseException as fault:
        _raise_interrupt(fault)
        line = "(its text cannot be made)"
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line[:most])
    return line[:most]


def fault_text(fault: BaseException) -> str:
    """An exception's class and text, as :func:`safe_text`; of a syntax error without its file."""
    text = safe_text(fault, lambda e: str(e.msg) if isinstance(e, SyntaxError) else str(e))
    return f"{safe_text(fault, lambda e: type(e).__name__)}: {text}"


def _fault_line(fault: BaseException, path: Path) -> int | None:
    """The last line of a file in an exception's traceback, or that of its syntax error."""
    if isinstance(fault, SyntaxError) and fault.filename == str(path):
        return fault.lineno
    frames = reversed(traceback.extract_tb(fault.__traceback__))
    return next((frame.lineno for frame in frames if frame.filename == str(path)), None)


def unsupported(provider: Provider, case: Case, machine: Machine) -> tuple[str, str] | None:
    """Why a provider cannot run a case, as a record's status and reason; None if it can.

    The status is "error" if its ``supports`` raises, or returns neither None nor a string. So it is
    if its ``algorithm`` does, whose fault would meet others when it is called after all are timed.
    """
    if provider.graph and not machine.is_cuda:
        return "unsupported", "a CUDA graph needs a CUDA device"
    for name, ask, accepted in (
        ("supports", provider.supports, "None, or why not"),
        ("algorithm", provider.algorithm, "None, or its name"),
    ):
        try:
            said = ask(case, machine)
        except BaseException as fault:
            _raise_interrupt(fault)
            return "error", f"its {name} raised {fault_text(fault)}"
        if said is not None and type(said) is not str:  # a subclass could do anything later
            return "error", f"its {name} gave {safe_text(said, repr)}; accepted: {accepted}"
        if said and name == "supports":
            return "unsupported", safe_text(said)
    return None


def _limited(ask: Callable[[Case, Machine], str | None]) -> Callable[[Case, Machine], str | None]:
    """The function; if it hangs, it is interrupted by TimeoutError and not called again.

    Not outside the main thread, where nothing can be interrupted.
    """
    slow = f"it took more than {ASKED_SECONDS:g} s"
    hung = False

    def give_up(signum: int, frame: object) -> None:
        nonlocal hung
        hung = True
        raise TimeoutError(slow)

    def limited(case: Case, machine: Machine) -> str | None:
        if hung:
            raise TimeoutError(slow)
        if threading.current_thread() is not threading.main_thread():
            return ask(case, machine)
        handler = signal.signal(signal.SIGALRM, give_up)
        timer = signal.setitimer(signal.ITIMER_REAL, ASKED_SECONDS)
        try:
            return ask(case, machine)
        finally:
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, handler)

    return limited


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
