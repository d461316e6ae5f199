"""The figures of numerical error: against T, H and B with bands over seeds, and against the dtype.

All draw the relative L2 error against float64 on the same rounded inputs: of the output, and of
the worst gradients of inputs and states, and of weights (each relative to its own norm).
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.cases.cases import MEMORY, make_case
from bench.cases.numbers import ROUNDOFF
from bench.error import gradient_model, rounding_model
from bench.report import frames, terms
from bench.report.error import selection
from bench.report.style import looks, plots
from bench.report.style.sheet import Job, Layout, Sheet

# For each column its name in the file name, its words in the title, and the order of its values.
CATEGORIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "number": ("dtype", "against the number format", terms.NUMBER_ORDER),
    "regime": ("regime", "under other weights and inputs", terms.REGIME_ORDER),
    "memory": ("memory", "against the bias of the gate that keeps the state", ()),
    "product": ("products", "by format of the products", terms.PRODUCT_ORDER),
    "step": ("effects", "of one rounding at a time", terms.EFFECT_ORDER),
}
# Of a number, and of a product's operand, in one piece or two.
ROUNDOFFS = ROUNDOFF | {
    "ieee": ROUNDOFF["fp32"], "tf32-truncated": 2 * ROUNDOFF["tf32"],
    "tf32x3": ROUNDOFF["tf32"] ** 2, "bf16x3": ROUNDOFF["bf16"] ** 2,
}  # fmt: skip
NOTES = {
    "memory": ["Gradients of the last state only."],
    "product": [
        "Emulated: the reference in fp32, with operands of the products in that format; a tensor "
        "core's accumulation is not emulated. bf16x3 is no precision of our kernels. Unit "
        "roundoff: that of an operand; of one in two pieces the square of a piece's."
    ],
}


def zero_notes(rows: pd.DataFrame) -> list[str]:
    """The note on exact results, which a logarithmic axis cannot show."""
    return ["An error of zero is drawn at the bottom."] if rows["rel_l2"].eq(0).any() else []


def curve_jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Error along T, H and B, per setting."""
    parts = selection.by_part(error[~error["provider"].str.startswith(terms.MODELS)])
    if parts.empty:
        return
    for setting, rows in frames.settings(parts, selection.SETTING):
        failed = selection.matching(error[error["status"] != "ok"], setting)
        never_measured = set(failed["cell"]) - set(rows["cell"])
        for axis in ("T", "H", "B"):
            found = frames.best_slice(selection.longest(selection.one_pass(rows), axis), axis)
            if found is None:
                continue
            sizes, here = found
            bad = selection.failures(failed, sizes, here)
            bad = bad[bad["cell"].isin(never_measured.union(here["cell"]))]
            yield functools.partial(curves, here, bad, axis, setting, sizes)


Curve = tuple[list[int], list[float]]


def models(rows: pd.DataFrame, axis: str) -> dict[tuple[str, str], Curve]:
    """By cell and part: the sizes along an axis, and the model's relative L2 error at each.

    Only one layer without resets, for cells and regimes that the model (bench/ERROR.md) covers; of
    the gradients the worst, in one direction. None for those of rnn_relu, which are a matter of few
    elements.
    """
    found: dict[tuple[str, str], Curve] = {}
    names = ("cell", "track", "directions", "layers", "resets", *terms.SIZES)
    for (cell, part), here in rows.groupby(["cell", "part"]):
        row = here.to_dict("records")[0]
        regime = row["regime"] if isinstance(row["regime"], str) else None
        odd = regime is not None and not regime.startswith("orthogonal")
        if cell not in rounding_model.CELLS or row["layers"] != 1 or row["resets"] or odd:
            continue
        gradient = str(part).startswith(terms.GRADIENT)
        if part != "output" and (not gradient or cell == "rnn_relu" or row["directions"] > 1):
            continue
        inputs = "H" if row["inputs"] == "H" else int(row["inputs"])
        same = {name: row[name] for name in names} | {"I": inputs, "dtype": row["number"]}
        sizes, curve = sorted({int(size) for size in here[axis]}), []
        for size in sizes:
            case = make_case(**same | {axis: size, "pass": "fwd+bwd"})
            if part == "output":
                steps = rounding_model.growth(case, case.T, regime)
                curve.append(float(np.sqrt(np.mean(steps**2))))
            else:
                off = gradient_model.gradient_errors(case, regime)
                curve.append(max(off[name] for name in off if frames.part(name) == part))
        found[str(cell), str(part)] = (sizes, curve)
    return found


Spread = tuple[list[Any], np.ndarray]


