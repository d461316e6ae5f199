"""Which errors a figure or table shows, and the notes on them."""

from typing import Any

import pandas as pd

from bench.cases.cases import MEMORY
from bench.report import terms
from bench.report.frames import ORIGIN, OUTPUTS

# Everything that must be equal for two errors to share a plot, sizes aside.
SETTING = ("track", "directions", "layers", "number", "inputs", "resets", "regime")


def by_part(error: pd.DataFrame) -> pd.DataFrame:
    """One row per record and part: the output's error, the largest of each kind of gradient."""
    ok = error[(error["status"] == "ok") & error["tensor"].notna()]
    ok = ok[ok["part"].str.startswith(terms.GRADIENT) | ok["tensor"].isin(OUTPUTS)]
    keys = [
        *("case_id", "cell", "pass", "provider", "part", *SETTING, "B", "T", "H", "seed"),
        *("interpreted", "status", "reason", *ORIGIN),
    ]
    return ok.groupby(keys, dropna=False, sort=False, as_index=False)["rel_l2"].max()


def of_memory(error: pd.DataFrame) -> pd.DataFrame:
    """The errors under the regimes of long memory: of the input's gradient, and of the gradient of
    the bias of the gate that keeps the state; also the failures, which have no part.
    """
    found = error[error["regime"].str.startswith(MEMORY, na=False)]
    found = found[
        found["tensor"].isin(("dx", "dgx")) | found["part"].eq("gate") | found["tensor"].isna()
    ]
    return found.assign(
        part=found["part"].replace("gradient-state", "input"),
        memory=found["regime"].str.removeprefix(MEMORY),
    )


def by_product(error: pd.DataFrame) -> pd.DataFrame:
    """The errors of fp32 tensors under default weights and inputs, by the format of their products.

    All emulations are the provider "emulated". Only of the cells and settings with one.
    """
    rows = error[error["number"].str.startswith("fp32") & error["regime"].isna()]
    rows = by_part(rows[~rows["provider"].str.startswith(terms.EFFECT)])
    emulated = rows["provider"].str.startswith(terms.EMULATED)
    named = rows["provider"].str.removeprefix(terms.EMULATED)
    precision = rows["number"].str.partition(":")[2].replace("", "ieee") if len(rows) else named
    rows = rows.assign(
        product=named.where(emulated, precision),
        provider=rows["provider"].mask(emulated, terms.EMULATED.removesuffix("-")),
    )
    place = [*(name for name in SETTING if name not in ("number", "regime")), "cell"]
    return rows[_rows_in(rows[place], pd.MultiIndex.from_frame(rows.loc[emulated, place]))]


def one_pass(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of forward and backward where both passes were measured: bands are of seeds only."""
    both = rows[rows["pass"] == "fwd+bwd"]
    return both if len(both) else rows


def longest(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The rows at the other sizes with most points along an axis."""
    fixed = [name for name in terms.SIZES if name != axis]
    counts = rows.groupby(fixed)[axis].nunique()
    return rows[_rows_in(rows[fixed], counts[counts == counts.max()].index)]


def same_shapes(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows at the shapes, of each cell, that have most categories and providers.

    So providers are compared at the same shapes: where one failed, the others are left out.
    """
    shape = ["cell", *terms.SIZES]
    pairs = rows[[*shape, column, "provider"]].drop_duplicates().groupby(shape).size()
    common = pairs[pairs == pairs.groupby("cell").transform("max")].index
    return rows[_rows_in(rows[shape], common)]


def unmeasured(failed: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The failures of a figure's cells, categories and providers without any measured row."""
    place = ["cell", column, "provider"]
    for name in ("pass", *place):
        failed = failed[failed[name].isin(rows[name])]
    return failed[~_rows_in(failed[place], pd.MultiIndex.from_frame(rows[place]))]


def _rows_in(values: pd.DataFrame, index: pd.Index) -> Any:
    """Whether each row's values are in an index."""
    return pd.MultiIndex.from_frame(values).isin(index)


def matching(rows: pd.DataFrame, setting: dict[str, Any]) -> pd.DataFrame:
    """The rows with these values; None matches a missing one."""
    for name, value in setting.items():
        rows = rows[rows[name].isna() if value is None else rows[name] == value]
    return rows


def failures(error: pd.DataFrame, setting: dict[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """The failures of a setting and sizes, in the passes of the rows they are shown with."""
    found = matching(error[error["status"] != "ok"], setting)
    return found[found["pass"].isin(rows["pass"])]


def seed_count(rows: pd.DataFrame, *keys: str) -> str:
    """The number of seeds of the points that these keys identify: "3 seeds", "1 to 3 seeds"."""
    points = rows.groupby(["cell", "part", "provider", *keys])["seed"].nunique()
    least, most = int(points.min()), int(points.max())
    return f"{least} to {most} seeds" if least < most else terms.plural(most, "seed")


def interpreted_providers(rows: pd.DataFrame) -> str:
    """The providers measured in Triton's interpreter, joined by commas."""
    return ", ".join(terms.ordered_providers(rows.loc[rows["interpreted"].eq(True), "provider"]))


def remarks(rows: pd.DataFrame) -> list[str]:
    """What is to be said of the weight gradients of torch.nn where a CPU computed them."""
    shown = rows["part"].eq("gradient-weight") & rows["provider"].eq("torch.nn")
    shown &= rows["cudnn"].isna() & ~rows["number"].str.startswith("fp32")
    words = (
        "torch.nn's 16-bit gradients of recurrent weights grow as 0.3 u sqrt(T) on a CPU, since "
        "torch adds them up over the steps in the 16-bit type there."
    )
    return [words] if shown.any() else []


def notes(rows: pd.DataFrame) -> list[str]:
    """The notes of an error figure."""
    names = interpreted_providers(rows)
    note = (
        f"{names}: computed by Triton's interpreter on the CPU, at sizes it can do; a GPU's "
        "tensor cores and device functions round differently."
    )
    return [*([note] if names else []), *remarks(rows)]
