"""A plan by measured rates: what a file of the floor may be, what it changes, what is printed."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli import app, plan
from bench.gpu import floor, measured_rates
from bench.records import limits
from kernels.plan import Problem, backward_plan, cost, forward_plan
from kernels.plan.devices import DEVICES, Rates
from tests.helpers import synthetic

H100 = DEVICES["h100"]
MEASURED = limits.of_floor(synthetic.floor())
CARD = synthetic.floor()["card"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "floor.json"
    path.write_text(json.dumps(synthetic.floor()), encoding="utf-8")
    return path


def test_the_numbers_are_the_best_that_was_measured():
    assert MEASURED.hbm_gbps == 2900 and MEASURED.gather_gbps == 90
    assert MEASURED.gather_alone_gbps == 95
    assert MEASURED.tflops == {"bf16": 687, "fp16": 690, "tf32": 390, "tf32x3": 130, "ieee": 50}
    assert MEASURED.barrier_us == pytest.approx({"1": 1.0, "8": 2.0, "64": 3.0})
    assert MEASURED.loaded_barrier_us == pytest.approx({"1": 1.3584, "8": 2.3584, "64": 3.3584})
    assert MEASURED.product_clocks == {"16": 24, "32": 26} and MEASURED.clock_ghz == 1.7
    assert MEASURED.latency_us == pytest.approx(0.16) and MEASURED.launch_us == 1.0
    assert MEASURED.complete and MEASURED.barrier_ms(63) == pytest.approx(2e-3)
    assert MEASURED.barrier_ms(500) == pytest.approx(3e-3)


@pytest.mark.parametrize("missing", sorted(synthetic.floor().keys() - {"card"}))
def test_a_floor_of_a_time_needs_all_that_it_is_made_of_and_nothing_else(missing: str):
    found = synthetic.floor()
    del found[missing]
    needed = missing in ("barrier", "gather", "copy", "multiply")
    assert limits.of_floor(found).complete != needed


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "7", "{}", '{"card": 1}', '{"card": {}, "barrier": [{"ms": 1}]}']
)
def test_a_file_that_the_floor_did_not_write_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    for file, message in (
        (path, "not such a file"),
        (tmp_path / "none.json", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        found = CliRunner().invoke(app, ["plan", "--limits", str(file)])
        assert isinstance(found.exception, ValueError) and message in str(found.exception)
        accepted = "a limits.json or floor.json that `python -m bench floor` wrote"
        assert str(found.exception).endswith(f"accepted: {accepted}")
        assert "\n" not in str(found.exception)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hbm_gbps", "3"), ("hbm_gbps", float("nan")), ("hbm_gbps", 1e300), ("launch_us", 0),
        ("barrier_us", {"x": 1.0}), ("barrier_us", {"1" * 5000: 1.0}), ("product_clocks", [1]),
        ("tflops", {"int8": 1.0}), ("multiprocessors", 10**30), ("multiprocessors", True),
        ("shared_bytes", 10**400), ("architecture", "x86"), ("name", "\x1b[2J"),
    ],
)  # fmt: skip
def test_a_number_that_no_card_has_is_refused(tmp_path: Path, name: str, value: Any):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CARD | {name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"with impossible {name} ({value!r})")):
        limits.read(path)


def test_measured_rates_take_the_place_of_assumed_ones(file: Path):
    card, which = measured_rates.select_device("h100", file)
    assert replace(card, rates=H100.rates) == H100  # the limits are unchanged
    found = card.rates
    assert (found.clock_ghz, found.hbm_gbps, found.launch_us) == (1.7, 2900, 1.0)
    assert found.latency_us == pytest.approx(0.16)
    assert [n for n, _ in found.barriers_us] == [1, 8, 64]
    assert found.barrier_us(4) == pytest.approx(1.3584)
    assert found.barrier_us(63) == pytest.approx(2.3584)
    assert found.product_clocks == ((16, 24), (32, 26))
    assert dict(found.gemm_tflops)["bfloat16"] == 687
    same = {each.name for each in fields(Rates)} - which
    fixed = {"tensor", "tensor_tf32", "fma", "l2_bytes"}
    assert same == fixed | {"l2_gbps", "l2_bytes_per_clock", "split_barrier"}
    assert all(getattr(found, name) == getattr(H100.rates, name) for name in same)


def test_what_was_not_measured_stays_assumed(tmp_path: Path):
    path = tmp_path / "limits.json"
    path.write_text(json.dumps(CARD | {"latency_us": 0.2}), encoding="utf-8")
    card, which = measured_rates.select_device("h100", path)
    assert which == {"latency_us"} and card == replace(
        H100, rates=replace(H100.rates, latency_us=0.2)
    )


def test_the_cost_is_made_of_the_measured_rates(file: Path):
    card, _ = measured_rates.select_device(None, file)
    problem = Problem(4, 16, 1024, 1, "bfloat16")
    plan = forward_plan(problem, card, "persistent")
    assert plan.cost.barrier_us == card.rates.barrier_us(plan.group)
    links = 1024 * 2 / 32  # each of 64 rows; 24 clocks with 16 sequences per tile
    clocks = dict(card.rates.product_clocks)[plan.block_b]
    assert plan.cost.product_us == pytest.approx(links * clocks / 1.7e3)
    assert plan.cost.weights_us == 0  # the chain's time includes reading them
    back = backward_plan(replace(problem, H=512), card, "persistent")
    split = card.rates.barrier_us(back.split) * card.rates.split_barrier
    assert back.split > 1
    assert back.cost.barrier_us == pytest.approx(card.rates.barrier_us(back.group) + split)
    outside = forward_plan(replace(problem, B=4096), card, "gemm")
    arithmetic = 2 * 4 * 1024**2 * 4096 / 687e6
    assert outside.cost.product_us == pytest.approx(cost.GEMM_US + arithmetic)
    assert outside.cost.launch_us == 2 * card.rates.launch_us
    single = forward_plan(Problem(4, 16, 64, 1, "bfloat16"), card, "persistent")
    assert single.group == 1 and single.cost.weights_us > 0


def test_a_file_of_another_gpu_is_refused(file: Path):
    for device in ("a100", "h200"):
        with pytest.raises(ValueError, match=rf"accepted: a file of {device} with 1\d\d, or no "):
            measured_rates.select_device(device, file)


def test_every_constant_is_printed_with_its_origin(file: Path):
    """None may be added to the model that this list does not have."""
    assert set(plan.RATES) == {each.name for each in fields(Rates)}
    numbers = {name for name, value in vars(cost).items() if isinstance(value, int | float)}
    units = {"CHAIN_ROWS", "CHAIN_BYTES"}  # the size of a link, which is not an assumption
    assert set(plan.MODEL) == {name for name in numbers if name.isupper()} - units
    shown = CliRunner().invoke(app, ["plan"]).output
    assert "constants: --limits FILE takes those" in shown and "[measured]" not in shown
    assert "launch in a CUDA graph                 0.5 µs [measured on an H200]" in shown
    assert "device memory                          3,350 GB/s [published]" in shown
    other = CliRunner().invoke(app, ["plan", "--device", "a100"]).output
    assert "barrier, by programs                   1: 1.2 µs [assumed]" in other
    assert "H200]" not in other.split("launch in a CUDA graph")[0]


@pytest.mark.parametrize("name", ["floor.json", "limits.json"])
def test_the_command_says_which_constants_are_measured(file: Path, name: str):
    if name == "limits.json":
        floor.write(file.parent, synthetic.floor())
    path = file.with_name(name)
    found = CliRunner().invoke(app, ["plan", "--limits", str(path), "--pass", "forward"])
    assert found.exit_code == 0, found.output
    for words in (
        "bf16 on NVIDIA H100 80GB HBM3 (sm_90, 132 SMs)",
        f"constants: 7 of 14 rates measured ({path})",
        "barrier, by programs                   1: 1.358, 8: 2.358, 64: 3.358 µs [measured]",
        "64 rows x 32 bytes of K, by sequences  16: 24, 32: 26 clocks [measured]",
        "launch in a CUDA graph                 1 µs [measured]",
        "tensor cores, 16 bits                  4,096 operations per clock [published]",
        "of the host, not the card]",
    ):
        assert words in found.output, words
