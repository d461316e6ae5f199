"""From records to data frames: one row per record, or per record and tensor."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.measure.statistics import MIN_VISITS
from bench.records import schema, store
from bench.report import terms

# The tensors that a figure or table calls output: those of all steps. The last step's states are
# only in the records.
OUTPUTS = ("y", "output")
COMPARED = ("ours", "torch.nn")  # the providers whose errors are compared
# The columns that every figure and table names as its origin.
ORIGIN = ("device", "torch", "triton", "cudnn", "run_id", "commit")

_ERROR_FLAT = (
    *("case_id", "status", "reason", "cell", "provider", "provider_version", "pass", "track"),
    *("directions", "layers", "B", "T", "I", "H", "resets", "seed", "regime", "interpreted"),
)
_NAMED = ("mode", "number", "inputs", *ORIGIN)
_PLANNED = ("plan_mode", "expected_us")
_SAMPLED = ("state", "visits", "starts")
_FLAT = (
    *(name for name, field in schema.FIELDS.items() if field.type not in ("object", "array")),
    "versus",
)
# The columns that rows are sorted by, and the columns with an order that is not alphabetical.
_ROW_ORDER = (
    *("cell", "pass", "track", "directions", "layers", "number", "inputs", "resets", "B", "T"),
    *("H", "regime", "mode", "provider", "tensor", "seed"),
)
_VALUE_ORDERS: dict[str, Sequence[str]] = {
    "cell": terms.CELL_ORDER,
    "pass": terms.PASS_ORDER,
    "loop": terms.LOOP_ORDER,
    "number": terms.NUMBER_ORDER,
    "provider": terms.PROVIDER_ORDER,
    "part": terms.PART_ORDER,
    "step": terms.EFFECT_ORDER,
    "product": terms.PRODUCT_ORDER,
}


def number(record: store.Record) -> str:
    """The number format in one word, as presets write it: fp32, fp32:tf32, bf16."""
    if record["dtype"] != "fp32" or record["precision"] in ("ieee", "none", None):
        return str(record["dtype"])
    return f"fp32:{record['precision']}"


def clock(record: store.Record) -> str | None:
    """The clock of a time or energy record; of one that failed, the clock it would have had."""
    if record["mode"] or record["kind"] not in ("time", "energy"):
        return record["mode"]
    if record["provider"].endswith("-graph"):
        return "graph"
    return "event" if record["device"].get("kind") == "cuda" else "host"


def state(record: store.Record) -> str:
    """The code and versions that a record was measured with; no curve or ratio joins two.

    Without the provider's own version, which an early failure does not have.
    """
    device, software = record["device"], record["software"]
    versions = (software.get("torch"), software.get("triton"))
    return str((record["code"], *versions, device.get("cudnn"), device.get("driver")))


def flat(
    records: Sequence[store.Record],
    more: Callable[[store.Record], dict[str, Any]] = lambda record: {},
) -> pd.DataFrame:
    """One row per record: its scalar fields and the columns of the functions below and ``more``.

    ``inputs`` is "H" where the input has as many features as the layer has units (or there is no
    input projection), else the number of features.
    """
    if not records:
        return pd.DataFrame(columns=list(dict.fromkeys((*_FLAT, *_NAMED, *_PLANNED, *_SAMPLED))))
    rows = [
        {name: record[name] for name in _FLAT}
        | (_named(record) | _planned(record) | _sampled(record) | more(record))
        for record in records
    ]
    return ordered(pd.DataFrame(rows))


def _planned(record: store.Record) -> dict[str, Any]:
    """The plan's mode, and what it expects a step of all loops to take, in microseconds."""
    plan = record["plan"] or {}
    costs = [each["cost"] for each in (plan, plan.get("backward") or {}) if each.get("cost")]
    expected = record["layers"] * sum(cost["floor_us"] for cost in costs) if costs else None
    return dict(zip(_PLANNED, (plan.get("mode"), expected), strict=True))


def _sampled(record: store.Record) -> dict[str, Any]:
    """The state, and the number of visits and of starts of the measuring process, behind a time.

    A time of fewer visits than are asked for today has no interval here, whatever is recorded.
    """
    visits = len(record["blocks"] or [])
    few = dict.fromkeys(("ci_low_ms", "ci_high_ms")) if visits < MIN_VISITS else {}
    found = (state(record), visits, record.get("starts", 1))
    return few | dict(zip(_SAMPLED, found, strict=True))


def errors(records: Sequence[store.Record]) -> pd.DataFrame:
    """One row per error record and tensor; a failed record gives one row without a tensor."""
    rows = []
    for record in records:
        base = {name: record[name] for name in _ERROR_FLAT} | _named(record)
        for tensor, metrics in (record["errors"] or {None: {}}).items():
            values = {name: metrics.get(name) for name in schema.ERROR_FIELDS}
            rows.append(base | {"tensor": tensor, "part": tensor and part(tensor)} | values)
    columns = [*_ERROR_FLAT, *_NAMED, "tensor", "part", *schema.ERROR_FIELDS]
    return ordered(pd.DataFrame(rows, columns=columns))


