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

from bench.cases.cases import make_case
from bench.cases.numbers import ROUNDOFF
from bench.error import rounding_model
from bench.report import frames
from bench.report.frames import CELL_NAMES, CELL_ORDER, EFFECT, NUMBER_ORDER
from bench.report.speed.figures import AXIS_WORDS, cut_words
from bench.report.style import plots

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


def by_part(error: pd.DataFrame) -> pd.DataFrame:
    """One row per record and part: the output's error, and the largest of its gradients'."""
    ok = error[(error["status"] == "ok") & error["tensor"].notna()]
    ok = ok[(ok["part"] == "gradient") | ok["tensor"].isin(frames.OUTPUTS)]
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


def seeds(rows: pd.DataFrame, *keys: str) -> str:
    """How many seeds stand behind each point of such keys, in words."""
    points = rows.groupby(["cell", "part", "provider", *keys])["seed"].nunique()
    least, most = int(points.min()), int(points.max())
    return f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most > 1)}"


def zeros(rows: pd.DataFrame) -> list[str]:
    """Where a plot shows an exact result, which has no place on a logarithmic axis."""
    return ["An error of zero stands at the foot."] if rows["rel_l2"].eq(0).any() else []


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
        failed = matching(error[error["status"] != "ok"], setting)
        silent = set(failed["cell"]) - set(rows["cell"])  # nobody could measure them
        for axis in ("T", "H", "B"):
            found = frames.best_slice(longest(one_pass(rows), axis), axis)
            if found is None:
                continue
            cut, here = found
            bad = failed[failed["pass"].isin(here["pass"])]
            bad = bad[bad["cell"].isin(silent.union(here["cell"]))]
            bad = matching(bad, cut)
            yield functools.partial(curves, here, bad, axis, setting, cut)


def expected(row: dict[str, Any], axis: str, sizes: Sequence[int]) -> list[float] | None:
    """The rounding model's relative L2 error of the whole output at sizes along an axis.

    None where the model (bench/ERROR.md) says nothing: other cells, several layers, odd inputs.
    """
    regime = row["regime"] if isinstance(row["regime"], str) else None
    if row["cell"] not in rounding_model.CELLS or row["layers"] != 1 or row["resets"]:
        return None
    if regime is not None and not regime.startswith("orthogonal"):
        return None
    found = []
    for size in sizes:
        shape = {name: row[name] for name in frames.SIZES} | {axis: size}
        inputs = "H" if row["inputs"] == "H" else int(row["inputs"])
        names = {name: row[name] for name in ("cell", "track", "directions", "layers", "resets")}
        case = make_case(**names, **shape, I=inputs, dtype=row["number"], **{"pass": "fwd"})
        steps = rounding_model.growth(case, case.T, regime)
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


def matching(rows: pd.DataFrame, setting: dict[str, Any]) -> pd.DataFrame:
    """The rows with such values; None stands for none."""
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
    cells = frames.known([*rows["cell"], *failed["cell"]], CELL_ORDER)
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
    counted = seeds(rows, axis)
    band = "One seed."
    if counted != "1 seed":
        band = f"Line: median of {counted}; band: least to largest."
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
            *zeros(rows),
            *notes(rows),
            *plots.mark_notes(failed),
        ],
    )
    values = rows.loc[rows["rel_l2"] > 0, "rel_l2"]
    low, high = (values.min(), values.max()) if len(values) else (1e-8, 1e-6)
    if roundoff:
        low, high = min(low, roundoff), max(high, roundoff)
    for _, model in models.values():
        low, high = min(low, *model), max(high, *model)
    plots.size_axis(sheet.shared, [*rows[axis], *failed[axis]])
    unable = plots.by_look(failed["provider"])
    plots.value_axis(sheet.shared, low, high, powers=True, marks=len(unable))
    lines = _spreads(rows, axis, plots.foot(sheet.shared))
    for r, cell in enumerate(cells):
        for c, part in enumerate(parts):
            axes = sheet.axes[r, c]
            here = lines.get((cell, part), {})
            for provider in plots.by_look(here):
                sizes, (middle, least, most) = here[provider]
                plots.draw_line(axes, provider, sizes, middle)
                if counted != "1 seed":
                    color = plots.look(provider).color
                    axes.fill_between(sizes, least, most, color=color, alpha=0.18, linewidth=0)
            if part == "output" and cell in models:
                axes.plot(*models[cell], **MODEL)
            if roundoff:
                axes.axhline(roundoff, color="0.45", linewidth=0.7, zorder=1)
            plots.mark_failures(axes, failed[failed["cell"] == cell], axis, unable)
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
    failed = error[(error["status"] != "ok") & ~error["provider"].str.startswith(EFFECT)]
    for column in ("number", "regime"):
        names = tuple(name for name in SETTING if name != column)
        if column == "regime":
            parts, failed = (
                rows.assign(regime=rows["regime"].astype(object).fillna("default"))
                for rows in (parts, failed)
            )
        for setting, rows in frames.settings(parts, names):
            rows = same_shapes(one_pass(rows), column)
            if rows[column].nunique() > 1:
                bad = unmeasured(matching(failed, setting), rows, column)
                yield functools.partial(dots, rows, bad, column, setting)
    for setting, rows in frames.settings(effects, SETTING):
        yield functools.partial(
            dots,
            rows.assign(step=rows["provider"]),
            error.iloc[:0].assign(step=""),
            "step",
            setting,
        )


def same_shapes(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Of each cell the shapes that most categories of most providers have.

    So like is compared with like: where one provider failed at a shape, no other has it either.
    """
    shape = ["cell", "B", "T", "H"]
    pairs = rows[[*shape, column, "provider"]].drop_duplicates().groupby(shape).size()
    common = pairs[pairs == pairs.groupby("cell").transform("max")].index
    return rows[pd.MultiIndex.from_frame(rows[shape]).isin(common)]


def unmeasured(failed: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The failures that leave a place of a figure empty: of its cells, categories and providers."""
    place = ["cell", column, "provider"]
    for name in ("pass", *place):
        failed = failed[failed[name].isin(rows[name])]
    filled = pd.MultiIndex.from_frame(rows[place])
    return failed[~pd.MultiIndex.from_frame(failed[place]).isin(filled)]


def dots(
    rows: pd.DataFrame, failed: pd.DataFrame, column: str, setting: dict[str, Any], folder: Path
) -> list[Path]:
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
            *zeros(rows),
            *notes(rows),
            *plots.failure_notes(failed),
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
    plots.value_axis(sheet.shared, low, high, powers=True, marks=int(len(failed) > 0))
    foot = plots.foot(sheet.shared)
    spreads = _spreads(rows.assign(provider=EFFECT) if single else rows, column, foot)
    for r, cell in enumerate(cells):
        for c, part in enumerate(parts):
            axes = sheet.axes[r, c]
            here = spreads.get((cell, part), {})
            for k, provider in enumerate(providers):
                beside = 0.6 * ((k + 0.5) / len(providers) - 0.5)
                if not failed.empty:
                    bad = failed[(failed["cell"] == cell) & (failed["provider"] == provider)]
                    places = [names.index(value) + beside for value in bad[column]]
                    plots.mark_failures(axes, bad.assign(place=places), "place", [provider])
                if provider not in here:
                    continue
                values, (middle, least, most) = here[provider]
                at = np.array([names.index(value) for value in values]) + beside
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
