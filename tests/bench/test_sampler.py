"""Timing that cannot be cheated: every shortcut that kernel benchmarks were fooled with is refused.

bench/README.md lists them with their sources.
"""

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from bench.cases import peaks
from bench.cases.cases import DEFAULTS, Case, make_case
from bench.cases.problem import (
    Problem,
    checked_rows,
    make_problem,
    run_reference,
    truth,
)  # fmt: skip
from bench.measure import metrics, sampler
from bench.measure.contents import Leaves, altered, draw_contents, input_name
from bench.measure.layout import recorded
from bench.measure.runner import Runner
from bench.measure.sampler import CHECKED_CALLS, MOST_PER_VISIT, VISIT_MS, interleave
from bench.measure.statistics import MIN_VISITS
from bench.providers import PROVIDERS, Call, Provider, load
from bench.records.environment import Machine, device_facts

CPU = Machine("cpu", "test")
load()
reference = PROVIDERS["reference"].build


def case(**values: object) -> Case:
    small = {"B": 4, "T": 3, "I": 5, "H": 6, "dtype": "fp32", "pass": "fwd+bwd"}
    return make_case(**DEFAULTS | small | values)


def planned(found: sampler.Sampler) -> int:
    """How many of a sampler's calls were to be checked, beside the last."""
    return sum(call < len(found.samples) for call in found._planned)


def measure(build: Callable[[Problem], Call], of: Case, name: str = "p") -> sampler.Sampler:
    """A provider's sampler after the least number of visits; its check before passes."""
    runner = Runner(Provider(name, build), make_problem(of), CPU)
    runner.prepare()
    truth(runner.problem, runner.backward)
    errors = runner.errors()
    assert all(found["rel_l2"] < 1e-4 for found in errors.values()), "wrong before it is timed"
    return interleave([runner], target=1.0, seconds=0.0)[name]


@pytest.mark.parametrize("values", [
    {}, {"B": 1}, {"B": 2}, {"pass": "fwd"}, {"track": "recurrence"}, {"directions": 2},
    {"cell": "slstm"}, {"cell": "gru", "layers": 2}, {"resets": 0.4}, {"dtype": "bf16"},
], ids=str)  # fmt: skip
def test_an_honest_provider_passes_and_gets_its_inputs_back(values: dict[str, Any]):
    of = case(**values)
    problem = make_problem(of)
    names = ["reference"] + ["torch.nn"] * (PROVIDERS["torch.nn"].supports(of, CPU) is None)
    runners = [Runner(PROVIDERS[name], problem, CPU) for name in names]
    before = []
    for runner in runners:
        runner.prepare()
        runner.call_ms = 1.0  # whatever the machine
        before.append({k: leaf.detach().clone() for k, leaf in runner.call.leaves.items()})
    found = interleave(runners, target=1.0, seconds=0.0)
    assert list(found) == names
    for runner, leaves in zip(runners, before, strict=True):
        each = found[runner.provider.name]
        assert each.checked == planned(each) + 1
        assert each.blocks == [MOST_PER_VISIT] * MIN_VISITS
        assert len(each.samples) == sum(each.blocks) and min(each.samples) > 0
        assert each.medians == [
            sorted(each.samples[k : k + 5])[2] for k in range(0, len(each.samples), 5)
        ]
        assert all(torch.equal(runner.call.leaves[name], leaf) for name, leaf in leaves.items())


@pytest.mark.parametrize("values", [
    {}, {"resets": 0.3}, {"dtype": "bf16"}, {"track": "recurrence", "dtype": "fp16"},
    {"cell": "slstm", "directions": 2},
], ids=str)  # fmt: skip
def test_the_truth_is_of_the_contents_that_are_written(values: dict[str, Any]):
    """Bit by bit, in any layout and in a wider type; upstream gradients and resets too."""
    problem = make_problem(case(**values))
    name = input_name(problem)
    runner = Runner(PROVIDERS["reference"], problem, CPU)
    runner.run()
    found = sampler.Sampler(runner, sampler.Checks(problem, random.Random(1)))
    for redraw in (True, False):
        contents = draw_contents(random.Random(2), redraw)
        wanted = altered(problem, contents)
        found.load(contents)
        assert all(torch.equal(runner.call.leaves[n], v) for n, v in wanted.inputs.items())
        assert all(torch.equal(runner.upstream[n], v) for n, v in wanted.upstream.items())
        if wanted.resets is not None and runner.own.resets is not None:
            assert torch.equal(runner.own.resets, wanted.resets)
        other = {n: v.double().transpose(0, -1).contiguous() for n, v in problem.inputs.items()}
        Leaves(other, problem).write(contents)
        for n, v in wanted.inputs.items():
            assert torch.equal(other[n].transpose(0, -1), v.double()), n
        assert not torch.equal(wanted.inputs[name], problem.inputs[name])


