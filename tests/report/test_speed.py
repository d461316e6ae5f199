"""Statistics of times, counts of operations and bytes, the floor, and cuDNN's rule."""

import dataclasses

import numpy as np
import pytest

from bench.cases import roofline
from bench.cases.cases import DEFAULTS, Case, make_case
from bench.measure import statistics
from bench.providers.torch_nn import cudnn_algorithm
from bench.records.environment import Machine
from bench.records.provenance import slug

H100 = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), 132)


def bounds(found: tuple[float, float] | None) -> tuple[float, float]:
    assert found is not None
    return found


def case(**values: object) -> Case:
    return make_case(**DEFAULTS | values)


def test_the_interval_holds_the_median_and_shrinks():
    draw = np.random.default_rng(0)
    few, many = draw.lognormal(0, 0.1, 20), draw.lognormal(0, 0.1, 2000)
    widths = []
    for samples in (few, many):
        low, high = bounds(statistics.interval(list(samples)))
        assert low <= np.median(samples) <= high
        widths.append(high - low)
        quick = statistics.half_width(list(samples)) * np.median(samples)
        assert quick == pytest.approx((high - low) / 2, rel=0.5)
    assert widths[1] < widths[0] / 4
    assert statistics.interval([1.0]) is None
    assert statistics.half_width([1.0] * 5) == float("inf")


def test_intervals_cover_as_often_as_they_say():
    draw = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = bounds(statistics.interval(list(draw.exponential(1.0, 40)), seed=trial))
        covered += low <= np.log(2) <= high
    assert 180 <= covered <= 199  # 95 % of 200, give or take three standard deviations


def test_ratio_interval():
    draw = np.random.default_rng(0)
    slow, fast = draw.normal(2.0, 0.02, 100), draw.normal(1.0, 0.01, 100)
    low, high = bounds(statistics.ratio_interval(list(slow), list(fast)))
    assert low < 2.0 < high and high - low < 0.05
    assert statistics.block_medians([1, 2, 3, 10, 20], [3, 2]) == [2, 15]


def test_drift_cancels_in_a_ratio_of_neighbours():
    drift = np.linspace(1.0, 2.0, 30)  # the machine slows down while both take turns
    mine = [d * x for d in drift for x in (2.0, 2.01)]
    other = [d for d in drift for _ in range(3)]
    found = statistics.paired_ratio((mine, [2] * 30), (other, [3] * 30))
    assert found["ratio"] == pytest.approx(2.005) and found["visits"] == 30
    assert found["high"] - found["low"] < 1e-6
    assert statistics.paired_ratio(([1.0], [1]), ([2.0], [1]))["low"] is None


def test_order_statistics_cover_what_they_claim():
    from scipy.stats import binom

    for n in range(statistics.MIN_SAMPLES, 500):
        assert 1 - 2 * binom.cdf(statistics.rank(n) - 1, n, 0.5) >= 0.95, n
    assert statistics.half_width([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]) == 0.5  # n = 8: j = 1


def test_summary_says_whether_it_converged():
    steady = statistics.summary([1.0, 1.001] * 50, target=0.01)
    assert steady["converged"] and steady["n"] == 100
    assert not statistics.summary([1.0, 2.0] * 5, target=0.01)["converged"]
    assert statistics.summary([1.0], target=0.01)["ci_low_ms"] is None
    # Few samples never converge.
    assert not statistics.summary([1.0] * 5, 0.01)["converged"]
    assert statistics.summary([1.0] * 6, 0.01)["converged"]


def test_operations_and_bytes_are_counted_by_hand():
    lstm = case(B=2, T=3, H=4, I=5)
    # 4 gates, each 4x4 and 4x5 times [., 2], a multiplication and an addition, 3 steps
    assert roofline.operations(lstm) == 2 * 4 * 4 * (4 + 5) * 2 * 3
    assert roofline.operations(case(B=2, T=3, H=4, I=5, **{"pass": "fwd+bwd"})) == 3 * 1728
    assert roofline.operations(case(cell="gru", B=2, T=3, H=4, track="recurrence")) == 576
    both = case(cell="rnn_tanh", B=1, T=1, H=2, I=3, directions=2, layers=2)
    # layer 0: two directions of 2x(2+3); layer 1: its input is 4 wide
    assert roofline.operations(both) == 2 * 2 * 2 * (2 + 3) + 2 * 2 * 2 * (2 + 4)
    sizes = {"cell": "lstm", "B": 2, "T": 3, "H": 4}
    # gx: 3*2*16 numbers read, y: 3*2*4 written, W: 16*4 read; bf16
    assert roofline.bytes_moved(case(**sizes, track="recurrence")) == 2 * (96 + 24 + 64)
    assert roofline.bytes_moved(case(**sizes, I=5)) == 2 * (96 + 24 + 64) + 2 * (30 + 80 + 96)


