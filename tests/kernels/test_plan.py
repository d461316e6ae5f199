"""Plans obey every device's limits, cover the whole problem, and give their reason."""

from dataclasses import replace
from itertools import product

import pytest

from kernels.plan import (
    MODES,
    Problem,
    backward_plan,
    forward_plan,
    most_registers,
    persistent_plans,
    stepwise,
)
from kernels.plan.devices import DEVICES, describe

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

H100 = DEVICES["h100"]
FORMS = (("bfloat16", "ieee"), ("float16", "ieee"), ("float32", "ieee"), ("float32", "tf32"))
LOOPS = {"forward": forward_plan, "backward": backward_plan}


def problem(gates=4, B=16, H=1024, directions=1, dtype="bfloat16", precision="ieee"):
    return Problem(gates, B, H, directions, dtype, precision)


def sizes(most):
    """Sizes of every magnitude, and near powers of two, where tilings change."""
    near = st.builds(
        lambda k, d: max(1, min(most, 2**k + d)), st.integers(0, 16), st.integers(-1, 1)
    )
    return st.one_of(st.integers(1, most), near, st.integers(1, 64))


problems = st.builds(
    lambda gates, B, H, directions, form: Problem(gates, B, H, directions, *form),
    st.sampled_from((1, 3, 4)),
    sizes(65536),
    sizes(4096),
    st.sampled_from((1, 2)),
    st.sampled_from(FORMS),
)


def check(plan, asked, device, backward):
    """What holds for every plan whose kernels compute the product themselves."""
    size, K = asked.size, asked.H * (asked.gates if backward else 1)
    for block in (plan.units, plan.block_b, plan.block_k):
        assert block & (block - 1) == 0, "Triton's blocks are powers of two"
    assert plan.units % plan.split == 0
    assert plan.group % plan.split == 0
    assert plan.group // plan.split * plan.units >= asked.H, "every unit has a program"
    assert (plan.group // plan.split - 1) * plan.units < asked.H, "no program without a unit"
    assert plan.batch_groups * plan.tiles * plan.block_b >= asked.B, "every sequence is served"
    assert (plan.batch_groups - 1) * plan.block_b < asked.B, "no program without a sequence"
    if plan.group == 1:
        assert plan.units >= asked.H
        assert plan.chunks == (asked.gates if backward else 1)
        assert plan.resident == plan.chunks
    else:
        assert plan.chunks * plan.block_k * plan.split >= K, "all of K is multiplied"
        assert (plan.chunks - 1) * plan.block_k * plan.split < K, "no chunk is empty"
    assert 0 <= plan.resident <= plan.chunks
    assert 1 <= plan.ahead <= max(1, plan.resident)
    rows = plan.units if backward or asked.gates == 1 else 4 * plan.units
    assert plan.resident * rows * plan.block_k * size <= plan.shared_bytes <= device.shared_bytes
    assert plan.num_warps in (4, 8)
    assert plan.directions == asked.directions


def check_fits(plan, device):
    """All programs of a persistent launch are co-resident, with the most registers possible."""
    if plan.group == 1:
        return
    threads = plan.num_warps * device.warp
    fit = device.occupancy(plan.shared_bytes, most_registers(device, threads), threads)
    assert plan.programs <= plan.capacity <= device.multiprocessors * fit


@pytest.mark.parametrize("loop", LOOPS)
@hypothesis.settings(max_examples=400, deadline=None)
@given(asked=problems, name=st.sampled_from(sorted(DEVICES)))
def test_a_plan_fits_or_says_why_the_mode_is_another(loop, asked, name):
    device, backward = DEVICES[name], loop == "backward"
    plan = LOOPS[loop](asked, device)
    assert plan.mode in ("persistent", "gemm")
    assert plan.programs <= 2**31 - 1
    assert 0 < plan.floor_us < 1e9
    if plan.mode == "persistent":
        assert f"{plan.floor_us:.1f} µs" in plan.reason
    fitting = list(persistent_plans(asked, device, backward))
    for each in fitting:
        check(each, asked, device, backward)
        check_fits(each, device)
    if plan.mode == "persistent":
        assert replace(plan, reason="") in fitting
        return
    assert plan.tiles == 1
    assert plan.batch_groups * plan.block_b >= asked.B
    assert plan.group * plan.units >= asked.H
    if fitting:
        assert "the persistent loop" in plan.reason
        assert min(p.floor_us for p in fitting) > plan.floor_us
    else:
        assert plan.reason.startswith("no persistent loop: ")


@pytest.mark.parametrize("loop", LOOPS)
@hypothesis.settings(max_examples=200, deadline=None)
@given(asked=problems, name=st.sampled_from(sorted(DEVICES)), mode=st.sampled_from(MODES))
def test_a_requested_mode_is_kept_or_refused_with_the_reason(loop, asked, name, mode):
    device = DEVICES[name]
    try:
        plan = LOOPS[loop](asked, device, mode)
    except ValueError as error:
        assert mode == "persistent"
        assert "cannot run: " in str(error)
        assert not list(persistent_plans(asked, device, loop == "backward"))
        return
    assert mode in ("auto", "auto-graph", plan.mode)
    if mode == "stepwise":
        check(plan, asked, device, loop == "backward")
        assert plan.tiles == 1


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="mode is 'fast'; accepted: auto, auto-graph, persistent"):
        forward_plan(problem(), H100, "fast")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("H", [16, 64, 128, 256, 384, 512, 768, 1000, 1024])
