"""From records to data frames: which records count, and in what words they are named.

Imports no torch: whatever is drawn or tabulated comes from stored records alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench import providers
from bench.records import schema, store

# Who a speed-up is over: the same library timed by the same clock.
BASELINES = providers.baselines()
CELL_ORDER = ("rnn_tanh", "rnn_relu", "gru", "lstm", "slstm")
CELL_NAMES = {
    "rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (relu)", "gru": "GRU", "lstm": "LSTM",
    "slstm": "sLSTM",
}  # fmt: skip
PROVIDER_ORDER = (
    *("ours", "ours-persistent", "ours-stepwise", "ours-stepwise-graph", "ours-gemm"),
    *("ours-graph", "torch.nn", "torch.nn-graph", "reference", "reference-compiled"),
    *("flashrnn-fused", "flashrnn-alternating", "flashrnn-triton", "torchrl-triton"),
)
EFFECT = "effect-"  # begins a provider that rounds in one place only
# The tensors that a figure or table calls output: of all steps. States of the last one stay in the
# records and are checked like them.
OUTPUTS = ("y", "output")
COMPARED = ("ours", "torch.nn")  # who is held against whom in error
PASS_ORDER = ("fwd", "fwd+bwd")
PASS_NAMES = {"fwd": "forward", "fwd+bwd": "forward + backward"}
NUMBER_ORDER = ("fp32", "fp32:tf32x3", "fp32:tf32", "fp16", "bf16")
# Where there is less room.
PASS_HEADS = {"fwd": "forward", "fwd+bwd": "fwd+bwd"}
# Everything that must be equal before two times may stand in one plot, sizes aside.
SETTING = ("track", "directions", "layers", "number", "inputs", "resets", "mode")
SIZES = ("B", "T", "H")
# What every figure and table names.
ORIGIN = ("device", "torch", "triton", "cudnn", "run_id", "commit")

_FLAT = (
    *("case_id", "kind", "status", "reason", "cell", "provider", "provider_version"),
    *("pass", "track", "directions", "dtype", "precision", "layers", "B", "T", "I", "H", "resets"),
    *("n", "median_ms", "p20_ms", "p80_ms", "ci_low_ms", "ci_high_ms", "converged"),
    *("us_per_step", "tokens_per_s", "tflops", "gbps", "floor_share", "peak_bytes", "compile_s"),
    *("algorithm", "versus", "seed", "time", "regime", "interpreted"),
)


@dataclass
class Run:
    """The records of one device that count, and how many do not.

    ``aside`` maps a sentence to the number of records it keeps out of tables and figures.
    """

    name: str
    folder: Path
    records: list[store.Record]
    sources: list[Path] = field(default_factory=list)
    aside: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str) -> list[store.Record]:
        """The records of one kind: time, error or resources."""
        return [record for record in self.records if record["kind"] == kind]

    @functools.cached_property
    def time(self) -> pd.DataFrame:
        """``flat`` of the time records, made once; whoever changes it copies it first."""
        return flat(self.of("time"))

    @functools.cached_property
    def error(self) -> pd.DataFrame:
        """``errors`` of the error records, made once."""
        return errors(self.of("error"))

    @functools.cached_property
    def every(self) -> pd.DataFrame:
        """``flat`` of all records, whatever their kind, made once."""
        return flat(self.records)


def state(record: store.Record) -> tuple[Any, ...]:
    """The code and versions behind a record: records of different states never share a curve.

    The provider's own version is not in it, because a failure may not have come to know it.
    """
    device, software = record["device"], record["software"]
    return (
        record["code"],
        software.get("torch"),
        software.get("triton"),
        device.get("cudnn"),
        device.get("driver"),
    )


def one_state(records: Sequence[store.Record]) -> tuple[list[store.Record], dict[str, int]]:
    """The newest record per question, for each kind and provider those of one state only.

    Of several states the one with most records counts, the newer on a tie, so that a short run
    after a change of code neither mixes with nor hides a long one. The same holds for versions
    of the provider within a state.

    Returns:
        The records that count, and how many do not, by the reason.
    """
    groups: dict[tuple[str, str], list[store.Record]] = {}
    for record in records:
        groups.setdefault((record["kind"], record["provider"]), []).append(record)
    kept: list[store.Record] = []
    aside: dict[str, int] = {}
    for (kind, provider), members in groups.items():
        chosen = _most(members, state)
        known_version = [record for record in chosen if record["provider_version"] is not None]
        if known_version:
            same = _most(known_version, lambda record: record["provider_version"])
            version = same[0]["provider_version"]
            chosen = [r for r in chosen if r["provider_version"] in (None, version)]
        if len(members) > len(chosen):
            others = len(members) - len(chosen)
            aside[f"{kind} of {provider}: measured with other code or versions"] = others
        latest = store.latest(_by_time(chosen))
        if len(chosen) > len(latest):
            repeated = "measured again later by the same code"
            aside[repeated] = aside.get(repeated, 0) + len(chosen) - len(latest)
        kept += latest
    return kept, aside


def _most(
    records: Sequence[store.Record], name: Callable[[store.Record], Any]
) -> list[store.Record]:
    """The largest group of records of equal name; of equally large ones the newest."""
    groups: dict[Any, list[store.Record]] = {}
    for record in records:
        groups.setdefault(name(record), []).append(record)
    return max(
        groups.values(),
        key=lambda found: (len(store.latest(found)), max(str(r["time"]) for r in found)),
    )


def _by_time(records: Iterable[store.Record]) -> list[store.Record]:
    return sorted(records, key=lambda record: str(record["time"]))


def number(record: store.Record) -> str:
    """The number format in one word, as presets write it: fp32, fp32:tf32, bf16."""
    if record["dtype"] != "fp32" or record["precision"] in ("ieee", "none", None):
        return str(record["dtype"])
    return f"fp32:{record['precision']}"


def clock(record: store.Record) -> str | None:
    """How a record was timed; for one that never got so far, how it would have been."""
    if record["mode"] or record["kind"] != "time":
        return record["mode"]
    if record["provider"].endswith("-graph"):
        return "graph"
    return "event" if record["device"].get("kind") == "cuda" else "host"


def flat(records: Sequence[store.Record]) -> pd.DataFrame:
    """One row per record with its scalar fields, and ``number`` and ``inputs`` added.

    ``inputs`` is "H" where the input has as many features as the layer has units (or there is no
    input projection), else the number of features.
    """
    rows = [
        {name: record[name] for name in _FLAT}
        | _named(record)
        | {"plan_mode": (record["plan"] or {}).get("mode")}
        for record in records
    ]
    return ordered(pd.DataFrame(rows, columns=[*_FLAT, *_NAMED, "plan_mode"]))


_NAMED = ("mode", "number", "inputs", *ORIGIN)


def _named(record: store.Record) -> dict[str, Any]:
    device, software = record["device"], record["software"]
    return {
        "mode": clock(record),
        "number": number(record),
        "inputs": "H" if record["I"] in (None, record["H"]) else str(record["I"]),
        "device": device.get("name"),
        "torch": software.get("torch"),
        "triton": software.get("triton"),
        "cudnn": cudnn(device.get("cudnn")),
        "run_id": record["run_id"],
        "commit": commit(record),
    }


def errors(records: Sequence[store.Record]) -> pd.DataFrame:
    """One row per error record and tensor; a failed record gives one row without a tensor."""
    rows = []
    for record in records:
        base = {name: record[name] for name in _ERROR_FLAT} | _named(record)
        for tensor, metrics in (record["errors"] or {None: {}}).items():
            values = {name: metrics.get(name) for name in schema.ERROR_FIELDS}
            rows.append(base | {"tensor": tensor, "part": part(tensor)} | values)
    columns = [*_ERROR_FLAT, *_NAMED, "tensor", "part", *schema.ERROR_FIELDS]
    return ordered(pd.DataFrame(rows, columns=columns))


_ERROR_FLAT = (
    *("case_id", "kind", "status", "reason", "cell", "provider", "provider_version", "pass"),
    *("track", "directions", "layers", "B", "T", "I", "H", "resets", "seed", "regime"),
    *("interpreted", "time"),
)


def comparable(errors: pd.DataFrame) -> pd.DataFrame:
    """The errors of which a largest may be taken for each provider: those with default weights and
    inputs, of the cases that both ours and torch.nn measured (of a cell that one lacks, of all).

    Else whoever is measured at longer or larger shapes looks worse.
    """
    ok = errors[errors["status"].eq("ok") & errors["tensor"].notna() & errors["regime"].isna()]
    ok = ok[~ok["provider"].str.startswith(EFFECT)]
    kept = []
    for _, group in ok.groupby(["cell", "number"], sort=False):
        both = [set(group.loc[group["provider"] == name, "case_id"]) for name in COMPARED]
        kept.append(group[group["case_id"].isin(both[0] & both[1])] if all(both) else group)
    return pd.concat(kept) if kept else ok


def part(tensor: str | None) -> str | None:
    """Whether a tensor is an output ("output") or a gradient ("gradient")."""
    if tensor is None:
        return None
    return "gradient" if tensor.startswith("d") else "output"


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in a fixed order, so that the same records always give the same bytes."""
    if frame.empty:
        return frame
    ranks = {
        "cell": CELL_ORDER,
        "pass": PASS_ORDER,
        "number": NUMBER_ORDER,
        "provider": PROVIDER_ORDER,
    }

    def rank(column: pd.Series) -> pd.Series:
        order = ranks.get(str(column.name))
        if order is None:
            return column.map(lambda value: "" if value is None else value)
        # Ranks as whole numbers, worked out once per value: tuples take long to compare.
        places = {value: k for k, value in enumerate(known(column.unique(), order))}
        return column.map(places)

    by = [
        *("cell", "pass", "track", "directions", "layers", "number", "inputs", "resets", "B", "T"),
        *("H", "regime", "mode", "provider", "tensor", "seed"),
    ]
    by = [name for name in by if name in frame]
    return frame.sort_values(by, key=rank, kind="stable").reset_index(drop=True)


