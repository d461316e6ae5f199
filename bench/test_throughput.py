"""Throughput through pytest-benchmark: it shows and stores the samples of the suite's own engine.

pytest-benchmark's clock is the host's and GPU launches return before they end. So the engine
measures, and a timer replays its samples: ``pedantic`` reads the timer exactly twice a round.
"""

from typing import Any

import pytest

from bench.records.store import Record

EXTRA = (
    "mode", "converged", "us_per_step", "tokens_per_s", "tflops", "gbps", "floor_share",
    "peak_bytes", "compile_s", "errors", "algorithm", "plan", "provider_version", "device",
)  # fmt: skip


_readings: list[float] = []  # that the timer has still to give, the next one last


def replay() -> float:
    """A timer whose readings come in pairs, a sample (seconds) apart.

    Every pair starts at 0, so that no rounding piles up and the shown samples are the taken ones.
    """
    return _readings.pop() if _readings else 0.0


def load(samples: list[float]) -> None:
    """Have the timer replay these samples."""
    _readings[:] = [reading for sample in reversed(samples) for reading in (sample, 0.0)]


@pytest.mark.benchmark(timer=replay)
def test_throughput(measured: Record, benchmark: Any) -> None:
    """Correct to float64 first; then the samples as the engine took them."""
    if measured["status"] != "ok":
        pytest.fail(f"{measured['status']}: {measured['reason']}", pytrace=False)
    benchmark.group = measured["case_id"]
    benchmark.extra_info.update(
        {name: measured.get(name) for name in ("case_id", "provider", *EXTRA)}
    )
    samples = [sample / 1e3 for sample in measured["samples_ms"]]
    load(samples)
    benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)