def test_new_values_of_x_are_as_large_and_no_multiple_of_its_own():
    """A multiple would let the projection of x be scaled instead of computed."""
    problem = make_problem(case(B=16, T=20, I=64))
    x = problem.inputs["x"]
    found = [altered(problem, draw_contents(random.Random(seed))).inputs["x"] for seed in (1, 2)]
    for one in found:
        # Uniform, of some 20,000 numbers: mean and root mean square are off by about 0.01.
        assert abs(one.mean()) < 0.03 and abs(one.square().mean().sqrt() - 1) < 0.03
        assert abs((one * x).mean()) < 0.03
    assert abs((found[0] * found[1]).mean()) < 0.03


def _cached(build: Callable[[], dict[str, Tensor]], key: Callable[[], Any]) -> Callable:
    kept: dict[Any, dict[str, Tensor]] = {}

    def forward() -> dict[str, Tensor]:
        if key() not in kept:
            kept[key()] = build()
        return kept[key()]

    return forward


def first_result(problem: Problem) -> Call:
    """Returns what it computed first."""
    call = reference(problem)
    return Call(_cached(call.forward, lambda: 0), call.leaves)


def by_address(problem: Problem) -> Call:
    """Returns what it computed first for inputs at the same address."""
    call = reference(problem)
    return Call(_cached(call.forward, lambda: call.leaves["x"].data_ptr()), call.leaves)


def every_fifteenth(problem: Problem) -> Call:
    """Computes in one call of fifteen, as if they had been batched."""
    call, calls = reference(problem), [0]

    def key() -> int:
        return calls[0] // 15

    cached = _cached(call.forward, key)

    def forward() -> dict[str, Tensor]:
        calls[0] += 1
        return cached()

    return Call(forward, call.leaves)


def inputs_at_build(problem: Problem) -> Call:
    """Transforms its inputs when it is built, where no clock runs."""
    call = reference(problem)
    early = reference(problem.copy())
    return Call(early.forward, call.leaves)


def stale_memory(problem: Problem) -> Call:
    """Gives the values of the call before, as memory that was freed and not written does."""
    call, last = reference(problem), []

    def forward() -> dict[str, Tensor]:
        last.append(call.forward())
        return last[max(0, len(last) - 2)]

    return Call(forward, call.leaves)


def in_the_background(problem: Problem) -> Call:
    """Returns at once; a thread computes while no clock runs."""
    call = reference(problem)

    def forward() -> dict[str, Tensor]:
        found = {name: torch.zeros_like(value) for name, value in problem.upstream.items()}

        def work() -> None:
            time.sleep(0.02)
            with torch.no_grad():
                for name, value in call.forward().items():
                    found[name].copy_(value)

        worker = threading.Thread(target=work)
        worker.start()
        if not forward.timed:  # type: ignore[attr-defined]
            worker.join()
        return found

    first = call.leaves["x"].clone()

    def watched() -> dict[str, Tensor]:
        forward.timed = not torch.equal(call.leaves["x"], first)  # type: ignore[attr-defined]
        return forward()

    return Call(watched, call.leaves)


def zeroed_inputs(problem: Problem) -> Call:
    """From its second timed call on, zeroes its inputs and returns zeros."""
    call = reference(problem)
    first = call.leaves["x"].clone()

    def forward() -> dict[str, Tensor]:
        with torch.no_grad():
            if not torch.equal(call.leaves["x"], first):
                call.leaves["x"].zero_()
                return {name: torch.zeros_like(v) for name, v in problem.upstream.items()}
        return call.forward()

    return Call(forward, call.leaves)


