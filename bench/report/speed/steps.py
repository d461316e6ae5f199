"""The time of a step, case by case: ours, torch.nn's, and what our plan expected."""

import pandas as pd

from bench.report import frames, terms
from bench.report.speed.derived import speedups
from bench.report.style.numbers import interval
from bench.report.style.typeset import MOST_ROWS, Table, drop_constant_columns, named

# Of our providers the fastest way to call them, by clock.
OURS = {"graph": "ours-graph", "event": "ours"}
EXPECTED = "loop, expected"
COLUMNS = [
    *("case_id", "cell", "pass", "track", "directions", "layers", "number", "resets", "B", "T"),
    *("I", "H", "provider", "mode", "us_per_step", "base_us_per_step", "speedup", "speedup_low"),
    *("speedup_high", "algorithm", "expected_us", "floor_us", *frames.ORIGIN),
]


def step_table(time: pd.DataFrame) -> Table | None:
    """Microseconds per step of ours and of torch.nn; None if no case has both.

    Replayed graphs if they were measured, since the host's own time separates other calls.
    ``expected`` is the cost model's time for the loop alone; a layer's includes its projection.
    """
    mode = next((mode for mode, name in OURS.items() if _ok(time, name).any()), None)
    if mode is None:
        return None
    ours, base = OURS[mode], terms.BASELINES[mode]
    compared = speedups(time)
    rows = compared[_ok(compared, ours) & compared["speedup"].notna()]
    if rows.empty:
        return None
    full = rows.assign(
        base_us_per_step=rows["base_median_ms"].astype(float) * 1e3 / rows["T"],
        floor_us=rows["us_per_step"] * rows["floor_share"],
    )
    settings = map(terms.setting_words, full.drop(columns="number").to_dict("records"))
    speeds = zip(full["speedup"], full["speedup_low"], full["speedup_high"], strict=True)
    speed = "speed [95 %]" if full["speedup_low"].notna().any() else "speed"
    shown = named(full)[["cell", "pass", "number", *terms.SIZES]]
    columns = {
        "setting": list(settings),
        ours: full["us_per_step"],
        base: full["base_us_per_step"],
        speed: [interval(*each) for each in speeds],
        "cuDNN": full["algorithm"],
        EXPECTED: full["expected_us"],
    }
    shown = shown.assign(**columns).dropna(axis="columns", how="all").head(MOST_ROWS)
    shown, same = drop_constant_columns(shown, ("setting", "number", *terms.SIZES))
    return Table(
        "steps",
        f"Microseconds per step, and the speed of `{ours}` over `{base}`{'; ' if same else ''}"
        f"{same}. What the plan expected is the time of the loop alone.",
        shown,
        full[COLUMNS],
        dict.fromkeys(terms.SIZES, 0) | dict.fromkeys((ours, base, EXPECTED), 3),
        frames.provenance(rows),
    )


def _ok(time: pd.DataFrame, provider: str) -> pd.Series:
    return (time["provider"] == provider) & (time["status"] == "ok")
