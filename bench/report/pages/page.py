"""The results page: one HTML file with all records and scripts, which needs no network.

Plots are Vega-Lite's; its JavaScript comes out of the package vl-convert. The page's own script
only turns form controls into data and specifications (``templates/page*.js``).
"""

import base64
import functools
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records import schema, store
from bench.report import frames, terms
from bench.report.pages import cite, device_page
from bench.report.runs import Run
from bench.report.speed.derived import speedups
from bench.report.style import looks
from bench.report.text import SPECIAL

MOST_BYTES = 2_000_000  # of the page, library included
NAME = "index.html"
SCRIPTS = ("page_plots.js", "page.js")  # one after the other, concatenated
# Vega's shape and dash for each matplotlib marker and line in use.
SHAPES = {
    "o": "circle", "s": "square", "D": "diamond", "v": "triangle-down", "^": "triangle-up",
    "<": "triangle-left", ">": "triangle-right", "x": "M-1,-1L1,1M-1,1L1,-1", "+": "cross",
    "P": "cross", "X": "M-1,-.5L-.5,-1L0,-.5L.5,-1L1,-.5L.5,0L1,.5L.5,1L0,.5L-.5,1L-1,.5L-.5,0Z",
    "p": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z", "*": "M0,-1L.29,-.4L.95,-.31L.48,.15"
    "L.59,.81L0,.5L-.59,.81L-.48,.15L-.95,-.31L-.29,-.4Z", "h": "M0,-1L.87,-.5L.87,.5L0,1"
    "L-.87,.5L-.87,-.5Z", "d": "M0,-1L.6,0L0,1L-.6,0Z", "|": "M0,-1L0,1",
    "H": "M1,0L.5,.87L-.5,.87L-1,0L-.5,-.87L.5,-.87Z",
    "1": "M0,0L0,1M0,0L.8,-.5M0,0L-.8,-.5", "2": "M0,0L0,-1M0,0L.8,.5M0,0L-.8,.5",
    "3": "M0,0L-1,0M0,0L.5,.8M0,0L.5,-.8", "4": "M0,0L1,0M0,0L-.5,.8M0,0L-.5,-.8",
}  # fmt: skip
DASHES = {"-": [1, 0], "--": [5, 2], "-.": [5, 2, 1, 2], ":": [1, 2]}


@functools.cache
def library() -> str | None:
    """Vega, Vega-Lite and Vega-Embed as one script; None without the package vl-convert."""
    try:
        import vl_convert
    except ImportError:
        return None
    # A script element ends at the first closing tag, even inside a string.
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )


def derived(run: Run) -> list[dict[str, Any]]:
    """The values plotted of each record that are not its own fields, in the records' order.

    ``speedup`` with its interval as the figures define it; of errors the output's and the worst
    gradients' relative L2, and the output's in the maximum norm.
    """
    speed = speedups(run.time)
    columns = ["case_id", "provider", "mode", "speedup", "speedup_low", "speedup_high"]
    ratios = {
        tuple(row[:3]): [None if value != value else value for value in row[3:]]
        for row in speed[columns].itertuples(index=False, name=None)
    }
    found = []
    for record in run.records:
        extra: dict[str, Any] = {"number": frames.number(record), "mode": frames.clock(record)}
        if record["kind"] == "time":
            ratio = ratios.get((record["case_id"], record["provider"], extra["mode"]))
            extra["speedup"] = ratio if ratio and ratio[0] is not None else None
        else:
            metrics = record["errors"] or {}
            output = metrics.get("y") or {}
            extra["output"], extra["largest"] = output.get("rel_l2"), output.get("rel_max")
            for field, part in (("gradient", "gradient-state"), ("weights", "gradient-weight")):
                worst = [m["rel_l2"] for name, m in metrics.items() if frames.part(name) == part]
                extra[field] = max((v for v in worst if v is not None), default=None)
        found.append(extra)
    return found


def _round(value: Any, digits: int) -> Any:
    """The value with so many significant digits in every number that has a point."""
    # The JSON parser is several times as fast as walking the values.
    return json.loads(
        json.dumps(value), parse_float=lambda text: float(f"{float(text):.{digits}g}")
    )


def _without(*names: str) -> Callable[[store.Record], store.Record]:
    return lambda record: {**record, **dict.fromkeys(names)}


