"""Whether a second run is slower than a first one, beyond what a new start changes by itself.

A new start of the measuring process gets other addresses, another choice of library kernels and
another state of the card, and moves all samples of a case together; intervals within one run know
nothing of it. So the unit here is a start: a run has several (``bench sweep --starts``), each gives
one median, and the two runs' medians are compared by Welch's t test on their logarithms.

Of a case whose starts fall into two groups, a few may all come from one, and their spread says
nothing of the other. So no ratio's squared standard error counts as less than the mean over all
ratios compared, with which starts in two groups, too, give no more false claims than stated.
"""

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, variance
from typing import Any

import numpy as np

from bench.measure.statistics import MIN_VALUES
from bench.records import files, store
from bench.report import frames, starts
from bench.report.text import as_markdown

VERDICTS = SLOWER, FASTER, SAME, UNDECIDED, BROKEN = (
    "slower", "faster", "same", "undecided", "broken",
)  # fmt: skip
LEVEL = 0.05
MIN_STARTS = 3
FEW_STARTS = f"fewer than {MIN_STARTS} starts in a run (sweep --starts)"
FEW_SAMPLES = f"too few samples in a start: fewer than {MIN_VALUES}"
NO_SPREAD = "no start differs from another in any case"
MISSING = "not in the second run"


@dataclass(frozen=True)
class Pair:
    """A case, provider and mode in both runs; ``ratio`` is second over first, above 1 is slower.

    ``before_ms`` and ``after_ms`` are geometric means of the starts' medians, and their ratio is
    ``ratio``. ``error2`` is the squared standard error of the ratio's logarithm and ``freedom`` the
    degrees of freedom, by Welch; ``low`` and ``high`` are the ratio's own 95 % interval by them.
    """

    case_id: str
    provider: str
    mode: str
    before_ms: float | None
    after_ms: float | None
    verdict: str
    reason: str = ""
    ratio: float | None = None
    error2: float | None = None
    freedom: float | None = None
    low: float | None = None
    high: float | None = None


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


Question = tuple[str, str, str]  # case, provider and mode


def times(paths: Sequence[Path]) -> dict[Question, list[store.Record]]:
    """The newest timings of every case, provider and mode, one of each start.

    A failure may come before its mode is known; it counts under the one it would have had.

    Raises:
        ValueError: if there is none.
    """
    records = (record for path in paths for record in store.read(path))
    timed = (record for record in records if record["kind"] == "time")
    found: dict[Question, list[store.Record]] = {}
    for record in store.latest(timed, starts.question):
        question = record["case_id"], record["provider"], frames.clock(record) or ""
        found.setdefault(question, []).append(record)
    if not found:
        raise ValueError(f"no timed records in {', '.join(map(str, paths))}")
    return found


def pair(question: Question, before: Sequence[store.Record], after: Sequence[store.Record]) -> Pair:
    """Compare the starts of one case, provider and mode; the verdict is not yet a family's.

    A provider that worked and no longer does in some start is "broken"; else the verdict is
    "undecided", with a reason if it stays so.

    Args:
        after: empty for a case that the second run lacks.
    """
    old, new = (
        [record["median_ms"] for record in records if record["status"] == "ok"]
        for records in (before, after)
    )
    before_ms, after_ms = (geometric_mean(each) if each else None for each in (old, new))
    found = Pair(*question, before_ms, after_ms, UNDECIDED)
    if not after:
        return replace(found, reason=MISSING)
    if not old:
        return replace(found, reason=before[0]["status"])
    failed = next((record for record in after if record["status"] != "ok"), None)
    if failed is not None:
        reason = f"{failed['status']}: {failed['reason']}"
        return replace(found, verdict=BROKEN, reason=reason)
    ratio = geometric_mean(new) / geometric_mean(old)
    if min(len(old), len(new)) < MIN_STARTS:
        return replace(found, ratio=ratio, reason=FEW_STARTS)
    worked = (record for record in (*before, *after) if record["status"] == "ok")
    if any((record["n"] or 0) < MIN_VALUES for record in worked):
        return replace(found, ratio=ratio, reason=FEW_SAMPLES)
    return replace(found, ratio=ratio, **_welch(ratio, old, new))


def _welch(ratio: float, old: Sequence[float], new: Sequence[float]) -> dict[str, Any]:
    """A pair's squared standard error, degrees of freedom and interval."""
    from scipy.stats import t

    # statistics.variance is exact: of equal times 0, where numpy leaves the mean's rounding.
    a, b = (variance(map(math.log, each)) / len(each) for each in (old, new))
    n, m = len(old) - 1, len(new) - 1
    error2 = a + b
    freedom = error2**2 / (a**2 / n + b**2 / m) if error2 else min(n, m)
    factor = math.exp(t.ppf(1 - LEVEL / 2, freedom) * math.sqrt(error2))
    return {"error2": error2, "freedom": freedom, "low": ratio / factor, "high": ratio * factor}


