"""What bounds a loop on this card, as ``python -m bench floor`` measured it: a table."""

from __future__ import annotations

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
            how = {"bound": kind, "how": _how(kind, each)}
            rows.append(how | {"value": value, "low": low, "high": high, "unit": unit, "why": ""})
    for kind, why in found.get("problems", {}).items():
        why = " ".join(why.split())[:LONGEST_REASON]
        row = {"bound": kind, "how": kind, "value": None, "low": None, "high": None, "unit": ""}
        rows.append(row | {"why": why})
    return pd.DataFrame(rows).assign(**frames.origin(found))


def _how(kind: str, each: dict[str, Any]) -> str:
    """What was run, in words."""
    match kind:
        case "barrier":
            stores = f"after {each['stored_bytes']:,} bytes of stores" * bool(each["stored_bytes"])
            groups = f"a step's barrier among {each['programs']} programs, {each['groups']} groups"
            return f"{groups}, {stores or 'nothing stored'}"
        case "flag":
            return f"a flag through L2 to another multiprocessor and back, {each['pairs']} pairs"
        case "release":
            return (
                f"a release to the GPU after {each['stored_bytes']:,} bytes of stores, "
                f"{each['programs']} programs"
            )
        case "chain":
            return (
                f"64 x {each['n']} x 16 from shared memory in a chain of sums, bf16, "
                f"{each['warps']} warps"
            )
        case "launch":
            where = {"stream": "launched by Python", "graph": "in a CUDA graph"}[each["how"]]
            return f"from one empty kernel to the next {where}"
        case "latency":
            return f"from a load to its value in L2, {each['bytes'] >> 10} KiB"
        case "multiply":
            return f"cuBLAS product of two {each['n']} x {each['n']} matrices, {each['number']}"
    shape = f"{each['words']} words at once, {each['warps']} warps"
    if kind == "gather":
        who = "alone" if each["readers"] == 1 else f"while all {each['readers']} read"
        programs = f"{each['programs']} programs of {shape}"
        return f"L2 to one multiprocessor {who} the same {each['bytes'] >> 10} KiB, {programs}"
    return f"device memory, read and written, {each['bytes'] >> 20} MiB, {shape}"


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
