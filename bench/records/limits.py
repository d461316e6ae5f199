"""Read the rates of a card (``roofline.Limits``) that ``bench.gpu.floor`` measured.

A device's results folder has two files of them: ``floor.json``, all that was measured, and
``limits.json``, the few numbers that models use. Imports no torch.
"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from bench.cases.numbers import PRODUCTS
from bench.cases.roofline import Limits
from bench.records import files

MOST = 1e9  # above any rate, size and count of a card


def of_floor(found: dict[str, Any]) -> Limits:
    """The limits in a ``floor.json``; of several measured bandwidths the largest."""

    def best(kind: str, **wanted: int) -> float | None:
        entries = found.get(kind, [])
        rates = [e["gbps"] for e in entries if all(e[name] == n for name, n in wanted.items())]
        return max(rates, default=None)

    card = found["card"]
    barriers: tuple[dict[str, float], dict[str, float]] = ({}, {})  # without and after stores
    for each in found.get("barrier", []):
        barriers[bool(each["stored_bytes"])][str(each["programs"])] = each["ms"] * 1e3
    tflops = {each["number"]: each["tflops"] for each in found.get("multiply", [])}
    if "tf32" in tflops:
        tflops["tf32x3"] = tflops["tf32"] / 3  # computed as three tf32 products
    chains = found.get("chain", [])
    graph = [each for each in found.get("launch", []) if each["how"] == "graph"]
    return Limits(
        **card,
        tflops=tflops,
        hbm_gbps=best("copy"),
        gather_gbps=best("gather", readers=card["multiprocessors"]),
        gather_alone_gbps=best("gather", readers=1),
        barrier_us=barriers[False],
        loaded_barrier_us=barriers[True],
        product_clocks={str(each["n"]): each["clocks"] for each in chains},
        clock_ghz=chains[0]["ghz"] if chains else None,
        latency_us=next((each["ms"] * 1e3 for each in found.get("latency", [])), None),
        launch_us=graph[0]["ms"] * 1e3 if graph else None,
    )


def read(path: Path) -> Limits:
    """The limits in a ``limits.json`` or a ``floor.json``.

    Raises:
        ValueError: if there is no such file, or it is not one that ``bench.gpu.floor`` writes.
    """
    accepted = f"a {files.LIMITS} or {files.FLOOR} that `python -m bench floor` wrote"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        measured = of_floor(found) if "card" in found else Limits(**found)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is not such a file"
        raise ValueError(f"limits is {str(path)!r} ({why}); accepted: {accepted}") from None
    for broken in invalid_fields(measured):
        raise ValueError(f"limits is {str(path)!r}, with impossible {broken}; accepted: {accepted}")
    return measured


def load_limits(folder: Path) -> Limits | None:
    """The limits in a device's results folder; None if missing or too few for ``floor_ms``.

    Raises:
        ValueError: if the folder's file is not one that ``bench.gpu.floor`` wrote.
    """
    path = folder / files.LIMITS
    found = read(path) if path.exists() else None
    return found if found and found.complete else None


def invalid_fields(limits: Limits) -> list[str]:
    """The fields with impossible values: of a wrong type, not finite, or not above 0."""
    whole = ("multiprocessors", "shared_bytes", "shared_total")
    broken = []
    for each in dataclasses.fields(limits):
        value = getattr(limits, each.name)
        if each.name == "name":
            good = isinstance(value, str) and bool(value) and value.isprintable()
        elif each.name == "architecture":
            good = isinstance(value, str) and bool(re.fullmatch(r"sm_\d{2,3}|gfx\w+", value))
        elif each.name in whole:
            good = isinstance(value, int) and positive(value)
        elif isinstance(value, dict):
            by_number = each.name != "tflops"
            good = all(map(positive, value.values())) and all(
                re.fullmatch(r"[1-9]\d{0,6}", key) if by_number else key in PRODUCTS
                for key in value
            )
        else:
            good = positive(value) or (value is None and each.default is None)
        if not good:
            broken.append(f"{each.name} ({value!r})")
    return broken


def positive(value: Any) -> bool:
    """Whether a value is a number above 0, and finite."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < MOST and math.isfinite(value)