def known(values: Iterable[Any], order: Sequence[str]) -> list[str]:
    """The distinct values, those of ``order`` first and in its order."""
    seen = {str(value) for value in values if value is not None}
    return [value for value in order if value in seen] + sorted(seen - set(order))


def setting_words(setting: dict[str, Any]) -> str:
    """A setting as a reader says it: "layer, 1 direction, bf16"."""
    words = ["loop alone" if setting["track"] == "recurrence" else "layer"]
    words.append(f"{setting['directions']}\u00a0direction{'s' * (setting['directions'] > 1)}")
    if "number" in setting:
        words.append(setting["number"])
    if setting["layers"] > 1:
        words.append(f"{setting['layers']} layers")
    if setting["inputs"] != "H":
        words.append(f"I={setting['inputs']}")
    if setting["resets"]:
        words.append(f"{setting['resets']:.3g} resets")
    return ", ".join(words)


def setting_slug(setting: dict[str, Any]) -> str:
    """A setting as a part of a file's name."""
    words = [setting["track"], f"{setting['directions']}dir"]
    if "number" in setting:
        words.append(setting["number"].replace(":", "-"))
    if setting["layers"] > 1:
        words.append(f"{setting['layers']}layers")
    if setting["inputs"] != "H":
        words.append(f"I{setting['inputs']}")
    if setting["resets"]:
        words.append(f"r{setting['resets']:g}")
    if setting.get("mode"):
        words.append(setting["mode"])
    return "-".join(words)


