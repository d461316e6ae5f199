"""Tables of the results of ``bench check-gpu``, and of what was not measured and why."""

import pandas as pd

from bench.records import files
from bench.records.failed_checks import FAIL, LEFT_OUT, NOT_DONE, PASS, from_json
from bench.report import frames
from bench.report.runs import Run
from bench.report.style.typeset import MOST_ROWS, Table, joined_origin
from bench.report.topic import Section, Topic

STATES = {PASS: "passed", FAIL: "failed", NOT_DONE: "not done", LEFT_OUT: "left out"}
SECTION = Section(
    "Are the kernels right here?",
    "Checked on this device before measuring; a check that fails ends a campaign.",
    tables=("checks",),
)


def tables(run: Run) -> list[Table]:
    """How many checks of each kind ended how; each reason why one did not pass."""
    found = run.read(files.CHECKS)
    if found is None or not found["rows"]:
        return []
    full = pd.DataFrame(found["rows"]).drop(columns=["report", "suspects"], errors="ignore")
    full = full.assign(**frames.origin(found))
    rows = []
    for check, group in full.groupby("check", sort=False):
        counts = group["outcome"].value_counts()
        reasons = [
            f"{row['what']}: {row['detail']} ({STATES[row['outcome']]})"
            for _, row in group[group["outcome"] != PASS].iterrows()
        ]
        more = f"; and {len(reasons) - 3} more in the CSV" if reasons[3:] else ""
        row = {"check": check, **{word: counts.get(state, 0) for state, word in STATES.items()}}
        rows.append(row | {"why not": "; ".join(reasons[:3]) + more})
    shown = pd.DataFrame(rows)
    table = Table(
        "checks",
        "What `python -m bench check-gpu` found before anything was measured: values against "
        "float64, bits, streams, graphs, failures and memory. Not done: out of time, or a tool "
        "that the check needs failed. Left out: this machine cannot make the check.",
        shown,
        full,
        dict.fromkeys(STATES.values(), 0),
        frames.provenance(full),
        shown.drop(columns="why not"),
    )
    return [table]


def caveats(run: Run) -> list[str]:
    """The checks that failed or were not done, and what was not measured because of them."""
    found = run.read(files.CHECKS)
    if found is None:
        return []
    lines = []
    rows = found["rows"]
    for state, verb in ((FAIL, "failed"), (NOT_DONE, "were not done")):
        names = [f"{row['check']} ({row['what']})" for row in rows if row["outcome"] == state]
        if not names:
            continue
        more = f" and {len(names) - 3} more" if names[3:] else ""
        lines.append(
            f"{len(names)} of {len(rows)} checks of the kernels on this device {verb}: "
            f"{', '.join(names[:3])}{more}."
        )
        if state == FAIL:
            suspects = [each for row in rows for each in from_json(row["suspects"])]
            words = "; ".join(dict.fromkeys(map(str, suspects))) or "nothing"
            lines[-1] += f" Therefore not measured: {words}."
    return lines


def failures(run: Run) -> list[Table]:
    """The numbers of failures by provider and reason."""
    failed = run.every[run.every["status"] != "ok"]
    if failed.empty:
        return []
    counted = (
        failed.assign(reason=failed["reason"].fillna("no reason recorded"))
        .groupby(["kind", "provider", "status", "reason"], sort=True)
        .size()
        .reset_index(name="cases")
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


TOPIC = Topic((SECTION,), tables=tables, caveats=caveats)
NOT_MEASURED = Topic((Section("What was not measured", "", tables=("failures",)),), tables=failures)
