"""What the public functions launch on an H100, by Triton's own launch path.

Tests of values use the interpreter, which has no specialization, no launch attributes and no
cache. Here arguments are bound, specialized and compiled as on a GPU, and the launch is recorded
instead of made (`launch_recorder.py`).
"""

import json
from pathlib import Path
from typing import Any

import pytest

from kernels.cells import CELLS
from kernels.recurrence import RUNTIME
from tests.helpers.compiling_process import run_compiling

pytestmark = pytest.mark.slow  # some twenty kernels are compiled, each in under a second

# With 136 units several programs exchange the state; with 32, one program holds all of it.
CALL = {
    "function": "recurrence", "cell": "lstm", "T": 5, "B": 16, "H": 136, "D": 1,
    "dtype": "bfloat16", "mode": "auto", "precision": None, "backward": False, "bias": False,
    "lengths": None, "resets": False, "reverse": False,
}  # fmt: skip
BOTH = ["forward_kernel", "backward_kernel"]


def train(**changes: Any) -> dict[str, Any]:
    return CALL | {"backward": True} | changes


LENGTHS = [1 + k % 5 for k in range(16)]
# Calls made in this order in one process, and the kernels that each of them compiles.
CALLS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "forward": (CALL, ["forward_kernel"]),
    "forward, T=1": (CALL | {"T": 1}, []),
    "forward, T=2": (CALL | {"T": 2}, []),
    "reverse": (CALL | {"reverse": True}, []),
    "training": (train(), BOTH),
    "training, T=1": (train(T=1), []),
    "training, T=2": (train(T=2), []),
    "training, B=1": (train(B=1), []),
    "training, B=17": (train(B=17), []),
    "lengths": (train(lengths=LENGTHS), BOTH),
    "other lengths": (train(lengths=LENGTHS[::-1]), []),
    "lengths, T=1": (train(T=1, B=1, lengths=[1]), []),
    "resets": (train(resets=True), BOTH),
    "resets, T=1": (train(T=1, B=1, resets=True), []),
    "lengths and resets": (train(lengths=LENGTHS, resets=True), BOTH),
    "two directions": (train(D=2), BOTH),
    "two directions, T=1": (train(D=2, T=1, B=1), []),
    "tiles in turn": (CALL | {"B": 2048, "mode": "persistent"}, ["forward_kernel"]),
    "one program": (train(H=32), BOTH),
    "one program, T=1": (train(H=32, T=1, B=1), []),
    "a step a launch": (train(mode="stepwise"), [*BOTH, "backward_kernel"]),  # two phases
    "a step a launch, T=1": (train(mode="stepwise", T=1, B=1), []),
    "a GEMM a step": (train(mode="gemm"), BOTH),
    "a GEMM a step, T=1": (train(mode="gemm", T=1), []),
    "GRU": (train(cell="gru", dtype="float16", bias=True), BOTH),
    "RNN in tf32": (train(cell="rnn_tanh", H=300, dtype="float32", precision="tf32"), BOTH),
    "layers": (train(function="layers", D=2), []),
    "module": (train(function="module"), []),
}
GIVEN = {name: each for name, (each, _) in CALLS.items()}


def launched(cache: Path) -> dict[str, Any]:
    """What each call launches, in a new process with this cache."""
    calls = json.dumps(GIVEN)
    return json.loads(run_compiling("-m", "tests.helpers.launch_calls", calls, cache=cache))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def found(cache):
    return launched(cache)


