"""Whether a second run is slower than a first one, within the uncertainty of both."""

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from bench.records import files, store
from bench.report.text import as_markdown

SLOWER, FASTER, SAME, UNSURE, BROKEN = "slower", "faster", "same", "unsure", "broken"


@dataclass(frozen=True)
class Pair:
    """A case, provider and mode in both runs; ``ratio`` is second over first, above 1 is slower."""

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


def times(paths: Sequence[Path]) -> dict[tuple[str, str, str | None], store.Record]:
    """The newest timing of every case, provider and mode.

    Raises:
        ValueError: if there is none.
    """

    def question(record: store.Record) -> tuple[str, str, str | None]:
        return record["case_id"], record["provider"], record["mode"]

    records = (record for path in paths for record in store.read(path))
    timed = (record for record in records if record["kind"] == "time")
    found = {question(record): record for record in store.latest(timed, question)}
    if not found:
        raise ValueError(f"no timed records in {', '.join(map(str, paths))}")
    return found


def pair(before: store.Record, after: store.Record, threshold: float) -> Pair:
    """Compare two records of one case, provider and mode.

    The verdict is "slower" only if the whole 95 % interval of the ratio lies above
    1 + threshold, "faster" if it lies below 1 / (1 + threshold), "same" if it lies between, and
    else "unsure". A provider that worked and no longer does is "broken".
    """
    from bench.measure.statistics import ratio_interval

    mode = after["mode"] or before["mode"] or ""
    times = (before["median_ms"], after["median_ms"])
    what = (after["case_id"], after["provider"], mode, *times)
    if before["status"] != "ok":
        return Pair(*what, UNSURE, before["status"])
    if after["status"] != "ok":
        return Pair(*what, BROKEN, f"{after['status']}: {after['reason']}")
    ratio, limit = times[1] / times[0], 1 + threshold
    interval = ratio_interval(after["samples_ms"], before["samples_ms"])
    if interval is None:
        return Pair(*what, UNSURE, ratio=ratio)
    low, high = interval
    if low > limit:
        verdict = SLOWER
    elif high < 1 / limit:
        verdict = FASTER
    else:
        verdict = SAME if 1 / limit <= low and high <= limit else UNSURE
    return Pair(*what, verdict, ratio=ratio, low=low, high=high)


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
        sorted({record["device"]["name"] for record in run.values()}) for run in (before, after)
    ]
    if devices[0] != devices[1] and not any_device:
        raise ValueError(
            f"the runs are of different devices ({', '.join(devices[0])} and "
            f"{', '.join(devices[1])}); accepted: the same device, or --any-device"
        )
    # A failure may come before its mode is known, so modes are matched where both have one.
    bad = store.latest(
        (record for record in after.values() if record["status"] != "ok"),
        lambda record: (record["case_id"], record["provider"]),
    )
    failed = {(record["case_id"], record["provider"]): record for record in bad}
    pairs = []
    for question, record in before.items():
        other = after.get(question) or failed.get(question[:2])
        if other is not None and "unsupported" not in (record["status"], other["status"]):
            pairs.append(pair(record, other, threshold))
    if not pairs:
        raise ValueError("the runs have no timed case, provider and mode in common")
    return sorted(pairs, key=lambda p: -(p.ratio if p.ratio is not None else math.inf))


def markdown(pairs: list[Pair], first: str, second: str, threshold: float, every: bool) -> str:
    """The comparison as Markdown: a line per provider, then the cases that differ (or all)."""
    lines = [
        f"# {as_markdown(second)} against {as_markdown(first)}",
        "",
        f"Ratios are time of the second over the first; above 1 is slower. Intervals are 95 %; "
        f"a difference counts when its whole interval lies beyond {threshold:.0%}.",
        "",
        "| provider | mode | cases | geometric mean | slower | faster | broken |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for provider, mode in sorted({(p.provider, p.mode) for p in pairs}):
        mine = [p for p in pairs if (p.provider, p.mode) == (provider, mode)]
        ratios = [p.ratio for p in mine if p.ratio is not None]
        mean = f"{geometric_mean(ratios):.3f}" if ratios else "-"
        counts = [sum(p.verdict == verdict for p in mine) for verdict in (SLOWER, FASTER, BROKEN)]
        lines.append(_row(provider, mode, len(mine), mean, *counts))
    shown = pairs if every else [p for p in pairs if p.verdict not in (SAME, UNSURE)]
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