def _spreads(
    rows: pd.DataFrame, column: str, least: float
) -> dict[tuple[str, str], dict[str, Spread]]:
    """By (cell, part), then provider: the values of ``column``, and the error [3, values] there.

    The three are its median, least and largest, none below ``least``, so that a logarithmic axis
    can show zero. One grouping for all panels, since grouping is slow.
    """
    keys = ["cell", "part", "provider"]
    found = rows.groupby([*keys, column], sort=True)["rel_l2"].agg(["median", "min", "max"])
    found = found.clip(lower=least)
    spreads: dict[tuple[str, str], dict[str, Spread]] = {}
    for (cell, part, provider), here in found.groupby(level=keys, sort=False):
        values = list(here.index.get_level_values(column))
        spreads.setdefault((cell, part), {})[provider] = (values, here.to_numpy().T)
    return spreads


def curves(
    rows: pd.DataFrame,
    failed: pd.DataFrame,
    axis: str,
    setting: dict[str, Any],
    sizes: dict[str, int],
    folder: Path,
) -> list[Path]:
    """Draw the median over seeds as a line, the range as a band, and the format's roundoff."""
    cells = terms.ordered_cells([*rows["cell"], *failed["cell"]])
    parts = terms.ordered_parts(rows["part"])
    roundoff = ROUNDOFF.get(setting["number"])
    providers = terms.ordered_providers([*rows["provider"], *failed["provider"]])
    modelled = models(rows, axis) if axis in ("T", "H") and "ours" in providers else {}
    counted = selection.seed_count(rows, axis)
    several = counted != "1 seed"
    band = f"Line: median of {counted}; band: least to largest." if several else "One seed."
    model_note = "Model: what roundings alone are expected to make of ours (bench/ERROR.md)."
    sheet = Sheet(
        len(cells),
        len(parts),
        title=f"Error against {terms.AXIS_NAMES[axis]}: {terms.where(setting, sizes)}",
        origin=frames.provenance(rows),
        handles=[
            *looks.legend(providers),
            *([looks.handle("unit roundoff", **looks.LIMIT)] if roundoff else []),
            *([looks.handle("model of ours", **looks.MODEL)] if modelled else []),
        ],
        notes=[
            f"Relative L2 error against float64 on the same inputs. {band}",
            *([model_note] if modelled else []),
            *zero_notes(rows),
            *selection.notes(rows),
            *plots.mark_notes(failed),
        ],
    )
    marked = [roundoff] if roundoff else []
    marked += [value for _, model in modelled.values() for value in model]
    unable = terms.ordered_providers(failed["provider"])
    plots.size_axis(sheet.shared, [*rows[axis], *failed[axis]])
    plots.error_axis(sheet.shared, rows["rel_l2"], marked, marks=len(unable))
    spreads = _spreads(rows, axis, plots.zero_height(sheet.shared))
    for axes, cell, part in sheet.panels(cells, parts, terms.PART_TITLES):
        here = spreads.get((cell, part), {})
        for provider in terms.ordered_providers(here):
            at, (middle, least, most) = here[provider]
            plots.draw_line(axes, provider, at, middle)
            if several:
                color = looks.look(provider).color
                axes.fill_between(at, least, most, color=color, alpha=0.18, linewidth=0)
        if (cell, part) in modelled:
            axes.plot(*modelled[cell, part], **looks.MODEL)
        if roundoff:
            axes.axhline(roundoff, zorder=1, **looks.LIMIT)
        plots.mark_failures(axes, failed[failed["cell"] == cell], axis, unable)
    sheet.label(terms.AXIS_NAMES[axis], "relative L2 error")
    slug = terms.setting_slug({**setting, "mode": setting["regime"]})
    data = pd.concat([rows, failed[[name for name in rows if name in failed]]])
    return sheet.save(folder, f"error-{axis}-{slug}", data)


def category_jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Error against the number format, weights and inputs, a gate's bias, and single roundings."""
    yield from _memory_jobs(selection.of_memory(error))
    yield from _product_jobs(selection.by_product(error))
    error = error[~error["regime"].str.startswith(MEMORY, na=False)]
    parts = selection.by_part(error)
    if parts.empty:
        return
    effects = parts[parts["provider"].str.startswith(terms.EFFECT)]
    parts = parts[~parts["provider"].str.startswith(terms.MODELS)]
    failed = error[(error["status"] != "ok") & ~error["provider"].str.startswith(terms.MODELS)]
    for column in ("number", "regime"):
        names = tuple(name for name in selection.SETTING if name != column)
        if column == "regime":
            parts, failed = (
                rows.assign(regime=rows["regime"].astype(object).fillna("default"))
                for rows in (parts, failed)
            )
        for setting, rows in frames.settings(parts, names):
            rows = selection.same_shapes(selection.one_pass(rows), column)
            if rows[column].nunique() > 1:
                bad = selection.unmeasured(selection.matching(failed, setting), rows, column)
                yield functools.partial(dots, rows, bad, column, setting)
    for setting, rows in frames.settings(effects, selection.SETTING):
        steps, none = rows.assign(step=rows["provider"]), error.iloc[:0].assign(step="")
        yield functools.partial(dots, steps, none, "step", setting)


