"""Tables of numerical error: the largest, growth with T, regimes, and one rounding at a time.

In unit roundoffs: relative error against float64 over the format's u; of long memory as it is.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from bench.cases.cases import MEMORY
from bench.report import frames, terms
from bench.report.error import selection
from bench.report.style.typeset import MOST_ROWS, Table, named

UNITS = "relative L2 error against float64 on the same rounded inputs, in unit roundoffs u"
ROUNDOFFS = "u is 3.9e-3 of bf16, 4.9e-4 of fp16 and of fp32 with tf32 products, else 6.0e-8."
BASE_SETTING = {"track": "layer", "layers": 1, "inputs": "H", "resets": 0.0, "directions": 1}
KEYS = ("cell", "number", "part", "provider")


def tables(error: pd.DataFrame) -> list[Table]:
    """The tables of error that there are records for."""
    base = selection.matching(error, BASE_SETTING)
    parts = selection.by_part(base[~base["regime"].str.startswith(MEMORY, na=False)])
    parts = parts.assign(
        roundoffs=parts["rel_l2"] / parts["number"].map(terms.roundoff),
        regime=parts["regime"].astype(object).where(parts["regime"].notna(), "default"),
    )
    effects = parts["provider"].str.startswith(terms.EFFECT)
    measured = parts[~parts["provider"].str.startswith(terms.MODELS)]
    made = (
        *(largest(error), growth(measured), regimes(measured), memory(base)),
        *(products(selection.by_product(base)), single_roundings(parts[effects])),
    )
    return [table for table in made if table is not None]


def _remarks(rows: pd.DataFrame) -> str:
    """Sentences for a caption, each after a space: who was interpreted, and whose error it is."""
    names = selection.interpreted_providers(rows)
    said = [f"Interpreted on the CPU: {names}."] if names else []
    return "".join(f" {words}" for words in [*said, *selection.remarks(rows)])


def largest(error: pd.DataFrame) -> Table | None:
    """The largest errors of output and gradients; None without comparable records."""
    ok = frames.comparable(error)
    ok = ok[ok["part"].str.startswith(terms.GRADIENT) | ok["tensor"].isin(frames.OUTPUTS)]
    if ok.empty:
        return None
    titles = {"output": "output", "gradient-state": "input, state", "gradient-weight": "weights"}
    rows = []
    for (cell, number, provider), group in ok.groupby(["cell", "number", "provider"], sort=False):
        row = {"cell": cell, "pass": "fwd", "number": number, "provider": provider}
        for part, title in titles.items():
            here = group[group["part"] == part]
            for metric, name in (("rel_l2", "L2"), ("rel_max", "max")):
                row[f"{title}: {name}"] = here[metric].astype(float).max() / terms.roundoff(number)
        rows.append(row | {"cases": group["case_id"].nunique()})
    shown = named(frames.ordered(pd.DataFrame(rows))).drop(columns="pass").head(2 * MOST_ROWS)
    return Table(
        "error",
        "Error against float64 on the same rounded inputs, in unit roundoffs u: relative L2, and "
        "the largest error over the largest entry (max), of the output of all steps, and of the "
        "worst gradient of inputs and initial states, and of weights and biases; of each the "
        "largest with default weights and inputs over the shapes that ours and torch.nn both "
        "measured (for a cell that one of them lacks, over all). "
        f"{ROUNDOFFS}{_remarks(ok)}",
        shown,
        error,
        {name: 2 for name in shown if ": " in name} | {"cases": 0},
        frames.provenance(ok),
    )


def per_number(
    rows: pd.DataFrame, choose: Callable[[pd.DataFrame], pd.DataFrame | None]
) -> pd.DataFrame:
    """``choose`` applied to each number format's rows of one pass, and concatenated."""
    found = [choose(selection.one_pass(here)) for _, here in rows.groupby("number", sort=False)]
    kept = [here for here in found if here is not None and not here.empty]
    return pd.concat(kept) if kept else rows.iloc[:0]


