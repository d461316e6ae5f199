"""A device's own page, ``results/<device>/README.md``. Imports no torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from bench.records.provenance import ROOT
from bench.report import frames
from bench.report.pages import download, facts
from bench.report.style import typeset
from bench.report.style.typeset import Table

TEMPLATES = Path(__file__).parent / "templates"
# File name's first word(s) -> the section it stands in, in the page's order.
SECTIONS = (
    (
        "Are the kernels right here?",
        "Checked on this device before measuring; a check that fails ends a campaign.",
        (),
        ("checks",),
    ),
    (
        "Throughput",
        "Median with its 95 % interval, logarithmic axes. A letter at the foot of a panel is a "
        "point that could not be measured; its reason stands below the figure.",
        ("throughput-",),
        ("time",),
    ),
    (
        "Speed over torch.nn",
        "torch.nn's time over the provider's at the same case and clock: paired by visits where "
        "recorded, else the ratio of the medians.",
        ("speedup-",),
        ("speedup",),
    ),
    (
        "Time per step and growth with T",
        "A recurrent layer's time should be proportional to the number of steps T.",
        ("step-", "growth-"),
        ("growth", "floor"),
    ),
    (
        "Numerical error",
        "Against float64 on the same rounded inputs; see [bench/ERROR.md](../../bench/ERROR.md).",
        ("error-", "activations", "training"),
        (
            "error",
            "error-growth",
            "error-regimes",
            "error-effects",
            "activations",
            "repeatability",
            "training",
        ),
    ),
    (
        "What the compiler made",
        "Registers, spills and shared memory of our kernels; compiled, not run. The maps show the "
        "newest Triton of the table; the download has all.",
        ("resources-",),
        ("resources",),
    ),
    ("What was not measured", "", (), ("failures",)),
)
# What leads from results/<device>/ to a file of the suite, and nowhere from elsewhere.
SUITE_LINK = re.compile(r"\[(bench/[\w.]+)\]\(\.\./\.\./\1\)")
# The device that `bench resources` is asked for, by the architecture that it compiles for.
TARGETS = {"sm_80": "a100", "sm_90": "h100", "sm_100": "b200", "gfx942": "mi300x"}
SHOWN = 6  # figures of a section; more are folded away


@dataclass
class Section:
    title: str
    about: str
    figures: list[dict[str, str]] = field(default_factory=list)
    tables: list[dict[str, str]] = field(default_factory=list)


@functools.cache
def environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and ".html" in name,
    )


def sections(figures: Sequence[Path], tables: Sequence[Table]) -> list[Section]:
    """What was made, sorted into the page's sections; empty ones are left out."""
    names = [path.stem for path in figures if path.suffix == ".png"]
    found = []
    for title, about, starts, wanted in SECTIONS:
        section = Section(title, about)
        mine = [name for start in starts for name in names if name.startswith(start)]
        section.figures = [{"name": name, "alt": name.replace("-", " ")} for name in mine]
        for table in tables:
            if table.name in wanted:
                section.tables.append({"name": table.name, "text": typeset.markdown(table)})
        if section.figures or section.tables:
            found.append(section)
    return found


def commands(run: frames.Run) -> list[str]:
    """The commands that measure such a run again."""
    found = []
    for preset in facts.presets(run):
        kinds = {r["kind"] for r in run.records if r["run_id"].startswith(f"{preset}-")}
        if preset == "quick":
            found.append("python -m bench quick")
            continue
        if preset.startswith("resources"):
            target = TARGETS.get(run.name.split()[-1])
            found.append("python -m bench resources" + (f" --device {target}" if target else ""))
            continue
        found += [f"python -m bench sweep --preset {preset}"] * ("time" in kinds)
        found += [f"python -m bench error --preset {preset}"] * ("error" in kinds)
    return list(dict.fromkeys(found))


def write(run: frames.Run, figures: Sequence[Path], tables: Sequence[Table]) -> Path:
    """Write a run's page beside its tables and figures."""
    folder = run.folder.resolve()
    measured = [*run.sources, *folder.glob("records/*.json"), *folder.glob("*.json")]
    sources = sorted(str(p.relative_to(folder)) for p in measured if p.is_relative_to(folder))
    values: dict[str, Any] = {
        "name": run.name,
        "folder": run.folder.name,
        "origin": frames.provenance(facts.frame(run)),
        "when": facts.when(run),
        "headlines": facts.headlines(run),
        "sections": sections(figures, tables),
        "shown": SHOWN,
        "download": download.NAME,
        "versions": facts.versions(run),
        "providers": facts.providers(run),
        "protocol": facts.protocol(run),
        "commands": commands(run),
        "sources": sources,
        "caveats": facts.caveats(run),
        "missing": facts.missing(run),
    }
    path = run.folder / "README.md"
    text = environment().get_template("device.md.jinja").render(values)
    if run.folder.resolve().parent != ROOT / "results":
        text = SUITE_LINK.sub(r"`\1` of the suite", text)
    path.write_text(text, encoding="utf-8")
    return path
