"""Tables as CSV (every row), Markdown and LaTeX (what fits a page), always the same bytes.

LaTeX is booktabs with siunitx columns and needs ``\\usepackage{booktabs,siunitx}``. Each file says
device, versions, run and commit. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import frames, plots
from bench.figures import growth_table, speedups
from bench.figures_error import EFFECT
from bench.frames import CELL_NAMES, PASS_NAMES, SETTING, SIZES

RESAMPLES = 1000


@dataclass(frozen=True)
class Table:
    """What is written under one name.

    ``shown`` has the columns a reader sees; those in ``numbers`` are aligned at the decimal
    point, with that many significant digits.
    """

    name: str
    caption: str
    shown: pd.DataFrame
    full: pd.DataFrame
    numbers: dict[str, int] = field(default_factory=dict)
    origin: str = ""


def write(table: Table, folder: Path) -> list[Path]:
    """Write CSV, Markdown and LaTeX."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.name}.{kind}" for kind in ("csv", "md", "tex")]
    plots.write_csv(table.full, paths[0])
    paths[1].write_text(markdown(table))
    paths[2].write_text(latex(table))
    return paths


def significant(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where that is readable.

    >>> significant(1234.5), significant(0.012345), significant(3.2e-7), significant(None)
    ('1230', '0.0123', '3.20e-07', '')
    """
    if value is None or not np.isfinite(value):
        return ""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e7:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(float(f"{value:.{digits - 1}e}"))))))
    return f"{float(f'{value:.{digits - 1}e}'):.{places}f}"


def _cells(table: Table) -> pd.DataFrame:
    shown = table.shown.astype(object).copy()
    for column in shown:
        digits = table.numbers.get(str(column))
        if digits is not None:
            shown[column] = [
                v if isinstance(v, str) else significant(v, digits) for v in shown[column]
            ]
        else:
            shown[column] = ["" if v is None or v != v else str(v) for v in shown[column]]
    return shown


def markdown(table: Table) -> str:
    """GitHub's Markdown, numbers to the right."""
    cells = _cells(table)
    head = [str(name) for name in cells]
    rule = ["---:" if name in table.numbers else "---" for name in head]
    body = [[str(v).replace("|", "\\|") for v in row] for row in cells.itertuples(index=False)]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
    return f"{table.caption}\n\n" + "\n".join(lines) + f"\n\n{table.origin}\n"


def latex(table: Table) -> str:
    """A booktabs table with siunitx columns, made by pandas' Styler."""
    cells = _cells(table)
    letters = "".join("S" if str(name) in table.numbers else "l" for name in cells)
    formats = [_siunitx(cells[name]) if str(name) in table.numbers else "l" for name in cells]
    # What is no number in a number's column (a failure's letter) must stand in braces.
    for name in cells:
        if str(name) in table.numbers:
            cells[name] = [v if _is_number(v) or not v else f"{{{escape(v)}}}" for v in cells[name]]
        else:
            cells[name] = [escape(v) for v in cells[name]]
    cells.columns = [
        f"{{{escape(str(name))}}}" if kind == "S" else escape(str(name))
        for name, kind in zip(cells, letters, strict=True)
    ]
    text = (
        cells.style.hide(axis="index")
        .to_latex(
            column_format="".join(formats),
            hrules=True,
            siunitx=True,
            position="tbp",
            position_float="centering",
            caption=escape(table.caption) + r" {\footnotesize " + escape(table.origin) + "}",
            label=f"tab:{table.name}",
        )
    )  # fmt: skip
    # pandas puts every heading of a siunitx table in braces; ours have them where needed.
    text = re.sub(r"\{\{(.*?)\}\}", r"{\1}", text)
    return "% Needs \\usepackage{booktabs,siunitx}\n" + text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9.]+(e[-+]?\d+)?", text) is not None


def _siunitx(column: Iterable[str]) -> str:
    """The S column that is as wide as its widest number."""
    whole = part = power = 0
    for text in column:
        if not _is_number(text):
            continue
        mantissa, _, exponent = text.partition("e")
        before, _, after = mantissa.lstrip("-").partition(".")
        whole, part = max(whole, len(before)), max(part, len(after))
        power = max(power, len(exponent.lstrip("+-0")) if exponent else 0)
    width = f"{max(whole, 1)}.{part}" + (f"e-{power}" if power else "")
    return f"S[table-format={width}]"


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "·": r"\textperiodcentered{}", "µ": r"\textmu{}", "×": r"$\times$", "–": "--", "…": r"\dots{}",
    "\u00a0": "~", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells and passes in a reader's words."""
    return frame.assign(
        cell=frame["cell"].map(lambda name: CELL_NAMES.get(name, name)),
        **{"pass": frame["pass"].map(lambda name: PASS_NAMES.get(name, name))},
    )