def late(problem: Problem) -> Call:
    """Honest until its 60th call, when sampling has long begun; then one result for ever."""
    call = reference(problem)
    kept: list[dict[str, Tensor]] = []

    def forward() -> dict[str, Tensor]:
        kept.append(call.forward() if len(kept) < 60 else kept[59])
        return kept[-1]

    return Call(forward, call.leaves)


def test_a_shortcut_that_begins_late_is_refused():
    runner = Runner(Provider("p", late), make_problem(case(**{"pass": "fwd"})), CPU)
    runner.prepare()
    with pytest.raises(metrics.Incorrect, match="in a timed call y is off by"):
        interleave([runner], target=1e-9, seconds=0.2)


def test_checks_go_on_as_long_as_sampling():
    runner = Runner(PROVIDERS["reference"], make_problem(case(**{"pass": "fwd"})), CPU)
    runner.prepare()
    runner.call_ms = 1.0
    found = interleave([runner], target=1e-9, seconds=0.5)["reference"]
    assert found.checked == planned(found) + 1
    # One in 40 calls on average: of some hundreds of calls in their second half at least one.
    assert len(found.samples) > 400 and max(found._planned) > len(found.samples) / 2


def test_no_call_is_like_another_before_it_is_over():
    """Nothing that a provider sees has been there before, or tells a checked call from others."""
    seen: list[bytes] = []

    def build(problem: Problem) -> Call:
        call = reference(problem)

        def forward() -> dict[str, Tensor]:
            seen.append(b"".join(call.leaves[n].numpy().tobytes() for n in ("x", "w_hh_l0")))
            return call.forward()

        return Call(forward, call.leaves)

    found = measure(build, case(**{"pass": "fwd"}))
    timed = seen[-len(found.samples) - 1 :]  # and the last check
    assert len(set(timed)) == len(timed) == len(found.samples) + 1
    assert not set(timed) & set(seen[: -len(timed)])


def test_checked_calls_are_drawn_each_by_itself():
    """So neither their number nor those of another case say which are to come."""
    calls = MOST_PER_VISIT * MIN_VISITS
    counts, at = [], set[int]()
    for seed in range(60):
        runner = Runner(PROVIDERS["reference"], make_problem(case(**{"pass": "fwd"})), CPU)
        runner.call_ms = 1.0
        found = sampler.Sampler(runner, sampler.Checks(runner.problem, random.Random(seed)))
        found.plan_checks()
        assert max(found._planned, default=0) < calls
        counts.append(len(found._planned))
        at |= found._planned.keys()
    # Of 60 binomial counts with a mean of 1 the mean is off by 0.13 (standard deviation).
    assert abs(sum(counts) / 60 - CHECKED_CALLS) < 0.5 and len(set(counts)) > 2
    assert len(at) > 0.6 * calls  # of 1 - exp(-60 / 40) in the mean


def test_a_mapping_that_computes_when_it_is_read_is_read_within_the_call():
    class Lazy(Mapping[str, Tensor]):
        def __init__(self, problem: Problem, compute: Callable[[], dict[str, Tensor]]) -> None:
            self.names, self.compute = list(problem.upstream), compute

        def __getitem__(self, name: str) -> Tensor:
            read.append(name)
            return self.compute()[name]

        def __iter__(self) -> Iterator[str]:
            return iter(self.names)

        def __len__(self) -> int:
            return len(self.names)

    read: list[str] = []

    def build(problem: Problem) -> Call:
        call = reference(problem)

        def forward() -> Any:
            return Lazy(problem, call.forward)

        return Call(forward, call.leaves)

    for pass_ in ("fwd", "fwd+bwd"):
        runner = Runner(Provider("p", build), make_problem(case(**{"pass": pass_})), CPU)
        del read[:]
        found = runner.run()
        assert sorted(read) == sorted(runner.problem.upstream)
        assert torch.equal(found["y"], found["y"]) and len(read) == len(runner.problem.upstream)


def test_what_is_computed_after_the_call_is_refused():
    def build(problem: Problem) -> Call:
        call = reference(problem)
        found = {n: torch.zeros_like(v) for n, v in problem.upstream.items()}

        def after() -> None:
            with torch.no_grad():
                for name, value in call.forward().items():
                    found[name].copy_(value)

        return Call(lambda: found, call.leaves, after=after)

    with pytest.raises(metrics.Incorrect, match="in a timed call y is off by"):
        measure(build, case(**{"pass": "fwd"}))