def wide_table(
    name: str,
    caption: str,
    rows: pd.DataFrame,
    column: str,
    values: Sequence,
    keys: Sequence[str],
    shown: str = "roundoffs",
) -> Table:
    """A row per key and a column per value, with the median error over seeds and shapes.

    Args:
        shown: "roundoffs", or "rel_l2" for the error itself.
    """
    wide = rows.pivot_table(shown, list(keys), column, aggfunc="median", observed=True)
    wide = frames.ordered(wide.reindex(columns=values).reset_index(), keys).head(2 * MOST_ROWS)
    wide["cell"] = wide["cell"].map(terms.cell_name)
    if "part" in wide:
        wide["part"] = wide["part"].map(terms.PART_NAMES)
    if "step" in wide:
        wide["step"] = wide["step"].str.removeprefix(terms.EFFECT)
    titles = {value: f"T={value}" if column == "T" else value for value in values}
    wide = wide.rename(columns=titles | {"step": "rounded"})
    numbers = dict.fromkeys(map(str, titles.values()), 2 if shown == "roundoffs" else -2)
    return Table(name, caption, wide, rows, numbers, frames.provenance(rows))


def growth(parts: pd.DataFrame) -> Table | None:
    """Error by number of steps T, default weights and inputs; None without two values of T."""

    def choose(here: pd.DataFrame) -> pd.DataFrame | None:
        found = frames.best_slice(selection.longest(here, "T"), "T")
        return None if found is None else found[1]

    rows = per_number(parts[parts["regime"] == "default"], choose)
    if rows.empty:
        return None
    steps = sorted({int(size) for size in rows["T"]})
    sizes = ", ".join(f"{n}={'/'.join(map(str, sorted(set(rows[n]))))}" for n in ("B", "H"))
    caption = (
        f"Growth of error with the number of steps T ({sizes}): {UNITS}; median of "
        f"{selection.seed_count(rows, 'number', 'T')}.{_remarks(rows)}"
    )
    return wide_table("error-growth", caption, rows, "T", steps, KEYS)


def regimes(parts: pd.DataFrame) -> Table | None:
    """Error by regime of weights and inputs, at common shapes; None without two regimes."""

    def choose(here: pd.DataFrame) -> pd.DataFrame | None:
        found = selection.same_shapes(here, "regime")
        return found if found["regime"].nunique() > 1 else None

    rows = per_number(parts, choose)
    if rows.empty:
        return None
    caption = (
        f"Error under other weights and inputs (bench/ERROR.md): {UNITS}; median over shapes and "
        f"seeds.{_remarks(rows)}"
    )
    names = terms.in_order(rows["regime"], terms.REGIME_ORDER)
    return wide_table("error-regimes", caption, rows, "regime", names, KEYS)


def memory(error: pd.DataFrame) -> Table | None:
    """Error under the regimes of long memory; None if they were not measured."""
    rows = selection.of_memory(error)
    rows = rows[rows["status"].eq("ok") & rows["part"].notna()]
    if rows.empty:
        return None
    sizes = terms.sizes_words({n: "/".join(map(str, sorted(set(rows[n])))) for n in terms.SIZES})
    caption = (
        "Gates that keep the state for long: relative L2 error, against float64 on the same "
        "rounded inputs, of gradients of the last state only, by the bias of the gate (LSTM and "
        f"sLSTM: forget, GRU: update); {sizes}; median over shapes and "
        f"seeds.{_remarks(rows)}"
    )
    names = terms.in_order(rows["regime"], terms.REGIME_ORDER)
    return wide_table("error-memory", caption, rows, "regime", names, KEYS, "rel_l2")


def products(rows: pd.DataFrame) -> Table | None:
    """Error of fp32 tensors by the format of their products; None if none was emulated."""
    rows = selection.same_shapes(selection.one_pass(rows), "product")
    if rows.empty:
        return None
    shapes = "; ".join(f"{n} {', '.join(map(str, sorted(set(rows[n]))))}" for n in terms.SIZES)
    caption = (
        "Error of fp32 layers by the format of their products, measured, and emulated by the "
        "reference with operands in that format: relative L2 error against float64 on the same "
        f"inputs; median over shapes and seeds ({shapes}). bf16x3 is no precision of our "
        f"kernels.{_remarks(rows)}"
    )
    names = terms.in_order(rows["product"], terms.PRODUCT_ORDER)
    keys = ["cell", "part", "provider"]
    return wide_table("error-products", caption, rows, "product", names, keys, "rel_l2")


def single_roundings(effects: pd.DataFrame) -> Table | None:
    """Output error if one operation rounds, and if all do; None if that was not measured."""
    rows = effects[effects["regime"] == "default"].assign(step=lambda frame: frame["provider"])
    if rows.empty:
        return None
    caption = (
        "One rounding at a time, everything else in float64; all is as our kernels round, all-"
        f"carry-io keeps the state in the I/O type too: {UNITS}, of the output."
    )
    numbers = terms.ordered_numbers(rows["number"])
    return wide_table("error-effects", caption, rows, "number", numbers, ["cell", "step"])
