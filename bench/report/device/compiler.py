"""The resources of our compiled kernels: a table, maps over H and B, and a sentence."""

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
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.style import looks, maps, plots
from bench.report.style.numbers import engineering
from bench.report.style.sheet import Job, panel_title
from bench.report.style.typeset import Table
from bench.report.topic import Section, Topic

SECTION = Section(
    "What the compiler made",
    "Registers, spills and shared memory of our kernels; compiled, not run. The maps show the "
    "newest Triton of the table; the download has all.",
    figures=("resources-",),
    tables=("resources",),
)
COUNTS = (
    *("registers", "stack_bytes", "spills", "shared_bytes", "shared_limit", "instructions"),
    *("loop_instructions", "tensor_core", "loads", "stores", "barriers", "atomics", "occupancy"),
)
PLAN = ("mode", "units", "split", "block_b", "block_k", "resident", "ahead", "num_warps", "tiles")
METRICS = {
    "registers": "Registers per thread",
    "loop_instructions": "Instructions in the loop over time",
}
# The corner mark of a plan's mode; persistent plans have none.
MODES = {"persistent": "", "stepwise": "s", "gemm": "g"}


def frame(records: Sequence[store.Record]) -> pd.DataFrame:
    """One row per compiled kernel: case, plan, counts and faults."""

    def compiled(record: store.Record) -> dict[str, Any]:
        found, plan = record["resources"] or {}, record["plan"] or {}
        return {
            "loop": found.get("loop") or ("fwd" if record["pass"] == "fwd" else "bwd"),
            "batches": found.get("batches") or [record["B"]],
            **{name: plan.get(name) for name in PLAN},
            **{name: found.get(name) for name in COUNTS},
            "faults": "; ".join(found.get("faults") or []),
        }

    case = ("case_id", "status", "reason", "cell", "number", "directions", "H", "provider")
    shown = ("loop", "batches", *PLAN, *COUNTS, "faults", "compile_s")
    return frames.flat(records, compiled).reindex(columns=[*case, *shown, *frames.ORIGIN])