def test_gradients_made_where_no_clock_runs_are_refused():
    """By ``standard``, which may only move and add what it gets, and is run by the suite."""
    runs = [0]

    def cheats(problem: Problem, make: Callable[..., dict[str, Tensor]]) -> Call:
        call = reference(problem)

        def standard(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
            runs[0] += 1
            return make(gradients, call, problem)

        return Call(call.forward, call.leaves, standard)

    def computes(gradients: Any, call: Call, problem: Problem) -> dict[str, Tensor]:
        outputs, leaves = call.forward(), call.leaves
        upstream = list(problem.upstream.values())
        found = torch.autograd.grad(list(outputs.values()), list(leaves.values()), upstream)
        return dict(zip(leaves, found, strict=True))

    def keeps(gradients: Any, call: Call, problem: Problem) -> dict[str, Tensor]:
        return {name: leaf.detach().clone() for name, leaf in call.leaves.items()}

    def scales(gradients: Any, call: Call, problem: Problem) -> dict[str, Tensor]:
        return {name: value * 2 for name, value in gradients.items()}

    for make, what in (
        *((computes, ""), (keeps, "uses a tensor of its own")),
        (scales, r"uses aten\.mul"),
    ):
        with pytest.raises(ValueError, match=f"standard {what}.*; accepted: moving"):
            measure(functools.partial(cheats, make=make), case())

    def joins(gradients: Any, call: Call, problem: Problem) -> dict[str, Tensor]:
        found = dict(gradients)
        w = found["w_hh_l0"].unflatten(0, (4, -1))[[1, 0, 3, 2]]
        return found | {"w_hh_l0": w.transpose(1, 2)[[1, 0, 3, 2]].transpose(1, 2).flatten(0, 1)}

    gradients = {"w": torch.randn(6, 4).T}  # as a product gives it, which no view reshapes
    moved = recorded(lambda found: {"w": found["w"].reshape(2, 12)}, {"w": torch.zeros(4, 6)})
    assert torch.equal(moved(gradients)["w"], gradients["w"].reshape(2, 12))
    runs[0] = 0
    assert measure(functools.partial(cheats, make=joins), case()).checked >= 1
    assert runs[0] == 1, "recorded once, before anything is timed"
    measure(functools.partial(cheats, make=joins), case(**{"pass": "fwd"}))
    assert runs[0] == 1, "nor is there a gradient to move"


def test_a_standard_as_an_author_would_write_it_is_recorded():
    leaves = {"w": torch.zeros(12, 5), "b": torch.zeros(3, 4), "s": torch.zeros(2, 6, 4)}

    def standard(d: dict[str, Tensor]) -> dict[str, Tensor]:
        r, z, n = d["w"].chunk(3)
        first, *others = d["b"]
        return {
            "w": torch.cat([n, r, z]),
            "parts": torch.cat(d["w"].split([2, 10])[::-1]).T,
            "b": sum(others, first),
            "both": d["b"] + d["b"].flip(0),
            "h0": d["s"].sum(1)[None],
            "x": d["s"].permute(2, 0, 1).reshape(4, 12)[[2, 0, 1, 3]].roll(1, 0),
        }

    found = recorded(standard, leaves)
    given = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    wanted = standard(given)
    assert all(torch.equal(value, wanted[name]) for name, value in found(given).items())


@pytest.mark.parametrize(
    "standard",
    [
        lambda d: {"w": d["w"] if d["w"].sum() > 0 else -d["w"]},
        lambda d: {"w": d["w"].view(torch.int32)},  # and then by tables of logarithms
        lambda d: {"w": d["w"].to(torch.int64)},
        lambda d: {"w": torch.add(d["w"], d["w"], alpha=3)},
        lambda d: {"w": d["w"] + 1},
        lambda d: {"w": d["w"] + torch.ones(4, 4)},
        lambda d: {"w": d["w"] @ d["w"]},
    ],
    ids=["branch", "bits", "integers", "alpha", "constant", "tensor", "product"],
)
def test_a_standard_that_computes_is_refused_in_a_sentence(standard: Any):
    with pytest.raises(ValueError, match=r"^standard .*; accepted: moving, selecting"):
        recorded(standard, {"w": torch.zeros(4, 4)})


def test_indices_of_a_standard_are_copied():
    order = torch.tensor([1, 0])
    found = recorded(lambda d: {"w": d["w"][order]}, {"w": torch.zeros(2, 3)})
    order.zero_()
    assert torch.equal(found({"w": torch.eye(2, 3)})["w"], torch.eye(2, 3)[[1, 0]])


@pytest.mark.parametrize("method", ["detach", "clone", "copy_", "contiguous"])
@pytest.mark.parametrize("of", ["y", "x"])
def test_an_attribute_of_a_tensor_is_not_its_method(method: str, of: str):
    """It could compute a result when it is read, or when the inputs are written."""
    ran: list[str] = []

    def build(problem: Problem) -> Call:
        call = reference(problem)

        def forward() -> dict[str, Tensor]:
            found = call.forward()
            tensor = {"y": found["y"], "x": call.leaves["x"]}[of]
            setattr(tensor, method, lambda *_: ran.append(method))
            return found

        return Call(forward, call.leaves)

    for pass_ in ("fwd", "fwd+bwd"):
        assert measure(build, case(**{"pass": pass_})).checked >= 1
    assert not ran


def test_a_name_that_runs_code_is_refused():
    class Name(str):
        __slots__ = ()

    def build(problem: Problem, leaves: bool) -> Call:
        call = reference(problem)
        if leaves:
            return Call(call.forward, {Name(n): value for n, value in call.leaves.items()})
        return Call(lambda: {Name(n): v for n, v in call.forward().items()}, call.leaves)

    for leaves in (True, False):
        with pytest.raises(metrics.Incorrect, match="a name is a Name; accepted: a str"):
            measure(functools.partial(build, leaves=leaves), case())


def test_a_call_or_leaf_that_runs_code_when_it_is_read_is_refused():
    class Mine(Call):
        pass

    class Watched(Tensor):
        pass

    def watched(problem: Problem) -> Call:
        call = reference(problem)
        return Call(call.forward, call.leaves | {"x": call.leaves["x"].as_subclass(Watched)})

    def mine(problem: Problem) -> Call:
        call = reference(problem)
        return Mine(call.forward, call.leaves)

    class Computes(dict):
        pass

    def computes(problem: Problem) -> Call:
        call = reference(problem)
        return Call(call.forward, Computes(call.leaves))

    of = make_problem(case())
    with pytest.raises(TypeError, match=r"build gives a Mine; accepted: a bench\.providers\.Call"):
        Runner(Provider("p", mine), of, CPU)
    with pytest.raises(TypeError, match="leaf x is a Watched; accepted: a tensor"):
        Runner(Provider("p", watched), of, CPU)
    assert type(Runner(Provider("p", computes), of, CPU).call.leaves) is dict


def keeps_gradient_of(name: str) -> Callable[[Problem], Call]:
    """A provider that computes one gradient once and returns it in every later call."""
    kept: list[Tensor] = []

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            kept.append(gradient)
            return kept[0]

    def build(problem: Problem) -> Call:
        leaves = reference(problem).leaves
        return Call(
            lambda: run_reference(problem.case, leaves | {name: Kept.apply(leaves[name])}), leaves
        )

    return build


@pytest.mark.parametrize("B", [1, 2, 5])
@pytest.mark.parametrize("name", ["x", "w_hh_l0"])
def test_a_gradient_that_is_kept_is_refused(name: str, B: int):
    with pytest.raises(metrics.Incorrect, match=f"in a timed call d{name} is off by"):
        measure(keeps_gradient_of(name), case(B=B))


def test_weight_gradients_are_checked_where_only_some_rows_have_a_truth(monkeypatch):
    monkeypatch.setattr("bench.cases.problem.TRUTH_BYTES", 8 * 12 * 6 * 3 * 2)  # two rows

    class Zero(torch.autograd.Function):
        timed = False

        @staticmethod
        def forward(ctx: Any, w: Tensor) -> Tensor:
            return w.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * (not Zero.timed)

    def build(problem: Problem) -> Call:
        call = reference(problem)
        leaves, first = call.leaves, call.leaves["x"].clone()

        def forward() -> dict[str, Tensor]:
            Zero.timed = not torch.equal(leaves["x"], first)
            w = Zero.apply(leaves["w_hh_l0"])
            return run_reference(problem.case, leaves | {"w_hh_l0": w})

        return Call(forward, leaves)

    assert len(checked_rows(make_problem(case(B=6)))) == 2
    with pytest.raises(metrics.Incorrect, match="in a timed call dw_hh_l0 is off by"):
        measure(build, case(B=6))
    assert measure(reference, case(B=6)).checked >= 1


def test_the_rows_with_a_truth_cannot_be_foreseen(monkeypatch: pytest.MonkeyPatch):
    """Where not all have one: a provider that computes those of the first check is refused."""
    monkeypatch.setattr("bench.cases.problem.TRUTH_BYTES", 8 * 12 * 6 * 3 * 2)  # two rows

    def build(problem: Problem) -> Call:
        call = reference(problem)
        rows = checked_rows(problem)

        def forward() -> dict[str, Tensor]:
            found = call.forward()
            return {
                name: torch.zeros_like(value).index_copy(1, rows, value[:, rows])
                for name, value in found.items()
            }

        return Call(forward, call.leaves)

    with pytest.raises(metrics.Incorrect, match="in a timed call y is off by"):
        measure(build, case(B=6, **{"pass": "fwd"}))


@pytest.mark.parametrize("B", [1, 5])
def test_results_kept_by_the_inputs_values_are_of_no_use(B: int):
    computed = [0]

    def build(problem: Problem) -> Call:
        call = reference(problem)

        def compute() -> dict[str, Tensor]:
            computed[0] += 1
            return call.forward()

        cached = _cached(compute, lambda: call.leaves["x"].numpy().tobytes())
        return Call(cached, call.leaves)

    found = measure(build, case(B=B, **{"pass": "fwd"}))
    assert computed[0] > len(found.samples)


CHEATS = (
    *(first_result, by_address, every_fifteenth, inputs_at_build, stale_memory),
    *(in_the_background, zeroed_inputs),
)


@pytest.mark.parametrize("B", [1, 2, 5])
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_shortcut_in_a_timed_call_is_refused(cheat: Callable[[Problem], Call], B: int):
    with pytest.raises(metrics.Incorrect, match="in a timed call y is off by"):
        measure(cheat, case(B=B, **{"pass": "fwd"}))


def test_a_tensor_that_computes_later_is_refused():
    class Lazy(Tensor):
        pass

    def build(problem: Problem) -> Call:
        call = reference(problem)
        return Call(
            lambda: {n: v.as_subclass(Lazy) for n, v in call.forward().items()}, call.leaves
        )

    with pytest.raises(metrics.Incorrect, match="y is a Lazy; accepted: a tensor"):
        Runner(Provider("p", build), make_problem(case(**{"pass": "fwd"})), CPU).errors()


def test_a_provider_cannot_change_what_others_get():
    def spoils(problem: Problem) -> Call:
        call = reference(problem)
        for value in problem.inputs.values():
            value.zero_()
        return call

    problem = make_problem(case())
    truth(problem, True)
    kept = {name: value.clone() for name, value in problem.inputs.items()}
    spoiler = Runner(Provider("p", spoils), problem, CPU)
    spoiler.prepare()
    assert spoiler.errors()["y"]["rel_l2"] > 0.5
    assert all(torch.equal(problem.inputs[name], value) for name, value in kept.items())


def test_a_provider_without_its_inputs_among_the_leaves_is_refused():
    def build(problem: Problem) -> Call:
        call = reference(problem)
        return Call(call.forward, {n: v for n, v in call.leaves.items() if n.startswith("w")})

    with pytest.raises(
        ValueError, match=r"leaves are {'w_.*; accepted: leaves with x, of the size of \(3, 4, 5\)"
    ):
        measure(build, case(**{"pass": "fwd"}))


def test_a_patched_clock_changes_no_sample(monkeypatch: pytest.MonkeyPatch):
    for name in ("perf_counter", "perf_counter_ns", "time", "monotonic"):
        monkeypatch.setattr(time, name, lambda: 0)
    assert min(measure(reference, case(**{"pass": "fwd"})).samples) > 0


class Card:
    """What a sampler needs of torch.cuda, with a clock of its own and work on two streams."""

    def __init__(self, other_stream_ms: float) -> None:
        self.now, self.other_stream_ms = 0.0, other_stream_ms

    def event(self, enable_timing: bool) -> Any:
        card = self

        class Event:
            def record(self) -> None:
                self.at = card.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: Any) -> float:
                return end.at - self.at

        return Event()

    def synchronize(self) -> None:
        """Waits for all streams, so that work on another one takes time here."""
        self.now += self.other_stream_ms


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], Card]]:
    def make(other_stream_ms: float) -> Card:
        found = Card(other_stream_ms)
        monkeypatch.setattr(torch.cuda, "Event", found.event)
        monkeypatch.setattr(torch.cuda, "synchronize", found.synchronize)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 7)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 12)
        monkeypatch.setattr(sampler, "perf_counter_ns", lambda: found.now * 1e6)
        monkeypatch.setattr(sampler, "_cache", lambda: None)
        fake = SimpleNamespace(active=SimpleNamespace(clear_cache=lambda cache: None))
        monkeypatch.setattr(triton.runtime, "driver", fake)
        return found

    yield make


