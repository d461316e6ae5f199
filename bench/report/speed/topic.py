"""Speed as a topic of the report: its figures, tables and sentences."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd

from bench.measure.statistics import MIN_VISITS
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.speed import figures, maps, pareto, pareto_figure, roofline, tables
from bench.report.speed.derived import (
    LAUNCH_BOUND,
    host_share,
    other_code,
    speedups,
    too_few,
    with_baseline,
)
from bench.report.style.numbers import significant
from bench.report.style.sheet import Job
from bench.report.style.typeset import Table
from bench.report.topic import Section, Topic

SECTIONS = (
    Section(
        "Throughput",
        "Median with its 95 % interval, logarithmic axes. A letter at the bottom of a panel is "
        "a point that could not be measured; the reason is below the figure.",
        figures=("throughput-",),
        tables=("time", "calls"),
    ),
    Section(
        "Speed over torch.nn",
        "torch.nn's time over the provider's at the same case and clock: paired by visits where "
        "recorded, else the ratio of the medians; times of too few samples enter none.",
        figures=("speedup-",),
        tables=("speedup", "steps"),
    ),
    Section(
        "Time per step and growth with T",
        "A recurrent layer's time should be proportional to the number of steps T.",
        figures=("step-", "growth-"),
        tables=("growth", "floor"),
    ),
    Section(
        "Speed at equal accuracy",
        "A faster number type is less exact, so that times compare at equal error only. Time and "
        "error are of the same record, at the shape that was measured in most number types.",
        figures=("pareto-",),
        tables=("pareto",),
    ),
    Section(
        "Roofline",
        "Operations per second against operations per byte, under what the card was measured to "
        "do and what the model of a persistent loop allows.",
        figures=("roofline-",),
        tables=("roofline",),
    ),
)


def jobs(run: Run) -> Iterator[Job]:
    """Jobs that draw the figures of speed; none without a successful timing."""
    if run.ok("time"):
        yield from figures.line_jobs(run.time)
        yield from figures.growth_jobs(run.time)
        yield from maps.speedup_jobs(run.time)
        yield from pareto_figure.jobs(run)
        yield from roofline.jobs(run)


def all_tables(run: Run) -> list[Table]:
    """The tables of the time records."""
    more = (pareto.table(run), roofline.table(run)) if run.ok("time") else ()
    return [*tables.tables(run), *filter(None, more)]


def headlines(run: Run) -> list[str]:
    """The speed of ours over torch.nn, else that of other providers, per cell and pass."""
    table = tables.speedup_table(run.time) if run.ok("time") else None
    if table is None:
        return []
    rows = table.full
    rivals = rows[~rows["provider"].str.startswith("reference")]
    best = rivals[rivals["provider"] == "ours"]
    rows = best if len(best) else rivals if len(rivals) else rows
    # For each cell and pass the provider and setting that were measured at most shapes.
    rows = rows.sort_values("shapes", ascending=False, kind="stable")
    rows = frames.ordered(rows.drop_duplicates(["provider", "cell", "pass"]))
    compared = speedups(run.time).dropna(subset="speedup")
    return [_headline(row, table.full, compared) for row in rows.to_dict("records")]


def _headline(row: dict[Any, Any], rows: pd.DataFrame, compared: pd.DataFrame) -> str:
    """A sentence with the speed in `row`, and for ours that of ours-graph. The graph comes first if
    it was measured at all of the row's cases, since the host limits separate short calls. Of ours
    also in how many shapes of all settings it is slower, since the row's setting may not be its
    worst.
    """
    pair, more = [row], []
    if row["provider"] == "ours":
        alike = {name: row[name] for name in ("cell", "pass", *terms.SETTING) if name != "mode"}

        def same(frame: pd.DataFrame, provider: str) -> pd.DataFrame:
            wanted = pd.Series(alike | {"provider": provider})
            return frame[(frame[wanted.index] == wanted).all(axis=1)]

        pair += same(rows, "ours-graph").to_dict("records")
        called, replayed = (set(same(compared, r["provider"])["case_id"]) for r in (row, pair[-1]))
        if called <= replayed:
            pair.reverse()
        if called != replayed:
            more.append("the two are not of the same shapes")
        more += _slower(row, compared)
    what = f"{terms.cell_name(row['cell'])}, {terms.PASS_NAMES[row['pass']]}"
    return f"{what}: {'; '.join([*map(_speed, pair), *more])}."


def _slower(row: dict[Any, Any], compared: pd.DataFrame) -> list[str]:
    """In how many shapes of the row's cell and pass ours is slower than torch.nn, if in any."""
    here = compared[compared["cell"].eq(row["cell"]) & compared["pass"].eq(row["pass"])]
    counts = []
    for name in ("ours-graph", "ours"):
        speed = here.loc[here["provider"] == name, "speedup"]
        if (speed < 1).any():
            counts.append(f"`{name}` is slower in {(speed < 1).sum()} of {len(speed)} shapes")
    return [f"over all number types and settings {', '.join(counts)}"] if counts else []


