"""What was measured beside the records: the activations alone, and whether bits repeat.

Reads ``records/activations.json`` and ``records/repeatability.json``. Imports no torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import files
from bench.report import frames
from bench.report.speed.figures import Job
from bench.report.style import plots
from bench.report.style.typeset import Table

COLORS = {"sigmoid": "#3f90da", "tanh": "#bd1f01"}


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """One of the two files of a device's folder, None if it was not measured."""
    path = folder / "records" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def origin(found: dict[str, Any]) -> dict[str, Any]:
    """Device, versions and commit of such a file; its run is the file itself."""
    device, software = found["device"], found["software"]
    return {
        "device": device.get("name"),
        "torch": software.get("torch"),
        "triton": software.get("triton"),
        "cudnn": frames.cudnn(device.get("cudnn")),
        "run_id": f"code {found['code']}",
        "commit": frames.commit(found),
    }


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
        rows.append(row | origin(found))
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
    full = pd.DataFrame(found["rows"]).assign(**origin(found))
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
    order = {name: k for k, name in enumerate(plots.by_look(full["provider"]))}
    rows.sort(key=lambda row: order[row["provider"]])
    return Table(
        "repeatability",
        f"Are the bits the same? Answers over {full['case_id'].nunique()} cases, {_where(found)}.",
        pd.DataFrame(rows),
        full,
        {"largest difference": -2},
        frames.provenance(full),
    )


def tables(folder: Path) -> list[Table]:
    """The tables of what was measured beside the records."""
    activations, repeated = read(folder, files.ACTIVATIONS), read(folder, files.REPEATABILITY)
    made = [] if activations is None else [activation_table(activations)]
    return made if repeated is None else [*made, repeat_table(repeated)]


def jobs(folder: Path) -> Iterator[Job]:
    """The figure of the activations' error over their arguments."""
    found = read(folder, files.ACTIVATIONS)
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
    ).assign(**origin(found))
    pairs = [("function", ""), ("derivative", "_gradient")]
    handles = [
        plots.Line2D([], [], color=color, label=name, linestyle="-" if name == "tanh" else "--")
        for name, color in COLORS.items()
    ]
    sheet = plots.Sheet(
        len(pairs),
        1,
        title="Error of the activations alone, over all of float32",
        origin=frames.provenance(data),
        handles=handles,
        notes=[
            f"Largest error against float64 in each binary exponent of the argument, "
            f"{found['points']:,} points of both signs, {_where(found)}. Derivatives are functions "
            "of the rounded output."
        ],
        share=False,
        row_gap=0.42,
    )
    for axes, (words, tail) in zip(sheet.axes[:, 0], pairs, strict=True):
        top = 1.0
        for name, color in COLORS.items():
            rows = data[data["function"] == name + tail].dropna(subset="max_ulp")
            axes.step(
                rows["exponent"], rows["max_ulp"], where="mid", color=color, linewidth=0.9,
                linestyle="-" if name == "tanh" else "--",
            )  # fmt: skip
            top = max([top, *rows["max_ulp"]])
        axes.set_ylim(0, 1.08 * top)
        axes.set_ylabel("max. ULP")
        what = "the argument's binary exponent" if not tail else "the output's binary exponent"
        axes.set_xlabel(what)
        plots.head(axes, words)
    return sheet.save(folder, "activations", data)