@pytest.mark.parametrize(("left", "refused"), [(0.0, False), (0.01, False), (3.0, True)])
def test_work_on_another_stream_is_refused(card: Any, left: float, refused: bool):
    """Events see 1 ms; what the device still does when they are done is 3 ms of work elsewhere."""
    device = card(left)

    def build(problem: Problem) -> Call:
        call = reference(problem)

        def forward() -> dict[str, Tensor]:
            device.now += 1.0
            return call.forward()

        return Call(forward, call.leaves)

    problem = make_problem(case(**{"pass": "fwd"}))
    runner = Runner(Provider("p", build), problem, Machine("cuda", "a card", (9, 0), 132))
    runner.call_ms = 1.0
    if refused:
        with pytest.raises(RuntimeError, match="the device worked on for 3 ms after a call's end"):
            interleave([runner], target=1.0, seconds=0.0)
        return
    found = interleave([runner], target=1.0, seconds=0.0)["p"]
    for taken in (found.samples, found.host):
        assert taken == [pytest.approx(1.0)] * MOST_PER_VISIT * MIN_VISITS
    assert found.warm == [pytest.approx(1.0)] * MIN_VISITS
    assert found.peak_bytes == 12 - 7


def test_errors_are_the_largest_of_checked_calls_and_checks_take_no_sampling_time(monkeypatch):
    factors, now = iter([1.0, 1 + 1e-6, 1.0]), [0.0]
    check = metrics.check

    def slow(problem: Problem, got: dict[str, Tensor]) -> Any:
        now[0] += 100.0
        return check(problem, got | {"y": got["y"] * next(factors)})

    monkeypatch.setattr(sampler, "perf_counter", lambda: now[0])
    monkeypatch.setattr(metrics, "check", slow)
    runner = Runner(PROVIDERS["reference"], make_problem(case(**{"pass": "fwd"})), CPU)
    runner.call_ms = VISIT_MS / 3
    found = sampler.Sampler(runner, sampler.Checks(runner.problem, random.Random(0)))
    found._planned = {0: 0, 1: 1, 2: 2}
    found.sample()
    assert found.checked == 3 and found.spent == 0.0
    assert found.errors["y"]["rel_l2"] == pytest.approx(1e-6, rel=0.3)  # and fp32's own


