"""Tables of numerical error: the largest, growth with T, regimes, and one rounding at a time.

Where they are in unit roundoffs: relative L2 error against float64 over the format's u, the median
over seeds.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from bench.cases.numbers import ROUNDOFF
from bench.report import frames, terms
from bench.report.error import selection
from bench.report.style.typeset import MOST_ROWS, Table, named

UNITS = "relative L2 error against float64 on the same rounded inputs, in unit roundoffs u"
PLAIN = {"track": "layer", "layers": 1, "inputs": "H", "resets": 0.0, "directions": 1}
KEYS = ("cell", "number", "part", "provider")


def tables(error: pd.DataFrame) -> list[Table]:
    """Every table of error that the records fill."""
    parts = selection.by_part(error)
    for name, value in PLAIN.items():
        parts = parts[parts[name] == value]
    units = parts["number"].map(lambda name: ROUNDOFF[name.partition(":")[0]])
    parts = parts.assign(
        roundoffs=parts["rel_l2"] / units,
        regime=parts["regime"].astype(object).where(parts["regime"].notna(), "default"),
    )
    effects = parts["provider"].str.startswith(terms.EFFECT)
    made = (
        *(largest(error), growth(parts[~effects]), regimes(parts[~effects])),
        single_roundings(parts[effects]),
    )
    return [table for table in made if table is not None]


def _interpreted(rows: pd.DataFrame) -> str:
    """The end of a caption: whose numbers are the interpreter's."""
    names = selection.interpreted_providers(rows)
    return f" Interpreted on the CPU: {names}." if names else ""


def largest(error: pd.DataFrame) -> Table | None:
    """Errors against float64: the largest over the grid, of the output and of the gradients.

    In ULP of 99 % of the entries: the largest of all stands where the truth is nearly zero, and
    says how near.
    """
    ok = frames.comparable(error)
    ok = ok[ok["part"].eq("gradient") | ok["tensor"].isin(frames.OUTPUTS)]
    if ok.empty:
        return None
    rows = []
    for (cell, number, provider), group in ok.groupby(["cell", "number", "provider"], sort=False):
        row = {"cell": cell, "pass": "fwd", "number": number, "provider": provider}
        for part in ("output", "gradient"):
            here = group[group["part"] == part]
            row[f"{part}, L2"] = here["rel_l2"].max()
            row[f"{part}, ULP"] = here["p99_ulp"].max()
        rows.append(row | {"cases": group["case_id"].nunique()})
    shown = named(frames.ordered(pd.DataFrame(rows))).drop(columns="pass").head(2 * MOST_ROWS)
    return Table(
        "error",
        "Error against float64 on the same rounded inputs: relative L2, and the ULP that 99 % of a "
        "tensor's entries stay within, of the output of all steps and of the worst gradient; of "
        "each the largest with default weights and inputs over "
        "the shapes that ours and torch.nn both measured (for a cell that one of them lacks, over "
        f"all).{_interpreted(ok)}",
        shown,
        error.drop(columns=["kind", "time"]),
        {name: -2 if "L2" in name else 3 for name in shown if ", " in name} | {"cases": 0},
        frames.provenance(ok),
    )


def per_number(
    rows: pd.DataFrame, choose: Callable[[pd.DataFrame], pd.DataFrame | None]
) -> pd.DataFrame:
    """The chosen rows of each number format, whose shapes may differ."""
    found = [choose(selection.one_pass(here)) for _, here in rows.groupby("number", sort=False)]
    kept = [here for here in found if here is not None and not here.empty]
    return pd.concat(kept) if kept else rows.iloc[:0]


def pivot(rows: pd.DataFrame, column: str, names: list, keys: Sequence[str]) -> pd.DataFrame:
    """A row per key, a column per name, the median over seeds and shapes in each field."""
    wide = rows.pivot_table("roundoffs", list(keys), column, aggfunc="median", observed=True)
    wide = wide.reindex(columns=names).reset_index()
    wide = frames.ordered(wide, keys).head(2 * MOST_ROWS)
    wide["cell"] = wide["cell"].map(terms.cell_name)
    if "part" in wide:
        wide["part"] = wide["part"].map(terms.PART_NAMES)
    return wide.rename(columns=str)


def growth(parts: pd.DataFrame) -> Table | None:
    """How error grows with the number of steps, under default weights and inputs."""

    def choose(here: pd.DataFrame) -> pd.DataFrame | None:
        found = frames.best_slice(selection.longest(here, "T"), "T")
        return None if found is None else found[1]

    rows = per_number(parts[parts["regime"] == "default"], choose)
    if rows.empty:
        return None
    steps = {int(size): f"T={size}" for size in sorted(set(rows["T"]))}
    shown = pivot(rows.assign(T=rows["T"].map(steps)), "T", list(steps.values()), KEYS)
    sizes = ", ".join(f"{n}={'/'.join(map(str, sorted(set(rows[n]))))}" for n in ("B", "H"))
    return Table(
        "error-growth",
        f"Growth of error with the number of steps T ({sizes}): {UNITS}; median of "
        f"{selection.seeds(rows, 'number', 'T')}.{_interpreted(rows)}",
        shown,
        rows,
        dict.fromkeys(steps.values(), 2),
        frames.provenance(rows),
    )


def regimes(parts: pd.DataFrame) -> Table | None:
    """Error under trained-like weights and odd inputs, each provider on the same numbers."""

    def choose(here: pd.DataFrame) -> pd.DataFrame | None:
        found = selection.same_shapes(here, "regime")
        return found if found["regime"].nunique() > 1 else None

    rows = per_number(parts, choose)
    if rows.empty:
        return None
    names = terms.in_order(rows["regime"], terms.REGIME_ORDER)
    return Table(
        "error-regimes",
        f"Error under other weights and inputs (bench/ERROR.md): {UNITS}; median over shapes and "
        f"seeds.{_interpreted(rows)}",
        pivot(rows, "regime", names, KEYS),
        rows,
        dict.fromkeys(names, 2),
        frames.provenance(rows),
    )


def single_roundings(effects: pd.DataFrame) -> Table | None:
    """What each rounding contributes by itself, and what the fp32 carry buys."""
    rows = effects[effects["regime"] == "default"].assign(step=lambda frame: frame["provider"])
    if rows.empty:
        return None
    numbers = terms.ordered_numbers(rows["number"])
    shown = pivot(rows, "number", numbers, ["cell", "step"])
    shown["step"] = shown["step"].str.removeprefix(terms.EFFECT)
    return Table(
        "error-effects",
        "One rounding at a time, everything else in float64; all is as our kernels round, all-"
        f"carry-io keeps the state in the I/O type too: {UNITS}, of the output.",
        shown.rename(columns={"step": "rounded"}),
        rows,
        dict.fromkeys(numbers, 2),
        frames.provenance(rows),
    )