def _speed(row: dict[Any, Any]) -> str:
    """One provider's speed over torch.nn under the same clock."""
    mean = significant(row["geomean"])
    where = f"at {row['most_at']}"
    if row["shapes"] > 1:
        where = (
            f"geometric mean over {row['shapes']} shapes, from {significant(row['least'])} at "
            f"{row['least_at']} to {significant(row['most'])} at {row['most_at']}"
        )
    return (
        f"`{row['provider']}` runs at {mean} times the speed of "
        f"`{terms.BASELINES.get(row['mode'], 'torch.nn')}` ({where}; {terms.setting_words(row)})"
    )


def protocol(run: Run) -> list[str]:
    """Sentences on how times were measured: clocks, samples, visits and checks."""
    timed = run.ok("time")
    if not timed:
        return []
    modes = sorted({str(r["mode"]) for r in timed})
    clocks = "; ".join(f"{terms.CLOCKS.get(mode, mode)} (`{mode}`)" for mode in modes)
    counts = sorted(r["n"] for r in timed if r["n"])
    visits = sorted(len(r["blocks"] or []) for r in timed)
    converged = sum(bool(r["converged"]) for r in timed)
    several = sum(r.get("starts", 1) > 1 for r in timed)
    across = (
        f"; {several:,} of {len(timed):,} are of several starts of the process: the geometric mean "
        "of the starts' medians, with Student's t interval across the starts instead"
    ) * bool(several)
    return [
        f"Clock: {clocks}. Times of different clocks are never compared.",
        f"{len(timed):,} timings of {counts[0]} to {counts[-1]} samples each (half have at "
        f"least {counts[len(counts) // 2]}), taken in turns: providers of one case are visited "
        f"in random order ({visits[0]} to {visits[-1]} visits). The median of the visits' medians "
        f"has a 95 % interval by order statistics{across}; {converged:,} of {len(timed):,} reached "
        "the interval's target width in time.",
        "Before its time is taken, each provider's outputs and gradients are checked against "
        "a float64 reference at that very shape, and so are those of timed calls drawn at random; "
        "inputs change before every call.",
    ]


def caveats(run: Run) -> list[str]:
    """Warnings of throttled clocks, wide intervals and a machine without a GPU."""
    found = []
    throttled = Counter(
        reason for r in run.of("time") for reason in (r["device"].get("throttle") or [])
    )
    if throttled:
        words = ", ".join(f"{reason} ({count})" for reason, count in sorted(throttled.items()))
        found.append(f"The card throttled its clocks during some timings: {words}.")
    timed = run.ok("time")
    unsure = sum(not r["converged"] for r in timed)
    if unsure:
        found.append(
            f"{unsure:,} of {len(timed):,} medians did not reach the target width of the "
            "interval (`converged` in the download's time.csv)."
        )
    short = sum(len(r["blocks"] or []) < MIN_VISITS for r in timed)
    few = sum(too_few(r["n"]) for r in timed)
    if short:
        found.append(
            f"{short:,} of {len(timed):,} times are of fewer than {MIN_VISITS} visits, which the "
            "engine now asks for: they and their ratios have no interval"
            + (f"; {few:,} are of too few samples and enter no ratio." if few else ".")
        )
    bound = int((host_share(run.time) >= LAUNCH_BOUND).sum())
    if bound:
        found.append(
            f"{bound:,} times are launch-bound: for {LAUNCH_BOUND:.0%} of them or more the host is "
            "still launching, so they say how fast Python is (`host_share` in the download's "
            "time.csv)."
        )
    found += other_code("time", with_baseline(run.time)) + roofline.caveats(run)
    if timed and all(r["mode"] == "host" for r in timed):
        found.append(
            "A CPU run: other load on the machine affects the times, and they do not predict a "
            "GPU's."
        )
    return found


def missing(run: Run) -> list[str]:
    """The figures of speed that lack data, and what would measure it."""
    ok = run.time[run.time["status"] == "ok"]
    ours = ok["provider"].str.startswith("ours").any()
    columns = (
        ("peak_bytes", "memory as T grows: needs a GPU, where torch counts it"),
        (
            "floor_share",
            "time per step beside its floor: needs a GPU and its limits (`python -m bench floor`)",
        ),
        ("algorithm", "cuDNN's algorithms: need an NVIDIA GPU"),
    )
    found = [] if ours else ["speed of our kernels: needs a GPU"]
    found += [words for column, words in columns if ok[column].isna().all()]
    return found + pareto.missing(run) + roofline.missing(run)


TOPIC = Topic(SECTIONS, jobs, all_tables, headlines, protocol, caveats, missing)
