"""Tables of numerical error: growth with T, regimes, and one rounding at a time.

All in unit roundoffs: relative L2 error against float64 over the format's u, the median over seeds.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from bench.cases.numbers import ROUNDOFF
from bench.report import frames
from bench.report.error import figures as figures_error
from bench.report.error.figures import CATEGORIES, PART_WORDS
from bench.report.frames import CELL_NAMES, CELL_ORDER, EFFECT, NUMBER_ORDER
from bench.report.speed.tables import MOST_ROWS
from bench.report.style import plots
from bench.report.style.typeset import Table

UNITS = "relative L2 error against float64 on the same rounded inputs, in unit roundoffs u"
PLAIN = {"track": "layer", "layers": 1, "inputs": "H", "resets": 0.0}
KEYS = ["cell", "number", "part", "provider"]


def all_tables(error: pd.DataFrame) -> list[Table]:
    """Every table of error that the records fill."""
    parts = figures_error.by_part(error)
    for name, value in PLAIN.items():
        parts = parts[parts[name] == value]
    parts = parts[parts["directions"] == 1]
    if parts.empty:
        return []
    units = parts["number"].map(lambda name: ROUNDOFF[name.partition(":")[0]])
    parts = parts.assign(
        roundoffs=parts["rel_l2"] / units,
        regime=parts["regime"].astype(object).where(parts["regime"].notna(), "default"),
    )
    effects = parts["provider"].str.startswith(EFFECT)
    made = (growth(parts[~effects]), regimes(parts[~effects]), single(parts[effects]))
    return [table for table in made if table is not None]


def said(rows: pd.DataFrame) -> str:
    """The end of a caption: whose numbers are the interpreter's."""
    interpreted = plots.by_look(rows.loc[rows["interpreted"].eq(True), "provider"])
    return f" Interpreted on the CPU: {', '.join(interpreted)}." if interpreted else ""


def per_number(
    rows: pd.DataFrame, choose: Callable[[pd.DataFrame], pd.DataFrame | None]
) -> pd.DataFrame:
    """The chosen rows of each number format, whose shapes may differ."""
    found = [choose(figures_error.one_pass(here)) for _, here in rows.groupby("number", sort=False)]
    kept = [here for here in found if here is not None and not here.empty]
    return pd.concat(kept) if kept else rows.iloc[:0]


def pivot(rows: pd.DataFrame, column: str, names: list, keys: list[str]) -> pd.DataFrame:
    """A row per key, a column per name, the median over seeds and shapes in each field."""
    wide = rows.pivot_table("roundoffs", keys, column, aggfunc="median", observed=True)
    wide = wide.reindex(columns=names).reset_index()
    ranks = {"cell": CELL_ORDER, "number": NUMBER_ORDER, "part": tuple(PART_WORDS)}
    ranks |= {"provider": frames.PROVIDER_ORDER, "step": CATEGORIES["step"][1]}

    def rank(values: pd.Series) -> pd.Series:
        order = frames.known(values, ranks[str(values.name)])
        return values.map(order.index)

    wide = wide.sort_values(keys, key=rank).head(2 * MOST_ROWS)
    wide["cell"] = wide["cell"].map(lambda name: CELL_NAMES.get(name, name))
    if "part" in wide:
        wide["part"] = wide["part"].map(PART_WORDS)
    wide.columns = [str(name) for name in wide.columns]
    return wide


def growth(parts: pd.DataFrame) -> Table | None:
    """How error grows with the number of steps, under default weights and inputs."""

    def choose(here: pd.DataFrame) -> pd.DataFrame | None:
        found = frames.best_slice(figures_error.longest(here, "T"), "T")
        return None if found is None else found[1]

    rows = per_number(parts[parts["regime"] == "default"], choose)
    if rows.empty:
        return None
    steps = sorted({int(size) for size in rows["T"]})
    shown = pivot(rows, "T", steps, KEYS)
    shown = shown.rename(columns={str(size): f"T={size}" for size in steps})
    cut = ", ".join(f"{name}={'/'.join(map(str, sorted(set(rows[name]))))}" for name in ("B", "H"))
    return Table(
        "error-growth",
        f"Growth of error with the number of steps T ({cut}): {UNITS}; median of "
        f"{figures_error.seeds(rows, 'number', 'T')}.{said(rows)}",
        shown,
        rows,
        dict.fromkeys((f"T={size}" for size in steps), 2),
        frames.provenance(rows),
    )


def regimes(parts: pd.DataFrame) -> Table | None:
    """Error under trained-like weights and odd inputs, each provider on the same numbers."""

    def choose(here: pd.DataFrame) -> pd.DataFrame | None:
        found = figures_error.same_shapes(here, "regime")
        return found if found["regime"].nunique() > 1 else None

    rows = per_number(parts, choose)
    if rows.empty:
        return None
    names = frames.known(rows["regime"], CATEGORIES["regime"][1])
    return Table(
        "error-regimes",
        f"Error under other weights and inputs (bench/ERROR.md): {UNITS}; median over shapes and "
        f"seeds.{said(rows)}",
        pivot(rows, "regime", names, KEYS),
        rows,
        dict.fromkeys(names, 2),
        frames.provenance(rows),
    )


def single(effects: pd.DataFrame) -> Table | None:
    """What each rounding contributes alone, and what the fp32 carry buys."""
    rows = effects[effects["regime"] == "default"].assign(step=lambda frame: frame["provider"])
    if rows.empty:
        return None
    numbers = frames.known(rows["number"], NUMBER_ORDER)
    shown = pivot(rows, "number", numbers, ["cell", "step"])
    shown["step"] = shown["step"].str.removeprefix(EFFECT)
    return Table(
        "error-effects",
        "One rounding at a time, everything else in float64; all is as our kernels round, all-"
        f"carry-io keeps the state in the I/O type too: {UNITS}, of the output.",
        shown.rename(columns={"step": "rounded"}),
        rows,
        dict.fromkeys(numbers, 2),
        frames.provenance(rows),
    )
