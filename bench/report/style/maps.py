"""A map over hidden size and batch: a value in each square, so that it is read without its colours.

A failure is a hatched square with its letter.
"""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bench.report.style import looks
from bench.report.style.sheet import Layout, Sheet

NARROW = 5  # sizes H up to which two maps stand side by side
SQUARE = 0.155  # inches of a square's height


def map_sheet(
    rows: int, columns: int, widths: list[int], heights: list[int], **around: Any
) -> Sheet:
    """A sheet of empty maps with a square for each H (across) and B (up), ``around`` them."""
    layout = Layout(
        panel_height=SQUARE * max(len(heights), 2), row_gap=0.4, column_gap=0.32, left=0.32,
        bottom=0.2,
    )  # fmt: skip
    found = Sheet(rows, columns, layout=layout, **around)
    found.shared.set_xlim(-0.5, len(widths) - 0.5)
    found.shared.set_ylim(-0.5, len(heights) - 0.5)
    found.shared.set_xticks(range(len(widths)), [str(v) for v in widths])
    found.shared.set_yticks(range(len(heights)), [str(v) for v in heights])
    for axes in found.axes.flat:
        # Labels at every map, and no marks.
        axes.tick_params(length=0, labelbottom=True, labelleft=True, left=False, bottom=False)
        axes.grid(visible=False)
        axes.set_facecolor("0.96")
        axes.spines[:].set_visible(False)
        for name, at, shift in (("B", (0, 1), (-4, 3)), ("H", (0, 0), (-4, -8))):
            axes.annotate(
                name, at, shift, xycoords="axes fraction", textcoords="offset points", ha="right",
            )  # fmt: skip
    return found


def draw_value(axes: Axes, x: int, y: int, words: str, color: Any, across: int) -> None:
    """A coloured square with its value in it."""
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", lw=0.4))
    size = 5.8 if across <= 10 else 5.0
    axes.text(
        x, y, words, ha="center", va="center_baseline", fontsize=size, color=black_or_white(color)
    )


def black_or_white(color: Any) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def draw_failure(axes: Axes, x: int, y: int, status: str) -> None:
    """A hatched square with the letter of what went wrong, a dash where only the baseline did."""
    square = (x - 0.5, y - 0.5)
    axes.add_patch(
        Rectangle(square, 1, 1, facecolor="white", edgecolor="0.6", hatch="//////", lw=0.4)
    )
    letter = looks.LETTERS[status][0] if status != "ok" else "–"
    axes.text(
        x, y, letter, ha="center", va="center_baseline", fontsize=5.8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def beside(columns: list[str], widths: Iterable[int]) -> list[list[str]]:
    """The columns of each figure: all beside each other, or one a figure where maps are wide."""
    return [[column] for column in columns] if len(set(widths)) > NARROW else [columns]
