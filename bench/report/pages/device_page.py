"""A device's own page, ``results/<device>/README.md``, and its download.

The page has the hardware, versions and protocol, and the results of all topics.
"""

import functools
import os
import re
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from bench.records.provenance import ROOT
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.style import typeset
from bench.report.style.typeset import Table
from bench.report.text import as_markdown
from bench.report.topics import TOPICS

TEMPLATES = Path(__file__).parent / "templates"
# A link from results/<device>/ to a file of the suite; elsewhere it leads nowhere.
SUITE_LINK = re.compile(r"\[(bench/[\w.]+)\]\(\.\./\.\./\1\)")
# The argument of `bench resources --device`, by the architecture that it compiles for.
TARGETS = {"sm_80": "a100", "sm_90": "h100", "sm_100": "b200", "gfx942": "mi300x"}
DOWNLOAD = "data.zip"
FILE_MODE = 0o644 << 16  # where zip keeps a Unix file's permissions
SHOWN_FIGURES = 6  # of a section; more are folded away


@functools.cache
def environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and ".html" in name,
    )
    # For Markdown: text from records, and a file's name in a link.
    found.filters |= {"text": as_markdown, "link": partial(quote, safe="/+=@")}
    return found


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
    """The commands that repeat a run."""
    found = []
    for preset in run.presets:
        kinds = {r["kind"] for r in run.records if r["run_id"].startswith(f"{preset}-")}
        if preset == "quick":
            found.append("python -m bench quick")
        elif preset.startswith("resources"):
            target = TARGETS.get(run.name.split()[-1])
            found.append("python -m bench resources" + (f" --device {target}" if target else ""))
        else:
            found += [f"python -m bench sweep --preset {preset}"] * ("time" in kinds)
            energy = f"python -m bench sweep --preset {preset} --kind energy"
            found += [energy] * ("energy" in kinds)
            found += [f"python -m bench error --preset {preset}"] * ("error" in kinds)
    return list(dict.fromkeys(found))


def versions(run: Run) -> dict[str, str]:
    """Hardware and software as text; what no record holds is left out."""
    facts = [record["device"] | record["software"] for record in run.records]

    def distinct(name: str) -> list[str]:
        return terms.distinct(each.get(name) for each in facts)

    compiled = distinct("kind") == ["compiled"]
    rows = {
        "Device": distinct("name"),
        "Compiled for" if compiled else "Compute capability": distinct("capability"),
        "Multiprocessors": distinct("multiprocessors"),
        "Memory": [f"{int(size) / 2**30:.0f} GiB" for size in distinct("memory_bytes")],
        "CPU cores": distinct("cores"),
        "CPU threads used": distinct("threads"),
        "Driver": distinct("driver"),
        "CUDA": distinct("cuda"),
        "cuDNN": terms.distinct(terms.cudnn_version(each.get("cudnn")) for each in facts),
        **{
            name: distinct(name.lower())
            for name in ("torch", "Triton", "NumPy", "Python", "Platform")
        },
    }
    return {words: ", ".join(found) for words, found in rows.items() if found}


def providers(run: Run) -> list[tuple[str, str, int, int]]:
    """Of each provider: name, version, number of successful records, and of all records."""
    found = []
    for name in terms.ordered_providers(record["provider"] for record in run.records):
        mine = [record for record in run.records if record["provider"] == name]
        version = ", ".join(terms.distinct(record["provider_version"] for record in mine)) or "–"
        found.append((name, version, sum(r["status"] == "ok" for r in mine), len(mine)))
    return found


def caveats(run: Run) -> list[str]:
    """What a reader must know before citing a number of this run."""
    found = []
    if any(r["interpreted"] for r in run.of("error")):
        found.append(
            "Errors of our kernels come from Triton's interpreter on the CPU: the same algorithm, "
            "but NumPy's sums and exponentials, at sizes it can do. Time in the interpreter is "
            "meaningless and was not measured."
        )
    commits = terms.distinct(frames.commit(r) for r in run.records)
    if any(commit.endswith("+") for commit in commits):
        found.append("A commit with a plus sign had uncommitted changes when it was measured.")
    if len(commits) > 1:
        found.append(f"Records come from {len(commits)} commits; no curve joins different code.")
    found += [line for topic in TOPICS for line in topic.caveats(run)]
    return found + [f"{count:,} records were left out: {why}." for why, count in run.aside.items()]


def missing(run: Run) -> list[str]:
    """What these records lack, and what would measure it."""
    if all(r["kind"] == "resources" for r in run.records):
        return ["time and error: nothing ran on this target"]
    return [line for topic in TOPICS for line in topic.missing(run)]


def pack(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Move files of a folder into its download; returns the download, unless it would be empty."""
    target = folder / DOWNLOAD
    if not files:
        target.unlink(missing_ok=True)
        return []
    fresh = folder / f"{DOWNLOAD}.part"
    with zipfile.ZipFile(fresh, "w") as archive:
        for path in sorted(files):
            # Without a date (zip's default is 1980) the same data gives the same bytes.
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.external_attr = FILE_MODE
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    os.replace(fresh, target)
    for path in files:
        path.unlink()
    return [target]


def write(run: Run, figures: Sequence[Path], tables: Sequence[Table]) -> Path:
    """Write a run's page into the folder of its tables and figures."""
    folder = run.folder.resolve()
    measured = [*run.sources, *folder.glob("records/*.json"), *folder.glob("*.json")]
    sources = sorted(str(p.relative_to(folder)) for p in measured if p.is_relative_to(folder))
    days = sorted({str(record["time"])[:10] for record in run.records})
    values: dict[str, Any] = {
        "name": run.name,
        "folder": run.folder.name,
        "origin": frames.provenance(run.every),
        "when": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "headlines": [line for topic in TOPICS for line in topic.headlines(run)],
        "sections": sections(figures, tables),
        "shown": SHOWN_FIGURES,
        "download": DOWNLOAD,
        "versions": versions(run),
        "providers": providers(run),
        "protocol": [line for topic in TOPICS for line in topic.protocol(run)],
        "commands": commands(run),
        "sources": sources,
        "caveats": caveats(run),
        "missing": missing(run),
    }
    path = run.folder / "README.md"
    text = environment().get_template("device.md.jinja").render(values)
    if run.folder.resolve().parent != ROOT / "results":
        text = SUITE_LINK.sub(r"`\1` of the suite", text)
    path.write_text(text, encoding="utf-8")
    return path