def test_the_floor_is_made_of_its_parts():
    limits = roofline.Limits(
        *("a card", "sm_90", 132, 227 << 10, 228 << 10),
        tflops={"bf16": 700.0},
        hbm_gbps=3000,
        gather_gbps=100,
        barrier_us={"2": 0.5, "32": 1.0, "64": 9.0},
    )
    small = case(H=64, B=1, T=1000, track="recurrence")
    # the weights of H=64 fit one program: no barrier
    assert roofline.floor_ms(small, limits) < 0.01
    large = case(H=1024, B=16, T=1000, track="recurrence")
    # 8 MiB over 227 KiB: 37 programs, 3 groups of 6 rows; 6 * 2048 B at 100 GB/s: 0.123 us.
    # The product, 2 * 4 * 1024^2 * 16 operations at 700 TFLOP/s, takes longer: 0.192 us.
    assert roofline.floor_ms(large, limits) == pytest.approx(1000 * (1.0 + 0.192) / 1e3, rel=0.01)
    slow = dataclasses.replace(limits, gather_gbps=10)
    assert roofline.floor_ms(large, slow) == pytest.approx(1000 * (1.0 + 1.229) / 1e3, rel=0.01)
    twice = case(H=1024, B=16, T=1000, track="recurrence", **{"pass": "fwd+bwd"})
    assert roofline.floor_ms(twice, limits) > 2 * roofline.floor_ms(large, limits)


def test_rates_are_computed_from_the_median():
    found = roofline.rates(case(B=16, T=1000, H=512), 2.0, None)
    assert (found["us_per_step"], found["tokens_per_s"], found["floor_share"]) == (2.0, 8e6, None)


FP16 = {"H": 512, "dtype": "fp16"}
RELU = {"H": 896, "dtype": "fp16", "cell": "rnn_relu"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"H": 192}, "small-h"),
        ({"H": 193}, "standard"),
        ({"H": 192, "pass": "fwd+bwd"}, "small-h/standard"),
        ({"H": 128, "pass": "fwd+bwd"}, "small-h/small-h"),
        ({"H": 384, "cell": "rnn_tanh", "pass": "fwd+bwd"}, "small-h/standard"),
        (FP16, "persist"),
        *((FP16 | other, "standard") for other in (
            {"dtype": "bf16"}, {"dtype": "fp32"}, {"cell": "gru"}, {"directions": 2}, {"layers": 2},
            {"I": 100}, {"H": 1000}, {"H": 1152}, {"B": 4}, {"B": 136},
        )),
        (RELU | {"B": 96}, "standard"),
        (RELU | {"B": 88}, "persist"),
        ({"H": 512, "resets": 0.1}, None),
        ({"H": 512, "track": "recurrence"}, None),
    ],
)  # fmt: skip
def test_cudnn_rule_on_h100(values: dict, expected: str | None):
    assert cudnn_algorithm(case(**values), H100) == expected


def test_cudnn_rule_on_other_devices():
    fp16 = case(H=512, dtype="fp16", B=16, T=50)
    few, ada = Machine("cuda", "A30", (8, 0), 56), Machine("cuda", "A40", (8, 6), 84)
    turing, volta = Machine("cuda", "T4", (7, 5), 40), Machine("cuda", "V100", (7, 0), 80)
    assert {cudnn_algorithm(fp16, machine) for machine in (few, ada, turing)} == {"standard"}
    assert cudnn_algorithm(fp16, volta) == "persist"
    assert cudnn_algorithm(fp16, Machine("cpu", "c")) is None


def test_slug():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert slug("Intel(R) Xeon(R) Processor") == "intel-xeon-processor"
