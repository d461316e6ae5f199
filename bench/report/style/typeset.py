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

FORMATS = ("md", "tex", "csv")
MOST_ROWS = 40  # of a table in Markdown or LaTeX: about what one page holds
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


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells and passes in a reader's words."""
    return frame.assign(
        cell=frame["cell"].map(terms.cell_name),
        **{"pass": frame["pass"].map(lambda name: terms.PASS_TITLES.get(name, name))},
    )


def drop_constant_columns(shown: pd.DataFrame, names: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """Of such columns those that never change are taken out and put into words instead."""
    same = [name for name in names if name in shown and shown[name].nunique() == 1]
    words = []
    for name in same:
        value = shown[name].iloc[0]
        if name in ("failed", "unsupported") and not value:
            continue  # that nobody failed needs no word
        words.append(str(value) if name == "setting" else f"{name}={value}")
    return shown.drop(columns=same), ", ".join(words)


def joined_origin(rows: pd.DataFrame) -> dict[str, str]:
    """Where rows come from, for the one row that is made of them: each column's values in one."""
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