def test_a_copy_of_a_problem_shares_nothing_that_can_be_changed():
    problem = make_problem(case(resets=0.3))
    problem.lengths, problem.parts = torch.tensor([1, 2, 3, 3]), {"part": ("y", slice(1))}
    copy = problem.copy()
    assert copy.parts == problem.parts and copy.parts is not problem.parts
    for name in ("resets", "lengths"):
        mine, own = getattr(problem, name), getattr(copy, name)
        assert torch.equal(mine, own) and mine.data_ptr() != own.data_ptr()


def test_the_clock_starts_when_the_inputs_are_written(card: Any, monkeypatch: pytest.MonkeyPatch):
    """Else a launch-bound call would take less time, the longer its inputs take to write."""
    device, steps = card(0.0), list[str]()

    def noted(word: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any) -> Any:
            steps.append(word)
            return action(*args)

        return act

    def event(enable_timing: bool) -> Any:
        made = device.event(enable_timing)
        made.record = noted("record", made.record)
        return made

    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "synchronize", noted("wait", device.synchronize))
    monkeypatch.setattr(Leaves, "write", noted("write", Leaves.write))
    problem = make_problem(case(**{"pass": "fwd"}))
    runner = Runner(PROVIDERS["reference"], problem, Machine("cuda", "a card", (9, 0), 132))
    runner.call_ms = 1.0
    sampler.Sampler(runner, sampler.Checks(problem, random.Random(0))).sample()
    text = " ".join(steps)
    assert text.count("write wait record") == text.count("write") == MOST_PER_VISIT + 1


