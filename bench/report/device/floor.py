"""What limits a loop on this card, as ``python -m bench floor`` measured it: a table."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from bench.records import files
from bench.report import frames
from bench.report.runs import Run
from bench.report.style.numbers import interval, uncertain
from bench.report.style.typeset import Table
from bench.report.text import shorten
from bench.report.topic import Topic

US, CLOCKS, GBPS, TFLOPS = "µs", "clocks", "GB/s", "TFLOP/s"
# For every microbenchmark the unit of its value and what it measures.
BOUNDS = {
    "barrier": (US, "a step's barrier among {programs} programs, {groups} groups, {stores}"),
    "flag": (US, "a flag through L2 to another multiprocessor and back, {pairs} pairs"),
    "release": (
        CLOCKS, "a release to the GPU after {stored_bytes:,} bytes of stores, {programs} programs"
    ),
    "chain": (CLOCKS, "64 x {n} x 16 from shared memory in a chain of sums, bf16, {warps} warps"),
    "launch": (US, "from one empty kernel to the next {launched}"),
    "latency": (US, "from a load to its value in L2, {kib} KiB"),
    "gather": (
        GBPS, "L2 to one multiprocessor, {readers} reading the same {kib} KiB, {programs} programs "
        "of {words} words at once, {warps} warps",
    ),
    "copy": (
        GBPS, "device memory, read and written, {mib} MiB, {words} words at once, {warps} warps"
    ),
    "multiply": (TFLOPS, "cuBLAS product of two {n} x {n} matrices, {number}"),
}  # fmt: skip
RATES = {GBPS: "gbps", TFLOPS: "tflops"}  # unit -> the field that holds the rate


def entries(found: dict[str, Any]) -> pd.DataFrame:
    """Every measurement as a row: what, how, its value with the 95 % interval, and the unit.

    A rate's interval is computed from its time's. What failed or was left out is a row without a
    value that says why.
    """
    rows: list[dict[str, Any]] = []
    for kind, (unit, how) in BOUNDS.items():
        time = "clocks" if unit == CLOCKS else "ms"
        for each in found.get(kind, []):
            value, *ends = each[time], each[f"{time}_low"], each[f"{time}_high"]
            if unit in RATES:
                rate = each[RATES[unit]]
                high, low = (None if ms is None else rate * value / ms for ms in ends)
                value = rate
            else:
                scale = 1e3 if unit == US else 1.0
                value, low, high = (None if t is None else scale * t for t in (value, *ends))
            row = {"bound": kind, "how": how.format_map(_description_values(each)), "value": value}
            rows.append(row | {"low": low, "high": high, "unit": unit, "why": ""})
    for kind, why in found.get("problems", {}).items():
        row = {"bound": kind, "how": kind, "value": None, "low": None, "high": None, "unit": ""}
        rows.append(row | {"why": shorten(why, 200)})
    return pd.DataFrame(rows).assign(**frames.origin(found))


def _description_values(each: dict[str, Any]) -> dict[str, Any]:
    """The values that fill a measurement's description."""
    stored, size = each.get("stored_bytes", 0), each.get("bytes", 0)
    return each | {
        "stores": f"after {stored:,} bytes of stores" if stored else "nothing stored",
        "launched": "in a CUDA graph" if each.get("how") == "graph" else "launched by Python",
        "kib": size >> 10,
        "mib": size >> 20,
    }


def tables(run: Run) -> list[Table]:
    """The bounds that the cost model uses: the best of each bandwidth, all of the others."""
    found = run.read(files.FLOOR)
    if found is None:
        return []
    full = entries(found)
    several = full["unit"].eq(GBPS) & full["value"].notna()
    single = full["how"].str.contains(" 1 reading ")
    best = set(full[several].groupby(["bound", single])["value"].idxmax())
    rows = full[~several | full.index.isin(best)]
    values = list(zip(rows["value"], rows["low"], rows["high"], rows["why"], strict=True))

    def with_values(head: str, words: Callable[..., str]) -> pd.DataFrame:
        texts = [why or words(*numbers) for *numbers, why in values]
        return pd.DataFrame({"bound": rows["how"], head: texts, "unit": rows["unit"]})

    table = Table(
        "floor",
        "What limits a loop on this card, each measured by a kernel that does nothing else. "
        "The floor of a time per step is computed from these numbers; none is assumed. For a "
        "missing value the reason is given.",
        with_values("value [95 %]", interval),
        full,
        {},
        frames.provenance(full),
        with_values("value", uncertain),
    )
    return [table]


TOPIC = Topic(tables=tables)
