"""A table as Markdown and LaTeX (what fits a page) and CSV (every row), always the same bytes.

LaTeX is booktabs with siunitx columns and needs ``\\usepackage{booktabs,graphicx,siunitx}``. Each
file says device, versions, run and commit. Imports no torch.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from bench.report import terms
from bench.report.frames import ORIGIN
from bench.report.style.numbers import significant
from bench.report.style.sheet import write_csv
from bench.report.text import as_latex, as_markdown

FORMATS = ("md", "tex", "csv")
# Digits before and after the point, of the uncertainty and of the exponent.
NUMBER = re.compile(r"-?(\d+)\.?(\d*)(?:\((\d+)\))?(?:e-?(\d+))?")
MOST_ROWS = 40  # of a table in Markdown or LaTeX: about what one page holds
SHRINK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"


@dataclass(frozen=True)
class Table:
    """A table and the files it is written to.

    Attributes:
        shown: the columns and rows a reader sees.
        full: the CSV file: everything.
        numbers: columns aligned at the decimal point, with their significant digits; 0 means
            whole numbers, a negative count scientific notation.
        origin: device, versions, runs and commits.
        narrow: what LaTeX shows instead of ``shown``, where that is too wide for a page.
    """

    name: str
    caption: str
    shown: pd.DataFrame
    full: pd.DataFrame
    numbers: dict[str, int] = field(default_factory=dict)
    origin: str = ""
    narrow: pd.DataFrame | None = None


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells and passes in a reader's words."""
    return frame.assign(
        cell=frame["cell"].map(terms.cell_name),
        **{"pass": frame["pass"].map(lambda name: terms.PASS_TITLES.get(name, name))},
    )


def drop_constant_columns(shown: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The table without those of the columns that hold one value, and these values as text."""
    same = [name for name in names if name in shown and shown[name].nunique() == 1]
    words = []
    for name in same:
        value = shown[name].iloc[0]
        if name in ("failed", "unsupported") and not value:
            continue
        words.append(str(value) if name == "setting" else f"{name}={value}")
    return shown.drop(columns=same), ", ".join(words)


def joined_origin(rows: pd.DataFrame) -> dict[str, str]:
    """The origin of an aggregated row: each origin column's distinct values, joined."""
    return {
        name: " ".join(sorted({str(value) for value in rows[name].dropna()})) for name in ORIGIN
    }


def write(table: Table, folder: Path) -> list[Path]:
    """Write Markdown, LaTeX, and CSV for the page's download."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.name}.{kind}" for kind in FORMATS]
    paths[0].write_text(markdown(table), encoding="utf-8")
    paths[1].write_text(latex(table), encoding="utf-8")
    write_csv(table.full, paths[2])
    return paths


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
    body = [list(map(as_markdown, row)) for row in cells.itertuples(index=False)]
    lines = [f"| {' | '.join(row)} |" for row in (list(map(as_markdown, head)), rule, *body)]
    return f"{table.caption}\n\n" + "\n".join(lines) + f"\n\n{as_markdown(table.origin)}\n"


def latex(table: Table) -> str:
    """A booktabs table with siunitx columns, made by pandas' Styler."""
    cells = _cells(table, table.shown if table.narrow is None else table.narrow)
    columns = ""
    for name in cells:
        aligned = str(name) in table.numbers or (
            table.narrow is not None and cells[name].map(NUMBER.fullmatch).any()
        )
        columns += _siunitx(cells[name]) if aligned else "l"
        # Text in a column of numbers (a failure's name) must be in braces.
        # A bracket or star that begins a row would be read as an argument of the line's end.
        cells[name] = [
            f"{{{as_latex(v)}}}"
            if v.startswith(("[", "*")) or (aligned and v and not NUMBER.fullmatch(v))
            else as_latex(v)
            for v in cells[name]
        ]
    cells.columns = pd.Index([as_latex(str(name)) for name in cells])
    text = cells.style.hide(axis="index").to_latex(
        column_format=columns,
        hrules=True,
        siunitx=True,
        position="tbp",
        position_float="centering",
        caption=as_latex(table.caption) + r" {\footnotesize " + as_latex(table.origin) + "}",
        label=f"tab:{table.name}",
    )
    # A table wider than the text shrinks to its width, which makes the longest fit a page too.
    text = text.replace("\\begin{tabular}", f"\\footnotesize\n{SHRINK}{{%\n\\begin{{tabular}}", 1)
    text = text.replace("\\end{tabular}", "\\end{tabular}}", 1)
    return "% Needs \\usepackage{booktabs,graphicx,siunitx}\n" + text


def _siunitx(column: Iterable[str]) -> str:
    """The S column that is as wide as its widest number."""
    found = filter(None, map(NUMBER.fullmatch, column))
    lengths = ([len(digits) for digits in match.groups("")] for match in found)
    whole, part, unsure, power = map(max, zip([1, 0, 0, 0], *lengths, strict=True))
    width = f"{whole}.{part}" + (f"({unsure})" if unsure else "")
    return f"S[table-format={width}{'e-' + '1' * power if power else ''}]"