def _memory_jobs(error: pd.DataFrame) -> Iterator[Job]:
    """Error against the bias of the gate that keeps the state, per number format."""
    names = tuple(name for name in selection.SETTING if name != "regime")
    ok = error["status"].eq("ok")
    for setting, rows in frames.settings(error[ok & error["part"].notna()], names):
        rows = selection.same_shapes(rows, "memory")
        failed = selection.matching(error[~ok], setting)
        bad = selection.unmeasured(failed, rows, "memory")
        yield functools.partial(dots, rows, bad, "memory", setting | {"regime": None})


def _product_jobs(products: pd.DataFrame) -> Iterator[Job]:
    """Error of fp32 tensors by the format of their products, emulated and measured."""
    names = tuple(name for name in selection.SETTING if name != "number")
    for setting, rows in frames.settings(products, names):
        rows = selection.same_shapes(selection.one_pass(rows), "product")
        yield functools.partial(dots, rows, products.iloc[:0], "product", setting)


def dots(
    rows: pd.DataFrame, failed: pd.DataFrame, column: str, setting: dict[str, Any], folder: Path
) -> list[Path]:
    """Draw the median over shapes and seeds as a mark and the range as a bar, per category."""
    file, words, order = CATEGORIES[column]
    names = terms.in_order(rows[column], order)
    cells = terms.ordered_cells(rows["cell"])
    parts = terms.ordered_parts(rows["part"])
    ticks = [name.removeprefix(terms.EFFECT).replace(":", "\n") for name in names]
    upright = column in ("regime", "step", "product")
    drawn = rows.assign(provider=terms.EFFECT) if column == "step" else rows
    providers = terms.ordered_providers(drawn["provider"])
    if column == "regime":
        setting = {**setting, "regime": None}  # the figure compares them
    shapes = "; ".join(
        f"{name} {', '.join(map(str, sorted(set(rows[name]))))}" for name in terms.SIZES
    )
    sheet = Sheet(
        len(cells),
        len(parts),
        title=f"Error {words}: {terms.where(setting)}",
        origin=frames.provenance(rows),
        handles=[
            *([] if providers == [terms.EFFECT] else looks.legend(providers, linestyle="")),
            looks.handle("unit roundoff", **looks.LIMIT),
        ],
        notes=[
            "Relative L2 error against float64 on the same rounded inputs. Mark: median over "
            f"shapes and seeds; bar: least to largest. Shapes: {shapes}.",
            *NOTES.get(column, []),
            *zero_notes(rows),
            *selection.notes(rows),
            *plots.failure_notes(failed),
        ],
        layout=Layout(bottom=0.1 + 0.05 * max(map(len, ticks)) if upright else 0.22),
    )
    roundoffs = [ROUNDOFFS.get(setting.get("number", name)) for name in names]
    sheet.shared.set_xticks(range(len(names)), ticks)
    for axes in sheet.axes[-1]:
        axes.tick_params(axis="x", labelrotation=90 if upright else 0)
    sheet.shared.set_xlim(-0.5, len(names) - 0.5)
    marks = int(len(failed) > 0)
    plots.error_axis(sheet.shared, rows["rel_l2"], list(filter(None, roundoffs)), marks)
    spreads = _spreads(drawn, column, plots.zero_height(sheet.shared))
    for axes, cell, part in sheet.panels(cells, parts, terms.PART_TITLES):
        here = spreads.get((cell, part), {})
        for k, provider in enumerate(providers):
            offset = 0.6 * ((k + 0.5) / len(providers) - 0.5)
            bad = failed[(failed["cell"] == cell) & (failed["provider"] == provider)]
            if not bad.empty:
                places = [names.index(value) + offset for value in bad[column]]
                plots.mark_failures(axes, bad.assign(place=places), "place", [provider])
            if provider in here:
                values, (middle, least, most) = here[provider]
                at = np.array([names.index(value) for value in values]) + offset
                shape = looks.PLAIN if provider == terms.EFFECT else looks.look(provider)
                axes.errorbar(
                    at, middle, yerr=[middle - least, most - middle], color=shape.color,
                    marker=shape.marker, linestyle="", elinewidth=0.8, zorder=2,
                )  # fmt: skip
        for k, roundoff in enumerate(roundoffs):
            if roundoff:
                axes.plot([k - 0.4, k + 0.4], [roundoff] * 2, **looks.LIMIT)
    sheet.label("bias" if column == "memory" else "", "relative L2 error")
    slug = terms.setting_slug({**setting, "mode": setting["regime"]})
    return sheet.save(folder, f"error-{file}-{slug}", rows)
