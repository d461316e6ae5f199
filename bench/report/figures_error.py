"""The figures of numerical error: against T, H and B with bands over seeds, and against the dtype.

All draw the relative L2 error against float64 on the same rounded inputs: of the output, and of
the worst gradient (each relative to its own norm). Imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import bound
from bench.cases import make_case
from bench.report import frames, plots
from bench.report.figures import AXIS_WORDS, cut_words
from bench.report.frames import CELL_NAMES, CELL_ORDER, EFFECT, NUMBER_ORDER

Job = Callable[[Path], list[Path]]
SETTING = ("track", "directions", "layers", "number", "inputs", "resets", "regime")
PART_WORDS = {"output": "output", "gradient": "worst gradient"}
# Category column: what the figure says it is against, and the order of its values.
CATEGORIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "number": ("against the number format", NUMBER_ORDER),
    "regime": (
        "under other weights and inputs",
        (
            *("default", "orthogonal-0.9", "orthogonal-1.0", "orthogonal-1.1"),
            *("constant", "large", "tiny", "lengths"),
        ),
    ),
    "step": (
        "of one rounding at a time",
        (
            *("effect-inputs", "effect-projection", "effect-product", "effect-sum"),
            *("effect-activation", "effect-carry-fp32", "effect-carry-io", "effect-output"),
            *("effect-all", "effect-all-carry-io"),
        ),
    ),
}
PLAIN = plots.Look("#222222", "o", "-")
FILES = {"number": "dtype", "regime": "regime", "step": "effects"}
MODEL: dict[str, Any] = {
    "color": "black", "linewidth": 0.8, "linestyle": (0, (1, 1.2)), "zorder": 1.9,
}  # fmt: skip
# Unit roundoff of each format: half the distance from 1 to the next number.
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}


def by_part(error: pd.DataFrame) -> pd.DataFrame:
    """One row per record and part: the output's error, and the largest of its gradients'."""
    ok = error[(error["status"] == "ok") & error["tensor"].notna()]
    # States are left out: the last state is among the outputs already.
    ok = ok[(ok["part"] == "gradient") | ok["tensor"].isin(["y", "output"])]
    keys = [
        *("case_id", "cell", "pass", "provider", "part", *SETTING, "B", "T", "H", "seed"),
        *("interpreted", "status", "reason", *frames.ORIGIN),
    ]
    return ok.groupby(keys, dropna=False, sort=False, as_index=False)["rel_l2"].max()


def one_pass(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a setting measured in both passes the one with gradients, so that bands are of seeds."""
    both = rows[rows["pass"] == "fwd+bwd"]
    return both if len(both) else rows


