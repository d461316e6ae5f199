"""What bounds a loop on this card, as ``python -m bench floor`` measured it: a table."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from bench.records import files
from bench.report import frames
from bench.report.runs import Run
from bench.report.style.numbers import interval, uncertain
from bench.report.style.typeset import Table
from bench.report.topic import Topic

US, CLOCKS, GBPS, TFLOPS = "µs", "clocks", "GB/s", "TFLOP/s"
# Of every microbenchmark: the unit, and for a rate the name of its value.
KINDS: dict[str, tuple[str, str | None]] = {
    "barrier": (US, None),
    "flag": (US, None),
    "release": (CLOCKS, None),
    "chain": (CLOCKS, None),
    "launch": (US, None),
    "latency": (US, None),
    "gather": (GBPS, "gbps"),
    "copy": (GBPS, "gbps"),
    "multiply": (TFLOPS, "tflops"),
}
HOW = {
    "barrier": "a step's barrier among {programs} programs, {groups} groups, {stores}",
    "flag": "a flag through L2 to another multiprocessor and back, {pairs} pairs",
    "release": "a release to the GPU after {stored_bytes:,} bytes of stores, {programs} programs",
    "chain": "64 x {n} x 16 from shared memory in a chain of sums, bf16, {warps} warps",
    "launch": "from one empty kernel to the next {launched}",
    "latency": "from a load to its value in L2, {kib} KiB",
    "gather": "L2 to one multiprocessor {reading} the same {kib} KiB, {programs} programs of "
    "{words} words at once, {warps} warps",
    "copy": "device memory, read and written, {mib} MiB, {words} words at once, {warps} warps",
    "multiply": "cuBLAS product of two {n} x {n} matrices, {number}",
}
RATES = [kind for kind, (unit, _) in KINDS.items() if unit == GBPS]
LONGEST_REASON = 200


def entries(found: dict[str, Any]) -> pd.DataFrame:
    """Every measurement as a row: what, how, its value with the 95 % interval, and the unit.

    A rate's interval is its time's, turned over. What failed or was left out is a row without a
    value that says why.
    """
    rows: list[dict[str, Any]] = []
    for kind, (unit, rate) in KINDS.items():
        for each in found.get(kind, []):
            time = "clocks" if unit == CLOCKS else "ms"
            taken = (each[time], each[f"{time}_low"], each[f"{time}_high"])
            if rate is None:
                scale = 1e3 if unit == US else 1.0
                value, low, high = (None if each is None else scale * each for each in taken)
            else:
                value = each[rate]
                high, low = (None if ms is None else value * each["ms"] / ms for ms in taken[1:])
            how = {"bound": kind, "how": HOW[kind].format_map(_words(each))}
            rows.append(how | {"value": value, "low": low, "high": high, "unit": unit, "why": ""})
    for kind, why in found.get("problems", {}).items():
        why = " ".join(why.split())[:LONGEST_REASON]
        row = {"bound": kind, "how": kind, "value": None, "low": None, "high": None, "unit": ""}
        rows.append(row | {"why": why})
    return pd.DataFrame(rows).assign(**frames.origin(found))


def _words(each: dict[str, Any]) -> dict[str, Any]:
    """What a measurement's description is filled with."""
    stored, readers, size = (each.get(name, 0) for name in ("stored_bytes", "readers", "bytes"))
    return each | {
        "stores": f"after {stored:,} bytes of stores" if stored else "nothing stored",
        "reading": "alone" if readers == 1 else f"while all {readers} read",
        "launched": "in a CUDA graph" if each.get("how") == "graph" else "launched by Python",
        "kib": size >> 10,
        "mib": size >> 20,
    }


def table(found: dict[str, Any]) -> Table:
    """The bounds that the models take: of every bandwidth the best, of the rest all."""
    full = entries(found)
    several = full["bound"].isin(RATES) & full["value"].notna()
    alone = full["how"].str.contains(" alone ")
    best = set(full[several].groupby(["bound", alone])["value"].idxmax())
    rows = full[~several | full.index.isin(best)]
    values = list(zip(rows["value"], rows["low"], rows["high"], rows["why"], strict=True))

    def shown(head: str, words: Callable[..., str]) -> pd.DataFrame:
        texts = [why or words(*numbers) for *numbers, why in values]
        return pd.DataFrame({"bound": rows["how"], head: texts, "unit": rows["unit"]})

    return Table(
        "floor",
        "What bounds a loop on this card, each measured by a kernel that does nothing else. "
        "The floor of a time per step is made of these numbers; none is assumed. What is missing "
        "says why.",
        shown("value [95 %]", interval),
        full,
        {},
        frames.provenance(full),
        shown("value", uncertain),
    )


def tables(run: Run) -> list[Table]:
    """The table of a device's measured bounds, if there are any."""
    found = run.read(files.FLOOR)
    return [] if found is None else [table(found)]


TOPIC = Topic(tables=tables)
