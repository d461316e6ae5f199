"""``python -m bench cite``: BibTeX of the suite and of a run's providers, and a methods text."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.records.provenance import ROOT
from bench.report import frames, terms
from bench.report.pages import device_page
from bench.report.runs import Run
from bench.report.speed import energy
from bench.report.text import as_latex

CITATION = ROOT / "CITATION.cff"
PEERS = Path(__file__).parent / "peers.bib"


def suite(path: Path = CITATION) -> str:
    """BibTeX of this suite, made from CITATION.cff.

    Raises:
        ValueError: if the file lacks a title, a version or an author's name.
    """
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"""^(  - name|[\w-]+): *["']?(.+?)["']? *$""", text, re.MULTILINE)
    authors = [f"{{{value}}}" for name, value in named if name == "  - name"]
    fields = dict(named)
    if not (authors and {"title", "version"} <= fields.keys()):
        raise ValueError(f"{path} lacks one of title, version, authors with a name")
    rows = {
        "title": f"{{{fields['title']}}}",
        "author": " and ".join(authors),
        "version": fields["version"],
        "year": fields.get("date-released", "")[:4],
        "doi": fields.get("doi"),
        "url": fields.get("repository-code") or fields.get("url"),
        "license": fields.get("license"),
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in rows.items() if value)
    return f"@software{{{fields['title']},\n{body}\n}}"


def peers() -> dict[str, str]:
    """The BibTeX entries of other software, by their keys."""
    entries = PEERS.read_text(encoding="utf-8").strip().split("\n\n")
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def peers_of(run: Run) -> list[str]:
    """The software that a run used: keys of ``peers``."""
    providers = {r["provider"] for r in run.records if r["status"] == "ok"}
    on_cudnn = any(r["device"].get("cudnn") for r in run.records)

    def measured(start: str) -> bool:
        return any(name.startswith(start) for name in providers)

    used = {
        "pytorch2": True,
        "triton": measured("ours"),
        "cudnn": on_cudnn and measured("torch.nn"),
        "flashrnn": measured("flashrnn"),
        "torchrl": measured("torchrl"),
        "deepbench": "deepbench" in run.presets,
    }
    return [key for key, found in used.items() if found]


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _value_range(values: Iterable[Any], unit: str = "") -> str:
    found = sorted(set(values))
    return f"{found[0]}{unit}" if len(found) == 1 else f"{found[0]} to {found[-1]}{unit}"


def methods(run: Run) -> str:
    """A paragraph for a paper: what was measured, on which machine, and how."""
    seen = device_page.versions(run)
    software = [
        f"{name} {seen[name]}" for name in ("torch", "Triton", "cuDNN", "CUDA") if name in seen
    ]
    timed, errors = run.ok("time"), run.ok("error")
    commits = terms.distinct(frames.commit(r) for r in run.records)
    used = f"We used rnnbench (commit {', '.join(commits) or 'unknown'})"
    compiled = run.of("resources")
    if len(compiled) == len(run.records):
        target = seen.get("Compiled for", run.name)
        return (
            f"{used} with {_joined(software)} to compile {len(compiled):,} kernels for {target}. "
            "Registers, stack, shared memory and instructions are read from the binaries; nothing "
            "was run."
        )
    driver = f" (driver {seen['Driver']})" if "Driver" in seen else ""
    found = [f"{used} on {seen.get('Device', '?')}{driver} with {_joined(software)}."]
    if timed:
        cells = _joined(
            [terms.cell_name(cell) for cell in terms.ordered_cells(r["cell"] for r in timed)]
        )
        numbers = _joined(terms.ordered_numbers(frames.number(r) for r in timed))
        sizes = ", ".join(f"{name} {_value_range(r[name] for r in timed)}" for name in terms.SIZES)
        counts = _value_range(r["n"] for r in timed if r["n"])
        visits = _value_range(len(r["blocks"] or []) for r in timed)
        clocks = _joined([terms.CLOCKS.get(m, m) for m in terms.distinct(r["mode"] for r in timed)])
        share = sum(bool(r["converged"]) for r in timed) / len(timed)
        found.append(
            f"We timed {cells} in {numbers} for {sizes} (batch, time steps, hidden units), by "
            f"{clocks}, after warming up. Providers of one case took turns in random order; we "
            f"report the median over {visits} visits ({counts} samples) with a 95 % interval by "
            f"order statistics, whose target width {share:.0%} of the medians met. Inputs changed "
            "before every call. Each implementation's outputs and gradients were checked against a "
            "float64 reference at the same shape, before it was timed and in timed calls."
        )
    found += energy.protocol(run)
    if errors:
        seeds = terms.plural(len({r["seed"] for r in errors}), "seed")
        interpreted = any(r["interpreted"] for r in errors)
        found.append(
            "Errors are relative L2 norms of the difference from a float64 reference on the same "
            f"rounded inputs, over {seeds}"
            + (", with Triton's kernels run by its interpreter on a CPU." if interpreted else ".")
        )
    return " ".join(found)


def text(run: Run | None) -> str:
    """What the command prints: BibTeX, then the methods paragraph as LaTeX in comments."""
    if run is None:
        return suite()
    entries = [suite(), *(peers()[key] for key in peers_of(run))]
    name, methods_text = as_latex(run.name), as_latex(methods(run))
    return "\n\n".join(entries) + f"\n\n% Methods (LaTeX), for {name}:\n% {methods_text}"
