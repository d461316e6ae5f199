"""The persistent launch and its barrier, run by concurrent processes on the CPU.

Persistent must equal stepwise bit for bit: the same programs do the same arithmetic, and only the
barrier decides whether they see each other's results. Unwritten memory holds NaN, so a read that is
too early changes the result. Faults planted in the barrier show that the comparison notices them.
"""

import importlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

import kernels
from kernels import failures
from kernels.cells import CELLS
from tests.helpers import concurrent_launch
from tests.helpers.concurrent_launch import Settings, concurrent
from tests.helpers.loops import DTYPES, Loop, Tensors, Tiling, differing, plan_of

pytestmark = [
    pytest.mark.usefixtures("unwritten_is_nan"),
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="on a GPU `python -m bench check-gpu` runs these"
    ),
]

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

recurrence = importlib.import_module("kernels.recurrence")  # the module, not the function

# Polls until a waiting program gives up, in tests where one never arrives: enough for a slow
# program on a busy machine.
FEW_POLLS = 4000

Outputs = dict[str, Any]  # tensors, or None


def run(loop: Loop, settings: Settings | None = None, mode: str = "persistent") -> list[Outputs]:
    """Forward and backward outputs; the programs of a persistent launch run concurrently."""
    tensors = Tensors(loop)
    with concurrent(settings):
        forward = tensors.forward(plan_of(loop, False, mode))
        return [forward, tensors.backward(plan_of(loop, True, mode), forward)]


def run_stepwise(loop: Loop) -> list[Outputs]:
    return run(loop, mode="stepwise")


def compare(loop: Loop, settings: Settings | None = None) -> list[str]:
    """The outputs in which persistent and stepwise differ."""
    both = zip(run(loop, settings), run_stepwise(loop), strict=True)
    failures.check()
    return [name for persistent, stepwise in both for name in differing(persistent, stepwise)]


# Equality


def tilings(*splits: int) -> Any:
    return st.builds(
        Tiling,
        members=st.sampled_from((1, 2, 3, 4, 6, 8)),
        split=st.sampled_from(splits),
        block_b=st.sampled_from((2, 4, 8)),
        block_k=st.sampled_from((4, 8, 16)),
        resident=st.integers(0, 3),
        ahead=st.integers(1, 3),
        batch_groups=st.integers(1, 2),
    )


LOOPS = st.builds(
    lambda directions, **rest: Loop(D=directions[0], reverse=directions[1], **rest),
    directions=st.sampled_from(((1, False), (1, True), (2, False))),
    cell=st.sampled_from(tuple(CELLS)),
    T=st.integers(1, 3),
    B=st.integers(1, 6),
    H=st.integers(1, 20),
    dtype=st.sampled_from(tuple(DTYPES)),
    lengths=st.booleans(),
    resets=st.booleans(),
    bias=st.booleans(),
    models=st.integers(1, 2),
    own_masks=st.booleans(),
    forward=tilings(1),
    backward=tilings(1, 2, 4),
    seed=st.integers(0, 2**31),
)


@pytest.mark.parametrize("examples", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_persistent_equals_stepwise_at_random_shapes(examples: int) -> None:
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,  # examples depend on the header's seed only
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
        print_blob=True,
    )
    @hypothesis.given(LOOPS)
    def check(loop: Loop) -> None:
        plans = plan_of(loop, False), plan_of(loop, True)
        steps = loop.T * sum(plan.programs * plan.tiles for plan in plans)
        hypothesis.assume(steps <= 24)
        settings = Settings(before_store=concurrent_launch.random_delays(loop.seed))
        assert compare(loop, settings) == []

    check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "programs"),
    [("rnn_relu", 2), ("gru", 4), ("lstm", 8), ("rnn_tanh", 16), ("slstm", 16)],
)
def test_that_many_programs_run_at_once(cell: str, programs: int, seed: int) -> None:
    D = 1 if programs == 2 else 2
    members = programs // D
    loop = Loop(
        cell, T=2, B=3, H=2 * members, D=D, lengths=True, resets=True, seed=seed,
        forward=Tiling(members), backward=Tiling(members, split=min(4, members)),
    )  # fmt: skip
    settings = Settings()
    assert compare(loop, settings) == []
    assert settings.programs == [programs, programs]


def test_a_program_serves_several_batch_tiles(seed: int) -> None:
    loop = Loop(
        "lstm", T=3, B=5, H=6, forward=Tiling(2, block_b=2), backward=Tiling(2, 2, block_b=2)
    )
    assert plan_of(loop, False).tiles == plan_of(loop, True).tiles == 3
    settings = Settings(before_store=concurrent_launch.random_delays(seed))
    assert compare(replace(loop, resets=True, seed=seed), settings) == []


