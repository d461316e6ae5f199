"""Speed at equal accuracy: each provider in each number type, its time against its error.

Both are of one record: the errors are those of the call that was timed, at that very shape.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.records import store
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.style.typeset import MOST_ROWS, Table, drop_constant_columns, named

# The errors asked for: in words, and as a multiple of the baseline's in fp32 (ieee) or a bound.
LEVELS = (("4 x fp32", 4.0, True), ("1e-3", 1e-3, False), ("1e-2", 1e-2, False))
# What all points of a figure share, sizes aside.
SETTING = tuple(name for name in terms.SETTING if name != "number")
SHAPE = ["cell", "pass", *SETTING, *terms.SIZES]
ERRORS = ("output_rel_l2", "gradient_rel_l2", "rel_l2")
DATA = [
    *("case_id", "cell", "pass", "provider", "number", "status", "reason", "B", "T", "I", "H"),
    *("median_ms", "ci_low_ms", "ci_high_ms", "us_per_step", "tokens_per_s", *ERRORS, "front"),
    *frames.ORIGIN,
]
TRUTH = (
    "The truth is float64 on the inputs as rounded to each number type, so this is the error of "
    "the computation, not of rounding its inputs."
)


def points(run: Run) -> pd.DataFrame:
    """Every time record with its errors, and whether it is on the front of its shape.

    ``output_rel_l2`` is the output's relative L2 error, ``gradient_rel_l2`` the largest one of a
    gradient, ``rel_l2`` the larger of both. ``front`` is None for a failure.
    """
    rows = frames.flat(run.of("time"), _errors)
    rows = rows.assign(**{name: rows.get(name) for name in ERRORS}, front=None)
    for _, here in measured(rows).groupby(SHAPE, dropna=False):
        rows.loc[here.index, "front"] = on_front(here["us_per_step"], here["rel_l2"])
    return rows


def _errors(record: store.Record) -> dict[str, float | None]:
    found = {
        tensor: metrics["rel_l2"]
        for tensor, metrics in (record["errors"] or {}).items()
        if tensor in frames.OUTPUTS or frames.part(tensor).startswith(terms.GRADIENT)
    }
    output = max((found[name] for name in frames.OUTPUTS if name in found), default=None)
    gradient = max((found[name] for name in found if name not in frames.OUTPUTS), default=None)
    values = (output, gradient, max(found.values(), default=None))
    return dict(zip(ERRORS, values, strict=True))


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with errors and a time of enough samples for an interval; others enter no ratio."""
    return rows[rows["status"].eq("ok") & rows["rel_l2"].notna() & rows["ci_low_ms"].notna()]


def on_front(time: Any, error: Any) -> np.ndarray:
    """Whether each point is on the Pareto front: no other is better in one and as good in both."""
    t, e = np.asarray(time, float), np.asarray(error, float)
    no_worse = np.less_equal.outer(t, t).T & np.less_equal.outer(e, e).T
    better = np.less.outer(t, t).T | np.less.outer(e, e).T
    return ~np.any(no_worse & better, axis=1)


def widest(rows: pd.DataFrame) -> list[tuple[dict[str, Any], dict[str, int], pd.DataFrame]]:
    """Of each setting the sizes with most number types in one cell and pass, failures included.

    Of equally many those with most points, then the larger problem. A cell with fewer than two
    number types there is left out, and so is a setting without any other.
    """
    found = []
    for setting, here in frames.settings(rows, SETTING):
        shapes = []
        for values, some in here.groupby(list(terms.SIZES)):
            ok = measured(some)
            types = ok.groupby(["cell", "pass"])["number"].nunique()
            if types.max() >= 2:
                cells = types[types >= 2].index.get_level_values("cell")
                sizes = dict(zip(terms.SIZES, map(int, values), strict=True))
                rank = (types.max(), len(ok), math.prod(values))
                shapes.append((rank, sizes, some[some["cell"].isin(cells)]))
        if shapes:
            found.append((setting, *max(shapes, key=lambda each: each[0])[1:]))
    return found


