"""A map over hidden size and batch with a value in each square, readable without its colours.

A failure is a hatched square with its letter.
"""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bench.report.style import looks
from bench.report.style.sheet import Layout, Sheet

NARROW = 5  # most sizes H at which a figure has two maps side by side
SQUARE = 0.155  # inches of a square's height


class MapSheet(Sheet):
    """A sheet of maps with a square for each H (x axis) and B (y axis), empty at first."""

    def __init__(
        self, rows: int, columns: int, widths: Iterable[int], heights: Iterable[int], **texts: Any
    ) -> None:
        self.widths, self.heights = sorted(set(widths)), sorted(set(heights))
        layout = Layout(
            panel_height=SQUARE * max(len(self.heights), 2), row_gap=0.4, column_gap=0.32,
            left=0.32, bottom=0.2,
        )  # fmt: skip
        super().__init__(rows, columns, layout=layout, **texts)
        self.font_size = 5.8 if len(self.widths) * columns <= 10 else 5.0
        self.shared.set_xlim(-0.5, len(self.widths) - 0.5)
        self.shared.set_ylim(-0.5, len(self.heights) - 0.5)
        self.shared.set_xticks(range(len(self.widths)), list(map(str, self.widths)))
        self.shared.set_yticks(range(len(self.heights)), list(map(str, self.heights)))
        for axes in self.axes.flat:
            # Labels at every map, and no marks.
            axes.tick_params(length=0, labelbottom=True, labelleft=True, left=False, bottom=False)
            axes.grid(visible=False)
            axes.set_facecolor("0.96")
            axes.spines[:].set_visible(False)
            for name, at, shift in (("B", (0, 1), (-4, 3)), ("H", (0, 0), (-4, -8))):
                axes.annotate(
                    name, at, shift, xycoords="axes fraction", textcoords="offset points",
                    ha="right",
                )  # fmt: skip

    def centre(self, H: int, B: int) -> tuple[int, int]:
        """The middle of a square, in the axes' units: a square is 1 wide and 1 high."""
        return self.widths.index(H), self.heights.index(B)

    def draw_value(self, axes: Axes, H: int, B: int, text: str, color: Any) -> None:
        """A coloured square with its value in it."""
        x, y = self.centre(H, B)
        square = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", lw=0.4)
        axes.add_patch(square)
        axes.text(
            x, y, text, ha="center", va="center_baseline", fontsize=self.font_size,
            color=black_or_white(color),
        )  # fmt: skip

    def draw_failure(self, axes: Axes, H: int, B: int, status: str) -> None:
        """A hatched square with the failure's letter, a dash where only the baseline failed."""
        x, y = self.centre(H, B)
        axes.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor="white", edgecolor="0.6", hatch="//////", lw=0.4
            )
        )
        letter = looks.LETTERS[status][0] if status != "ok" else "–"
        axes.text(
            x, y, letter, ha="center", va="center_baseline", fontsize=5.8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def black_or_white(color: Any) -> str:
    """The text colour with the better contrast on a colour."""
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def by_figure(columns: list[str], widths: Iterable[int]) -> list[list[str]]:
    """Divide columns among figures: all in one, or one each for more than NARROW widths."""
    return [[column] for column in columns] if len(set(widths)) > NARROW else [columns]