def _written(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows for CSV: each list of batch sizes becomes text, separated by spaces."""
    return rows.assign(batches=[" ".join(map(str, batches)) for batches in rows["batches"]])


def tables(run: Run) -> list[Table]:
    """The largest counts of each cell, loop, number format and compiler; [] without records."""
    records = run.of("resources")
    if not records:
        return []
    full = frame(records)
    rows = []
    keys = ["provider", "cell", "loop", "number"]
    for values, group in full.groupby(keys, sort=False):
        ok = group[group["status"] == "ok"]
        rows.append(
            dict(zip(keys, values, strict=True))
            | {
                "kernels": len(group),
                "failed": len(group) - len(ok),
                "registers": ok["registers"].max(),
                "stack B": ok["stack_bytes"].max(),
                "shared KiB": ok["shared_bytes"].max() / 1024,
                "in the loop": ok["loop_instructions"].max(),
                "tensor cores": f"{int((ok['tensor_core'] > 0).sum())} of {len(ok)}",
                "faults": int(ok["faults"].ne("").sum()),
            }
        )
    # By name, and the forward loop first.
    by_name = [True, True, False, True]
    shown = pd.DataFrame(rows).sort_values(keys, ascending=by_name, ignore_index=True)
    shown["cell"] = shown["cell"].map(terms.cell_name)
    shown["loop"] = shown["loop"].map(terms.LOOP_NAMES)
    limit = full["shared_limit"].max()
    notes = [f"Shared memory: of {limit / 1024:.0f} KiB."] if limit == limit else []
    if shown["provider"].nunique() == 1:
        notes.append(f"Compiler: {shown['provider'].iloc[0]}.")
        shown = shown.drop(columns="provider")
    whole = ("kernels", "failed", "registers", "stack B", "in the loop", "faults")
    table = Table(
        "resources",
        " ".join(["The largest count over all planned kernels; compiled, not run.", *notes]),
        shown,
        _written(full),
        dict.fromkeys(whole, 0) | {"shared KiB": 3},
        frames.provenance(full),
    )
    return [table]


def jobs(run: Run) -> Iterator[Job]:
    """A map over H and B for each count, number format and loop, of the newest compiler only."""
    records = run.of("resources")
    if not records:
        return
    full = frame(records)
    full = full[full["provider"] == max(full["provider"], key=_version)]
    for loop in terms.LOOP_ORDER:
        for number, rows in full[full["loop"] == loop].groupby("number", sort=True):
            if rows["H"].nunique() >= 2:
                for metric in METRICS:
                    yield functools.partial(resource_map, rows, metric, str(number), loop)


def _version(compiler: str) -> list[int]:
    """The sort key of compilers: 3.10.0 is newer than 3.7.1.

    >>> _version("triton-3.10.0") > _version("triton-3.7.1")
    True
    """
    return [int(digits) for digits in re.findall(r"\d+", compiler)]


def resource_map(
    rows: pd.DataFrame, metric: str, number: str, loop: str, folder: Path
) -> list[Path]:
    """Draw one count over H and B; kernels that differ from their plan are outlined."""
    cells, provider = terms.ordered_cells(rows["cell"]), rows["provider"].iloc[0]
    marks = [f"{mark} {mode}" for mode, mark in MODES.items() if mark and mode in set(rows["mode"])]
    notes = [f"Corner: {', '.join(marks)}; else one persistent launch."] if marks else []
    if rows["faults"].ne("").any():
        worst = list(rows.loc[rows["faults"].ne(""), "faults"].value_counts().index)
        more = f" (and {len(worst) - 1} more reasons, see the CSV)" if len(worst) > 1 else ""
        notes.append(f"Outlined: {worst[0]}{more}.")
    columns = 2 if rows["H"].nunique() <= maps.NARROW and len(cells) > 1 else 1
    sheet = maps.MapSheet(
        -(-len(cells) // columns),
        columns,
        rows["H"],
        rows["batches"].explode(),
        title=f"{METRICS[metric]}, {terms.LOOP_NAMES[loop]} loop, {number}, {provider}",
        origin=frames.provenance(rows),
        notes=[*notes, *plots.failure_notes(rows[rows["status"] != "ok"])],
    )
    values = rows[metric].dropna().astype(float)
    values = values[values > 0]
    low, high = (values.min(), values.max()) if len(values) else (1.0, 2.0)
    norm = LogNorm(low / 1.3, high * 1.3)
    colors = matplotlib.colormaps[looks.COUNT_MAP]
    for axes, cell in itertools.zip_longest(sheet.axes.flat, cells):
        if cell is None:
            axes.set_visible(False)
            continue
        panel_title(axes, terms.cell_name(cell))
        for row in rows[rows["cell"] == cell].to_dict("records"):
            for batch in row["batches"]:
                if row["status"] != "ok":
                    sheet.draw_failure(axes, row["H"], batch, row["status"])
                    continue
                color = colors(norm(max(float(row[metric] or 0), low)))
                words = f"{row[metric]:.0f}" if row[metric] < 1e4 else engineering(row[metric])
                sheet.draw_value(axes, row["H"], batch, words, color)
                x, y = sheet.centre(row["H"], batch)
                axes.text(
                    x + 0.46, y + 0.44, MODES.get(str(row["mode"]), "?"), fontsize=3.6,
                    ha="right", va="top", color=maps.black_or_white(color),
                )  # fmt: skip
                if row["faults"]:
                    square = (x - 0.46, y - 0.44)
                    axes.add_patch(
                        Rectangle(square, 0.92, 0.88, fill=False, edgecolor=looks.RED, lw=1.1)
                    )
    slug = f"{metric.replace('_', '-')}-{loop}-{number.replace(':', '-')}-{provider}"
    return sheet.save(folder, f"resources-{slug}", _written(rows))


def headlines(run: Run) -> list[str]:
    """The compiled kernels in one sentence per compiler."""
    found = []
    for provider, rows in frame(run.of("resources")).groupby("provider", sort=True):
        ok = rows[rows["status"] == "ok"]
        if ok.empty:
            continue
        spilled = int((ok["stack_bytes"] > 0).sum())
        most = ok["shared_bytes"].max() / 1024
        found.append(
            f"{provider}: {len(ok):,} planned kernels compiled"
            f"{f', {len(rows) - len(ok)} failed' if len(ok) < len(rows) else ''}; at most "
            f"{int(np.nanmax(ok['registers']))} registers; {spilled or 'none'} "
            f"use{'s' if spilled == 1 else ''} stack; at most {most:.0f} KiB of shared memory"
            f" (limit {ok['shared_limit'].max() / 1024:.0f} KiB); "
            f"{int((ok['tensor_core'] > 0).sum()):,} run their products on tensor cores."
        )
    return found


def protocol(run: Run) -> list[str]:
    """How kernels were compiled and their resources read."""
    count = len(run.of("resources"))
    if not count:
        return []
    return [
        f"{count:,} kernels compiled for a target that need not be present; "
        "registers, stack and the loop's instructions read from the binary."
    ]


TOPIC = Topic((SECTION,), jobs, tables, headlines, protocol)
