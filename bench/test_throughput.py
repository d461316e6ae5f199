"""Throughput in pytest-benchmark, which shows and stores the samples of the suite's own engine.

pytest-benchmark times with the host's clock, and a GPU launch returns before it ends. So the engine
measures, and a timer replays its samples: ``pedantic`` reads the timer exactly twice a round. Its
own median is of all samples; ``median_ms`` and its interval are over the medians of visits.
"""

from typing import Any

import pytest

from bench.records.store import Record

EXTRA = (
    "mode", "median_ms", "ci_low_ms", "ci_high_ms", "converged", "blocks", "host_ms", "warm_ms",
    "settled", "checked_calls", "us_per_step", "tokens_per_s", "tflops", "gbps", "floor_share",
    "peak_bytes", "compile_s", "errors", "algorithm", "plan", "provider_version", "device",
)  # fmt: skip


_readings: list[float] = []  # of the timer, the next one last


def replay() -> float:
    """A timer whose readings come in pairs that are a sample (seconds) apart.

    Every pair starts at 0, so that no rounding adds up and the samples are shown as measured.
    """
    return _readings.pop() if _readings else 0.0


def load(samples: list[float]) -> None:
    """Set the samples that :func:`replay` returns."""
    _readings[:] = [reading for sample in reversed(samples) for reading in (sample, 0.0)]


@pytest.mark.benchmark(timer=replay)
def test_throughput(measured: Record, benchmark: Any) -> None:
    """The engine has compared with float64; its samples are replayed."""
    if measured["status"] != "ok":
        pytest.fail(f"{measured['status']}: {measured['reason']}", pytrace=False)
    benchmark.group = measured["case_id"]
    benchmark.extra_info.update(
        {name: measured.get(name) for name in ("case_id", "provider", *EXTRA)}
    )
    samples = [sample / 1e3 for sample in measured["samples_ms"]]
    load(samples)
    benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)
