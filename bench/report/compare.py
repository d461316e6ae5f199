"""Whether a second run is slower than a first one, beyond what a new start changes by itself.

A new start of the measuring process gets other addresses, another choice of library kernels and
another state of the card, and moves all samples of a case together; intervals within one run know
nothing of it. So the unit here is a start: a run has several (``bench sweep --starts``), each gives
one median, and the two runs' medians are compared by Welch's t test on their logarithms, which
takes these as normal: starts that fall into two groups far apart need more than the least number.
"""

import glob
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from bench.records import files, store
from bench.report.text import as_markdown

VERDICTS = SLOWER, FASTER, SAME, UNDECIDED, BROKEN = (
    "slower", "faster", "same", "undecided", "broken",
)  # fmt: skip
LEVEL = 0.05
MIN_STARTS = 3
FEW_STARTS = f"fewer than {MIN_STARTS} starts in a run (sweep --starts)"
MISSING = "not in the second run"


@dataclass(frozen=True)
class Pair:
    """A case, provider and mode in both runs; ``ratio`` is second over first, above 1 is slower.

    ``low`` and ``high`` are the ratio's own 95 % interval; ``p_different`` is the probability of a
    ratio so far beyond the threshold by chance, ``p_same`` of one so far within it.
    """

    case_id: str
    provider: str
    mode: str
    before_ms: float | None
    after_ms: float | None
    verdict: str
    reason: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p_different: float = 1.0
    p_same: float = 1.0


def find(run: str, results: Path = files.RESULTS) -> list[Path]:
    """A run by its file, its folder, or its name under results/: its files, compressed or not.

    Raises:
        FileNotFoundError: if none is there.
        ValueError: if several devices have a run of that name.
    """
    if Path(run).exists():
        return [Path(run)]
    is_name = Path(run).name == run
    found = store.record_files(results, glob.escape(run)) if is_name else []
    if not found:
        raise FileNotFoundError(
            f"run is {run!r}; accepted: a file, a folder, or a name under {results}"
        )
    if len({path.parent for path in found}) > 1:
        raise ValueError(f"run {run!r} is on several devices: {', '.join(map(str, found))}")
    return found


Question = tuple[str, str, str | None]  # case, provider and mode


def times(paths: Sequence[Path]) -> dict[Question, list[store.Record]]:
    """The newest timings of every case, provider and mode, one of each start.

    Raises:
        ValueError: if there is none.
    """
    records = (record for path in paths for record in store.read(path))
    found: dict[Question, list[store.Record]] = {}
    for record in store.latest(record for record in records if record["kind"] == "time"):
        question = record["case_id"], record["provider"], record["mode"]
        found.setdefault(question, []).append(record)
    if not found:
        raise ValueError(f"no timed records in {', '.join(map(str, paths))}")
    return found


def pair(before: Sequence[store.Record], after: Sequence[store.Record], threshold: float) -> Pair:
    """Compare the starts of one case, provider and mode; the verdict is not yet a family's.

    A provider that worked and no longer does in some start is "broken"; else the verdict is
    "undecided", with a reason if it stays so.

    Args:
        after: empty for a case that the second run lacks.
    """
    if not after:
        worked_ms = before[0]["median_ms"]
        what = before[0]["case_id"], before[0]["provider"], before[0]["mode"] or ""
        return Pair(*what, worked_ms, None, UNDECIDED, MISSING)
    first, last = before[0], after[0]
    mode = last["mode"] or first["mode"] or ""
    worked = [record for record in before if record["status"] == "ok"]
    failed = next((record for record in after if record["status"] != "ok"), None)
    ones, others = (
        np.log([record["median_ms"] for record in records if record["status"] == "ok"])
        for records in (before, after)
    )
    old, new = (float(np.exp(np.median(each))) if len(each) else None for each in (ones, others))
    found = Pair(first["case_id"], first["provider"], mode, old, new, UNDECIDED)
    if not worked:
        return replace(found, reason=first["status"])
    if failed is not None:
        reason = f"{failed['status']}: {failed['reason']}"
        return replace(found, verdict=BROKEN, reason=reason)
    found = replace(found, ratio=float(np.exp(others.mean() - ones.mean())))
    if min(len(ones), len(others)) < MIN_STARTS:
        return replace(found, reason=FEW_STARTS)
    return replace(found, **_tests(ones, others, math.log1p(threshold)))


def _tests(old: np.ndarray, new: np.ndarray, limit: float) -> dict[str, Any]:
    """Welch's t tests of the logarithms of two runs' medians: an interval and two probabilities.

    ``p_different`` is twice the smaller of the one-sided probabilities that the ratio is within the
    limit; ``p_same`` the larger of those that it is beyond (two one-sided tests, Schuirmann 1987).
    """
    from scipy.stats import ttest_ind

    def p(shift: float, alternative: str) -> float:
        found = float(ttest_ind(new - shift, old, equal_var=False, alternative=alternative).pvalue)
        return found if found == found else 1.0  # NaN: no spread and no difference

    interval = ttest_ind(new, old, equal_var=False).confidence_interval(1 - LEVEL)
    return {
        "low": float(np.exp(interval.low)),
        "high": float(np.exp(interval.high)),
        "p_different": min(1.0, 2 * min(p(limit, "greater"), p(-limit, "less"))),
        "p_same": max(p(limit, "less"), p(-limit, "greater")),
    }


