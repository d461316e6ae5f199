"""Maps of the speed-up over torch.nn by hidden size and batch."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm

from bench.report import frames, terms
from bench.report.speed.derived import speedups
from bench.report.speed.figures import DATA
from bench.report.style import looks, maps, plots
from bench.report.style.numbers import short
from bench.report.style.sheet import Job

# The corner mark of the cuDNN algorithm that torch's rule selects; "standard" has none.
ALGORITHMS = {"standard": "", "small-h": "●", "persist": "▲"}


def speedup_jobs(time: pd.DataFrame) -> Iterator[Job]:
    """A figure per setting and provider with a map per cell and pass; wide maps: one per pass."""
    for setting, rows in frames.settings(speedups(time)):
        providers = terms.ordered_providers(rows["provider"])
        # The reference gets a map only where no other provider ran.
        rivals = [name for name in providers if not name.startswith("reference")]
        able = set(rows.loc[rows["speedup"].notna(), "provider"])
        for provider in rivals if able & set(rivals) else providers:
            here = rows[rows["provider"] == provider]
            shown = here[here["speedup"].notna()]
            if shown.empty:
                continue
            counts = shown.drop_duplicates(["T", "B", "H"]).groupby("T").size()
            steps = int(counts[counts == counts.max()].index.max())
            here = here[here["T"] == steps]
            if here["H"].nunique() * here["B"].nunique() < 2:
                continue
            for passes in maps.by_figure(terms.ordered_passes(here["pass"]), here["H"]):
                some = here[here["pass"].isin(passes)]
                yield functools.partial(speedup_map, some, provider, setting, {"T": steps})


def speedup_map(
    rows: pd.DataFrame, provider: str, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """Draw maps of ``derived.speedups``: above 1 (warm colours) the provider is faster."""
    cells = terms.ordered_cells(rows["cell"])
    passes = terms.ordered_passes(rows["pass"])
    baseline = terms.BASELINES.get(str(setting["mode"]), "torch.nn")
    unpaired = (rows["speedup"].isna() & (rows["status"] == "ok")).any()
    sheet = maps.MapSheet(
        len(cells),
        len(passes),
        rows["H"],
        rows["B"],
        title=f"Speed of {provider} over {baseline}: {terms.where(setting, sizes)}",
        origin=frames.provenance(rows),
        notes=[
            "Above 1 the provider is faster; paired by visits where recorded, else of medians.",
            *_algorithm_notes(rows, twice=passes != ["fwd"]),
            *([f"– no time of {baseline} to compare with."] if unpaired else []),
            *plots.failure_notes(rows[rows["status"] != "ok"]),
        ],
    )
    largest = max(2.0, float(np.nanmax(np.abs(np.log2(rows["speedup"].astype(float))))))
    norm = TwoSlopeNorm(0.0, -largest, largest)
    colors = matplotlib.colormaps[looks.RATIO_MAP]
    for axes, cell, pass_ in sheet.panels(cells, passes, terms.PASS_TITLES):
        here = rows[(rows["cell"] == cell) & (rows["pass"] == pass_)]
        for row in here.to_dict("records"):
            H, B, speedup = row["H"], row["B"], row["speedup"]
            if math.isnan(speedup):
                sheet.draw_failure(axes, H, B, str(row["status"]))
                continue
            color = colors(norm(math.log2(speedup)))
            sheet.draw_value(axes, H, B, short(speedup), color)
            x, y = sheet.centre(H, B)
            for k, name in enumerate(reversed(str(row["algorithm"] or "").split("/"))):
                axes.text(
                    x + 0.46 - 0.16 * k, y + 0.42, ALGORITHMS.get(name, ""), fontsize=2.6,
                    ha="right", va="top", color=maps.black_or_white(color),
                )  # fmt: skip
    one_pass = "" if len(passes) > 1 else f"{passes[0].replace('+', '-')}-"
    names = [*(n for n in DATA if n != "tokens_per_s"), "speedup", "speedup_low", "speedup_high"]
    slug = f"{provider}-{one_pass}{terms.setting_slug(setting)}"
    return sheet.save(folder, f"speedup-{slug}", rows[names])


def _algorithm_notes(rows: pd.DataFrame, twice: bool) -> list[str]:
    """A note on the corner marks of cuDNN's algorithms; ``twice``: for forward and backward."""
    seen = {name for found in rows["algorithm"].dropna() for name in str(found).split("/")}
    if not seen:
        return []
    marks = [f"{mark} {name}" for name, mark in ALGORITHMS.items() if mark and name in seen]
    both = " (forward, then backward)" if marks and twice else ""
    return [
        "cuDNN's persistent algorithms, as torch's rule asks for them: "
        f"{', '.join(marks) or 'nowhere'}{both}."
    ]