@pytest.mark.filterwarnings("ignore:.*in divide:RuntimeWarning")
@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_a_single_programs_units_past_the_hidden_size_change_nothing(cell: str, seed: int) -> None:
    """Their states are 0, of which sLSTM's gradient is NaN."""
    loop = Loop(cell, T=3, B=3, H=5, forward=Tiling(1), backward=Tiling(1), seed=seed)
    plans = plan_of(loop, False), plan_of(loop, True)
    assert [(plan.group, plan.units) for plan in plans] == [(1, 8)] * 2
    assert compare(loop) == []


# Failures

FAILED = Loop("lstm", T=4, B=3, H=8, D=2, forward=Tiling(2), backward=Tiling(4, split=2))
TILED = Loop("gru", T=3, B=3, H=8, forward=Tiling(2, block_b=2), backward=Tiling(4, 2, block_b=2))


def run_with_death(
    loop: Loop, backward: bool, forward: Outputs, program: int, arrivals: int
) -> Outputs:
    """A kernel's outputs if a program is killed after so many arrivals."""
    seen = [0]

    def die(running: int) -> None:
        if running == program:
            seen[0] += 1
            if seen[0] > arrivals:
                os.kill(os.getpid(), signal.SIGKILL)

    tensors, plan = Tensors(loop), plan_of(loop, backward)
    settings = Settings(max_polls=FEW_POLLS, before_arrival=die, may_die=True)
    with concurrent(settings):
        broken = tensors.backward(plan, forward) if backward else tensors.forward(plan)
    assert settings.died == [program]
    return broken