def decided(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with their verdicts, the largest ratio first.

    "slower" and "faster" are claimed by Holm's procedure, so that the probability of one or more
    false ones among all pairs is at most 5 % (Holm, A simple sequentially rejective multiple test
    procedure, 1979). "same" is claimed pair by pair, each wrong with a probability of at most 5 %.
    """
    order = sorted(range(len(pairs)), key=lambda k: pairs[k].p_different)
    rejected = itertools.takewhile(
        lambda at: pairs[at[1]].p_different <= LEVEL / (len(pairs) - at[0]), enumerate(order)
    )
    different = {k for _, k in rejected}

    def verdicts() -> Iterator[Pair]:
        for k, each in enumerate(pairs):
            if k in different and each.ratio is not None:
                yield replace(each, verdict=SLOWER if each.ratio > 1 else FASTER)
            else:
                yield replace(each, verdict=SAME) if each.p_same <= LEVEL else each

    return sorted(verdicts(), key=lambda p: -(p.ratio if p.ratio is not None else math.inf))


def _row(*cells: object) -> str:
    return f"| {' | '.join(as_markdown(str(cell)) for cell in cells)} |"


def compare(
    first: Sequence[Path], second: Sequence[Path], threshold: float = 0.05, any_device: bool = False
) -> list[Pair]:
    """Compare every case, provider and mode that both runs have, the largest ratio first.

    Raises:
        ValueError: if the devices differ and ``any_device`` is not set, or nothing is common.
    """
    before, after = times(first), times(second)
    devices = [
        sorted({record["device"]["name"] for records in run.values() for record in records})
        for run in (before, after)
    ]
    if devices[0] != devices[1] and not any_device:
        raise ValueError(
            f"the runs are of different devices ({', '.join(devices[0])} and "
            f"{', '.join(devices[1])}); accepted: the same device, or --any-device"
        )
    # A failure may come before its mode is known, so modes are matched where both have one.
    failed: dict[tuple[str, str], list[store.Record]] = {}
    for (case_id, provider, _), records in after.items():
        failed.setdefault((case_id, provider), []).extend(
            record for record in records if record["status"] != "ok"
        )
    pairs = []
    for question, records in before.items():
        others = after.get(question) or failed.get(question[:2]) or []
        if records[0]["status"] != "unsupported":
            pairs.append(pair(records, others, threshold))
    if all(each.reason == MISSING for each in pairs):
        raise ValueError("the runs have no timed case, provider and mode in common")
    return decided(pairs)


def markdown(pairs: list[Pair], first: str, second: str, threshold: float, every: bool) -> str:
    """The comparison as Markdown: a line per provider, then the cases that differ (or all)."""
    lines = [
        f"# {as_markdown(second)} against {as_markdown(first)}",
        "",
        "Ratios are time of the second over the first; above 1 is slower. Each start of the "
        "measuring process counts once; 95 % intervals of single ratios by Welch's t test. Slower "
        f"and faster mean beyond {threshold:.0%}, with at most 5 % probability of any false one "
        "(Holm's procedure); same means within it; else undecided.",
        "",
        _row("provider", "mode", "cases", "geometric mean", *VERDICTS),
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for provider, mode in sorted({(p.provider, p.mode) for p in pairs}):
        mine = [p for p in pairs if (p.provider, p.mode) == (provider, mode)]
        ratios = [p.ratio for p in mine if p.ratio is not None]
        mean = f"{geometric_mean(ratios):.3f}" if ratios else "-"
        counts = [sum(p.verdict == verdict for p in mine) for verdict in VERDICTS]
        lines.append(_row(provider, mode, len(mine), mean, *counts))
    listed = (SLOWER, FASTER, BROKEN)
    shown = pairs if every else [p for p in pairs if p.verdict in listed or p.reason == MISSING]
    if shown:
        lines += [
            "",
            "| case | provider | mode | before, ms | after, ms | ratio | interval | verdict |",
            "|---|---|---|--:|--:|--:|---|---|",
        ]
    for p in shown:
        ms = [f"{value:.4g}" if value is not None else "-" for value in (p.before_ms, p.after_ms)]
        ratio = "-" if p.ratio is None else f"{p.ratio:.3f}"
        interval = "-" if p.low is None else f"{p.low:.3f} to {p.high:.3f}"
        verdict = f"{p.verdict} ({p.reason})" if p.reason else p.verdict
        lines.append(_row(p.case_id, p.provider, p.mode, *ms, ratio, interval, verdict))
    return "\n".join(lines) + "\n"
