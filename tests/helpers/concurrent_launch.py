"""Persistent launches on the CPU with concurrent programs: one forked process for each program.

Triton's interpreter runs the programs of a launch one after another, so a barrier would never end.
Within `concurrent()` each program of a persistent launch is a process that runs the interpreted
kernel, unchanged, with a grid of one and its own `first_program`, on tensors in shared memory. The
interpreter's atomics are the CPU's.
"""

import inspect
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from triton.runtime import interpreter

from kernels import launch

MANY_POLLS = 1 << 20  # more than any run without a failure needs, on a busy machine too
POLL_S = 1e-4  # sleep after a poll, so that other programs can run on few cores
LIMIT_S = 120.0  # after which a launch is stopped and its test fails

builder = interpreter.interpreter_builder


@dataclass
class Settings:
    """How the programs of a launch are run, and what became of them.

    Each program's process calls `at_start(program, arguments)` first, `before_store(program)`
    before each store, and `before_arrival(program)` before each atomic that is not a poll.
    """

    max_polls: int = MANY_POLLS
    before_store: Callable[[int], None] | None = None
    before_arrival: Callable[[int], None] | None = None
    at_start: Callable[[int, dict[str, Any]], None] | None = None
    may_die: bool = False
    programs: list[int] = field(default_factory=list)  # their number in each launch
    died: list[int] = field(default_factory=list)  # programs killed by a signal, of all launches


@dataclass
class Launcher:
    """Replaces a kernel: `launcher[grid](...)` calls `launch(kernel, grid, arguments)`."""

    kernel: Any
    launch: Callable[[Any, tuple[int, ...], dict[str, Any]], None]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self.call, grid)

    def call(self, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        signature = inspect.signature(self.kernel.fn)
        known = {name: value for name, value in options.items() if name in signature.parameters}
        self.launch(self.kernel, grid, signature.bind(*args, **known).arguments)

    @property
    def fn(self) -> Any:  # launchers may be nested
        return self.kernel.fn


@contextmanager
def launched_by(function: Callable[..., None], module: ModuleType = launch) -> Iterator[None]:
    """Let `function(kernel, grid, arguments)` launch `module`'s kernels."""
    forward, backward = (
        Launcher(k, function) for k in (module.forward_kernel, module.backward_kernel)
    )
    with mock.patch.multiple(module, forward_kernel=forward, backward_kernel=backward):
        yield


def launch_concurrently(
    settings: Settings, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any]
) -> None:
    """Run each program of a persistent launch in a process; run other launches unchanged."""
    if not arguments["PERSISTENT"]:
        kernel[grid](**arguments)
        return
    arguments["max_polls"] = settings.max_polls
    for value in arguments.values():
        if isinstance(value, torch.Tensor):
            value.share_memory_()  # in place, so the caller's tensor is written

    def program(number: int) -> None:
        install_hooks(settings, number)
        if settings.at_start is not None:
            settings.at_start(number, arguments)
        kernel[(1,)](**{**arguments, "first_program": number})

    settings.programs.append(grid[0])
    settings.died += run(grid[0], program, settings.may_die)


def install_hooks(settings: Settings, number: int) -> None:
    """Make this process's interpreter sleep when it polls, and call the settings' hooks."""
    store, atomic = builder.create_masked_store, builder.create_atomic_rmw

    def create_masked_store(*args: Any) -> Any:
        if settings.before_store is not None:
            settings.before_store(number)
        return store(*args)

    def create_atomic_rmw(op: Any, pointer: Any, value: Any, *rest: Any) -> Any:
        if not value.data.any():  # adding zero is how a program polls
            time.sleep(POLL_S)
        elif settings.before_arrival is not None:
            settings.before_arrival(number)
        return atomic(op, pointer, value, *rest)

    builder.create_masked_store = create_masked_store
    builder.create_atomic_rmw = create_atomic_rmw
    # After a launch the interpreter copies every tensor back. On the CPU source and destination are
    # the same memory, which other programs may be writing.
    interpreter.GridExecutor._restore_args_dev = lambda *args: None


def run(programs: int, body: Callable[[int], None], may_die: bool = False) -> list[int]:
    """Run body(0), body(1), ... each in a process; return the numbers of those killed by a signal.

    Raises:
        RuntimeError: one failed (its traceback is on stderr), or they took longer than LIMIT_S.
    """
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=body, args=(n,), daemon=True) for n in range(programs)]
    for child in children:
        child.start()
    deadline = time.monotonic() + LIMIT_S
    good = {None, 0, -signal.SIGKILL} if may_die else {None, 0}
    codes: list[int | None] = [None]
    try:
        while None in codes and good.issuperset(codes):
            if time.monotonic() > deadline:
                raise RuntimeError(f"programs did not end in {LIMIT_S} s; exit codes: {codes}")
            wait([child.sentinel for child in children if child.exitcode is None], timeout=1)
            codes = [child.exitcode for child in children]
    finally:
        for child in children:
            child.kill()
            child.join()
    if not good.issuperset(codes):
        raise RuntimeError(f"programs failed; exit codes: {codes}")
    return [number for number, code in enumerate(codes) if code]


@contextmanager
def concurrent(settings: Settings | None = None) -> Iterator[Settings]:
    """Run each program of a persistent launch in a process."""
    settings = settings or Settings()
    with launched_by(partial(launch_concurrently, settings)):
        yield settings


def random_delays(seed: int, share: float = 0.1, longest_s: float = 2e-3) -> Callable[[int], None]:
    """A hook that delays each program at random."""
    sources: dict[int, random.Random] = {}

    def wait(program: int) -> None:
        source = sources.setdefault(program, random.Random(f"{seed} {program}"))
        if source.random() < share:
            time.sleep(source.uniform(0, longest_s))

    return wait
