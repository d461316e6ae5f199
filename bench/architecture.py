"""``python -m bench.architecture``: the picture of the project's rooms, drawn from the source.

Each room lists its files with the first words of their docstrings; arrows are imports between
rooms as they stand in the files. Imports no torch.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bench.environment import ROOT
from bench.report import plots

OUTPUT = Path(__file__).parent / "architecture.svg"
# Room: its colour, what it answers, and where it stands (column, and whether it spans a row).
ROOMS = {
    "reference": ("#3f90da", "what is computed"),
    "kernels": ("#bd1f01", "how it is computed fast"),
    "bench": ("#717581", "how well it is computed"),
    "tests": ("#832db6", "whether it is right"),
}
LETTERS = 48  # of a file's words
LINE = 0.115  # inches


def files(room: str) -> list[tuple[str, str]]:
    """The room's files and the first sentence of what each says it is."""
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = first_sentence(words)
        if path.name != "__init__.py" or first:
            name = str(path.relative_to(ROOT / room))
            found.append((name, textwrap.shorten(first, LETTERS, placeholder=" …")))
    return found


def first_sentence(words: str) -> str:
    """The first sentence, without its command's name and without asides."""
    first = re.sub(r"\s*\([^)]*\)?", "", " ".join(words.split("\n\n")[0].split()))
    first = first.replace("``", "").replace("*", "")
    head, _, rest = first.partition(": ")
    return (rest if head.startswith("python -m") and rest else first).split(". ")[0].rstrip(".")


def imports(room: str) -> list[str]:
    """The other rooms that a room's files import."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return [other for other in ROOMS if other in found and other != room]


def draw(output: Path = OUTPUT) -> Path:
    """Draw the rooms from the bottom (imports nothing) to the top (imports all)."""
    plots.apply_style()
    rooms = {room: files(room) for room in ROOMS if room != "tests"}
    width, gap, head = 7.1, 0.45, 0.32
    half = (width - 0.5) / 2
    low = max(len(rooms["reference"]), len(rooms["kernels"])) * LINE + head
    bench = -(-len(rooms["bench"]) // 2) * LINE + head
    top = head
    height = low + bench + top + 2 * gap + 0.3
    figure = plots.Figure(figsize=(width, height))
    plots.FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    boxes = {
        "reference": (0.15, 0.15, half - 0.1, low),
        "kernels": (half + 0.35, 0.15, half - 0.1, low),
        "bench": (0.15, 0.15 + low + gap, width - 0.3, bench),
        "tests": (0.15, 0.15 + low + bench + 2 * gap, width - 0.3, top),
    }
    for room, (x, y, w, h) in boxes.items():
        color, answer = ROOMS[room]
        axes.add_patch(
            FancyBboxPatch((x, y), w, h, "round,pad=0,rounding_size=0.06", fc="white", ec=color)
        )
        axes.text(x + 0.1, y + h - 0.08, f"{room}/", va="top", fontsize=9, color=color)
        axes.text(x + 0.95, y + h - 0.1, answer, va="top", fontsize=7.5, color="0.3")
        listed = rooms.get(room, [])
        columns = 2 if room == "bench" else 1
        rows = -(-len(listed) // columns)
        for k, (name, words) in enumerate(listed):
            at_x = x + 0.1 + (k // rows) * w / columns
            at_y = y + h - head - (k % rows) * LINE
            axes.text(at_x, at_y, name, va="top", fontsize=5.8)
            axes.text(at_x + 1.2, at_y, words, va="top", fontsize=5.2, color="0.35")
    for room in ROOMS:
        for other in imports(room):
            (x, y, w, _), (ox, oy, ow, oh) = boxes[room], boxes[other]
            # tests reach past bench at its sides.
            past = room == "tests" and other != "bench"
            at = min(max(ox + ow / 2, x), x + w)
            side = (ox + 0.1 if other == "reference" else ox + ow - 0.1) if past else at
            axes.add_patch(
                FancyArrowPatch(
                    (side, y), (side, oy + oh), arrowstyle="-|>", mutation_scale=8, lw=0.9,
                    color=ROOMS[room][0], shrinkA=0, shrinkB=0, zorder=0 if past else 2,
                )
            )  # fmt: skip
    axes.text(
        width / 2, boxes["bench"][1] - gap / 2, "imports", ha="center", va="center", fontsize=6.5,
        color="0.4",
    )  # fmt: skip
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
    return output


if __name__ == "__main__":
    print(draw(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT))