def settings(
    frame: pd.DataFrame, names: Sequence[str] = SETTING
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of each setting, the one with most rows first."""
    groups = [
        (dict(zip(names, values, strict=True)), rows)
        for values, rows in frame.groupby(list(names), dropna=False, sort=True)
    ]
    groups = [({k: _plain(v) for k, v in setting.items()}, rows) for setting, rows in groups]
    return sorted(groups, key=lambda group: -len(group[1]))


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def best_slice(frame: pd.DataFrame, axis: str) -> tuple[dict[str, int], pd.DataFrame] | None:
    """Where to cut the grid to look along ``axis``: the cut with most points, failures counted.

    Of equal cuts the one with the larger problem. None if nothing has two points along the axis.
    """
    fixed = [name for name in SIZES if name != axis]
    best: tuple[tuple[float, float], dict[str, int], pd.DataFrame] | None = None
    curve = ["cell", "pass", "provider"]
    points_of = frame[frame["status"] == "ok"].groupby([*fixed, *curve])[axis].nunique()
    able = set(points_of[points_of > 1].index.droplevel(curve))
    for values, rows in frame.groupby(fixed, sort=True):
        if values not in able:
            continue
        cut = {name: int(v) for name, v in zip(fixed, values, strict=True)}
        points = len(rows[["cell", "pass", "provider", axis]].drop_duplicates())
        score = (float(points), float(math.prod(cut.values())))
        if best is None or score > best[0]:
            best = (score, cut, rows)
    return None if best is None else (best[1], along(best[2], axis))


def along(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The rows of those cells that have at least two points of one provider along ``axis``.

    A cell that nobody could measure anywhere counts by its failures.
    """
    curve = ["cell", "pass", "provider"]
    ok = rows[rows["status"] == "ok"]
    counted = pd.concat([ok, rows[~rows["cell"].isin(ok["cell"])]])
    points = counted.groupby(curve)[axis].nunique()
    cells = points[points > 1].index.get_level_values("cell")
    return rows[rows["cell"].isin(cells)]


def cudnn(version: Any) -> str | None:
    """cuDNN's version number in words: 92000 is 9.20.0, 8907 is 8.9.7.

    >>> cudnn(92000), cudnn(8907)
    ('9.20.0', '8.9.7')
    """
    if version is None:
        return None
    if isinstance(version, int):
        unit = 10000 if version >= 90000 else 1000
        return f"{version // unit}.{version % unit // 100}.{version % 100}"
    return str(version)


def commit(record: store.Record) -> str | None:
    """The commit's first letters, with a plus sign if the checkout had changes beyond it."""
    if record["commit"] is None:
        return None
    return record["commit"][:9] + ("+" if record["dirty"] else "")


def provenance(frame: pd.DataFrame) -> str:
    """Device, versions, runs and commits of the rows, in one line beside every figure and table."""

    def words(name: str, most: int = 2) -> str:
        values = sorted({str(value) for value in frame[name] if isinstance(value, str)})
        more = f" and {len(values) - most} more" if len(values) > most else ""
        return ", ".join(values[:most]) + more

    parts = [words("device")]
    for name, label in (("torch", "torch"), ("triton", "Triton"), ("cudnn", "cuDNN")):
        parts.append(f"{label} {words(name) or 'none'}")
    parts += [f"run {words('run_id')}", f"commit {words('commit') or 'unknown'}"]
    return " · ".join(parts)