def test_calls_that_follow_each_other_do_not_wait_for_the_device(monkeypatch):
    """Finding the rows with a truth does; between calls whose energy is measured it would idle."""
    found = measure(reference, case(B=6))

    def waits(*_: Any) -> Any:
        raise AssertionError("this waits for the device")

    for name in ("unique", "isin", "nonzero"):
        monkeypatch.setattr(torch, name, waits)
    for name in ("item", "tolist", "nonzero", "cpu"):
        monkeypatch.setattr(Tensor, name, waits)
    for redraw in (True, False):
        found.load(draw_contents(random.Random(0), redraw))


def test_slow_providers_get_their_least_number_of_visits_whatever_the_budget():
    def build(problem: Problem) -> Call:
        call = reference(problem)

        def slow() -> dict[str, Tensor]:
            time.sleep(0.04)
            return call.forward()

        return Call(slow, call.leaves)

    found = measure(build, case(**{"pass": "fwd"}))
    assert found.blocks == [1] * MIN_VISITS and found.checked >= 1


def test_one_that_fails_leaves_the_others():
    problem = make_problem(case(**{"pass": "fwd"}))
    bad = Runner(Provider("bad", first_result), problem, CPU)
    runners = [bad, Runner(PROVIDERS["reference"], problem, CPU)]
    for runner in runners:
        runner.prepare()
    faults = []
    found = interleave(runners, 1.0, 0.0, failed=lambda *fault: faults.append(fault))
    assert list(found) == ["reference"] and len(found["reference"].blocks) == MIN_VISITS
    assert [runner for runner, _ in faults] == [bad]