def launches_of(found: dict[str, Any], name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The launches of a call, each with its plan."""
    launches = found[name]["launches"]
    assert launches
    return [(launch, found[name]["plans"][launch["kernel"]]) for launch in launches]


def shapes(call: dict[str, Any], plan: dict[str, Any], kernel: str) -> dict[str, Any]:
    """Each pointer's shape as `recurrence.py` documents it, None for a pointer that is None."""
    cell, T, B, H, D = CELLS[call["cell"]], call["T"], call["B"], call["H"], call["D"]
    K, several = cell.gates * H, cell.states > 1
    waits = plan["mode"] == "persistent" and plan["group"] > 1
    outside = plan["mode"] == "gemm"
    state = [cell.states, D, B, H]
    counters = plan["batch_groups"] * plan["tiles"] * D
    found: dict[str, Any] = {
        "w_ptr": [D, K, H],
        "h0_ptr": [D, B, H],
        "lengths_ptr": [1, B] if call["lengths"] else None,
        "resets_ptr": [1, T, B] if call["resets"] else None,
        "y_ptr": [T, B, D * H],
        "error_ptr": [1] if waits else None,
    }
    if kernel == "forward_kernel":
        saves = call["backward"]
        return found | {
            "gx_ptr": [T, B, D, K],
            "bias_ptr": [D, K] if call["bias"] and not outside else None,
            "initial_ptr": state if call["resets"] else None,
            "state_ptr": state,
            "history_ptr": [cell.states - 1, T, B, D, H] if saves and several else None,
            "saved_ptr": [cell.saved, T, B, D, H] if saves and cell.saved else None,
            "product_ptr": [D, B, K] if outside else None,
            "counters_ptr": [counters, 32] if waits else None,
        }
    counters *= 1 + plan["group"] // plan["split"]
    return found | {
        "initial_ptr": state,
        "history_ptr": [cell.states - 1, T, B, D, H] if several else None,
        "saved_ptr": [cell.saved, T, B, D, H] if cell.saved else None,
        "dy_ptr": [T, B, D * H],
        "dgx_ptr": [T, B, D, K],
        "dr_ptr": [T, B, D, K],
        "dstate_ptr": state,
        "dinitial_ptr": state if call["resets"] else None,
        "partial_ptr": [plan["split"], D, B, H] if plan["split"] > 1 or outside else None,
        "counters_ptr": [counters, 32] if waits else None,
    }


FLOAT32 = {"initial_ptr", "state_ptr", "history_ptr", "product_ptr", "dstate_ptr"}
FLOAT32 |= {"dinitial_ptr", "partial_ptr"}
OTHER = {"lengths_ptr": "*i32", "resets_ptr": "*u8", "counters_ptr": "*i32", "error_ptr": "*i64"}
TRITON_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_has_the_documented_type_and_shape(found, name):
    given = GIVEN[name]
    for launch, plan in launches_of(found, name):
        expected = shapes(given, plan, launch["kernel"])
        io = "*" + TRITON_NAMES[given["dtype"]]
        pointers = set()
        for parameter, kind in launch["types"].items():
            value = launch["arguments"][parameter]
            if parameter in RUNTIME:
                assert (kind, type(value)) == ("i32", int), parameter
            elif parameter in expected and expected[parameter] is not None:
                pointer = "*fp32" if parameter in FLOAT32 else OTHER.get(parameter, io)
                assert (kind, value["shape"]) == (pointer, expected[parameter]), parameter
                pointers.add(parameter)
            else:
                assert kind == "constexpr", parameter
                assert parameter.isupper() or value is None, parameter
        # Vector loads need alignment, and without it another kernel is compiled.
        assert set(launch["aligned"]) == pointers


@pytest.mark.parametrize("name", CALLS)
def test_a_launch_obeys_its_plan(found, name):
    """And only programs that wait for each other are launched cooperatively."""
    given = GIVEN[name]
    for launch, plan in launches_of(found, name):
        waits = plan["mode"] == "persistent" and plan["group"] > 1
        assert bool(launch["cooperative"]) == waits
        assert launch["arguments"]["PERSISTENT"] == (plan["mode"] == "persistent")
        assert waits != ("one program" in name or given["mode"] in ("stepwise", "gemm"))
        assert launch["grid"] == [plan["programs"], 1, 1]
        assert plan["programs"] <= plan["capacity"]
        assert launch["num_warps"] == plan["num_warps"]
        assert launch["maxnreg"] == plan["registers"] == 255
        assert launch["shared_bytes"] <= plan["shared_bytes"]
        values = launch["arguments"]
        cell = CELLS[given["cell"]]
        assert (values["T"], values["B"]) == (given["T"], given["B"])
        assert (values["tiles"], values["batch_groups"]) == (plan["tiles"], plan["batch_groups"])
        assert values["reverse"] == int(given["reverse"])
        assert (values["H"], values["D"]) == (given["H"], given["D"])
        assert (values["GATES"], values["STATES"]) == (cell.gates, cell.states)
        assert (values["BLOCK_B"], values["BLOCK_K"]) == (plan["block_b"], plan["block_k"])
        assert values["PRECISION"] == (given["precision"] or "ieee")
        units, step = ("UNITS", "STEP"), cell.step
        if launch["kernel"] == "backward_kernel":
            units, step = ("BLOCK_M", "STEP_GRADIENT"), cell.step_gradient
        assert (values[units[0]], values[units[1]]) == (plan["units"], step.__name__)


@pytest.mark.parametrize("name", CALLS)
def test_every_step_is_launched_once_in_order_and_only_new_kinds_of_calls_compile(found, name):
    assert found[name]["loaded"] == CALLS[name][1]
    given, T = GIVEN[name], GIVEN[name]["T"]
    launches: dict[str, list[Any]] = {"forward_kernel": [], "backward_kernel": []}
    for launch, _ in launches_of(found, name):
        values = launch["arguments"]
        launches[launch["kernel"]].append((values["begin"], values["end"], values.get("PHASE")))
    steps, items = [(0, T)], [(0, T + 1)]
    phases = [0]
    if given["mode"] in ("stepwise", "gemm"):
        steps = [(n, n + 1) for n in range(T)]
        items = [(n, n + 1) for n in range(T + 1)]
        phases = [1, 2] if given["mode"] == "stepwise" else [2]
    assert launches["forward_kernel"] == [(*step, None) for step in steps]
    expected = [(*item, phase) for item in items for phase in phases]
    assert launches["backward_kernel"] == (expected if given["backward"] else [])


@pytest.mark.parametrize(("name", "kernels"), [("a step a launch", 3), ("a GEMM a step", 2)])
def test_one_kernel_serves_all_steps(found, name, kernels):
    assert len({launch["hash"] for launch, _ in launches_of(found, name)}) == kernels


def test_tiles_are_served_in_turn_where_the_batch_is_large(found):
    ((launch, plan),) = launches_of(found, "tiles in turn")
    assert plan["tiles"] > 1
    assert launch["arguments"]["INTERLEAVED"]


def test_another_process_finds_every_kernel_on_the_disk(found, cache):
    def files() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}

    before = files()
    again = launched(cache)
    assert files() == before
    for name, calls in found.items():
        first, second = (
            [launch["hash"] for launch in each["launches"]] for each in (calls, again[name])
        )
        assert first == second