def interval(middle: float, low: float | None, high: float | None, digits: int = 3) -> str:
    """A number with its interval."""
    if low is None or high is None or low != low or high != high:
        return significant(middle, digits)
    ends = f"{significant(low, digits)}, {significant(high, digits)}"
    return f"{significant(middle, digits)} [{ends}]"


FULL = [
    *("case_id", "cell", "pass", "track", "directions", "layers", "number", "resets", "B", "T"),
    *("I", "H", "provider", "provider_version", "mode", "status", "reason", "n", "median_ms"),
    *("p20_ms", "p80_ms", "ci_low_ms", "ci_high_ms", "converged", "us_per_step", "tokens_per_s"),
    *("tflops", "gbps", "floor_share", "peak_bytes", "compile_s", "algorithm", "plan_mode"),
    *frames.ORIGIN,
]
MOST_ROWS = 40  # of a table in Markdown or LaTeX: about what one page holds


def time_table(time: pd.DataFrame) -> Table:
    """Median times with intervals; the page shows the slice along H that the figures show."""
    setting, rows = frames.settings(time)[0]
    found = next(filter(None, (frames.best_slice(rows, axis) for axis in ("H", "B", "T"))), None)
    if found is not None:
        for name, size in found[0].items():
            rows = rows[rows[name] == size]
    rows = rows.head(MOST_ROWS * rows["provider"].nunique())
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    providers = plots.by_look(rows["provider"])
    for row in named(rows).to_dict("records"):
        key = (row["cell"], row["pass"], row["B"], row["T"], row["H"])
        line = lines.setdefault(key, dict(zip(("cell", "pass", "B", "T", "H"), key, strict=True)))
        if row["status"] == "ok":
            text = interval(row["median_ms"], row["ci_low_ms"], row["ci_high_ms"])
        else:
            text = row["status"]
        line[row["provider"]] = text
    shown = pd.DataFrame(list(lines.values()), columns=["cell", "pass", "B", "T", "H", *providers])
    # A provider that could not run anywhere in the slice is said once, in the caption.
    out = [p for p in providers if not shown[p].str.contains(r"\d", na=False).any()]
    left = f" Not able to run here: {', '.join(out)}." if out else ""
    return Table(
        "time",
        f"Time of one call in ms, median [95 % interval]: {frames.setting_words(setting)}.{left} "
        "The CSV file has every case.",
        shown.drop(columns=out).head(MOST_ROWS),
        time[FULL],
        {"B": 9, "T": 9, "H": 9},
        frames.provenance(rows),
    )


def speedup_table(time: pd.DataFrame) -> Table | None:
    """Speed over torch.nn: geometric mean over shapes with its interval, and the extremes."""
    table = speedups(time)
    rows = []
    keys = ["cell", "pass", *SETTING, "provider"]
    for values, group in table.groupby(keys, dropna=False, sort=False):
        row = dict(zip(keys, values, strict=True))
        ok = group[group["speedup"].notna()]
        failed = group[group["status"] != "ok"]
        if ok.empty:
            continue
        low, high = mean_interval(ok["speedup"])
        best, worst = ok.loc[ok["speedup"].idxmax()], ok.loc[ok["speedup"].idxmin()]
        row |= {
            "shapes": len(ok),
            "failed": len(failed),
            "geomean": float(np.exp(np.log(ok["speedup"].astype(float)).mean())),
            "geomean_low": low,
            "geomean_high": high,
            "least": worst["speedup"],
            "least_at": _shape(worst),
            "most": best["speedup"],
            "most_at": _shape(best),
        }
        row |= {name: _joined(group[name]) for name in frames.ORIGIN}
        rows.append(row)
    if not rows:
        return None
    full = pd.DataFrame(rows)
    words = named(full)
    shown = pd.DataFrame(
        {
            "provider": words["provider"],
            "cell": words["cell"],
            "pass": words["pass"],
            "setting": [frames.setting_words(row) for row in full.to_dict("records")],
            "shapes": words["shapes"],
            "failed": words["failed"],
            "mean [95 %]": [
                interval(row["geomean"], row["geomean_low"], row["geomean_high"])
                for row in full.to_dict("records")
            ],
            "least": words["least"],
            "most": words["most"],
        }
    ).head(MOST_ROWS)
    return Table(
        "speedup",
        "Speed over torch.nn under the same clock, above 1 is faster: geometric mean over shapes "
        "with a bootstrap interval over them, the least and the most.",
        shown,
        full,
        {"shapes": 9, "failed": 9, "least": 3, "most": 3},
        frames.provenance(time),
    )