def longest(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The cuts with most sizes along an axis: growth is shown as far as it was measured."""
    fixed = [name for name in frames.SIZES if name != axis]
    counts = rows.groupby(fixed)[axis].nunique()
    cuts = counts[counts == counts.max()].index
    return rows[pd.MultiIndex.from_frame(rows[fixed]).isin(cuts)]


def notes(rows: pd.DataFrame) -> list[str]:
    """What must be said beside an error figure."""
    said = []
    interpreted = rows.loc[rows["interpreted"].eq(True), "provider"]
    if len(interpreted):
        names = ", ".join(plots.by_look(interpreted))
        said.append(
            f"{names}: computed by Triton's interpreter on the CPU, at sizes it can do; a GPU's "
            "tensor cores and device functions round differently."
        )
    return said


def curve_jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Error along T, H and B, per setting."""
    parts = by_part(error[~error["provider"].str.startswith(EFFECT)])
    if parts.empty:
        return
    for setting, rows in frames.settings(parts, SETTING):
        failed = _matching(error[error["status"] != "ok"], setting)
        for axis in ("T", "H", "B"):
            found = frames.best_slice(longest(one_pass(rows), axis), axis)
            if found is None:
                continue
            cut, here = found
            bad = failed
            for name, value in cut.items():
                bad = bad[bad[name] == value]
            yield functools.partial(curves, here, bad, axis, setting, cut)


def expected(row: dict[str, Any], axis: str, sizes: Sequence[int]) -> list[float] | None:
    """The rounding model's relative L2 error of the whole output at sizes along an axis.

    None where the model (bench/ERROR.md) says nothing: other cells, several layers, odd inputs.
    """
    regime = row["regime"] if isinstance(row["regime"], str) else None
    if row["cell"] not in bound.CELLS or row["layers"] != 1 or row["resets"]:
        return None
    if regime is not None and not regime.startswith("orthogonal"):
        return None
    found = []
    for size in sizes:
        shape = {name: row[name] for name in frames.SIZES} | {axis: size}
        inputs = "H" if row["inputs"] == "H" else int(row["inputs"])
        names = {name: row[name] for name in ("cell", "track", "directions", "layers", "resets")}
        case = make_case(**names, **shape, I=inputs, dtype=row["number"], **{"pass": "fwd"})
        steps = bound.growth(case, case.T, regime)
        found.append(float(np.sqrt(np.mean(steps**2))))
    return found


def _models(rows: pd.DataFrame, axis: str) -> dict[str, tuple[list[int], list[float]]]:
    """The model's curve of each cell that it knows."""
    found = {}
    for cell, here in rows[rows["part"] == "output"].groupby("cell"):
        sizes = sorted({int(size) for size in here[axis]})
        model = expected(here.to_dict("records")[0], axis, sizes)
        if model is not None:
            found[str(cell)] = (sizes, model)
    return found


Spread = tuple[list[Any], np.ndarray]


def _spreads(
    rows: pd.DataFrame, column: str, least: float
) -> dict[tuple[str, str], dict[str, Spread]]:
    """Of each cell and part, per provider: a column's values, and [3, values] of the error.

    The rows of three are its median, least and largest. An exact result has no place on a
    logarithmic axis: it counts as ``least``. One grouping for all panels, since each takes long.
    """
    keys = ["cell", "part", "provider"]
    found = rows.groupby([*keys, column], sort=True)["rel_l2"].agg(["median", "min", "max"])
    found = found.clip(lower=least)
    spreads: dict[tuple[str, str], dict[str, Spread]] = {}
    for (cell, part, provider), here in found.groupby(level=keys, sort=False):
        values = list(here.index.get_level_values(column))
        spreads.setdefault((cell, part), {})[provider] = (values, here.to_numpy().T)
    return spreads


def _matching(rows: pd.DataFrame, setting: dict[str, Any]) -> pd.DataFrame:
    for name, value in setting.items():
        rows = rows[rows[name].isna() if value is None else rows[name] == value]
    return rows


def curves(
    rows: pd.DataFrame,
    failed: pd.DataFrame,
    axis: str,
    setting: dict[str, Any],
    cut: dict[str, int],
    folder: Path,
) -> list[Path]:
    """Median over seeds as a line, least to largest as a band; the format's roundoff in grey."""
    cells = frames.known(rows["cell"], CELL_ORDER)
    parts = frames.known(rows["part"], tuple(PART_WORDS))
    roundoff = ROUNDOFF.get(setting["number"])
    providers = plots.by_look([*rows["provider"], *failed["provider"]])
    handles = [plots.handle(name) for name in providers]
    if roundoff:
        handles.append(plots.Line2D([], [], color="0.45", linewidth=0.7, label="unit roundoff"))
    modelled = axis in ("T", "H") and "ours" in providers
    models = _models(rows, axis) if modelled else {}
    said = []
    if models:
        handles.append(plots.Line2D([], [], label="model of ours", **MODEL))
        said.append("Model: what roundings alone are expected to make of ours (bench/ERROR.md).")
    seeds = rows["seed"].nunique()
    band = f"Line: median of {seeds} seeds; band: least to largest." if seeds > 1 else "One seed."
    sheet = plots.Sheet(
        len(cells),
        len(parts),
        title=f"Error against {AXIS_WORDS[axis]}: {frames.setting_words(setting)}, "
        f"{cut_words(cut)}{regime_words(setting)}",
        origin=frames.provenance(rows),
        handles=handles,
        notes=[
            f"Relative L2 error against float64 on the same inputs. {band}",
            *said,
            *notes(rows),
            *plots.failure_notes(failed),
        ],
    )
    values = rows.loc[rows["rel_l2"] > 0, "rel_l2"]
    low, high = (values.min(), values.max()) if len(values) else (1e-8, 1e-6)
    if roundoff:
        low, high = min(low, roundoff), max(high, roundoff)
    for _, model in models.values():
        low, high = min(low, *model), max(high, *model)
    plots.size_axis(sheet.shared, [*rows[axis], *failed[axis]])
    plots.value_axis(sheet.shared, low, high, powers=True, marks=failed["provider"].nunique())
    lines = _spreads(rows, axis, low / 2)
    for r, cell in enumerate(cells):
        for c, part in enumerate(parts):
            axes = sheet.axes[r, c]
            here = lines.get((cell, part), {})
            for provider in plots.by_look(here):
                sizes, (middle, least, most) = here[provider]
                plots.draw_line(axes, provider, sizes, middle)
                if seeds > 1:
                    color = plots.look(provider).color
                    axes.fill_between(sizes, least, most, color=color, alpha=0.18, linewidth=0)
            if part == "output" and cell in models:
                axes.plot(*models[cell], **MODEL)
            if roundoff:
                axes.axhline(roundoff, color="0.45", linewidth=0.7, zorder=1)
            plots.mark_failures(axes, failed[failed["cell"] == cell], axis)
            plots.head(axes, f"{CELL_NAMES.get(cell, cell)}, {PART_WORDS[part]}")
    sheet.label(AXIS_WORDS[axis], "relative L2 error")
    slug = frames.setting_slug({**setting, "mode": setting["regime"]})
    data = pd.concat([rows, failed[[name for name in rows if name in failed]]])
    return sheet.save(folder, f"error-{axis}-{slug}", data)


def regime_words(setting: dict[str, Any]) -> str:
    regime = setting.get("regime")
    return f"; weights and inputs: {regime}" if regime else ""


def category_jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Error against the number format, against weights and inputs, and by single roundings."""
    parts = by_part(error)
    if parts.empty:
        return
    effects = parts[parts["provider"].str.startswith(EFFECT)]
    parts = parts[~parts["provider"].str.startswith(EFFECT)]
    for column in ("number", "regime"):
        names = tuple(name for name in SETTING if name != column)
        if column == "regime":
            parts = parts.assign(regime=parts["regime"].astype(object).fillna("default"))
        for setting, rows in frames.settings(parts, names):
            rows = same_shapes(one_pass(rows), column)
            if rows[column].nunique() > 1:
                yield functools.partial(dots, rows, column, setting)
    for setting, rows in frames.settings(effects, SETTING):
        yield functools.partial(dots, rows.assign(step=rows["provider"]), "step", setting)


def same_shapes(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Only the shapes that every category has, so that like is compared with like."""
    shape = ["B", "T", "H", "cell"]
    # A category that shares no shape with the largest one is left out rather than all others.
    while rows[column].nunique() > 1:
        counts = rows.groupby(shape)[column].nunique()
        common = counts[counts == rows[column].nunique()].index
        if len(common):
            return rows[pd.MultiIndex.from_frame(rows[shape]).isin(common)]
        sizes = rows.groupby(column, sort=True)["case_id"].nunique()
        rows = rows[rows[column] != sizes.index[int(sizes.to_numpy().argmin())]]
    return rows


def dots(rows: pd.DataFrame, column: str, setting: dict[str, Any], folder: Path) -> list[Path]:
    """Per category and provider the median over shapes and seeds as a mark, the range as a bar."""
    words, order = CATEGORIES[column]
    names = frames.known(rows[column], order)
    cells = frames.known(rows["cell"], CELL_ORDER)
    parts = frames.known(rows["part"], tuple(PART_WORDS))
    ticks = [name.removeprefix(EFFECT).replace(":", "\n") for name in names]
    single = column == "step"
    providers = [EFFECT] if single else plots.by_look(rows["provider"])
    sizes = "; ".join(
        f"{name} {', '.join(str(v) for v in sorted(set(rows[name])))}" for name in ("B", "T", "H")
    )
    fixed = frames.setting_words(setting) + ("" if column == "regime" else regime_words(setting))
    sheet = plots.Sheet(
        len(cells),
        len(parts),
        title=f"Error {words}: {fixed}",
        origin=frames.provenance(rows),
        handles=[
            *([] if single else [plots.handle(name, line="") for name in providers]),
            plots.Line2D([], [], color="0.45", linewidth=0.7, label="unit roundoff"),
        ],
        notes=[
            "Relative L2 error against float64 on the same rounded inputs. Mark: median over "
            f"shapes and seeds; bar: least to largest. Shapes: {sizes}.",
            *notes(rows),
        ],
        bottom=0.22 if column == "number" else 0.1 + 0.05 * max(map(len, ticks)),
    )
    roundoff = {
        name: ROUNDOFF.get(name if column == "number" else setting["number"]) for name in names
    }
    values = [*rows.loc[rows["rel_l2"] > 0, "rel_l2"], *filter(None, roundoff.values())]
    low, high = min(values), max(values)
    sheet.shared.set_xticks(range(len(names)), ticks)
    for axes in sheet.axes[-1]:
        axes.tick_params(axis="x", labelrotation=0 if column == "number" else 90)
    sheet.shared.set_xlim(-0.5, len(names) - 0.5)
    plots.value_axis(sheet.shared, low, high, powers=True)
    spreads = _spreads(rows.assign(provider=EFFECT) if single else rows, column, low / 2)
    for r, cell in enumerate(cells):
        for c, part in enumerate(parts):
            axes = sheet.axes[r, c]
            here = spreads.get((cell, part), {})
            for k, provider in enumerate(providers):
                if provider not in here:
                    continue
                values, (middle, least, most) = here[provider]
                at = np.array([names.index(value) for value in values])
                at = at + 0.6 * ((k + 0.5) / len(providers) - 0.5)
                shape = PLAIN if single else plots.look(provider)
                plots.draw_points(axes, shape, at, middle, least, most)
            for k, name in enumerate(names):
                if roundoff[name]:
                    axes.plot([k - 0.4, k + 0.4], [roundoff[name]] * 2, color="0.45", lw=0.7)
            plots.head(axes, f"{CELL_NAMES.get(cell, cell)}, {PART_WORDS[part]}")
    sheet.label("", "relative L2 error")
    tail = None if column == "regime" else setting["regime"]
    slug = frames.setting_slug({**setting, "mode": tail})
    return sheet.save(folder, f"error-{FILES[column]}-{slug}", rows)