@pytest.mark.slow
def test_a_program_that_dies_forward_is_named_and_poisons(seed: int) -> None:
    """Program 3 (direction 1, units 4 to 7) dies in step 2, after its store."""
    loop = replace(FAILED, seed=seed)
    broken = run_with_death(loop, False, {}, program=3, arrivals=2)
    with pytest.raises(
        kernels.BarrierError, match=r"the forward kernel on cpu .* at step 3 in group 1: .* NaN"
    ):
        kernels.check()
    kernels.check()  # raises only once
    y, expected = broken["y"], run_stepwise(loop)[0]["y"]
    # Direction 0 is another group and continues; direction 1 runs from time 3 to 0.
    assert torch.equal(y[:, :, :8], expected[:, :, :8])
    assert torch.equal(y[1:, :, 8:], expected[1:, :, 8:])
    assert y[0, :, 8:].isnan().all()
    assert broken["final"][:, 1, :, :4].isnan().all()
    assert compare(loop) == []  # the next call works


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "rnn_relu"])  # relu's derivative may be zero
@pytest.mark.parametrize("before_partial", [True, False])
def test_a_program_that_dies_backward_is_named_and_poisons(
    cell: str, before_partial: bool, seed: int
) -> None:
    """Of 4 programs with 2 parts each, one dies at item 2: before or after the split-K barrier."""
    loop = replace(FAILED, cell=cell, D=1, seed=seed)
    arrivals = 4 if before_partial else 5  # two per item
    broken = run_with_death(loop, True, run_stepwise(loop)[0], program=0, arrivals=arrivals)
    step = 1 if before_partial else 0
    with pytest.raises(
        kernels.BarrierError, match=rf"the backward kernel on cpu .* at step ({step}|0) in group 0"
    ):
        kernels.check()
    # Units 0 and 1 are the dead program's own.
    assert broken["dinitial"][:, 0, :, 2:].isnan().all()
    assert broken["dgx"][0].unflatten(-1, (-1, 8))[..., 2:].isnan().all()
    assert compare(loop) == []


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True])
def test_a_failure_at_the_end_poisons_every_tile(backward: bool, seed: int) -> None:
    """Of two programs one dies in the last step that the other waits for, before both its tiles."""
    loop = replace(TILED, seed=seed)
    plan = plan_of(loop, backward)
    arrivals = plan.tiles * (2 * (loop.T - 1) if backward else loop.T - 2)
    broken = run_with_death(loop, backward, run_stepwise(loop)[0], program=1, arrivals=arrivals)
    with pytest.raises(kernels.BarrierError):
        kernels.check()
    alive = slice(0, plan.units // plan.split)
    assert broken["dinitial" if backward else "final"][..., alive].isnan().all()


# Faults: each must change the result where one program is so slow that the others get ahead.

SLOW_S = 0.15


def slow_program() -> Settings:
    """Program 0 delays the first store after each of its arrivals."""
    late = [True]

    def store(program: int) -> None:
        if program == 0 and late[0]:
            time.sleep(SLOW_S)
            late[0] = False

    def arrive(program: int) -> None:
        late[0] = True

    return Settings(before_store=store, before_arrival=arrive)


def waits_for(target_of: Callable[[int, Any], Any]) -> Callable[..., Any]:
    """A wait whose target is computed from the group and the right target."""
    return lambda counters, group, target, *rest: ORIGINAL_WAIT(
        counters, group, target_of(int(group), target), *rest
    )


def early_wait(counters: Any, group: Any, *rest: Any) -> Any:
    """The arrival of each step comes with its wait, before the step's stores."""
    failed = ORIGINAL_WAIT(counters, group, *rest)
    if int(group) < GROUPS:
        ORIGINAL_ARRIVE(counters, group, failed)
    return failed


def early_arrive(counters: Any, group: Any, failed: Any) -> None:
    if int(group) >= GROUPS:  # the split-K barrier
        ORIGINAL_ARRIVE(counters, group, failed)


def shared_wait(counters: Any, group: Any, *rest: Any) -> Any:
    return ORIGINAL_WAIT(counters, group * 0 if int(group) < GROUPS else group, *rest)


def shared_arrive(counters: Any, group: Any, failed: Any) -> None:
    ORIGINAL_ARRIVE(counters, group * 0 if int(group) < GROUPS else group, failed)


ORIGINAL_WAIT, ORIGINAL_ARRIVE = recurrence.wait, recurrence.arrive
# Two directions, one batch tile: groups 0 and 1.
FAULTY = Loop(
    "lstm", T=3, B=3, H=8, D=2,
    forward=Tiling(2, block_k=4, resident=2), backward=Tiling(2, split=2),
)  # fmt: skip
GROUPS = 2
FAULTS: dict[str, dict[str, Any]] = {
    "no wait": {"wait": waits_for(lambda group, target: 0)},
    "early release": {"wait": early_wait, "arrive": early_arrive},
    "one arrival too few": {"wait": waits_for(lambda group, target: target - 1)},
    "shared counter between groups": {"wait": shared_wait, "arrive": shared_arrive},
    "stale read": {},  # see `read_stale`
    "no split-K barrier": {"wait": waits_for(lambda group, target: target * (group < GROUPS))},
}


def read_stale(number: int, arguments: dict[str, Any]) -> None:
    """Make a program's reads past L1 return what memory held before its last wait."""
    exchanged = [arguments.get(name) for name in ("y_ptr", "dr_ptr", "partial_ptr")]
    if "dr_ptr" in arguments:
        exchanged[0] = None
    tensors = [tensor for tensor in exchanged if tensor is not None]
    copies = [tensor.clone() for tensor in tensors]

    def wait(*args: Any) -> Any:
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor)
        return ORIGINAL_WAIT(*args)

    load = concurrent_launch.builder.create_masked_load

    def create_masked_load(pointers: Any, mask: Any, other: Any, cache: Any, *rest: Any) -> Any:
        if str(cache).endswith("CG"):
            moved = pointers.data.copy()
            for copy, tensor in zip(copies, tensors, strict=True):
                begin = np.uint64(tensor.data_ptr())
                inside = (moved >= begin) & (moved - begin < np.uint64(tensor.nbytes))
                moved[inside] += np.uint64(copy.data_ptr()) - begin
            pointers = interpreter.TensorHandle(moved, pointers.dtype)
        return load(pointers, mask, other, cache, *rest)

    vars(recurrence)["wait"] = wait
    concurrent_launch.builder.create_masked_load = create_masked_load


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_barrier_is_caught(
    fault: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = Tensors(replace(FAULTY, seed=seed))
    plans = plan_of(FAULTY, False), plan_of(FAULTY, True)
    assert [plan.programs for plan in plans] == [4, 4]
    stepwise = run_stepwise(tensors.loop)
    settings = slow_program()
    if fault == "stale read":
        settings.at_start = read_stale
    with concurrent(settings):
        for name, function in FAULTS[fault].items():
            monkeypatch.setattr(recurrence, name, function)
        forward = tensors.forward(plans[0])
        backward = tensors.backward(plans[1], stepwise[0])
    assert ("y" in differing(forward, stepwise[0])) == (fault != "no split-K barrier")
    assert "dgx" in differing(backward, stepwise[1])


@pytest.mark.slow
def test_without_a_fault_a_slow_program_changes_nothing(seed: int) -> None:
    assert compare(replace(FAULTY, seed=seed), slow_program()) == []
