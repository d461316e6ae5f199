"""Achieved operations per second against operational intensity, under the card's ceilings.

The ceilings are measured rates (``limits.json``): of products in the number type, of device memory,
and of a persistent loop by the model in ``bench.cases.roofline.floor_ms``.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.cases.cases import CELLS, Case
from bench.cases.numbers import product_format
from bench.cases.roofline import bytes_moved, operations
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.speed.derived import too_few
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Layout, Sheet
from bench.report.style.typeset import MOST_ROWS, Table, named

SHARES = {
    "product_share": "% of products",
    "memory_share": "% of memory",
    "floor_share": "% of loop",
}
DATA = [
    *("case_id", "cell", "pass", "provider", "number", "track", "directions", "layers", "resets"),
    *("B", "T", "I", "H", "mode", "median_ms", "intensity", "achieved_tflops", "product_tflops"),
    *("memory_tflops", "loop_tflops", *SHARES, *frames.ORIGIN),
]


def points(run: Run) -> pd.DataFrame:
    """Every timing with its intensity, rate and ceilings; none without the card's rates.

    ``intensity`` is operations per byte of device memory that this design's pass moves.
    ``achieved_tflops`` has three ceilings: ``product_tflops``, ``memory_tflops`` (intensity times
    bandwidth) and ``loop_tflops``; a share is it over one of them.
    """
    cases = {r["case_id"]: Case.from_fields(r) for r in run.ok("time") if r["cell"] in CELLS}
    rows = run.time
    rows = rows[rows["status"].eq("ok") & rows["case_id"].isin(cases)]
    limits = run.limits
    if limits is None or rows.empty:
        return rows.iloc[:0].reindex(columns=list(dict.fromkeys((*rows, *DATA))))
    facts = {
        name: (
            operations(case) / 1e12,
            operations(case) / bytes_moved(case),
            limits.tflops[product_format(case.dtype, case.precision)],
        )
        for name, case in cases.items()
    }
    tera, intensity, peak = (
        rows["case_id"].map({n: f[k] for n, f in facts.items()}) for k in range(3)
    )
    achieved = tera / rows["median_ms"].astype(float) * 1e3
    memory = intensity * limits.hbm_gbps / 1e3
    share = rows["floor_share"].astype(float)
    return rows.assign(
        intensity=intensity, achieved_tflops=achieved, product_tflops=peak, memory_tflops=memory,
        loop_tflops=achieved / share, product_share=achieved / peak, memory_share=achieved / memory,
    )  # fmt: skip


def jobs(run: Run) -> Iterator[Job]:
    """A figure per setting that was measured at several sizes H."""
    rows = points(run)
    rivals = rows[~rows["provider"].str.startswith("reference")]
    for setting, sizes, here in slices(rivals if len(rivals) else rows):
        yield functools.partial(draw, here, setting, sizes)


def slices(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], dict[str, int], pd.DataFrame]]:
    """Of each setting the T and batch with most points along H, and the least such batch."""
    for setting, here in frames.settings(rows):
        found = frames.best_slice(here, "H")
        if found is None:
            continue
        sizes, best = found
        here = here[here["T"].eq(sizes["T"]) & here["cell"].isin(best["cell"])]
        counts = here.groupby("B").size()
        batches = {sizes["B"], counts[counts == counts[sizes["B"]]].index.min()}
        yield setting, {"T": sizes["T"]}, here[here["B"].isin(batches)]


def draw(
    rows: pd.DataFrame, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """TFLOP/s against operations per byte under the ceilings; a line joins the H of one batch."""
    cells, passes = terms.ordered_cells(rows["cell"]), terms.ordered_passes(rows["pass"])
    product = rows["product_tflops"].iloc[0]
    bandwidth = rows["memory_tflops"].iloc[0] / rows["intensity"].iloc[0]
    batches = sorted(set(rows["B"]))
    which = f"B = {batches[0]}" if len(batches) == 1 else "the batch that is written beside it"
    sheet = Sheet(
        len(cells),
        len(passes),
        title=f"Roofline: {terms.where(setting, sizes)}",
        origin=frames.provenance(rows),
        handles=[
            *looks.legend(rows["provider"]),
            looks.handle("measured peak", **looks.LIMIT),
            looks.handle("loop model", **looks.FLOOR),
        ],
        notes=[
            f"Measured peaks: products {product:.3g} TFLOP/s, device memory {1e3 * bandwidth:,.0f} "
            "GB/s. Loop model: the least time of a persistent loop of this design "
            "(bench/README.md).",
            f"A line joins the sizes H = {', '.join(map(str, sorted(set(rows['H']))))} of {which}. "
            "Bytes: those that this design's pass moves.",
        ],
        layout=Layout(panel_height=1.25),
    )
    low, high = rows["intensity"].min(), rows["intensity"].max()
    plots.number_axis(sheet.shared, low, high)
    most = max(rows["loop_tflops"].max(), min(product, bandwidth * high))
    plots.value_axis(sheet.shared, rows["achieved_tflops"].min(), most, marks=1)
    span = np.geomspace(*sheet.shared.get_xlim(), 100)
    for axes, cell, pass_ in sheet.panels(cells, passes, terms.PASS_TITLES):
        here = rows[(rows["cell"] == cell) & (rows["pass"] == pass_)].sort_values("intensity")
        axes.plot(span, np.minimum(bandwidth * span, product), zorder=1, **looks.LIMIT)
        for batch, line in here.groupby("B"):
            loop = line.dropna(subset=["loop_tflops"]).groupby("intensity")["loop_tflops"].max()
            axes.plot(loop.index, loop, zorder=1.5, **looks.FLOOR)
            for provider in terms.ordered_providers(line["provider"]):
                mine = line[line["provider"] == provider]
                plots.draw_line(axes, provider, mine["intensity"], mine["achieved_tflops"])
            if len(batches) > 1:
                first = line["intensity"].min()
                lowest = line.loc[line["intensity"] == first, "achieved_tflops"].min()
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
                axes.annotate(
                    f"B={batch}", (first, lowest), (1, -3.5), textcoords="offset points",
                    fontsize=5.2, va="top", bbox=box,
                )  # fmt: skip
    sheet.label("operations per byte", "TFLOP/s")
    return sheet.save(folder, f"roofline-{terms.setting_slug(setting)}", rows[DATA])


def table(run: Run) -> Table | None:
    """The share of each ceiling that every timing reaches; shown is the fastest of each case.

    Times of too few samples for an interval are not shown.
    """
    full = points(run)
    sure = full[~too_few(full["n"].astype(float))]
    # Replayed graphs where they were measured, since the host's own time separates other calls.
    found = sorted(slices(sure), key=lambda each: each[0]["mode"] != "graph")
    if not found:
        return None
    setting, sizes, rows = found[0]
    rows = rows.loc[rows.groupby("case_id", sort=False)["achieved_tflops"].idxmax()]
    columns = {
        "fastest": rows["provider"],
        "ops per byte": rows["intensity"],
        "TFLOP/s": rows["achieved_tflops"],
        **{words: 100 * rows[name].astype(float) for name, words in SHARES.items()},
    }
    shown = named(rows)[["cell", "pass", "B", "H"]].assign(**columns)
    return Table(
        "roofline",
        f"Roofline, {terms.where(setting, sizes)}: of each case the fastest provider, operations "
        "per byte that this design's pass moves, and the share it reaches of each ceiling: "
        "large products in the number type, device memory at that intensity (both measured), and "
        "the model of a persistent loop of this design. The largest share is that of the nearest "
        "limit.",
        shown.head(MOST_ROWS),
        full[DATA],
        {"B": 0, "H": 0} | dict.fromkeys([*columns][1:], 3),
        frames.provenance(rows),
    )


def caveats(run: Run) -> list[str]:
    """Times that are shorter than a ceiling of the card allows."""
    rows = points(run)
    above = int((rows[["product_share", "memory_share"]].astype(float) > 1).any(axis=1).sum())
    if not above:
        return []
    return [
        f"{above:,} of {len(rows):,} times reach more than 100 % of the measured products or "
        "memory, which cannot be: the time or the limit is wrong, or the provider moves fewer "
        "bytes than this design (`product_share`, `memory_share` in the download's roofline.csv)."
    ]


def missing(run: Run) -> list[str]:
    """What would draw the ceilings, if they were not measured."""
    if not points(run).empty:
        return []
    return ["roofline: needs a GPU and its limits (`python -m bench floor`)"]