def levels(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each shape with two number types, per error asked for, the fastest point that reaches it.

    ``base_`` columns are torch.nn's fastest under the same clock that reaches it, in any number
    type; ``speed`` is its time over the fastest point's. Both are missing where none does. A level
    relative to fp32 is left out where torch.nn has no time in fp32.
    """
    found = []
    for values, here in measured(rows).groupby(SHAPE, dropna=False, sort=False):
        if here["number"].nunique() < 2:
            continue
        shape = dict(zip(SHAPE, values, strict=True))
        base = here[here["provider"] == terms.BASELINES.get(shape["mode"])]
        fp32 = base.loc[base["number"] == "fp32", "rel_l2"].min()
        for level, bound, relative in LEVELS:
            limit = bound * (fp32 if relative else 1.0)
            if math.isnan(limit):
                continue
            best, rival = (_fastest(some[some["rel_l2"] <= limit]) for some in (here, base))
            row = shape | {"level": level, "limit": limit} | best
            row |= {f"base_{name}": value for name, value in rival.items()}
            row["speed"] = rival["us_per_step"] / best["us_per_step"]
            found.append(row | {name: here[name].iloc[0] for name in frames.ORIGIN})
    return pd.DataFrame(found)


def _fastest(rows: pd.DataFrame) -> dict[str, Any]:
    names = ["provider", "number", "us_per_step", "rel_l2", "output_rel_l2", "gradient_rel_l2"]
    if rows.empty:
        return {name: math.nan if name not in names[:2] else None for name in names}
    best: dict[str, Any] = rows.loc[rows["us_per_step"].astype(float).idxmin(), names].to_dict()
    return best


def table(run: Run) -> Table | None:
    """Per error asked for, the fastest provider and torch.nn's; None without two number types."""
    rows = points(run)
    full = levels(rows)
    if full.empty:
        return None
    chosen = [some[SHAPE].drop_duplicates() for _, _, some in widest(rows)]
    shown = pd.concat(chosen).merge(full, on=SHAPE)
    settings = [terms.setting_words(row) for row in shown[[*SETTING]].to_dict("records")]

    def who(prefix: str) -> list[str]:
        pairs = zip(shown[f"{prefix}provider"], shown[f"{prefix}number"], strict=True)
        return [f"{name}, {number}" if isinstance(name, str) else "none" for name, number in pairs]

    words = named(shown)[["cell", "pass", "mode", *terms.SIZES]].rename(columns={"mode": "clock"})
    words = words.assign(
        **{
            "setting": settings,
            "error within": shown["level"],
            "fastest": who(""),
            "µs per step": shown["us_per_step"],
            "error": shown["rel_l2"],
            "torch.nn's fastest": who("base_"),
            "its µs": shown["base_us_per_step"],
            "speed": shown["speed"],
        }
    ).head(MOST_ROWS)
    words, same = drop_constant_columns(words, ("setting", "clock", *terms.SIZES))
    return Table(
        "pareto",
        "Speed at equal accuracy: for each error asked for, the fastest provider and number type "
        "whose output (in fwd+bwd also its worst gradient) is within it, and torch.nn's fastest "
        "under the same clock. Error: relative L2, the larger of both. 4 x fp32: four times "
        "torch.nn's own in fp32 with ieee products. Speed: ratio of the medians of two cases, "
        "within one run, which did not always take turns; it has no interval, and the fastest of "
        "several near-equal ones is partly a choice of noise, hence too fast by some of it. "
        f"{TRUTH}" + f" {same}." * bool(same),
        words,
        full,
        dict.fromkeys(terms.SIZES, 0) | {"µs per step": 3, "error": -2, "its µs": 3, "speed": 3},
        frames.provenance(rows),
    )


def missing(run: Run) -> list[str]:
    """What would measure speed at equal accuracy, if no shape has two number types."""
    if widest(points(run)):
        return []
    return [
        "speed at equal accuracy: needs one shape in several number types "
        "(`python -m bench sweep --preset campaign`)"
    ]