# The host's work in a call is counted, not timed: its time depends on the processor.


@pytest.mark.parametrize("name", ["forward", "training"])
def test_a_longer_call_is_no_more_work_where_one_launch_does_all_steps(found, name):
    assert found[name]["work"] == found[f"{name}, T=2"]["work"] == found[f"{name}, T=1"]["work"]


def test_triton_binds_the_arguments_of_all_steps_once(found):
    """And a step enters one function for each launch, with a GEMM two more for the product."""
    for name, functions in (("a step a launch", 1 + 2), ("a GEMM a step", 3 + 3)):
        long, short = found[name]["work"], found[f"{name}, T=1"]["work"]
        assert long["bound"] == short["bound"] == len(CALLS[name][1])
        steps = GIVEN[name]["T"] - 1
        assert long["entered"] - short["entered"] == functions * steps


def test_a_call_makes_the_tensors_that_it_needs_and_no_others(found):
    """Each tensor costs the allocator's time or a launch."""
    # h0 and c0; their copy, which becomes the final state; y, and two outputs that training needs;
    # counters; the final state in the input's type.
    forward = {"new_zeros": 1, "to": 2, "new_empty": 3, "zeros": 1}
    assert found["forward"]["work"]["tensors"] == forward
    # And dgx, partial sums, no bias's gradient, the final state's gradient and its copy, the
    # initial state in float32 and its gradient, counters, the weights' gradient and its product.
    backward = {"new_empty": 4, "zeros_like": 1, "to": 2, "float": 1, "zeros": 1, "mm": 1}
    assert found["training"]["work"]["tensors"] == {
        name: forward.get(name, 0) + backward.get(name, 0) for name in forward | backward
    }
