"""A figure's sheet: panels under a title and a legend, over its notes; saved as PDF, PNG and CSV.

A figure is as wide as a paper's column (3.3 in). Its text names what it shows, the device and
versions it was measured with, and why points are missing.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.report import terms
from bench.report.style import looks

Job = Callable[[Path], list[Path]]  # draws one figure into a folder and returns the written files
FORMATS = ("pdf", "png")  # PDF for papers, PNG for the device page
COLORS = 128  # of a PNG; the thousands that antialiasing makes look the same
WHOLE = ("n", "peak_bytes", "I", "seed")  # columns of integers, also where some are missing
TITLE_LETTERS = 66  # of 6.8 points that fit in a line
SMALL_LETTERS = 88  # of 5.2 points that usually fit in a line
LEGEND_LETTERS = 34  # of 6 points that fit beside a line's sample, also if all are W
WIDTH = 3.3  # inches: one column of a two-column paper


@dataclass(frozen=True)
class Layout:
    """Inches of panels and of the room around them, and whether all panels share their axes."""

    panel_height: float = 1.0
    left: float = 0.42
    right: float = 0.06
    column_gap: float = 0.1
    row_gap: float = 0.2
    bottom: float = 0.3
    share: bool = True


DEFAULT_LAYOUT = Layout()


class Sheet:
    """A figure of ``rows`` x ``columns`` panels under a title and a legend, over its notes.

    Sizes are inches, computed from the lengths of the texts: matplotlib's layouts are slow.
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
        handles: Sequence[Any] = (),
        notes: Sequence[str] = (),
        layout: Layout = DEFAULT_LAYOUT,
    ) -> None:
        self.origin, self.title = origin, title
        # A title that does not fit in a line is broken after its colon, and where else needed.
        what, colon, where = (
            title.partition(": ") if len(title) > TITLE_LETTERS else (title, "", "")
        )
        heading = textwrap.wrap(what + colon, TITLE_LETTERS) + textwrap.wrap(where, TITLE_LETTERS)
        small = [
            line
            for note in (*notes, *looks.alike(_points(handles)), origin)
            for line in _fitting(note)
        ]
        longest = max((len(str(entry.get_label())) for entry in handles), default=1)
        per_row = max(1, int((WIDTH - 0.1) / (0.45 + 0.052 * longest)))  # of the legend
        legend_rows = math.ceil(len(handles) / per_row)
        if longest > LEGEND_LETTERS:
            legend_rows = sum(_break_label(entry) for entry in handles)
        top = 0.05 + self.LINE * len(heading) + 0.105 * legend_rows + 0.19
        below = layout.bottom + self.SMALL * len(small) + 0.06
        height = top + rows * layout.panel_height + (rows - 1) * layout.row_gap + below
        self.figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(self.figure)
        across = WIDTH - layout.left - layout.right - (columns - 1) * layout.column_gap
        self.axes: np.ndarray = self.figure.subplots(
            rows, columns, squeeze=False, sharex=layout.share, sharey=layout.share
        )
        self.shared: Axes = self.axes[0, 0]  # with the scales, limits and ticks of all panels
        self.figure.subplots_adjust(
            left=layout.left / WIDTH, right=1 - layout.right / WIDTH,
            top=1 - top / height, bottom=below / height,
            wspace=layout.column_gap / (across / columns),
            hspace=layout.row_gap / layout.panel_height,
        )  # fmt: skip
        y = 1 - 0.05 / height
        self.figure.text(
            0.5, y, "\n".join(heading), ha="center", va="top", fontsize=6.8, linespacing=1.15
        )
        if handles:
            self.figure.legend(
                handles=handles, ncols=min(per_row, len(handles)), loc="upper center",
                bbox_to_anchor=(0.5, y - (self.LINE * len(heading) + 0.01) / height),
                borderaxespad=0, borderpad=0,
            )  # fmt: skip
        self.figure.text(
            0.02, 0.04 / height, "\n".join(small), va="bottom", fontsize=5.2, color="0.25",
            linespacing=1.15,
        )  # fmt: skip

    def panels(
        self, cells: Sequence[str], columns: Sequence[str], names: Mapping[str, str]
    ) -> Iterator[tuple[Axes, str, str]]:
        """Each panel with its cell and column; its title is added after it is drawn.

        Panels of three columns are so narrow that only the first of a row names the cell.
        """
        for (r, cell), (c, column) in itertools.product(enumerate(cells), enumerate(columns)):
            yield self.axes[r, c], cell, column
            row = "" if c and len(columns) > 2 else f"{terms.cell_name(cell)}, "
            panel_title(self.axes[r, c], f"{row}{names[column]}")

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
        about = {"Title": self.title, "Subject": self.origin, "CreationDate": None}
        self.figure.savefig(vector, metadata=about)
        self._save_bitmap(bitmap)
        write_csv(data, rows)
        return [vector, bitmap, rows]

    def _save_bitmap(self, path: Path) -> None:
        """Write a PNG with a colour palette, a third of the size of one in full colour."""
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 0})
        info = PngInfo()
        for key, text in (("Title", self.title), ("Description", self.origin)):
            info.add_text(key, text)
        with Image.open(drawn) as full:
            # This palette keeps every colour, however small its area.
            few = full.convert("RGB").quantize(
                COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
            few.save(path, optimize=True, dpi=full.info["dpi"], pnginfo=info)


def _points(handles: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The label of each legend entry that has a marker, with its colour and marker."""
    for entry in handles:
        if entry.get_marker() not in ("", "None", None):
            yield str(entry.get_label()), (entry.get_color(), entry.get_marker())


def _break_label(entry: Any) -> int:
    """Break a legend entry's label into lines that fit in the figure; returns their number."""
    lines = textwrap.wrap(str(entry.get_label()), LEGEND_LETTERS, break_on_hyphens=False)
    entry.set_label("\n".join(lines))
    return len(lines)


def _fitting(note: str) -> list[str]:
    """A note in lines that fit in the figure, also if it has many capitals and digits."""
    font = FontProperties(size=5.2)
    for letters in range(SMALL_LETTERS, SMALL_LETTERS // 2, -2):
        lines = textwrap.wrap(note, letters, break_on_hyphens=False)
        sizes = (text_to_path.get_text_width_height_descent(line, font, False) for line in lines)
        if max((points for points, *_ in sizes), default=0.0) <= 72 * 0.978 * WIDTH:
            break
    return lines


def panel_title(axes: Axes, words: str) -> None:
    """Add a panel's title as text: matplotlib's own measures every tick, which is slow."""
    axes.text(0.5, 1.03, words, transform=axes.transAxes, ha="center", va="bottom", fontsize=6.5)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a data frame as CSV: six significant digits, Unix line ends on every system."""
    whole = [name for name in WHOLE if name in frame]
    frame = frame.assign(**{name: frame[name].astype("Int64") for name in whole})
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
