"""Which errors a figure or table shows, and in what words it names them."""

from typing import Any

import pandas as pd

from bench.report import terms
from bench.report.frames import ORIGIN, OUTPUTS

# Everything that must be equal before two errors may stand in one plot, sizes aside.
SETTING = ("track", "directions", "layers", "number", "inputs", "resets", "regime")


def by_part(error: pd.DataFrame) -> pd.DataFrame:
    """One row per record and part: the output's error, and the largest of its gradients'."""
    ok = error[(error["status"] == "ok") & error["tensor"].notna()]
    ok = ok[(ok["part"] == "gradient") | ok["tensor"].isin(OUTPUTS)]
    keys = [
        *("case_id", "cell", "pass", "provider", "part", *SETTING, "B", "T", "H", "seed"),
        *("interpreted", "status", "reason", *ORIGIN),
    ]
    return ok.groupby(keys, dropna=False, sort=False, as_index=False)["rel_l2"].max()


def one_pass(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a setting measured in both passes the one with gradients, so that bands are of seeds."""
    both = rows[rows["pass"] == "fwd+bwd"]
    return both if len(both) else rows


def longest(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The rows at those other sizes where most points lie along an axis: the longest growth."""
    fixed = [name for name in terms.SIZES if name != axis]
    counts = rows.groupby(fixed)[axis].nunique()
    return rows[_among(rows[fixed], counts[counts == counts.max()].index)]


def same_shapes(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Of each cell the shapes that most categories of most providers have.

    So like is compared with like: where one provider failed at a shape, no other has it either.
    """
    shape = ["cell", *terms.SIZES]
    pairs = rows[[*shape, column, "provider"]].drop_duplicates().groupby(shape).size()
    common = pairs[pairs == pairs.groupby("cell").transform("max")].index
    return rows[_among(rows[shape], common)]


def unmeasured(failed: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The failures that leave a place of a figure empty: of its cells, categories and providers."""
    place = ["cell", column, "provider"]
    for name in ("pass", *place):
        failed = failed[failed[name].isin(rows[name])]
    return failed[~_among(failed[place], pd.MultiIndex.from_frame(rows[place]))]


def _among(values: pd.DataFrame, index: pd.Index) -> Any:
    """Which rows' values stand in an index."""
    return pd.MultiIndex.from_frame(values).isin(index)


def matching(rows: pd.DataFrame, setting: dict[str, Any]) -> pd.DataFrame:
    """The rows with such values; None stands for none."""
    for name, value in setting.items():
        rows = rows[rows[name].isna() if value is None else rows[name] == value]
    return rows


def failures(error: pd.DataFrame, setting: dict[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """The failures of a setting and sizes, in the passes of the rows that they are shown beside."""
    found = matching(error[error["status"] != "ok"], setting)
    return found[found["pass"].isin(rows["pass"])]


def seeds(rows: pd.DataFrame, *keys: str) -> str:
    """How many seeds stand behind each point of such keys, in words."""
    points = rows.groupby(["cell", "part", "provider", *keys])["seed"].nunique()
    least, most = int(points.min()), int(points.max())
    return f"{least} to {most} seeds" if least < most else terms.plural(most, "seed")


def interpreted_providers(rows: pd.DataFrame) -> str:
    """Whose errors are of Triton's interpreter, joined by commas; empty if nobody's."""
    return ", ".join(terms.ordered_providers(rows.loc[rows["interpreted"].eq(True), "provider"]))


def notes(rows: pd.DataFrame) -> list[str]:
    """What must be said beside an error figure."""
    names = interpreted_providers(rows)
    if not names:
        return []
    return [
        f"{names}: computed by Triton's interpreter on the CPU, at sizes it can do; a GPU's "
        "tensor cores and device functions round differently."
    ]
