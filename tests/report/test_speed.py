"""Statistics of times, counts of operations and bytes, the floor, and cuDNN's rule."""

import dataclasses

import pytest

from bench.cases import roofline
from bench.cases.cases import DEFAULTS, Case, make_case
from bench.providers.torch_nn import cudnn_algorithm
from bench.records.environment import Machine
from bench.records.provenance import slug

H100 = Machine("cuda", "NVIDIA H100 80GB HBM3", (9, 0), 132)


def bounds(found: tuple[float, float] | None) -> tuple[float, float]:
    assert found is not None
    return found


def case(**values: object) -> Case:
    return make_case(**DEFAULTS | values)


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
    # Backward, N H = 24: dy and dz, W again; gates and c of an LSTM, twice; of a GRU its gates
    # twice and y; of an RNN no gate, but y.
    for cell, G, saved, history in (
        ("lstm", 4, 5, 0), ("gru", 3, 3, 1), ("rnn_tanh", 1, 0, 1), ("slstm", 4, 7, 0)
    ):  # fmt: skip
        one = case(**sizes | {"cell": cell}, track="recurrence", **{"pass": "fwd+bwd"})
        loops = 24 * (G + 1) + 24 * (2 * saved + history + 1 + G) + 2 * 16 * G
        assert roofline.loop_bytes(one) == 2 * loops, cell


def test_bytes_of_the_gemms_are_counted_by_hand():
    """x is 30 numbers, gx or dz 96, h 24, W_ih 80, W_hh 64; 2 bytes each in 16 bits."""
    sizes = {"cell": "lstm", "B": 2, "T": 3, "H": 4, "I": 5}
    both = {"pass": "fwd+bwd"}
    forward = 30 + 80 + 96
    backward = (96 + 24 + 64) + 2 * (96 + 30 + 80)  # dW_hh; dW_ih and dx
    for dtype, size in (("bf16", 2), ("fp16", 2), ("fp32", 4), ("fp32:tf32", 4)):
        assert roofline.gemm_bytes(case(**sizes, dtype=dtype)) == size * forward
        assert roofline.gemm_bytes(case(**sizes, dtype=dtype, **both)) == size * (
            forward + backward
        )
        loop = {**sizes, "track": "recurrence", "dtype": dtype}
        assert roofline.gemm_bytes(case(**loop)) == 0
        assert roofline.gemm_bytes(case(**loop, **both)) == size * (96 + 24 + 64)


def test_the_floor_is_made_of_its_parts():
    limits = roofline.Limits(
        *("a card", "sm_90", 132, 227 << 10, 228 << 10),
        tflops={"bf16": 700.0},
        hbm_gbps=3000,
        gather_gbps=100,
        barrier_us={"2": 0.5, "32": 1.0, "64": 9.0},
    )
    small = case(H=64, B=1, T=1000, track="recurrence")
    # The weights of H=64 fit one program: no barrier, and one of 132 SMs, at 700 / 132 TFLOP/s.
    alone = 1000 * 2 * 4 * 64**2 * 132 / 700e9
    assert roofline.floor_ms(small, limits) == pytest.approx(alone)
    # 512 KiB of H=256 need the registers of two SMs beside their shared memory: one has 483 KiB
    middle = case(H=256, B=1, T=1000, track="recurrence")
    product = 1000 * 2 * 4 * 256**2 * 132 / 700e9
    assert roofline.floor_ms(middle, limits) == pytest.approx(0.5 + product / 2)
    amd = dataclasses.replace(limits, architecture="gfx942")
    assert roofline.floor_ms(middle, amd) == pytest.approx(product), "512 KiB of registers"
    large = case(H=1024, B=16, T=1000, track="recurrence")
    # 8 MiB over 227 + 256 KiB: 17 programs, 7 groups of 3 rows; 3 * 2048 B at 100 GB/s: 0.061 us.
    # The product, 2 * 4 * 1024^2 * 16 operations at 700 TFLOP/s of 17 * 7 of 132 SMs, takes
    # longer: 0.213 us.
    assert roofline.floor_ms(large, limits) == pytest.approx(1000 * (0.5 + 0.213) / 1e3, rel=0.01)
    slow = dataclasses.replace(limits, gather_gbps=10)
    assert roofline.floor_ms(large, slow) == pytest.approx(1000 * (0.5 + 0.614) / 1e3, rel=0.01)
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
