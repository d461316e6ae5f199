"""What a run was: hardware, versions and protocol, and the numbers of all topics in sentences."""

from __future__ import annotations

from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.topics import TOPICS


def versions(run: Run) -> dict[str, str]:
    """Hardware and software in words; what a record does not hold is left out."""
    devices = [record["device"] for record in run.records]
    capability = "Compiled for" if _only_compiled(run) else "Compute capability"
    software = [record["software"] for record in run.records]
    rows = {
        "Device": terms.distinct(d.get("name") for d in devices),
        capability: terms.distinct(d.get("capability") for d in devices),
        "Multiprocessors": terms.distinct(d.get("multiprocessors") for d in devices),
        "Memory": [_gib(size) for size in terms.distinct(d.get("memory_bytes") for d in devices)],
        "CPU cores": terms.distinct(d.get("cores") for d in devices),
        "CPU threads used": terms.distinct(d.get("threads") for d in devices),
        "Driver": terms.distinct(d.get("driver") for d in devices),
        "CUDA": terms.distinct(d.get("cuda") for d in devices),
        "cuDNN": terms.distinct(terms.cudnn_version(d.get("cudnn")) for d in devices),
        **{
            name: terms.distinct(found.get(name.lower()) for found in software)
            for name in ("torch", "Triton", "NumPy", "Python", "Platform")
        },
    }
    return {words: ", ".join(found) for words, found in rows.items() if found}


def _only_compiled(run: Run) -> bool:
    return all(record["device"].get("kind") == "compiled" for record in run.records)


def _gib(text: str) -> str:
    return f"{int(text) / 2**30:.0f} GiB"


def providers(run: Run) -> list[tuple[str, str, int, int]]:
    """Who was measured: name, version, records that are ok, and all records."""
    found = []
    for name in terms.ordered_providers(record["provider"] for record in run.records):
        mine = [record for record in run.records if record["provider"] == name]
        version = ", ".join(terms.distinct(record["provider_version"] for record in mine)) or "–"
        found.append((name, version, sum(r["status"] == "ok" for r in mine), len(mine)))
    return found


def protocol(run: Run) -> list[str]:
    """How it was measured, as sentences with the run's own numbers."""
    return [line for topic in TOPICS for line in topic.protocol(run)]


def headlines(run: Run) -> list[str]:
    """The numbers a reader came for, each with its interval and what it is over."""
    return [line for topic in TOPICS for line in topic.headlines(run)]


def caveats(run: Run) -> list[str]:
    """What a reader must know before citing a number of this run."""
    found = []
    if any(r["interpreted"] for r in run.of("error")):
        found.append(
            "Errors of our kernels come from Triton's interpreter on the CPU: the same algorithm, "
            "but NumPy's sums and exponentials, at sizes it can do. Time in the interpreter says "
            "nothing and was not taken."
        )
    commits = terms.distinct(frames.commit(r) for r in run.records)
    if any(commit.endswith("+") for commit in commits):
        found.append("A commit with a plus sign had uncommitted changes when it was measured.")
    if len(commits) > 1:
        found.append(f"Records come from {len(commits)} commits; no curve joins different code.")
    found += [line for topic in TOPICS for line in topic.caveats(run)]
    return found + [f"{count:,} records were set aside: {why}." for why, count in run.aside.items()]


def missing(run: Run) -> list[str]:
    """Figures that these records do not fill, and what would."""
    if all(r["kind"] == "resources" for r in run.records):
        return ["time and error: nothing ran on this target"]
    return [line for topic in TOPICS for line in topic.missing(run)]


def when(run: Run) -> str:
    """The days of measuring."""
    days = sorted({str(r["time"])[:10] for r in run.records})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