def part(tensor: str) -> str:
    """Of which kind a tensor is, a key of ``terms.PART_NAMES``.

    An output; the gradient of an input or initial state, or of a weight or bias; or part of a
    bias's gradient, one gate's.
    """
    if tensor.endswith(".gate"):
        return "gate"
    if not tensor.startswith("d"):
        return "output"
    return "gradient-weight" if tensor.startswith(("dw_", "db_")) else "gradient-state"


def _named(record: store.Record) -> dict[str, Any]:
    inputs = "H" if record["I"] in (None, record["H"]) else str(record["I"])
    return {"mode": clock(record), "number": number(record), "inputs": inputs} | origin(record)


def origin(found: Mapping[str, Any]) -> dict[str, Any]:
    """Device, versions, run and commit of a record or of a study's file.

    The run of such a file is the code that wrote it.
    """
    device, software = found["device"], found["software"]
    return {
        "device": device.get("name"),
        "torch": software.get("torch"),
        "triton": software.get("triton"),
        "cudnn": terms.cudnn_version(device.get("cudnn")),
        "run_id": found.get("run_id") or f"code {found['code']}",
        "commit": commit(found),
    }


def comparable(errors: pd.DataFrame) -> pd.DataFrame:
    """The errors over which the providers' largest are compared.

    Those with default weights and inputs, of the cases that both ours and torch.nn measured (of a
    cell that one lacks, of all): a provider measured at larger shapes would else look worse.
    """
    ok = errors[errors["status"].eq("ok") & errors["tensor"].notna() & errors["regime"].isna()]
    ok = ok[~ok["provider"].str.startswith(terms.MODELS)]
    kept = []
    for _, group in ok.groupby(["cell", "number"], sort=False):
        both = [set(group.loc[group["provider"] == name, "case_id"]) for name in COMPARED]
        kept.append(group[group["case_id"].isin(both[0] & both[1])] if all(both) else group)
    return pd.concat(kept) if kept else ok


def ordered(frame: pd.DataFrame, by: Sequence[str] = _ROW_ORDER) -> pd.DataFrame:
    """The rows in an order that does not depend on the records' order."""
    if frame.empty:
        return frame

    def rank(column: pd.Series) -> pd.Series:
        order = _VALUE_ORDERS.get(str(column.name))
        if order is None:
            return column.map(lambda value: "" if value is None else value)
        return column.map(
            {value: k for k, value in enumerate(terms.in_order(column.unique(), order))}
        )

    by = [name for name in by if name in frame]
    return frame.sort_values(by, key=rank, kind="stable").reset_index(drop=True)


def settings(
    frame: pd.DataFrame, names: Sequence[str] = terms.SETTING
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of each setting, the one with most rows first; None is a missing value."""

    def plain(value: Any) -> Any:
        return None if pd.isna(value) else getattr(value, "item", lambda: value)()

    groups = [
        (dict(zip(names, map(plain, values), strict=True)), rows)
        for values, rows in frame.groupby(list(names), dropna=False, sort=True)
    ]
    return sorted(groups, key=lambda group: -len(group[1]))


def best_slice(frame: pd.DataFrame, axis: str) -> tuple[dict[str, int], pd.DataFrame] | None:
    """The other two sizes with most points along ``axis``, failures included, and their rows.

    Of equally many points the larger problem. None if nothing has two points along the axis. A
    cell with fewer than two points of every provider is left out.
    """
    fixed = [name for name in terms.SIZES if name != axis]
    curve = ["cell", "pass", "provider"]
    points_of = frame[frame["status"] == "ok"].groupby([*fixed, *curve])[axis].nunique()
    able = set(points_of[points_of > 1].index.droplevel(curve))
    found = []
    for values, rows in frame.groupby(fixed, sort=True):
        if values in able:
            sizes = {name: int(value) for name, value in zip(fixed, values, strict=True)}
            points = len(rows[[*curve, axis]].drop_duplicates())
            found.append((points, math.prod(values), sizes, rows))
    if not found:
        return None
    _, _, sizes, rows = max(found, key=lambda each: each[:2])
    ok = rows[rows["status"] == "ok"]
    # For a cell that no provider could measure the failures are counted.
    counted = pd.concat([ok, rows[~rows["cell"].isin(ok["cell"])]])
    points = counted.groupby(curve)[axis].nunique()
    cells = points[points > 1].index.get_level_values("cell")
    return sizes, rows[rows["cell"].isin(cells)]


def commit(record: Mapping[str, Any]) -> str | None:
    """The commit's first nine digits, with a plus sign if the checkout had uncommitted changes."""
    if record["commit"] is None:
        return None
    return record["commit"][:9] + "+" * bool(record["dirty"])


def provenance(frame: pd.DataFrame) -> str:
    """Device, versions, runs and commits of the rows, in one line."""

    def words(name: str, most: int = 2) -> str:
        values = sorted({str(value) for value in frame[name] if isinstance(value, str)})
        more = f" and {len(values) - most} more" if len(values) > most else ""
        return ", ".join(values[:most]) + more

    versions = {"torch": "torch", "triton": "Triton", "cudnn": "cuDNN"}
    software = [f"{label} {words(name) or 'none'}" for name, label in versions.items()]
    code = [f"run {words('run_id')}", f"commit {words('commit') or 'unknown'}"]
    return " · ".join([words("device"), *software, *code])