def test_16_bit_weights_stay_on_chip_up_to_1024_units(loop, gates, dtype, H):
    for B in (1, 8, 16, 64, 128, 256, 4096):
        plan = LOOPS[loop](problem(gates, B, H, dtype=dtype), H100, "persistent")
        assert plan.resident == plan.chunks
    assert LOOPS[loop](problem(gates, 16, H, dtype=dtype), H100).mode == "persistent"


@pytest.mark.parametrize("loop", LOOPS)
def test_small_layers_need_no_barrier(loop):
    for H in (16, 64, 128):
        plan = LOOPS[loop](problem(H=H), H100)
        assert plan.group == 1 and plan.cost.barrier_us == 0
    assert LOOPS[loop](problem(H=1024), H100).cost.barrier_us > 0


def test_both_directions_share_one_grid():
    plan = forward_plan(problem(directions=2), H100)
    assert (plan.mode, plan.programs) == ("persistent", 128)


def test_a_layer_too_large_for_any_group_says_so():
    plan = forward_plan(problem(H=4096), H100)
    assert plan.mode == "gemm"
    assert "a group of 256 programs in 1 direction(s) exceeds the 132" in plan.reason
    with pytest.raises(ValueError, match="mode='persistent' cannot run: a group of 256 programs"):
        forward_plan(problem(H=4096), H100, "persistent")


def test_a_large_batch_is_served_tile_by_tile_and_weights_that_do_not_fit_are_streamed():
    assert forward_plan(problem(B=65536, H=256), H100, "persistent").tiles > 1
    plan = forward_plan(problem(H=2048), H100, "persistent")
    assert 0 < plan.resident < plan.chunks
    assert plan.cost.stream_us > 0


def test_arithmetic_decides_for_the_gemm():
    exact = problem(B=256, dtype="float32")
    assert forward_plan(exact, H100).mode == "gemm"
    assert forward_plan(problem(B=4096), H100).mode == "gemm"
    assert forward_plan(problem(B=16), H100).mode == "persistent"


def test_a_gemm_per_step_is_expected_sooner_where_a_graph_replays_its_launches():
    between = problem(B=256)
    assert forward_plan(between, H100).mode == "persistent"
    assert forward_plan(between, H100, "auto-graph").mode == "gemm"
    for loop in LOOPS.values():
        for B in (1, 16, 256, 4096):
            launched, replayed = (loop(problem(B=B), H100, m) for m in ("auto", "auto-graph"))
            assert replayed.floor_us <= launched.floor_us


