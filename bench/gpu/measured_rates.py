"""The planner's description of a GPU, with measured rates in place of assumed ones."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bench.cases.numbers import TORCH_NAMES
from bench.cases.roofline import Limits
from bench.records import limits
from kernels.plan.devices import DEVICES, Device, Rates, describe

DEFAULT = "h100"


def select_device(name: str | None, path: Path | None) -> tuple[Device, frozenset[str]]:
    """The device to plan for, and which fields of its ``rates`` were measured.

    Args:
        name: a key of ``DEVICES``; if None, the card described in ``path``, or DEFAULT.
        path: a file that ``bench.gpu.floor`` wrote, or None.

    Raises:
        ValueError: if ``path`` is not from ``bench.gpu.floor``, or of another GPU than ``name``.
    """
    if path is None:
        return DEVICES[name or DEFAULT], frozenset()
    measured = limits.read(path)
    if name is None:
        card = describe(
            measured.name, measured.architecture, measured.multiprocessors,
            measured.shared_bytes, measured.shared_total,
        )  # fmt: skip
    else:
        card = DEVICES[name]
        words = re.sub(r"\W", "", measured.name.lower())
        if name not in words or measured.multiprocessors != card.multiprocessors:
            raise ValueError(
                f"limits is {str(path)!r}, measured on {measured.name!r} with "
                f"{measured.multiprocessors} multiprocessors; accepted: a file of {name} with "
                f"{card.multiprocessors}, or no --device"
            )
    rates = measured_rates(measured)
    return replace(card, rates=replace(card.rates, **rates)), frozenset(rates)


def measured_rates(measured: Limits) -> dict[str, Any]:
    """The fields of ``Rates`` that a card's measurements replace.

    Not the rates of L2: the microbenchmark fills every SM with threads that read the same lines,
    and a program of a loop has far fewer loads in flight.
    """
    rates: dict[str, Any] = {
        "clock_ghz": measured.clock_ghz,
        "hbm_gbps": measured.hbm_gbps,
        "latency_us": measured.latency_us,
        "launch_us": measured.launch_us,
        "barriers_us": by_number(measured.loaded_barrier_us),
        "product_clocks": by_number(measured.product_clocks),
        "gemm_tflops": tuple((TORCH_NAMES.get(n, n), rate) for n, rate in measured.tflops.items()),
    }
    assert rates.keys() <= {each.name for each in fields(Rates)}
    return {name: value for name, value in rates.items() if value}


def by_number(values: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Convert a JSON object with integer keys to pairs (key, value) in ascending order."""
    return tuple(sorted((int(key), value) for key, value in values.items()))