def _keep_rel_l2(record: store.Record) -> store.Record:
    errors = record["errors"] or {}
    return {**record, "errors": {name: {"rel_l2": m["rel_l2"]} for name, m in errors.items()}}


# What is left out, one after the other, until the page is small enough, and its name on the page.
SAVINGS: tuple[tuple[str, Callable[[store.Record], store.Record]], ...] = (
    ("", lambda record: record),
    ("single samples", _without("samples_ms", "blocks")),
    ("digits beyond the fourth", lambda record: _round(record, 4)),
    ("error metrics other than relative L2", _keep_rel_l2),
    ("errors of timed cases", lambda r: _without("errors")(r) if r["kind"] == "time" else r),
)


def pack(devices: Sequence[tuple[Run, list[dict[str, Any]]]], level: int) -> dict[str, Any]:
    """All devices' records as the page's data, without what the first ``level`` savings drop.

    Records become rows of values in the order of ``fields``; equal devices and software are
    stored once, in ``shared``.
    """
    fields = [name for name in schema.FIELDS if name not in ("device", "software")]
    found: dict[str, Any] = {"fields": fields, "devices": []}
    found["left_out"] = [words for words, _ in SAVINGS[1 : level + 1]]
    for run, extras in devices:
        shared: dict[str, int] = {}
        rows = []
        for record, extra in zip(run.records, extras, strict=True):
            for _, save in SAVINGS[: level + 1]:
                record = save(record)
            both = json.dumps({name: record[name] for name in ("device", "software")})
            index = shared.setdefault(both, len(shared))
            small = _round(extra, 6)
            rows.append([[record[name] for name in fields], index, small])
        found["devices"].append(
            {
                "name": run.name,
                "folder": run.folder.name,
                "origin": frames.provenance(run.every),
                "citation": cite.text(run),
                "shared": [json.loads(text) for text in shared],
                "records": rows,
            }
        )
    return found


def provider_looks(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each provider's colour, shape and dash, as in the figures."""
    names = {record["provider"] for run in runs for record in run.records}
    names = {name for name in names if not name.startswith(terms.EFFECT)}
    found = []
    for name in terms.ordered_providers(names):
        look = looks.look(name)
        dash = DASHES[look.linestyle] if isinstance(look.linestyle, str) else look.linestyle[1]
        shape = SHAPES[look.marker]
        found.append({"name": name, "color": look.color, "shape": shape, "dash": dash})
    return found


def _template(name: str) -> str:
    return (device_page.TEMPLATES / name).read_text(encoding="utf-8")


def render(runs: Sequence[Run], script: str) -> str:
    """The page's HTML, with as much of the records as fits.

    Raises:
        ValueError: if not even the shortest form of the records fits.
    """
    runs = [replace(run, records=[*run.of("time"), *run.of("error")]) for run in runs]
    devices = [(run, derived(run)) for run in runs]
    template = device_page.environment().get_template("page.html.jinja")
    shown = provider_looks(runs)
    words = {
        "looks": shown,
        "alike": looks.alike((each["name"], (each["color"], each["shape"])) for each in shown),
        "cells": terms.CELL_NAMES,
        "passes": terms.PASS_NAMES,
        "letters": looks.LETTERS,
        "latex": SPECIAL,
        "cell_order": terms.CELL_ORDER,
        "pass_order": terms.PASS_ORDER,
        "number_order": terms.NUMBER_ORDER,
    }
    for level in range(len(SAVINGS)):
        data = json.dumps(pack(devices, level) | words, separators=(",", ":"), allow_nan=False)
        page = template.render(
            library=script,
            data=base64.b64encode(gzip.compress(data.encode(), 9, mtime=0)).decode(),
            script="".join(_template(name) for name in SCRIPTS),
            style=_template("page.css"),
        )
        if len(page.encode()) <= MOST_BYTES:
            return page
    raise ValueError(
        f"the results page would have {len(page.encode()):,} bytes, more than {MOST_BYTES:,}; "
        "report on fewer runs at once"
    )


def write(runs: Sequence[Run], path: Path) -> Path | None:
    """Write the page of these runs; None if the plotting library's package is missing."""
    script = library()
    if script is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(runs, script), encoding="utf-8")
    return path
