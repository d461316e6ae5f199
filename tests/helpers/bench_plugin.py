"""A user's plugin whose providers fail in every way, for the tests of the sweep."""

import os
import signal
import time
from functools import partial

import torch

import reference
from bench.cases.cases import Cell, add_cell
from bench.cases.problem import run_reference
from bench.providers import Call, provider


def _reference(problem):
    leaves = {name: value.detach() for name, value in problem.inputs.items()}
    return Call(lambda: run_reference(problem.case, leaves, problem.resets), leaves)


@provider("process")
def process(problem):
    """States which process it ran in."""
    call = _reference(problem)
    call.plan = {"pid": os.getpid()}
    return call


@provider("set-plan")
def set_plan(problem):
    """States what JSON has no word for."""
    call = _reference(problem)
    call.plan = {"modes": {1, 2}}
    return call


def _never_called(problem):
    raise AssertionError("an unsupported provider was called")


provider("good", package="torch")(_reference)
provider("good-too", package="torch")(_reference)
provider("refuses", supports=lambda case, machine: "never in the mood")(_never_called)
provider("unsure", supports=lambda case, machine: vars(machine)["mood"])(_never_called)
provider("odd", supports=lambda case, machine: True)(_never_called)


def _changes(name, change):
    """Register a provider that returns `change` applied to the reference's outputs."""

    def build(problem):
        call = _reference(problem)
        right = call.forward
        call.forward = lambda: change(right())
        return call

    provider(name)(build)


def _for_each_tensor(change):
    return lambda found: {name: change(value) for name, value in found.items()}


_changes("wrong", _for_each_tensor(lambda value: value * 1.01))
_changes("more-rows", _for_each_tensor(lambda value: torch.cat([value, value, value[:, :1]], 1)))
_changes("one-number", _for_each_tensor(lambda value: value[:1, :1, :1]))
_changes("no-state", lambda found: {"y": found["y"]})


@provider("part-gradient")
def part_gradient(problem):
    call = _reference(problem)
    call.standard = _for_each_tensor(lambda value: value[:1])
    return call


def _only_in_time(problem, act):
    """A provider that passes its check and fails when timed, which is when its inputs change."""
    call = _reference(problem)
    right, first = call.forward, call.leaves["x"].clone()

    def forward():
        if not torch.equal(call.leaves["x"], first):
            act()
        return right()

    call.forward = forward
    return call


@provider("needs-room")
def needs_room(problem, tries=[]):  # noqa: B006  (counts its calls)
    """Runs out of memory at the first try, as if it needed the other providers' memory."""
    tries.append(problem)
    if len(tries) == 1:
        raise torch.OutOfMemoryError("no room with the others in memory")
    return _reference(problem)


def _raise(error):
    raise error


provider("raises")(partial(_only_in_time, act=lambda: _raise(RuntimeError("broke while timed"))))
provider("no-memory")(partial(_only_in_time, act=lambda: _raise(torch.OutOfMemoryError("no room"))))
provider("aborts")(partial(_only_in_time, act=os.abort))
provider("killed")(partial(_only_in_time, act=lambda: os.kill(os.getpid(), signal.SIGKILL)))
provider("hangs")(partial(_only_in_time, act=lambda: time.sleep(3600)))


def _leaky_step(gx, state, w_hh, b_hh=None):
    """A cell of the user's own: a leaky integrator."""
    (h,) = state
    return (0.9 * h + 0.1 * torch.tanh(gx + torch.nn.functional.linear(h, w_hh, b_hh)),)


reference.CELLS["leaky"] = reference.Cell(_leaky_step, gates=1, states=("h",))
add_cell(Cell("leaky", 1, ("h",), kernels=False))
