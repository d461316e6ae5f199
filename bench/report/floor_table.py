"""What bounds a loop on this card, as ``bench.floor`` measured it: a table. Imports no torch.

Reads ``floor.json`` of a device's folder; the cost model takes the same numbers from
``limits.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from bench import model
from bench.report import exactness, frames
from bench.report.typeset import Table, interval, uncertain

US, GBPS, TFLOPS = "µs", "GB/s", "TFLOP/s"


def read(folder: Path) -> dict[str, Any] | None:
    """The measured bounds of a device's folder, None if they were not measured."""
    path = folder / model.FLOOR_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def entries(found: dict[str, Any]) -> pd.DataFrame:
    """Every measurement as a row: what, how, its value with the 95 % interval, and the unit.

    A rate's interval is its time's, turned over.
    """
    rows = []
    for kind, unit, rate in (
        ("barrier", US, None),
        ("gather", GBPS, "gbps"),
        ("copy", GBPS, "gbps"),
        ("multiply", TFLOPS, "tflops"),
        ("launch", US, None),
    ):
        for each in found[kind]:
            ends = (each["ms_low"], each["ms_high"])
            if rate is None:
                value, low, high = (None if ms is None else 1e3 * ms for ms in (each["ms"], *ends))
            else:
                value = each[rate]
                high, low = (None if ms is None else value * each["ms"] / ms for ms in ends)
            row = {"bound": kind, "how": _how(kind, each), "value": value, "low": low, "high": high}
            rows.append(row | {"unit": unit} | exactness.origin(found))
    return pd.DataFrame(rows)


def _how(kind: str, each: dict[str, Any]) -> str:
    """What was run, in words."""
    if kind == "barrier":
        return f"a step's barrier among {each['programs']} programs, {each['groups']} such groups"
    if kind == "launch":
        where = {"stream": "on a stream", "graph": "in a CUDA graph"}[each["how"]]
        return f"from one empty kernel to the next {where}"
    if kind == "multiply":
        return f"cuBLAS product of two {each['n']} x {each['n']} matrices, {each['number']}"
    shape = f"{each['words']} words at once, {each['warps']} warps"
    if kind == "gather":
        return f"L2 to one multiprocessor, {each['bytes'] >> 10} KiB that all read, {shape}"
    return f"device memory, read and written, {each['bytes'] >> 20} MiB, {shape}"


def table(found: dict[str, Any]) -> Table:
    """The bounds that the cost model takes: every barrier, the best of each rate."""
    full = entries(found)
    rates = full[full["bound"].isin(["gather", "copy"])]
    best = set(rates.groupby("bound")["value"].idxmax())
    rows = full[~full["bound"].isin(["gather", "copy"]) | full.index.isin(best)]
    values = list(zip(rows["value"], rows["low"], rows["high"], strict=True))

    def shown(head: str, words: Callable[..., str]) -> pd.DataFrame:
        texts = [words(*each) for each in values]
        return pd.DataFrame({"bound": rows["how"], head: texts, "unit": rows["unit"]})

    return Table(
        "floor",
        "What bounds a loop on this card, each measured by a kernel that does nothing else. "
        "The floor of a time per step is made of these numbers; none is assumed.",
        shown("value [95 %]", interval),
        full,
        {},
        frames.provenance(full),
        shown("value", uncertain),
    )


def tables(folder: Path) -> list[Table]:
    """The table of a device's measured bounds, if there are any."""
    found = read(folder)
    return [] if found is None else [table(found)]