def _shape(row: pd.Series) -> str:
    return ", ".join(f"{name}={row[name]}" for name in SIZES)


def _joined(column: pd.Series) -> str:
    return " ".join(sorted({str(value) for value in column.dropna()}))


def mean_interval(ratios: Sequence[float] | pd.Series) -> tuple[float | None, float | None]:
    """The geometric mean's 95 % bootstrap interval over shapes; None for a single one."""
    logs = np.log(np.asarray(ratios, float))
    if len(logs) < 2:
        return None, None
    draw = np.random.default_rng(0).integers(0, len(logs), (RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[draw].mean(axis=1), (2.5, 97.5)))
    return float(low), float(high)


def growth(time: pd.DataFrame) -> Table | None:
    """Fitted slopes of time and memory over T."""
    full = growth_table(time)
    if full.empty:
        return None
    words = named(full)
    shown = pd.DataFrame(
        {
            "provider": words["provider"],
            "cell": words["cell"],
            "pass": words["pass"],
            "setting": [frames.setting_words(row) for row in full.to_dict("records")],
            "B": words["B"],
            "H": words["H"],
            "T": [f"{a} to {b}" for a, b in zip(full["T_from"], full["T_to"], strict=True)],
            "µs per step": words["us_per_step_fit"],
            "time exponent": words["time_exponent"],
            "bytes per step": words["bytes_per_step_fit"],
            "memory exponent": words["memory_exponent"],
        }
    ).head(MOST_ROWS)
    shown = shown.dropna(axis="columns", how="all")
    numbers = {"B": 9, "H": 9, "µs per step": 3, "time exponent": 3, "memory exponent": 3}
    return Table(
        "growth",
        "Growth with the number of steps T: slope of a straight line through the medians, and "
        "exponent p of a fit proportional to T to the power of p.",
        shown,
        full.assign(origin=frames.provenance(time)),
        {name: d for name, d in {**numbers, "bytes per step": 3}.items() if name in shown},
        frames.provenance(time),
    )


def error_table(error: pd.DataFrame) -> Table | None:
    """Errors against float64: the largest over the grid, of the output and of the gradients."""
    ok = error[(error["status"] == "ok") & error["tensor"].notna()]
    ok = ok[~ok["provider"].str.startswith(EFFECT) & ok["regime"].isna()]
    if ok.empty:
        return None
    keys = ["cell", "number", "provider"]
    rows = []
    for values, group in ok.groupby(keys, dropna=False, sort=False):
        row = dict(zip(keys, values, strict=True)) | {"pass": ""}
        for part in ("output", "gradient"):
            here = group[group["part"] == part]
            row[f"{part}: rel. L2"] = here["rel_l2"].max()
            row[f"{part}: max ULP"] = here["max_ulp"].max()
            row[f"{part}: max abs."] = here["max_abs"].max()
        rows.append(row | {"cases": group["case_id"].nunique()})
    frame = frames.ordered(pd.DataFrame(rows))
    shown = named(frame).drop(columns="pass").head(2 * MOST_ROWS)
    interpreted = ok["interpreted"].eq(True).any()
    said = " Ours in Triton's interpreter on the CPU." if interpreted else ""
    numbers = {name: 2 for name in shown if ":" in str(name)} | {"cases": 9}
    return Table(
        "error",
        "Largest error against float64 over the measured shapes, default weights and inputs."
        f"{said} The CSV file has every case and tensor.",
        shown,
        error.drop(columns="kind"),
        numbers,
        frames.provenance(ok),
    )


def failure_table(records: pd.DataFrame) -> Table | None:
    """Who could not do what, and why."""
    failed = records[records["status"] != "ok"]
    if failed.empty:
        return None
    counted = (
        failed.assign(reason=failed["reason"].fillna("no reason recorded"))
        .groupby(["kind", "provider", "status", "reason"], sort=True)
        .size()
        .rename("cases")
        .reset_index()
    )
    return Table(
        "failures",
        "What was not measured, and why.",
        counted.head(MOST_ROWS),
        counted,
        {"cases": 9},
        frames.provenance(failed),
    )


def write_all(run: frames.Run, folder: Path) -> list[Path]:
    """Every table that a run's records fill."""
    found: list[Table | None] = []
    time, error = frames.flat(run.of("time")), frames.errors(run.of("error"))
    if (time["status"] == "ok").any():
        found += [time_table(time), speedup_table(time), growth(time)]
    if len(error):
        found.append(error_table(error))
    found.append(failure_table(frames.flat(run.records)))
    return [path for table in found if table is not None for path in write(table, folder)]