def probabilities(pairs: Sequence[Pair], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair the probability of its ratio by chance, if the true one is not as claimed.

    Args:
        pairs: a family, each with ``error2``, of which at least one is above 0.
        threshold: least change, relative to 1.

    Returns:
        For "different" twice the smaller of the one-sided probabilities of a true ratio within the
        threshold; for "same" the larger of those of one beyond it (two one-sided tests, Schuirmann
        1987). Both float64 of shape (pairs,).
    """
    from scipy.stats import t

    ratio, error2, freedom = (
        np.array([getattr(each, name) for each in pairs], float)
        for name in ("ratio", "error2", "freedom")
    )
    error = np.sqrt(np.maximum(error2, error2.mean()))
    limit = math.log1p(threshold)
    above, below = (np.log(ratio) - limit) / error, (np.log(ratio) + limit) / error
    different = np.minimum(1, 2 * np.minimum(t.sf(above, freedom), t.cdf(below, freedom)))
    return different, np.maximum(t.cdf(above, freedom), t.sf(below, freedom))


def holm(p: np.ndarray) -> np.ndarray:
    """Which hypotheses are rejected so that any false rejection has a probability of at most 5 %.

    Holm, A simple sequentially rejective multiple test procedure, 1979.

    Args:
        p: the hypotheses' p values, of any order.

    Returns:
        Booleans of the same shape.
    """
    order = np.argsort(p)
    rejected = np.empty(len(p), bool)
    rejected[order] = np.logical_and.accumulate(p[order] <= LEVEL / np.arange(len(p), 0, -1))
    return rejected


def decided(pairs: Sequence[Pair], threshold: float) -> list[Pair]:
    """The pairs with their verdicts, the largest ratio first.

    "slower" and "faster" are claimed by Holm's procedure, so that the probability of one or more
    false ones among all pairs is at most 5 %. "same" is claimed pair by pair, each wrong with a
    probability of at most 5 %. Where a clock is so coarse that no start of any case differs,
    nothing is claimed; a case whose every start moved by one tick of it is judged by the spread of
    the others.
    """
    tested = [each for each in pairs if each.error2 is not None]
    found = [each for each in pairs if each.error2 is None]
    if any(each.error2 for each in tested):
        p_different, p_same = probabilities(tested, threshold)
        for each, different, p in zip(tested, holm(p_different), p_same, strict=True):
            beyond = SLOWER if each.ratio and each.ratio > 1 else FASTER
            verdict = beyond if different else SAME if p <= LEVEL else UNDECIDED
            found.append(replace(each, verdict=verdict))
    else:
        found += [replace(each, reason=NO_SPREAD) for each in tested]
    return sorted(found, key=lambda p: -(p.ratio if p.ratio is not None else math.inf))


def _row(*cells: object) -> str:
    return f"| {' | '.join(as_markdown(str(cell)) for cell in cells)} |"


def _devices(paths: Sequence[Path], run: dict[Question, list[store.Record]]) -> set[str]:
    """The names of a run's devices.

    Raises:
        ValueError: if the run is of several codes or versions.
    """
    records = [record for found in run.values() for record in found]
    states = {frames.state(record) for record in records}
    if len(states) > 1:
        raise ValueError(
            f"run {', '.join(map(str, paths))} is of several codes or versions "
            f"({' and '.join(sorted(states))}); accepted: a run of one"
        )
    return {str(record["device"]["name"]) for record in records}


def compare(
    first: Sequence[Path], second: Sequence[Path], threshold: float = 0.05, any_device: bool = False
) -> list[Pair]:
    """Compare every case, provider and mode that both runs have, the largest ratio first.

    Raises:
        ValueError: if the devices differ, between the runs or within one, and ``any_device`` is not
            set, if a run is of several codes or versions, or if nothing is common.
    """
    before, after = times(first), times(second)
    devices = [_devices(first, before), _devices(second, after)]
    if len(set.union(*devices)) > 1 and not any_device:
        words = " and ".join(", ".join(sorted(names)) for names in devices)
        raise ValueError(
            f"the runs are of different devices ({words}); accepted: the same device, or "
            "--any-device"
        )
    pairs = [
        pair(question, records, after.get(question, []))
        for question, records in before.items()
        if any(record["status"] != "unsupported" for record in records)
    ]
    if all(each.reason == MISSING for each in pairs):
        raise ValueError("the runs have no timed case, provider and mode in common")
    return decided(pairs, threshold)


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
        mean += f" ({len(ratios)} of {len(mine)})" if 0 < len(ratios) < len(mine) else ""
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
