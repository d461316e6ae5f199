"""``python -m bench cite``: BibTeX of the suite and of whom a run measured, and a methods text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.records import provenance
from bench.report import frames
from bench.report.pages import facts
from bench.report.style import typeset

CITATION = provenance.ROOT / "CITATION.cff"

# Written from the publications' own records.
PEERS = {
    "pytorch": """@inproceedings{pytorch2,
  title = {{PyTorch} 2: Faster Machine Learning Through Dynamic {Python} Bytecode Transformation
           and Graph Compilation},
  author = {Ansel, Jason and Yang, Edward and He, Horace and others},
  booktitle = {Proceedings of the 29th {ACM} International Conference on Architectural Support for
               Programming Languages and Operating Systems, Volume 2},
  year = {2024},
  doi = {10.1145/3620665.3640366}
}""",
    "triton": """@inproceedings{triton,
  title = {Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations},
  author = {Tillet, Philippe and Kung, H. T. and Cox, David},
  booktitle = {Proceedings of the 3rd {ACM SIGPLAN} International Workshop on Machine Learning and
               Programming Languages},
  pages = {10--19},
  year = {2019},
  doi = {10.1145/3315508.3329973}
}""",
    "cudnn": """@misc{cudnn,
  title = {{cuDNN}: Efficient Primitives for Deep Learning},
  author = {Chetlur, Sharan and Woolley, Cliff and Vandermersch, Philippe and Cohen, Jonathan and
            Tran, John and Catanzaro, Bryan and Shelhamer, Evan},
  year = {2014},
  eprint = {1410.0759},
  archiveprefix = {arXiv}
}""",
    "flashrnn": """@inproceedings{flashrnn,
  title = {{FlashRNN}: {I/O}-Aware Optimization of Traditional {RNN}s on modern hardware},
  author = {P{\\"o}ppel, Korbinian and Beck, Maximilian and Hochreiter, Sepp},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2412.07752},
  archiveprefix = {arXiv}
}""",
    "torchrl": """@misc{torchrl,
  title = {{TorchRL}: A data-driven decision-making library for {PyTorch}},
  author = {Bou, Albert and Bettini, Matteo and Dittert, Sebastian and Kumar, Vikash and
            Sodhani, Shagun and Yang, Xiaomeng and De Fabritiis, Gianni and Moens, Vincent},
  year = {2023},
  eprint = {2306.00577},
  archiveprefix = {arXiv}
}""",
    "deepbench": """@misc{deepbench,
  title = {{DeepBench}: Benchmarking Deep Learning operations on different hardware},
  author = {{Baidu Research}},
  year = {2016},
  url = {https://github.com/baidu-research/DeepBench}
}""",
}


def suite(path: Path = CITATION) -> str:
    """BibTeX of this suite, made from CITATION.cff.

    Raises:
        ValueError: if the file lacks a title, a version or an author's name.
    """
    text = path.read_text(encoding="utf-8")

    def field(name: str) -> str | None:
        found = re.search(rf"^{name}: *[\"']?(.+?)[\"']? *$", text, re.MULTILINE)
        return found[1] if found else None

    authors = re.findall(r"^  - name: *[\"']?(.+?)[\"']? *$", text, re.MULTILINE)
    title, version = field("title"), field("version")
    if not (title and version and authors):
        raise ValueError(f"{path} lacks one of title, version, authors with a name")
    rows = {
        "title": f"{{{title}}}",
        "author": " and ".join(f"{{{author}}}" for author in authors),
        "version": version,
        "year": (field("date-released") or "")[:4] or None,
        "doi": field("doi"),
        "url": field("repository-code") or field("url"),
        "license": field("license"),
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in rows.items() if value)
    return f"@software{{{title},\n{body}\n}}"


def peers(run: frames.Run) -> list[str]:
    """Whom a run's records used: the keys of ``PEERS``."""
    used = ["pytorch"]
    providers = {r["provider"] for r in run.records if r["status"] == "ok"}
    if any(name.startswith("ours") for name in providers):
        used.append("triton")
    on_cudnn = any(r["device"].get("cudnn") for r in run.records)
    if on_cudnn and any(name.startswith("torch.nn") for name in providers):
        used.append("cudnn")
    used += [
        key for key in ("flashrnn", "torchrl") if any(name.startswith(key) for name in providers)
    ]
    return used + ["deepbench"] * ("deepbench" in facts.presets(run))


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _some(values: Iterable[Any], unit: str = "") -> str:
    found = sorted(set(values))
    return f"{found[0]}{unit}" if len(found) == 1 else f"{found[0]} to {found[-1]}{unit}"


def methods(run: frames.Run) -> str:
    """A paragraph for a paper: what was measured, on what, and how."""
    seen = facts.versions(run)
    software = [
        f"{name} {seen[name]}" for name in ("torch", "Triton", "cuDNN", "CUDA") if name in seen
    ]
    timed = [r for r in run.of("time") if r["status"] == "ok"]
    errors = [r for r in run.of("error") if r["status"] == "ok"]
    commits = facts.distinct(frames.commit(r) for r in run.records)
    used = f"We used rnnbench (commit {', '.join(commits) or 'unknown'})"
    compiled = run.of("resources")
    if len(compiled) == len(run.records):
        target = seen.get("Compiled for", run.name)
        return (
            f"{used} with {_listed(software)} to compile {len(compiled):,} kernels for {target}. "
            "Registers, stack, shared memory and instructions are read from the binaries; nothing "
            "was run."
        )
    said = [f"{used} on {seen.get('Device', '?')}{_driver(seen)} with {_listed(software)}."]
    if timed:
        cells = _listed([frames.CELL_NAMES.get(c, c) for c in frames.known(
            (r["cell"] for r in timed), frames.CELL_ORDER)])  # fmt: skip
        numbers = _listed(frames.known((frames.number(r) for r in timed), frames.NUMBER_ORDER))
        sizes = ", ".join(f"{name} {_some(r[name] for r in timed)}" for name in frames.SIZES)
        counts = _some(r["n"] for r in timed if r["n"])
        clocks = _listed([facts.CLOCKS.get(m, m) for m in facts.distinct(r["mode"] for r in timed)])
        share = sum(bool(r["converged"]) for r in timed) / len(timed)
        said.append(
            f"We timed {cells} in {numbers} for {sizes} (batch, time steps, hidden units), by "
            f"{clocks}, after warming up. Providers of one case took turns in random order; we "
            f"report the median of {counts} samples with a 95 % bootstrap interval, whose target "
            f"width {share:.0%} of the medians met. Each implementation's outputs and gradients "
            "were checked against a float64 reference at the same shape before it was timed."
        )
    if errors:
        seeds = len({r["seed"] for r in errors})
        interpreted = any(r["interpreted"] for r in errors)
        said.append(
            "Errors are relative L2 norms of the difference from a float64 reference on the same "
            f"rounded inputs, over {seeds} seed{'s' * (seeds > 1)}"
            + (", with Triton's kernels run by its interpreter on a CPU." if interpreted else ".")
        )
    return " ".join(said)


def _driver(seen: dict[str, str]) -> str:
    return f" (driver {seen['Driver']})" if "Driver" in seen else ""


def text(run: frames.Run | None) -> str:
    """What the command prints: BibTeX, then the methods paragraph as LaTeX in comments."""
    if run is None:
        return suite()
    entries = [suite(), *(PEERS[key] for key in peers(run))]
    name, said = typeset.escape(run.name), typeset.escape(methods(run))
    return "\n\n".join(entries) + f"\n\n% Methods (LaTeX), for {name}:\n% {said}"
