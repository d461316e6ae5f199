"""Table and heatmaps of what the compiler made of our kernels. Imports no torch."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from bench.records import store
from bench.report import frames
from bench.report.frames import CELL_NAMES, CELL_ORDER, NUMBER_ORDER
from bench.report.speed import maps as heatmaps
from bench.report.speed.figures import Job
from bench.report.style import plots
from bench.report.style.typeset import Table

LOOPS = ("fwd", "bwd")
LOOP_WORDS = {"fwd": "forward loop", "bwd": "backward loop"}
COUNTS = (
    *("registers", "stack_bytes", "spills", "shared_bytes", "shared_limit", "instructions"),
    *("loop_instructions", "tensor_core", "loads", "stores", "barriers", "atomics", "occupancy"),
)
PLAN = ("mode", "units", "split", "block_b", "block_k", "resident", "ahead", "num_warps", "tiles")
METRICS = {
    "registers": "Registers per thread",
    "loop_instructions": "Instructions in the loop over time",
}
# A corner mark for how the plan runs the kernel; one persistent launch is unmarked.
MODES = {"persistent": "", "stepwise": "s", "gemm": "g"}


def frame(records: Sequence[store.Record]) -> pd.DataFrame:
    """One row per compiled kernel: case, plan, counts and faults."""
    rows = []
    for flat, record in zip(frames.flat(records).to_dict("records"), _same(records), strict=True):
        found, plan = record["resources"] or {}, record["plan"] or {}
        loop = found.get("loop") or ("fwd" if record["pass"] == "fwd" else "bwd")
        names = ("case_id", "status", "reason", "cell", "number", "directions", "H", "provider")
        rows.append(
            {name: flat[name] for name in names}
            | {"loop": loop, "batches": found.get("batches") or [record["B"]]}
            | {name: plan.get(name) for name in PLAN}
            | {name: found.get(name) for name in COUNTS}
            | {"faults": "; ".join(found.get("faults") or []), "compile_s": record["compile_s"]}
            | {name: flat[name] for name in frames.ORIGIN}
        )
    return pd.DataFrame(rows)


def _same(records: Sequence[store.Record]) -> list[store.Record]:
    """The records in the order that ``frames.flat`` gives them."""
    order = frames.flat(records).assign(at=0)
    by_key: dict[tuple[Any, ...], list[store.Record]] = {}
    for record in records:
        by_key.setdefault((record["case_id"], record["provider"]), []).append(record)
    return [by_key[key].pop(0) for key in zip(order["case_id"], order["provider"], strict=True)]


def table(records: Sequence[store.Record]) -> Table | None:
    """The worst kernel of each cell, loop and number format, per compiler."""
    if not records:
        return None
    full = frame(records)
    rows = []
    keys = ["provider", "cell", "loop", "number"]
    for values, group in full.groupby(keys, sort=False):
        ok = group[group["status"] == "ok"]
        row = dict(zip(keys, values, strict=True)) | {"kernels": len(group)}
        row["failed"] = len(group) - len(ok)
        row |= {
            "registers": ok["registers"].max(),
            "stack B": ok["stack_bytes"].max(),
            "shared KiB": ok["shared_bytes"].max() / 1024,
            "in the loop": ok["loop_instructions"].max(),
            "tensor cores": f"{int((ok['tensor_core'] > 0).sum())} of {len(ok)}",
            "faults": int(ok["faults"].ne("").sum()),
        }
        rows.append(row)
    order = {name: k for k, name in enumerate((*CELL_ORDER, *sorted(set(full["cell"]))))}
    numbers = {name: k for k, name in enumerate((*NUMBER_ORDER, *sorted(set(full["number"]))))}
    rows.sort(
        key=lambda r: (
            r["provider"],
            order[r["cell"]],
            LOOPS.index(r["loop"]),
            numbers[r["number"]],
        )
    )
    shown = pd.DataFrame(rows)
    shown["cell"] = shown["cell"].map(lambda name: CELL_NAMES.get(name, name))
    shown["loop"] = shown["loop"].map({"fwd": "forward", "bwd": "backward"})
    limit = full["shared_limit"].max()
    of = f" Shared memory: of {limit / 1024:.0f} KiB." if limit == limit else ""
    said = ""
    if shown["provider"].nunique() == 1:
        said = f" Compiler: {shown['provider'].iloc[0]}."
        shown = shown.drop(columns="provider")
    whole = ("kernels", "failed", "registers", "stack B", "in the loop", "faults")
    return Table(
        "resources",
        f"The largest count over all planned kernels; compiled, not run.{of}{said}",
        shown,
        full.assign(batches=[" ".join(map(str, b)) for b in full["batches"]]),
        dict.fromkeys(whole, 0) | {"shared KiB": 3},
        frames.provenance(full),
    )


def jobs(records: Sequence[store.Record]) -> Iterator[Job]:
    """A map over H and B for each count, number format and loop, of the newest compiler alone."""
    if not records:
        return
    full = frame(records)
    full = full[full["provider"] == max(full["provider"], key=_version)]
    groups = full.groupby(["loop", "provider", "number"], sort=True)
    for (loop, provider, number), rows in sorted(groups, key=lambda g: LOOPS.index(g[0][0])):
        if rows["H"].nunique() < 2:
            continue
        for metric in METRICS:
            yield functools.partial(
                resource_map, rows, metric, str(provider), str(number), str(loop)
            )


def _version(compiler: str) -> list[int]:
    """What compilers are ordered by: 3.10.0 is newer than 3.7.1.

    >>> _version("triton-3.10.0") > _version("triton-3.7.1")
    True
    """
    return [int(digits) for digits in re.findall(r"\d+", compiler)]


def resource_map(
    rows: pd.DataFrame, metric: str, provider: str, number: str, loop: str, folder: Path
) -> list[Path]:
    """One count in each square; outlined where a kernel breaks what the plan promises."""
    cells = frames.known(rows["cell"], CELL_ORDER)
    widths = sorted(set(rows["H"]))
    heights = sorted({batch for batches in rows["batches"] for batch in batches})
    marks = [f"{mark} {mode}" for mode, mark in MODES.items() if mark and mode in set(rows["mode"])]
    notes = [f"Corner: {', '.join(marks)}; else one persistent launch."] if marks else []
    if rows["faults"].ne("").any():
        worst = list(rows.loc[rows["faults"].ne(""), "faults"].value_counts().index)
        more = f" (and {len(worst) - 1} more reasons, see the CSV)" if len(worst) > 1 else ""
        notes.append(f"Outlined: {worst[0]}{more}.")
    columns = 2 if len(widths) <= heatmaps.NARROW and len(cells) > 1 else 1
    sheet = heatmaps.sheet(
        -(-len(cells) // columns),
        columns,
        widths,
        heights,
        title=f"{METRICS[metric]}, {LOOP_WORDS[loop]}, {number}, {provider}",
        origin=frames.provenance(rows),
        notes=[*notes, *plots.failure_notes(rows[rows["status"] != "ok"])],
    )
    values = rows[metric].dropna().astype(float)
    values = values[values > 0]
    low, high = (values.min(), values.max()) if len(values) else (1.0, 2.0)
    norm = LogNorm(low / 1.3, high * 1.3)
    colors = matplotlib.colormaps["YlGnBu"]
    for axes, cell in itertools.zip_longest(sheet.axes.flat, cells):
        if cell is None:
            axes.set_visible(False)
            continue
        plots.head(axes, CELL_NAMES.get(cell, cell))
        for row in rows[rows["cell"] == cell].to_dict("records"):
            for batch in row["batches"]:
                x, y = widths.index(row["H"]), heights.index(batch)
                if row["status"] != "ok":
                    heatmaps.failure(axes, x, y, row["status"])
                    continue
                color = colors(norm(max(float(row[metric] or 0), low)))
                words = (
                    f"{row[metric]:.0f}" if row[metric] < 1e4 else plots.engineering(row[metric])
                )
                heatmaps.value(axes, x, y, words, color, len(widths) * columns)
                axes.text(
                    x + 0.46, y + 0.44, MODES.get(str(row["mode"]), "?"), fontsize=3.6,
                    ha="right", va="top", color=heatmaps.contrast(color),
                )  # fmt: skip
                if row["faults"]:
                    square = (x - 0.46, y - 0.44)
                    axes.add_patch(
                        Rectangle(square, 0.92, 0.88, fill=False, edgecolor="#bd1f01", lw=1.1)
                    )
    data = rows.assign(batches=[" ".join(map(str, b)) for b in rows["batches"]])
    slug = f"{metric.replace('_', '-')}-{loop}-{number.replace(':', '-')}-{provider}"
    return sheet.save(folder, f"resources-{slug}", data)


def headline(records: Sequence[store.Record]) -> list[str]:
    """The compiled kernels in one sentence per compiler."""
    said = []
    full = frame(records) if records else pd.DataFrame()
    for provider, rows in full.groupby("provider", sort=True) if len(full) else ():
        ok = rows[rows["status"] == "ok"]
        if ok.empty:
            continue
        spilled = int((ok["stack_bytes"] > 0).sum())
        most = ok["shared_bytes"].max() / 1024
        said.append(
            f"{provider}: {len(ok):,} planned kernels compiled"
            f"{f', {len(rows) - len(ok)} failed' if len(ok) < len(rows) else ''}; at most "
            f"{int(np.nanmax(ok['registers']))} registers; {spilled or 'none'} "
            f"use{'s' if spilled == 1 else ''} stack; at most {most:.0f} KiB of shared memory"
            f" (limit {ok['shared_limit'].max() / 1024:.0f} KiB); "
            f"{int((ok['tensor_core'] > 0).sum()):,} run their products on tensor cores."
        )
    return said
