"""A persistent launch run for real on the CPU: one forked process for each program.

Triton's interpreter runs the programs of a launch one after another, so a barrier among them would
never end. Here every program of a persistent launch is a process of its own over tensors in shared
memory; the interpreter's atomics are the machine's. Nothing of the kernels is replaced: within
`concurrent()` the launch functions find a kernel that forks, and each process runs the interpreted
kernel with a grid of one and its own `first_program`.
"""

import inspect
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from triton.runtime import interpreter

from kernels import launch

# Polls of a healthy run: never the limit, whatever else the machine does.
MANY_POLLS = 1 << 20
# A poll sleeps for this long, so that on few cores the programs waited for get their turn.
POLL_S = 1e-4
# A launch that takes longer is stopped, and its test fails.
LIMIT_S = 120.0

# The number of the program that this process runs; None in the process that launches.
PROGRAM: int | None = None

builder = interpreter.interpreter_builder


@dataclass
class Settings:
    """How the programs of a launch are run.

    `before_store(program)` and `before_arrival(program)` are called in each program ahead of every
    store and of every atomic that is no poll, to slow it down or to end it; `at_start(program,
    arguments)` is called as its process begins.
    """

    max_polls: int = MANY_POLLS
    before_store: Callable[[int], None] | None = None
    before_arrival: Callable[[int], None] | None = None
    at_start: Callable[[int, dict[str, Any]], None] | None = None
    may_die: bool = False
    programs: list[int] = field(default_factory=list)  # of each launch, in order
    died: list[int] = field(default_factory=list)  # programs that a signal ended, of all launches


class Concurrent:
    """Stands in for an interpreted kernel; launches that are not persistent run as they are."""

    def __init__(self, kernel: Any, settings: Settings) -> None:
        self.kernel, self.settings = kernel, settings
        self.fn = kernel.fn

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self.launch, grid)

    def launch(self, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        signature = inspect.signature(self.fn)
        known = {name: value for name, value in kwargs.items() if name in signature.parameters}
        arguments = signature.bind(*args, **known).arguments
        if not arguments["PERSISTENT"]:
            self.kernel[grid](**arguments)
            return
        arguments["max_polls"] = self.settings.max_polls
        for value in arguments.values():
            if isinstance(value, torch.Tensor):
                value.share_memory_()  # in place: whoever holds the tensor sees what is written
        self.settings.programs.append(grid[0])
        self.settings.died += run(grid[0], partial(self.program, arguments), self.settings.may_die)

    def program(self, arguments: dict[str, Any], number: int) -> None:
        """One program, in its own process."""
        obey(self.settings, number)
        if self.settings.at_start is not None:
            self.settings.at_start(number, arguments)
        self.kernel[(1,)](**{**arguments, "first_program": number})


def obey(settings: Settings, number: int) -> None:
    """Make the interpreter of this process patient when it polls, and call the settings' hooks."""
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
    # After a launch the interpreter copies every tensor back to where it came from. On the CPU
    # that is the same memory, in which the other programs are still at work.
    interpreter.GridExecutor._restore_args_dev = lambda *args: None


def run(programs: int, body: Callable[[int], None], may_die: bool = False) -> list[int]:
    """Run body(0), body(1), ... each in a process of its own; return those that a signal ended.

    Raises:
        RuntimeError: if one failed, with its traceback, or if they did not end in time.
    """
    reader, writer = os.pipe()
    children: dict[int, int] = {}
    try:
        for number in range(programs):
            child = os.fork()
            if child == 0:
                _be_program(body, number, writer)
            children[child] = number
        failed, killed = _await(children, may_die)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as stream:
            told = stream.read()
    if failed or (killed and not may_die):
        raise RuntimeError(f"programs {failed + killed} of {programs} failed\n{told}")
    return killed


def _be_program(body: Callable[[int], None], number: int, writer: int) -> None:
    """The whole life of a forked process; it must never return into the caller's stack."""
    global PROGRAM
    PROGRAM = number
    code = 1
    try:
        body(number)
        code = 0
    except BaseException:
        told = f"program {number}:\n{traceback.format_exc()}"
        os.write(writer, told.encode()[-4000:])  # less than a pipe holds, for 16 programs
    finally:
        os._exit(code)


def _await(children: dict[int, int], may_die: bool) -> tuple[list[int], list[int]]:
    """Wait until all have ended, or one has failed; takes those that ended out of `children`."""
    deadline = time.monotonic() + LIMIT_S
    failed: list[int] = []
    killed: list[int] = []
    while children and not failed and (may_die or not killed):
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                number = children.pop(child)
                if os.WIFSIGNALED(status):
                    killed.append(number)
                elif status:
                    failed.append(number)
        if time.monotonic() > deadline:
            raise RuntimeError(f"programs {list(children.values())} did not end in {LIMIT_S} s")
        time.sleep(5e-4)
    return failed, killed


@contextmanager
def concurrent(settings: Settings | None = None) -> Iterator[Settings]:
    """Within it, each program of a persistent launch is a process of its own."""
    settings = settings or Settings()
    with (
        mock.patch.object(launch, "forward_kernel", Concurrent(launch.forward_kernel, settings)),
        mock.patch.object(launch, "backward_kernel", Concurrent(launch.backward_kernel, settings)),
    ):
        yield settings


@contextmanager
def quick_interpreter(sanitize_overflow: bool = False) -> Iterator[None]:
    """Interpret faster: triton's language is made ready once for each module, not at each call of a
    device function, and sums and products of integers are checked for overflow only if asked.
    """
    ready: set[str] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ not in ready:
            ready.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    options = replace(builder.options, sanitize_overflow=sanitize_overflow)
    with (
        mock.patch.object(builder, "options", options),
        mock.patch.object(interpreter.InterpretedFunction, "__call__", call),
    ):
        yield


def random_delays(seed: int, share: float = 0.1, longest_s: float = 2e-3) -> Callable[[int], None]:
    """A hook that makes programs late at random, each in its own way."""
    sources: dict[int, random.Random] = {}

    def wait(program: int) -> None:
        source = sources.setdefault(program, random.Random(f"{seed} {program}"))
        if source.random() < share:
            time.sleep(source.uniform(0, longest_s))

    return wait
