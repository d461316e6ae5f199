"""What was not measured, and why."""

from __future__ import annotations

from bench.report import frames
from bench.report.runs import Run
from bench.report.style.typeset import MOST_ROWS, Table, joined_origin
from bench.report.topic import Section, Topic


def tables(run: Run) -> list[Table]:
    """Who could not do what, and why."""
    failed = run.every[run.every["status"] != "ok"]
    if failed.empty:
        return []
    counted = (
        failed.assign(reason=failed["reason"].fillna("no reason recorded"))
        .groupby(["kind", "provider", "status", "reason"], sort=True)
        .size()
        .rename("cases")
        .reset_index()
    )
    shown = counted.assign(
        reason=[text if len(text) <= 90 else text[:88] + " …" for text in counted["reason"]]
    )
    table = Table(
        "failures",
        "What was not measured, and why.",
        shown.head(MOST_ROWS),
        counted.assign(**joined_origin(failed)),
        {"cases": 0},
        frames.provenance(failed),
    )
    return [table]


TOPIC = Topic(
    sections=(Section("What was not measured", "", tables=("failures",)),),
    tables=tables,
)
