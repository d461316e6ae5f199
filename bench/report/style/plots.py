"""Parts of a figure's panel: axes, curves, points, and letters for failures."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from bench.report import terms
from bench.report.style.looks import LETTERS, MODEL, look
from bench.report.style.numbers import engineering, scientific
from bench.report.text import shorten

MARK_STEP = 0.085  # of a panel's height: a row of failure marks


def _error_tick(value: float, _: Any = None) -> str:
    return f"{value:.3g}" if value >= 0.01 else scientific(value)


def size_axis(axes: Axes, values: Iterable[float], most: int = 6) -> None:
    """A logarithmic x axis whose ticks are the measured sizes."""
    sizes = sorted(set(values))
    axes.set_xscale("log", base=2)
    span = math.log2(sizes[-1] / sizes[0])
    # The last label, which is the longest, needs room at the right where octaves are narrow.
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * max(1.25, 2 ** (span / 24)))
    # Labels that would touch are left out; the markers still show which sizes were measured.
    gap = span / (most if span < 11 else most - 2)
    shown = [sizes[-1]]
    for size in sizes[-2::-1]:
        if math.log2(shown[-1] / size) >= gap:
            shown.append(size)
    axes.xaxis.set_major_locator(ticker.FixedLocator(shown))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def value_axis(
    axes: Axes, low: float, high: float, *, powers: bool = False, marks: int = 0
) -> None:
    """A logarithmic y axis around the values; ``marks`` rows of letters fit below them."""
    axes.set_yscale("log")
    span = max(math.log10(high / low), 0.3)
    share = 0.06 + MARK_STEP * marks  # share of the axis below the lowest value
    bottom, top = low / 10 ** (1.12 * span * share / (1 - share)), high * 10 ** (0.12 * span)
    axes.set_ylim(bottom, top)
    whole = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    if span > (1.4 if powers else 2.4):
        step = max(1, math.ceil(span / 5))  # at most some five labels
        ticks = [10.0**power for power in whole if power % step == 0]
    else:
        subs = (1, 2, 5) if span > 0.6 or powers else (1, 1.5, 2, 3, 4, 5, 6, 8)
        ticks = [factor * 10.0**power for power in whole for factor in subs]
    # Matplotlib creates every tick of the list, also those outside the limits.
    ticks = [value for value in ticks if bottom <= value <= top]
    axes.yaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(_error_tick if powers else engineering))


def number_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x axis around values that are not sizes."""
    axes.set_xscale("log")
    span = max(math.log10(high / low), 0.3)
    left, right = low / 10 ** (0.1 * span), high * 10 ** (0.1 * span)
    axes.set_xlim(left, right)
    subs = (1,) if span > 1.8 else (1, 2, 5) if span > 0.6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    whole = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    ticks = [factor * 10.0**power for power in whole for factor in subs]
    # None near the ends, where labels would touch those of the panel beside it.
    inner = 10 ** (0.05 * span)
    ticks = [value for value in ticks if left * inner <= value <= right / inner]
    axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(engineering))


def error_axis(axes: Axes, errors: pd.Series, limits: Sequence[float], marks: int) -> None:
    """A logarithmic y axis around the errors and limits; errors of zero are left out."""
    values = [*errors[errors > 0], *limits] or [1e-8, 1e-6]
    value_axis(axes, min(values), max(values), powers=True, marks=marks)


def draw_line(
    axes: Axes, provider: str, x: Any, y: Any, low: Any = None, high: Any = None, **extra: Any
) -> None:
    """One provider's curve with its intervals as bars."""
    extra |= vars(look(provider))
    extra["zorder"] = 3 if provider == "ours" else 2
    if low is None:
        axes.plot(x, y, **extra)
    else:
        bars = [np.maximum(y - low, 0), np.maximum(high - y, 0)]
        axes.errorbar(x, y, yerr=bars, elinewidth=0.9, **extra)


def draw_seeds(axes: Axes, data: pd.DataFrame, value: str, markevery: int, alpha: float) -> None:
    """Per run ("ours", "torch.nn", "fp32") the median over seeds in each step, and their range.

    Args:
        data: with columns run, step and ``value``, a row per seed.
        alpha: opacity of the range.
    """
    for run, rows in data.groupby("run", sort=False):
        spread = rows.groupby("step")[value].agg(["median", "min", "max"])
        color = MODEL["color"] if run == "fp32" else look(str(run)).color
        if run == "fp32":
            axes.plot(spread.index, spread["median"], **MODEL)
        else:
            draw_line(axes, str(run), spread.index, spread["median"], markevery=markevery)
        axes.fill_between(
            spread.index, spread["min"], spread["max"], color=color, alpha=alpha, linewidth=0
        )


def write_exponents(axes: Axes, exponents: Sequence[tuple[str, float]]) -> None:
    """Each provider's exponent at the panel's top, four in a row, next to the provider's marker."""
    for k, (provider, exponent) in enumerate(exponents):
        x, y = 0.04 + 0.25 * (k % 4), 0.95 - 0.09 * (k // 4)
        shape = look(provider)
        axes.plot(
            x, y, marker=shape.marker, color=shape.color, markersize=2.6,
            transform=axes.transAxes, zorder=5,
        )  # fmt: skip
        axes.text(
            x + 0.03, y, f"{exponent:.2f}", transform=axes.transAxes, color=shape.color,
            va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def zero_height(axes: Axes) -> float:
    """The height at which a value of zero is drawn on a logarithmic axis: just above its bottom."""
    bottom, top = axes.get_ylim()
    return float(bottom * (top / bottom) ** 0.045)


def mark_failures(axes: Axes, rows: pd.DataFrame, x: str, providers: Sequence[str]) -> None:
    """A letter at the bottom of the plot where a point is missing, in its provider's colour.

    ``providers`` are those with failures anywhere in the figure, from the lowest row up.
    """
    if rows.empty:  # grouping is slow, and most panels have no failure
        return
    for (provider, size), found in rows.groupby(["provider", x]):
        status = str(found["status"].iloc[0])
        level = providers.index(str(provider))
        axes.text(
            size, 0.03 + MARK_STEP * level, LETTERS[status][0], color=look(str(provider)).color,
            transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=5.5,
            zorder=4, clip_on=False,
        )  # fmt: skip


def mark_notes(failed: pd.DataFrame) -> list[str]:
    """The legend of ``mark_failures``: the providers of the rows, and the letters' meanings."""
    providers = terms.ordered_providers(failed["provider"])
    rows = [f"Rows of letters, from below: {', '.join(providers)}."] if len(providers) > 1 else []
    return [*rows, *failure_notes(failed)]


def failure_notes(rows: pd.DataFrame, most: int = 5) -> list[str]:
    """The meanings of the letters with the recorded reasons, most frequent first."""
    if rows.empty:
        return []
    groups = rows.fillna({"reason": "no reason recorded"}).groupby(["status", "reason"])["provider"]
    ranked = sorted(groups, key=lambda group: (-len(group[1]), group[0]))
    notes = []
    for (status, reason), who in ranked[:most]:
        letter, words = LETTERS[str(status)]
        names = ", ".join(terms.ordered_providers(who))
        notes.append(f"{letter} {words} ({names}): {shorten(str(reason), 150)}")
    if len(ranked) > most:
        notes.append(f"{len(ranked) - most} more reasons: see this figure's CSV in the download.")
    return notes
