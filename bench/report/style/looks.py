"""Every colour, marker, line and letter of a figure, and the font they are written in.

Colours of providers are petroff10's. Related providers have similar hues; no two have the same
marker and line, so that they differ without colour, or the same colour and marker, which is all
that a point shows.
"""

import atexit
import functools
import shutil
import tempfile
import zlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from fontTools import subset  # type: ignore[import-untyped]
from matplotlib import font_manager, style
from matplotlib.lines import Line2D

from bench.report import terms

STYLE = Path(__file__).parent / "style.mplstyle"
SIGNS = "µ–…●▲−σαβγ≤≥→’“”"  # beyond Latin letters
# A failure's letter in a figure and its meaning.
LETTERS = {
    "oom": ("M", "out of memory"),
    "unsupported": ("U", "unsupported"),
    "error": ("E", "error"),
    "timeout": ("T", "time-out"),
    "incorrect": ("W", "wrong values"),
}
RED, BLUE, DARK = "#bd1f01", "#3f90da", "#222222"
LIMIT: dict[str, Any] = {"color": "0.45", "linewidth": 0.7}  # a unit roundoff, a stated bound
FLOOR: dict[str, Any] = {"color": "black", "linewidth": 1.6, "alpha": 0.35}
MODEL: dict[str, Any] = {
    "color": "black", "linewidth": 0.8, "linestyle": (0, (1, 1.2)), "zorder": 1.9,
}  # fmt: skip
DIFFERENCE: dict[str, Any] = {"color": DARK, "linestyle": "-", "marker": "."}
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "sigmoid": {"color": BLUE, "linestyle": "--"},
    "tanh": {"color": RED, "linestyle": "-"},
}
# Names of matplotlib's colour maps: a ratio around 1, an error, a count.
RATIO_MAP, ERROR_MAP, COUNT_MAP = "PuOr_r", "cividis_r", "YlGnBu"


@dataclass(frozen=True)
class Look:
    """Matplotlib's arguments for a provider's colour, marker and line, the same in every figure."""

    color: str
    marker: str
    linestyle: Any


LOOKS = {
    "ours": Look(RED, "o", "-"),
    "ours-stepwise": Look("#e76300", "s", "--"),
    "ours-stepwise-graph": Look("#ffa90e", "D", "-."),
    "ours-persistent": Look(RED, "h", "--"),
    "ours-gemm": Look("#a96b59", "^", ":"),
    "ours-graph": Look(RED, "d", "-."),
    "torch.nn": Look(BLUE, "v", "-"),
    "torch.nn-graph": Look("#92dadd", "<", "--"),
    "reference": Look("#94a4a2", "x", ":"),
    "reference-compiled": Look("#717581", "+", "-."),
    "flashrnn-fused": Look("#832db6", "P", "-"),
    "flashrnn-alternating": Look("#832db6", "X", "--"),
    "flashrnn-triton": Look("#832db6", "p", ":"),
    "torchrl-triton": Look("#b9ac70", "*", "-"),
    "emulated": Look(DARK, "s", "-"),
}
PLAIN = Look(DARK, "o", "-")  # where no provider is meant
SPARE = [
    Look(color, marker, line)
    for color, line in (
        (DARK, (0, (4, 1, 1, 1))),
        ("#0b6e4f", (0, (1, 1))),
        ("#5b3a8c", (0, (6, 2))),
    )
    for marker in (">", "|", "H", "1", "2", "3", "4")
]
_given: dict[str, Look] = {}  # by a plugin's provider


def assign(providers: Iterable[str]) -> None:
    """Give the providers of a report their looks, and forget those of the report before.

    Where plugins add no more providers than ``SPARE`` has looks, no two get the same. Further ones
    share looks, of which :func:`alike` makes a note.
    """
    _given.clear()
    for name in sorted(set(providers)):
        if not name.startswith(terms.MODELS):  # which are never drawn as providers
            look(name)


def look(provider: str) -> Look:
    """A provider's look, the same in all figures of a report.

    One of a plugin has a dark one: by its name, or if that is taken the next that is free.
    """
    if provider in LOOKS:
        return LOOKS[provider]
    if provider not in _given:
        first = zlib.crc32(provider.encode()) % len(SPARE)
        ranked, taken = SPARE[first:] + SPARE[:first], list(_given.values())
        _given[provider] = min(ranked, key=taken.count)
    return _given[provider]


def alike(drawn: Iterable[tuple[str, Hashable]]) -> list[str]:
    """A note on the names that are drawn with the same look; [] if all differ."""
    groups: dict[Hashable, list[str]] = {}
    for name, how in drawn:
        groups.setdefault(how, []).append(name)
    shared = [", ".join(names) for names in groups.values() if len(names) > 1]
    return [f"Drawn alike, as there are no more looks: {'; '.join(shared)}."] if shared else []


def handle(label: str, **line: Any) -> Line2D:
    """An entry in a legend."""
    return Line2D([], [], label=label, **line)


def legend(providers: Iterable[str], **line: Any) -> list[Line2D]:
    """The legend entries of providers; ``line`` overrides their looks."""
    return [handle(name, **vars(look(name)) | line) for name in terms.ordered_providers(providers)]


def apply_style() -> None:
    """Set matplotlib to the project's style, ignoring the user's settings."""
    matplotlib.rcdefaults()
    style.use(STYLE)
    matplotlib.rcParams["font.sans-serif"] = [small_font(), "DejaVu Sans"]


@functools.cache
def small_font() -> str:
    """The name of a DejaVu Sans with the letters that figures use, for this process.

    Each PDF embeds a subset of its font; taking it from the whole font makes a figure take a third
    longer and a PDF half as large again.
    """
    source = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    # Kerning from the kern table: OpenType's layout tables are slow to subset. The style does not
    # use hints, which would be a quarter of each PDF.
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