def test_warming_up_ends_when_times_have_settled():
    waits = iter([0.03, 0.02, 0.01, *[0.001] * 1000])

    def build(problem: Problem) -> Call:
        call = reference(problem)

        def forward() -> dict[str, Tensor]:
            time.sleep(next(waits))
            return call.forward()

        return Call(forward, call.leaves)

    problem = make_problem(case(**{"pass": "fwd"}))
    runner = Runner(Provider("p", build), problem, CPU)
    runner.prepare(warmup_seconds=60.0)
    assert runner.settled and 10 <= runner.warmup_calls < 1000
    hasty = Runner(Provider("p", build), problem, CPU)
    hasty.prepare()
    assert not hasty.settled and hasty.warmup_calls == 2


@pytest.mark.parametrize(
    ("device", "number", "peak"),
    [
        ({"kind": "cuda", "capability": "9.0", "multiprocessors": 132, "max_sm_mhz": 1980},
         ("bf16", "none"), 1070.5),
        ({"kind": "cuda", "capability": "9.0", "multiprocessors": 132, "max_sm_mhz": 1980},
         ("fp32", "ieee"), 66.9),
        ({"kind": "cuda", "capability": "8.0", "multiprocessors": 108, "max_sm_mhz": 1410},
         ("fp16", "none"), 311.9),
    ],
)  # fmt: skip
def test_peaks_are_those_of_the_data_sheets(device: dict, number: tuple[str, str], peak: float):
    """H100 SXM: 1,979 TFLOP/s with sparsity, half of it dense, at 1,830 MHz; A100: 312."""
    assert peaks.peak_tflops(device, *number) == pytest.approx(peak, rel=1e-3)


def test_a_rate_above_the_peak_is_refused_and_no_device_is_too_slow_for_the_truth():
    here = device_facts()
    of = case(B=64, T=64, I=512, H=512)
    assert peaks.why_impossible(of, 1e4, here) is None
    words = peaks.why_impossible(of, 1e-4, here)
    assert words is not None and "TFLOP/s in 0.0001 ms is more than the device can do" in words
    unknown = {"kind": "cuda", "capability": "42.0", "multiprocessors": 100}
    assert peaks.peak_tflops(unknown, "bf16", "none") >= 100 * 8192 * 2000 / 1e6
