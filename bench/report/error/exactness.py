"""What was measured beside the records: the activations by themselves, and whether bits repeat."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import files
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.style import looks
from bench.report.style.sheet import Job, Layout, Sheet, panel_title
from bench.report.style.typeset import Table

ACTIVATIONS = f"{files.RECORDS}/{files.ACTIVATIONS}"
REPEATABILITY = f"{files.RECORDS}/{files.REPEATABILITY}"


def _where(found: dict[str, Any]) -> str:
    return "in Triton's interpreter on the CPU" if found["interpreted"] else "on the device"


def activation_table(found: dict[str, Any]) -> Table:
    """Error of each device function over the whole float32 range."""
    rows = []
    for name, errors in found["functions"].items():
        library = errors.get("torch") or {}
        row = {
            "function": name.replace("_gradient", ", derivative"),
            "max. ULP": errors["max_ulp"],
            "99 % within ULP": errors["p99_ulp"],
            "max. abs.": errors["max_abs"],
            "worst at": errors["worst_at"],
            "torch's max. ULP": library.get("max_ulp"),
        }
        row |= {f"of {x}": errors["special"].get(x) for x in ("inf", "-inf", "nan")}
        rows.append(row | frames.origin(found))
    full = pd.DataFrame(rows)
    numbers = {"max. ULP": 3, "99 % within ULP": 3, "max. abs.": -2, "worst at": 4}
    return Table(
        "activations",
        f"The activations alone, {_where(found)}, against float64 at {found['points']:,} points "
        "of every exponent of float32 and both signs; ULP of float32.",
        full.drop(columns=list(frames.ORIGIN)),
        full,
        numbers | {"torch's max. ULP": 3},
        frames.provenance(full),
    )


def repeat_table(found: dict[str, Any]) -> Table:
    """Each question, answered over all measured cases of a provider and track."""
    full = pd.DataFrame(found["rows"]).assign(**frames.origin(found))
    rows = []
    names = ["provider", "track", "question"]
    for (provider, track, question), group in full.groupby(names, sort=False):
        same = int(group["same"].sum())
        rows.append(
            {
                "provider": provider,
                "track": track,
                "question": question,
                "same bits": "yes" if same == len(group) else f"{same} of {len(group)} cases",
                "largest difference": group["max_abs"].max(),
            }
        )
    order = terms.ordered_providers(full["provider"])
    rows.sort(key=lambda row: order.index(row["provider"]))
    return Table(
        "repeatability",
        f"Are the bits the same? Answers over {full['case_id'].nunique()} cases, {_where(found)}.",
        pd.DataFrame(rows),
        full,
        {"largest difference": -2},
        frames.provenance(full),
    )


def tables(run: Run) -> list[Table]:
    """The tables of what was measured beside the records."""
    activations, repeated = run.read(ACTIVATIONS), run.read(REPEATABILITY)
    made = [] if activations is None else [activation_table(activations)]
    return made if repeated is None else [*made, repeat_table(repeated)]


def jobs(run: Run) -> Iterator[Job]:
    """The figure of the activations' error over their arguments."""
    found = run.read(ACTIVATIONS)
    if found is not None:
        yield functools.partial(activations, found)


def activations(found: dict[str, Any], folder: Path) -> list[Path]:
    """The largest error in each binary exponent of the argument, in ULP."""
    functions = found["functions"]
    data = pd.DataFrame(
        [
            {"function": name, "exponent": exponent, "max_ulp": units}
            for name, errors in functions.items()
            for exponent, units in zip(
                errors["exponents"], errors["max_ulp_per_exponent"], strict=True
            )
        ]
    ).assign(**frames.origin(found))
    sheet = Sheet(
        2,
        1,
        title="Error of the activations alone, over all of float32",
        origin=frames.provenance(data),
        handles=[looks.handle(name, **line) for name, line in looks.ACTIVATIONS.items()],
        notes=[
            f"Largest error against float64 in each binary exponent of the argument, "
            f"{found['points']:,} points of both signs, {_where(found)}. Derivatives are functions "
            "of the rounded output."
        ],
        layout=Layout(share=False, row_gap=0.42),
    )
    panels = (("function", "", "argument"), ("derivative", "_gradient", "output"))
    for axes, (words, tail, across) in zip(sheet.axes[:, 0], panels, strict=True):
        top = 1.0
        for name, line in looks.ACTIVATIONS.items():
            rows = data[data["function"] == name + tail].dropna(subset="max_ulp")
            axes.step(rows["exponent"], rows["max_ulp"], where="mid", linewidth=0.9, **line)
            top = max([top, *rows["max_ulp"]])
        axes.set_ylim(0, 1.08 * top)
        axes.set_ylabel("max. ULP")
        axes.set_xlabel(f"the {across}'s binary exponent")
        panel_title(axes, words)
    return sheet.save(folder, "activations", data)
