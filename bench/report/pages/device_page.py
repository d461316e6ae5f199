"""A device's own page, ``results/<device>/README.md``."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from bench.records.provenance import ROOT
from bench.report import frames
from bench.report.pages import download, facts
from bench.report.runs import Run
from bench.report.style import typeset
from bench.report.style.typeset import Table
from bench.report.topics import TOPICS

TEMPLATES = Path(__file__).parent / "templates"
# What leads from results/<device>/ to a file of the suite, and nowhere from elsewhere.
SUITE_LINK = re.compile(r"\[(bench/[\w.]+)\]\(\.\./\.\./\1\)")
# The device that `bench resources` is asked for, by the architecture that it compiles for.
TARGETS = {"sm_80": "a100", "sm_90": "h100", "sm_100": "b200", "gfx942": "mi300x"}
SHOWN_FIGURES = 6  # of a section; more are folded away


@functools.cache
def environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and ".html" in name,
    )


def sections(figures: Sequence[Path], tables: Sequence[Table]) -> list[dict[str, Any]]:
    """The topics' sections with what was made for each; empty ones are left out."""
    names = [path.stem for path in figures if path.suffix == ".png"]
    found = []
    for section in (section for topic in TOPICS for section in topic.sections):
        images = [name for start in section.figures for name in names if name.startswith(start)]
        shown = [table for table in tables if table.name in section.tables]
        if images or shown:
            found.append(
                {
                    "title": section.title,
                    "about": section.about,
                    "figures": [{"name": name, "alt": name.replace("-", " ")} for name in images],
                    "tables": [{"name": t.name, "text": typeset.markdown(t)} for t in shown],
                }
            )
    return found


def commands(run: Run) -> list[str]:
    """The commands that measure such a run again."""
    found = []
    for preset in run.presets:
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


def write(run: Run, figures: Sequence[Path], tables: Sequence[Table]) -> Path:
    """Write a run's page beside its tables and figures."""
    folder = run.folder.resolve()
    measured = [*run.sources, *folder.glob("records/*.json"), *folder.glob("*.json")]
    sources = sorted(str(p.relative_to(folder)) for p in measured if p.is_relative_to(folder))
    values: dict[str, Any] = {
        "name": run.name,
        "folder": run.folder.name,
        "origin": frames.provenance(run.every),
        "when": facts.when(run),
        "headlines": facts.headlines(run),
        "sections": sections(figures, tables),
        "shown": SHOWN_FIGURES,
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