@pytest.mark.parametrize("loop", LOOPS)
def test_stepwise_has_the_persistent_plans_tiles(loop):
    """Then both modes sum in the same order and agree bit for bit."""
    for B in (1, 16, 300):
        loops = LOOPS[loop]
        one, many = loops(problem(B=B), H100, "persistent"), loops(problem(B=B), H100, "stepwise")
        tile = ("units", "split", "block_b", "block_k", "chunks", "resident", "ahead", "num_warps")
        assert all(getattr(one, name) == getattr(many, name) for name in tile)
        again = replace(stepwise(one, B), cost=many.cost)
        assert many == again


def test_parts_of_the_cost_explain_its_floor():
    for gates, B, loop in product((1, 3, 4), (1, 64, 1024), LOOPS.values()):
        for mode in ("persistent", "gemm"):
            cost = loop(problem(gates, B), H100, mode).cost
            parts = [v for k, v in vars(cost).items() if k != "floor_us"]
            assert max(parts) <= cost.floor_us * 1.001 <= sum(parts) * 1.001 + 0.001


def test_a_bigger_problem_is_never_expected_to_be_faster():
    for loop in LOOPS.values():
        floors = [loop(problem(B=B), H100).floor_us for B in (16, 64, 256, 1024, 4096)]
        assert floors == sorted(floors)
        floors = [loop(problem(H=H), H100).floor_us for H in (16, 64, 256, 512, 1024, 2048, 4096)]
        assert floors == sorted(floors)


# Microseconds a step of a layer's forward pass in bf16 under a CUDA graph, on an H200
# (results/nvidia-h200), by gates, B and H, and the programs of a group of its plan; 0 is a GEMM.
LAYERS = {
    (4, 16, 1024): (3.31, 64), (3, 16, 1024): (3.19, 64), (4, 64, 512): (2.71, 32),
    (4, 16, 512): (2.47, 32), (1, 16, 512): (2.37, 8), (4, 16, 256): (1.84, 16),
    (4, 1, 128): (1.61, 1), (4, 256, 128): (1.77, 1), (3, 16, 128): (1.55, 1),
    (4, 1, 2048): (11.2, 128), (3, 1, 2048): (11.8, 128), (4, 256, 2048): (34.1, 0),
    (3, 256, 2048): (33.3, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_a_time_measured_on_a_card_is_expected_within_15_percent(case):
    gates, B, H = case
    measured, group = LAYERS[case]
    plan = forward_plan(problem(gates, B, H), DEVICES["h200"], "auto-graph")
    inputs = 2 * gates * H**2 * B / (dict(DEVICES["h200"].rates.gemm_tflops)["bfloat16"] * 1e6)
    assert plan.floor_us + inputs == pytest.approx(measured, rel=0.15)
    assert (plan.group if plan.mode == "persistent" else 0) == group


def test_an_unlisted_device_keeps_its_own_limits_and_takes_the_nearest_rates():
    found = describe("NVIDIA H100 PCIe", "sm_90", 114, 232448, 233472)
    assert (found.multiprocessors, found.shared_bytes) == (114, 232448)
    assert found.rates == H100.rates
    assert describe("NVIDIA L4", "sm_89", 58, 101376, 102400).rates == DEVICES["rtx4090"].rates
    assert describe("NVIDIA RTX A6000", "sm_86", 84, 101376, 102400).warp == 32
    assert describe("AMD Instinct MI250X", "gfx90a", 110, 65536, 65536).warp == 64


def test_occupancy_counts_registers_shared_memory_and_threads():
    assert H100.occupancy(shared=100 * 1024, registers=64, threads=128) == 2  # shared memory
    assert H100.occupancy(shared=1024, registers=255, threads=128) == 2  # registers
    assert H100.occupancy(shared=1024, registers=16, threads=1024) == 2  # threads
    assert H100.occupancy(shared=227 * 1024, registers=255, threads=256) == 1
    for device in DEVICES.values():
        assert device.shared_bytes <= device.shared_total
        assert device.occupancy(device.shared_bytes, most_registers(device, 256), 256) >= 1
