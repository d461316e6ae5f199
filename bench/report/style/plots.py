"""How every figure looks: one sheet, one look per provider, failures as marks, one PDF and PNG.

A figure is one column of a paper wide (3.3 in). It says on itself what was cut, on which device
and with which versions it was measured, and why points are missing. Imports no torch.
"""

from __future__ import annotations

import atexit
import functools
import io
import math
import re
import shutil
import tempfile
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from fontTools import subset  # type: ignore[import-untyped]
from matplotlib import font_manager, style, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.report import frames

STYLE = Path(__file__).parent / "style.mplstyle"
FORMATS = ("pdf", "png")  # for papers, for pages
COLORS = 128  # of a PNG: with the edges of letters and lines some thousands, told apart by nobody
WHOLE = ("n", "peak_bytes", "I", "seed")  # whole numbers, also where some are missing
TITLE_LETTERS = 66  # of 6.8 points that fit beside each other
SMALL_LETTERS = 88  # of 5.2 points that fit beside each other
SIGNS = "µ–…●▲−σαβγ≤≥→’“”"  # beyond Latin letters
MARK_STEP = 0.085  # of a panel's height: a row of failure marks
WIDTH = 3.3  # inches: one column of a two-column paper
LETTERS = {
    "oom": ("M", "out of memory"),
    "unsupported": ("U", "unsupported"),
    "error": ("E", "error"),
    "timeout": ("T", "time-out"),
    "incorrect": ("W", "wrong values"),
}


@dataclass(frozen=True)
class Look:
    """A provider's colour, marker and line, the same in every figure."""

    color: str
    marker: str
    line: Any


# Colours are petroff10's. Kin share a hue family; no two share marker and line, so that all are
# told apart without colour.
LOOKS = {
    "ours": Look("#bd1f01", "o", "-"),
    "ours-stepwise": Look("#e76300", "s", "--"),
    "ours-stepwise-graph": Look("#ffa90e", "D", "-."),
    "ours-persistent": Look("#bd1f01", "h", "--"),
    "ours-gemm": Look("#a96b59", "^", ":"),
    "ours-graph": Look("#bd1f01", "d", "-."),
    "torch.nn": Look("#3f90da", "v", "-"),
    "torch.nn-graph": Look("#92dadd", "<", "--"),
    "reference": Look("#94a4a2", "x", ":"),
    "reference-compiled": Look("#717581", "+", "-."),
    "flashrnn-fused": Look("#832db6", "P", "-"),
    "flashrnn-alternating": Look("#832db6", "X", "--"),
    "flashrnn-triton": Look("#832db6", "p", ":"),
    "torchrl-triton": Look("#b9ac70", "*", "-"),
}
_SPARE = [
    Look("#222222", marker, line)
    for line in ((0, (4, 1, 1, 1)), (0, (1, 1)), (0, (6, 2)))
    for marker in (">", "8", "H", "1", "2", "3", "4")
]


def look(provider: str) -> Look:
    """A provider's look; one that a plugin added gets a black one that its name decides."""
    if provider in LOOKS:
        return LOOKS[provider]
    return _SPARE[zlib.crc32(provider.encode()) % len(_SPARE)]


def by_look(providers: Iterable[str]) -> list[str]:
    """Providers in the order in which they are drawn and named."""
    return frames.known(providers, frames.PROVIDER_ORDER)


def handle(provider: str, line: Any = None) -> Line2D:
    """A provider's entry in a legend."""
    shape = look(provider)
    return Line2D(
        [], [], color=shape.color, marker=shape.marker, label=provider,
        linestyle=shape.line if line is None else line,
    )  # fmt: skip


def apply_style() -> None:
    """Take the project's style, whatever the user's own matplotlib settings are."""
    matplotlib.rcdefaults()
    style.use(STYLE)
    matplotlib.rcParams["font.sans-serif"] = [small_font(), "DejaVu Sans"]


