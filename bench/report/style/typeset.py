"""A table as Markdown and LaTeX (what fits a page) and CSV (every row), always the same bytes.

LaTeX is booktabs with siunitx columns and needs ``\\usepackage{booktabs,graphicx,siunitx}``. Each
file says device, versions, run and commit. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.report.style import plots

FORMATS = ("md", "tex", "csv")
SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"


@dataclass(frozen=True)
class Table:
    """What is written under one name.

    Attributes:
        shown: the columns and rows a reader sees.
        full: the CSV file: everything.
        numbers: columns aligned at the decimal point, with their significant digits; 0 means
            whole numbers, a negative count scientific notation.
        origin: device, versions, runs and commits.
        narrow: what LaTeX shows instead of ``shown``, where a page is too narrow for that.
    """

    name: str
    caption: str
    shown: pd.DataFrame
    full: pd.DataFrame
    numbers: dict[str, int] = field(default_factory=dict)
    origin: str = ""
    narrow: pd.DataFrame | None = None


def write(table: Table, folder: Path) -> list[Path]:
    """Write Markdown, LaTeX, and CSV for the page's download."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.name}.{kind}" for kind in FORMATS]
    paths[0].write_text(markdown(table), encoding="utf-8")
    paths[1].write_text(latex(table), encoding="utf-8")
    plots.write_csv(table.full, paths[2])
    return paths


def significant(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits; 0: whole, negative: in scientific notation.

    >>> significant(1234.5), significant(0.012345), significant(3.2e-7), significant(None)
    ('1230', '0.0123', '3.20e-7', '')
    """
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    if digits == 0:
        return f"{value:.0f}"
    if digits < 0 or abs(value) < 1e-3 or abs(value) >= 1e6:
        return plots.scientific(value, abs(digits))
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{places}f}"


def interval(middle: float, low: float | None, high: float | None) -> str:
    """A number with its interval: 1.55 [1.51, 1.58]."""
    if low is None or high is None or low != low or high != high:
        return significant(middle)
    return f"{significant(middle)} [{significant(low)}, {significant(high)}]"


def uncertain(middle: float, low: float | None, high: float | None) -> str:
    """A number with half its interval in the last digits, as siunitx reads it.

    >>> uncertain(0.65432, 0.6443, 0.6643)
    '0.654(10)'
    """
    if low is None or high is None or not high > low:
        return significant(middle)
    half = (high - low) / 2
    places = max(0, 1 - math.floor(math.log10(half)))
    digits = round(half * 10**places)
    return f"{middle:.{places}f}({max(digits, 1)})"


def _cells(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    cells = frame.astype(object).copy()
    for name in cells:
        digits = table.numbers.get(str(name))
        cells[name] = [
            ("" if value is None or value != value else str(value))
            if digits is None or isinstance(value, str)
            else significant(value, digits)
            for value in cells[name]
        ]
    return cells


def markdown(table: Table) -> str:
    """GitHub's Markdown, numbers to the right."""
    cells = _cells(table, table.shown)
    head = [str(name) for name in cells]
    rule = ["---:" if name in table.numbers else "---" for name in head]
    body = [[value.replace("|", "\\|") for value in row] for row in cells.itertuples(index=False)]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
    return f"{table.caption}\n\n" + "\n".join(lines) + f"\n\n{table.origin}\n"


def latex(table: Table) -> str:
    """A booktabs table with siunitx columns, made by pandas' Styler."""
    cells = _cells(table, table.shown if table.narrow is None else table.narrow)
    columns = ""
    for name in cells:
        aligned = str(name) in table.numbers or (
            table.narrow is not None and cells[name].map(_is_number).any()
        )
        columns += _siunitx(cells[name]) if aligned else "l"
        # What is no number in a column of numbers (a failure's name) must stand in braces.
        cells[name] = [
            f"{{{escape(v)}}}" if aligned and v and not _is_number(v) else escape(v)
            for v in cells[name]
        ]
    cells.columns = pd.Index([escape(str(name)) for name in cells])
    text = cells.style.hide(axis="index").to_latex(
        column_format=columns,
        hrules=True,
        siunitx=True,
        position="tbp",
        position_float="centering",
        caption=escape(table.caption) + r" {\footnotesize " + escape(table.origin) + "}",
        label=f"tab:{table.name}",
    )
    # A table wider than the text shrinks to its width, which makes the longest fit a page too.
    text = text.replace("\\begin{tabular}", f"\\footnotesize\n{SHRINK}{{%\n\\begin{{tabular}}", 1)
    text = text.replace("\\end{tabular}", "\\end{tabular}}", 1)
    return "% Needs \\usepackage{booktabs,graphicx,siunitx}\n" + text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9.]+(\(\d+\))?(e-?\d+)?", text) is not None


def _siunitx(column: Iterable[str]) -> str:
    """The S column that is as wide as its widest number."""
    whole, part, power, unsure = 1, 0, 0, 0
    for text in filter(_is_number, column):
        mantissa, _, exponent = text.partition("e")
        mantissa, _, uncertainty = mantissa.partition("(")
        before, _, after = mantissa.lstrip("-").partition(".")
        whole, part = max(whole, len(before)), max(part, len(after))
        power = max(power, len(exponent.lstrip("-")))
        unsure = max(unsure, len(uncertainty.rstrip(")")))
    width = f"{whole}.{part}" + (f"({unsure})" if unsure else "")
    return f"S[table-format={width}{'e-' + '1' * power if power else ''}]"


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "·": r"$\cdot$", "µ": r"$\mu$", "×": r"$\times$", "–": "--", "…": r"\dots{}",
    "\u00a0": "~", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX prints it, with no more packages than the tables need."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