@functools.cache
def small_font() -> str:
    """The name of a DejaVu Sans with the letters that figures use, for this process.

    Each PDF embeds a subset of its font, and taking it from the whole one, with tables for all the
    world's scripts, is a third of the time a figure takes.
    """
    source = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    # Kerning as the old table: the tables of OpenType's layout are what takes long to cut.
    # Hints for coarse screens, which the style does not use, are a quarter of each PDF.
    options = subset.Options(layout_features=[], legacy_kern=True, glyph_names=True, hinting=False)
    options.drop_tables += ["FFTM", "GPOS", "GSUB", "GDEF", "MATH"]
    font = subset.load_font(str(source), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes=[*range(0x20, 0x180), *map(ord, SIGNS)])
    chosen.subset(font)
    name = "DejaVu Sans of rnnbench"
    for entry in font["name"].names:
        if entry.nameID in (1, 4, 16):
            entry.string = name
    folder = tempfile.mkdtemp(prefix="rnnbench-font-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "DejaVuSans.ttf"
    subset.save_font(font, str(path), options)
    font_manager.fontManager.addfont(path)
    return name


class Sheet:
    """A figure of ``rows`` x ``columns`` panels under a title and a legend, over its notes.

    Sizes are inches, worked out from what is written, so that nothing overlaps and no slow
    automatic layout is needed.
    """

    LINE = 0.105  # height of a line of 6 to 6.5 points
    SMALL = 0.088  # height of a line of 5.2 points

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        title: str,
        origin: str,
        providers: Sequence[str] = (),
        handles: Sequence[Any] = (),
        notes: Sequence[str] = (),
        panel_height: float = 1.0,
        left: float = 0.42,
        right: float = 0.06,
        column_gap: float = 0.1,
        row_gap: float = 0.2,
        bottom: float = 0.3,
        share: bool = True,
    ) -> None:
        self.origin, self.title = origin, title
        heading = self._heading(title)
        small = [
            line
            for note in (*notes, origin)
            for line in textwrap.wrap(note, SMALL_LETTERS, break_on_hyphens=False)
        ]
        entries = list(handles) or [handle(name) for name in providers]
        per_row = self._per_row([str(entry.get_label()) for entry in entries])
        legend_rows = math.ceil(len(entries) / per_row) if entries else 0
        top = 0.05 + self.LINE * len(heading) + 0.105 * legend_rows + 0.19
        foot = bottom + self.SMALL * len(small) + 0.06
        height = top + rows * panel_height + (rows - 1) * row_gap + foot
        self.figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(self.figure)
        panel_width = (WIDTH - left - right - (columns - 1) * column_gap) / columns
        self.axes: np.ndarray = self.figure.subplots(
            rows, columns, squeeze=False, sharex=share, sharey=share
        )
        self.figure.subplots_adjust(
            left=left / WIDTH,
            right=1 - right / WIDTH,
            top=1 - top / height,
            bottom=foot / height,
            wspace=column_gap / panel_width,
            hspace=row_gap / panel_height,
        )
        y = 1 - 0.05 / height
        self.figure.text(
            0.5, y, "\n".join(heading), ha="center", va="top", fontsize=6.8, linespacing=1.15
        )
        if entries:
            self.figure.legend(
                handles=entries,
                loc="upper center",
                bbox_to_anchor=(0.5, y - (self.LINE * len(heading) + 0.01) / height),
                ncols=min(per_row, len(entries)),
                borderaxespad=0,
                borderpad=0,
            )
        self.figure.text(
            0.02, 0.04 / height, "\n".join(small), va="bottom", fontsize=5.2, color="0.25",
            linespacing=1.15,
        )  # fmt: skip

    @staticmethod
    def _heading(title: str) -> list[str]:
        """A title's lines: one, or what is shown and below it where, or as many as it takes."""
        if len(title) <= TITLE_LETTERS:
            return [title]
        what, colon, where = title.partition(": ")
        lines = textwrap.wrap(what + colon, TITLE_LETTERS)
        return lines + textwrap.wrap(where, TITLE_LETTERS)

    @staticmethod
    def _per_row(labels: Sequence[str]) -> int:
        """How many legend entries of such lengths fit side by side."""
        longest = max(map(len, labels), default=1)
        return max(1, min(len(labels) or 1, int((WIDTH - 0.1) / (0.45 + 0.052 * longest))))

    @property
    def shared(self) -> Axes:
        """The panel whose scales, limits and ticks all others share."""
        panel: Axes = self.axes[0, 0]
        return panel

    def label(self, x: str, y: str) -> None:
        """Name the axes once, at the outer panels."""
        for axes in self.axes[-1]:
            axes.set_xlabel(x)
        for axes in self.axes[:, 0]:
            axes.set_ylabel(y)

    def save(self, folder: Path, name: str, data: pd.DataFrame) -> list[Path]:
        """Write PDF and PNG without dates, and the drawn data as CSV, for the page's download."""
        folder.mkdir(parents=True, exist_ok=True)
        vector, bitmap, rows = (folder / f"{name}.{kind}" for kind in (*FORMATS, "csv"))
        said = {"Title": self.title, "Subject": self.origin, "CreationDate": None}
        self.figure.savefig(vector, metadata=said)
        self._save_bitmap(bitmap)
        write_csv(data, rows)
        return [vector, bitmap, rows]

    def _save_bitmap(self, path: Path) -> None:
        """A PNG of few colours, which takes a third of the bytes of one of all colours."""
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 0})
        info = PngInfo()
        for key, text in (("Title", self.title), ("Description", self.origin)):
            info.add_text(key, text)
        with Image.open(drawn) as full:
            # The palette that misses no colour, however small its area.
            few = full.convert("RGB").quantize(
                COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
            few.save(path, optimize=True, dpi=full.info["dpi"], pnginfo=info)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A data frame as CSV of fixed bytes: six significant digits, Unix line ends."""
    whole = [name for name in WHOLE if name in frame]
    frame = frame.assign(**{name: frame[name].astype("Int64") for name in whole})
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def engineering(value: float, _: Any = None) -> str:
    """A number in few letters: 64000 is 64k.

    >>> engineering(64000), engineering(0.25), engineering(1.5e6)
    ('64k', '0.25', '1.5M')
    """
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def scientific(value: float, digits: int = 1) -> str:
    """A number as it is said: 2e-07 is 2e-7.

    >>> scientific(2e-7), scientific(1.234e-12, 3)
    ('2e-7', '1.23e-12')
    """
    return re.sub(r"e([-+])0", r"e\1", f"{value:.{digits - 1}e}").replace("e+", "e")


def _error_tick(value: float, _: Any = None) -> str:
    return f"{value:.3g}" if value >= 0.01 else scientific(value)


def size_axis(axes: Axes, values: Iterable[float], most: int = 6) -> None:
    """A logarithmic x axis whose ticks are the measured sizes."""
    sizes = sorted(set(values))
    axes.set_xscale("log", base=2)
    span = math.log2(sizes[-1] / sizes[0])
    # The last label, which is the longest, needs room at the right where octaves are narrow.
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * max(1.25, 2 ** (span / 24)))
    # Labels that would touch are left out; the markers still show where was measured.
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
    """A logarithmic y axis around the values, with room below for so many rows of failure marks."""
    axes.set_yscale("log")
    span = max(math.log10(high / low), 0.3)
    share = 0.06 + MARK_STEP * marks  # of the axis, below the lowest value
    bottom, top = low / 10 ** (1.12 * span * share / (1 - share)), high * 10 ** (0.12 * span)
    axes.set_ylim(bottom, top)
    if span > (1.4 if powers else 2.4):
        # No more than some five labels, whole powers of ten.
        step = max(1, math.ceil(span / 5))
        first = math.floor(math.log10(low)) - 1
        ticks = [10.0**p for p in range(first, math.ceil(math.log10(high)) + 2) if p % step == 0]
    else:
        subs = (1, 2, 5) if span > 0.6 or powers else (1, 1.5, 2, 3, 4, 5, 6, 8)
        first = math.floor(math.log10(low)) - 1
        ticks = [s * 10.0**p for p in range(first, math.ceil(math.log10(high)) + 1) for s in subs]
    # Matplotlib makes every tick of the list, also those that nobody sees.
    ticks = [value for value in ticks if bottom <= value <= top]
    axes.yaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(_error_tick if powers else engineering))


def head(axes: Axes, words: str) -> None:
    """A panel's heading: plain text, since matplotlib's titles measure every tick to dodge it."""
    axes.text(0.5, 1.03, words, transform=axes.transAxes, ha="center", va="bottom", fontsize=6.5)


def draw_line(
    axes: Axes, provider: str, x: Any, y: Any, low: Any = None, high: Any = None, **extra: Any
) -> None:
    """One provider's curve with its intervals as bars."""
    shape = look(provider)
    extra |= {"color": shape.color, "marker": shape.marker, "linestyle": shape.line}
    extra["zorder"] = 3 if provider == "ours" else 2
    if low is None:
        axes.plot(x, y, **extra)
    else:
        bars = [np.maximum(y - low, 0), np.maximum(high - y, 0)]
        axes.errorbar(x, y, yerr=bars, elinewidth=0.9, **extra)


def draw_points(axes: Axes, shape: Look, x: Any, y: Any, low: Any, high: Any) -> None:
    """Points with their ranges as bars, not joined by a line."""
    axes.errorbar(
        x, y, yerr=[y - low, high - y], color=shape.color, marker=shape.marker, linestyle="",
        elinewidth=0.8, zorder=2,
    )  # fmt: skip


def foot(axes: Axes) -> float:
    """The height at which a value of zero is drawn on a logarithmic axis: just above its end."""
    bottom, top = axes.get_ylim()
    return float(bottom * (top / bottom) ** 0.045)


def mark_failures(axes: Axes, rows: pd.DataFrame, x: str, providers: Sequence[str]) -> None:
    """A letter at the foot of the plot where a point is missing, in its provider's colour and row.

    ``providers`` are those with failures anywhere in the figure, from the lowest row up.
    """
    if rows.empty:  # as nearly everywhere, and grouping takes long
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
    """What ``mark_failures`` draws: whose row is which, and what the letters mean."""
    providers = by_look(failed["provider"])
    rows = [f"Rows of letters, from below: {', '.join(providers)}."] if len(providers) > 1 else []
    return [*rows, *failure_notes(failed)]


def failure_notes(rows: pd.DataFrame, most: int = 5) -> list[str]:
    """What the letters mean, with the reasons recorded, most frequent first."""
    if rows.empty:
        return []
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for status, reason, provider in zip(
        rows["status"], rows["reason"], rows["provider"], strict=True
    ):
        who = counts.setdefault((str(status), str(reason or "no reason recorded")), {})
        who[str(provider)] = who.get(str(provider), 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    notes = []
    for (status, reason), who in ranked[:most]:
        letter, words = LETTERS[status]
        reason = textwrap.shorten(reason, 150, placeholder=" …")
        notes.append(f"{letter} {words} ({', '.join(by_look(who))}): {reason}")
    if len(ranked) > most:
        notes.append(f"{len(ranked) - most} more reasons: see this figure's CSV in the download.")
    return notes
