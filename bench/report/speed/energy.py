"""Energy as a topic of the report: joules per time step, beside torch.nn's."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.records import store
from bench.records.schema import VERSUS
from bench.report import frames, terms
from bench.report.runs import Run
from bench.report.speed import figures
from bench.report.speed.derived import other_code, with_baseline
from bench.report.speed.steps import OURS
from bench.report.style.numbers import interval, significant
from bench.report.style.sheet import Job
from bench.report.style.typeset import MOST_ROWS, Table, drop_constant_columns, named
from bench.report.topic import Section, Topic

SECTION = Section(
    "Energy",
    "Joules of the whole board, from NVML's counter, while calls run back to back: all of them, "
    "and those above what the board takes while nothing runs.",
    figures=("energy-",),
    tables=("energy",),
)
STEP = ("mj_per_step", "mj_per_step_low", "mj_per_step_high")
BASE = ("base_mj", "base_mj_low", "base_mj_high")
ABOVE = ("above_mj_per_step", "above_mj_per_step_low", "above_mj_per_step_high")
RATIO = ("ratio", "ratio_low", "ratio_high")
COLUMNS = [
    *("case_id", "cell", "pass", "track", "directions", "layers", "number", "resets", "B", "T"),
    *("I", "H", "provider", "provider_version", "mode", "status", "reason", *STEP, *ABOVE),
    *("uj_per_token", "watts", "idle_watts", "ms_per_call", *RATIO, *frames.ORIGIN),
]


def rows(run: Run) -> pd.DataFrame:
    """One row per energy record: per step in mJ (``STEP``, ``ABOVE``), over torch.nn's (``RATIO``).

    The ratio is missing unless torch.nn was measured too, with the same code and versions.
    ``watts`` is the mean power, ``ms_per_call`` the mean time of a call among others, both medians
    over windows.
    """
    found = frames.flat(run.of("energy"), _columns)
    both = with_baseline(found)
    found.loc[both.index[~both["paired"]], list(RATIO)] = None
    return found


def _columns(record: store.Record) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(
        (*STEP, *ABOVE, *RATIO, "uj_per_token", "watts", "idle_watts", "ms_per_call")
    )
    energy, versus = record["energy"], record["versus"] or {}
    if energy is None:
        return found

    def per_step(names: tuple[str, ...], parts: tuple[str, ...]) -> dict[str, float | None]:
        values = [energy[part] for part in parts]
        per = [None if value is None else 1e3 * value / record["T"] for value in values]
        return dict(zip(names, per, strict=True))

    joules, calls, seconds = (np.array(energy[n], float) for n in ("windows", "calls", "seconds"))
    return (
        found
        | per_step(STEP, ("joules", "low", "high"))
        | per_step(ABOVE, ("above_idle", "above_low", "above_high"))
        | {name: versus.get(part) for name, part in zip(RATIO, VERSUS[1:], strict=True)}
        | {
            "uj_per_token": 1e6 * energy["joules"] / (record["B"] * record["T"]),
            "watts": float(np.median(joules * calls / seconds)),
            "idle_watts": energy["idle_watts"],
            "ms_per_call": float(np.median(1e3 * seconds / calls)),
        }
    )


def _beside_baselines(energy: pd.DataFrame) -> pd.DataFrame:
    """Measured rows with torch.nn's (``BASE``) at the same case and clock, by the same code.

    torch.nn has rows of its own only where nothing else was measured.
    """
    keys = ["case_id", "mode", "state"]
    ok = energy[energy["status"] == "ok"]
    is_base = ok["provider"] == ok["mode"].map(terms.BASELINES)
    base = ok[is_base].set_index(keys)[list(STEP)].set_axis(list(BASE), axis="columns")
    compared = pd.MultiIndex.from_frame(ok.loc[~is_base, keys])
    return ok.join(base, on=keys)[~(is_base & pd.MultiIndex.from_frame(ok[keys]).isin(compared))]


def table(energy: pd.DataFrame) -> Table | None:
    """Millijoules per time step of the whole batch; None without a measurement."""
    full = _beside_baselines(energy)
    if full.empty:
        return None

    def intervals(names: tuple[str, ...]) -> list[str]:
        parts = (pd.to_numeric(full[name]) for name in names)
        return [interval(*each) for each in zip(*parts, strict=True)]

    settings = map(terms.setting_words, full.drop(columns="number").to_dict("records"))
    shown = named(full)[["cell", "pass", "number", *terms.SIZES, "provider"]]
    columns = {
        "setting": list(settings),
        "mJ per step [95 %]": intervals(STEP),
        "torch.nn": intervals(BASE),
        "over torch.nn [95 %]": intervals(RATIO),
        "above idle": full[ABOVE[0]],
        "µJ per token": full["uj_per_token"],
        "W": full["watts"],
        "W idle": full["idle_watts"],
    }
    shown, same = drop_constant_columns(
        shown.assign(**columns).head(MOST_ROWS), ("setting", "number", *terms.SIZES)
    )
    return Table(
        "energy",
        "Energy of the whole board: mJ per time step of the whole batch, and over torch.nn's under "
        "the same clock, window by window (below 1 takes less); above idle: less what the board "
        f"takes while nothing runs; W: mean power{'; ' if same else ''}{same}.",
        shown,
        energy[COLUMNS],
        dict.fromkeys(terms.SIZES, 0) | {"above idle": 3, "µJ per token": 3, "W": 3, "W idle": 3},
        frames.provenance(full),
    )


def jobs(run: Run) -> Iterator[Job]:
    """Jobs that draw energy against the hidden size, per setting."""
    if not run.ok("energy"):
        return
    for setting, here in frames.settings(rows(run)):
        if found := frames.best_slice(here, "H"):
            sizes, drawn = found
            yield functools.partial(draw, drawn, setting, sizes)


def draw(
    energy: pd.DataFrame, setting: dict[str, Any], sizes: dict[str, int], folder: Path
) -> list[Path]:
    """Millijoules per step along H, with the median's 95 % interval."""
    drawn = energy.assign(y=energy[STEP[0]], low=energy[STEP[1]], high=energy[STEP[2]])
    title = f"Energy of a step against {terms.AXIS_NAMES['H']}: {terms.where(setting, sizes)}"
    sheet = figures.draw_lines(drawn, "H", title, ("low", "high", "y"))
    sheet.label(terms.AXIS_NAMES["H"], "mJ per step")
    return sheet.save(folder, f"energy-H-{terms.setting_slug(setting)}", energy[COLUMNS])


def tables(run: Run) -> Iterator[Table]:
    """The table of energy, if any was measured."""
    made = table(rows(run)) if run.ok("energy") else None
    if made is not None:
        yield made


def headlines(run: Run) -> Iterator[str]:
    """How ours' energy compares with torch.nn's over the measured cases, by clock."""
    if not run.ok("energy"):
        return
    energy = rows(run).dropna(subset=[RATIO[0]])
    for mode, name in OURS.items():
        here = energy[(energy["mode"] == mode) & (energy["provider"] == name)]
        if len(here):
            least, most = (significant(here[RATIO[0]].agg(which)) for which in ("min", "max"))
            span = f"{least} to {most}" if len(here) > 1 else least
            yield (
                f"Energy: `{name}` takes {span} times the joules of `{terms.BASELINES[mode]}` "
                f"({terms.plural(len(here), 'case')})."
            )
            return


def protocol(run: Run) -> Iterator[str]:
    """What was counted, and how."""
    if measured := run.ok("energy"):
        counts = sorted({len(record["energy"]["windows"]) for record in measured})
        bare = sum(record["energy"]["low"] is None for record in measured)
        none = f"; {bare:,} of {len(measured):,} are of too few windows for one" if bare else ""
        yield (
            "Energy: NVML's counter of the whole board (GPU, memory, regulators; not the host), "
            f"over {' or '.join(map(str, counts))} windows of at least 0.3 s, each from one of the "
            "counter's updates to another while calls run back to back, without flushing the L2 "
            "cache; providers take turns window by window. Median over windows with its exact "
            f"95 % interval, within one run{none}."
        )


def caveats(run: Run) -> list[str]:
    """Energies that have no ratio, since torch.nn's was measured in another state."""
    return other_code("energy measurement", with_baseline(rows(run)))


def missing(run: Run) -> list[str]:
    """That energy was not measured, and what would measure it."""
    command = "`python -m bench sweep --preset energy --kind energy`"
    needs = "needs an NVIDIA GPU of Volta or newer and nvidia-ml-py"
    return [] if run.ok("energy") else [f"energy: {needs} ({command})"]


TOPIC = Topic((SECTION,), jobs, tables, headlines, protocol, caveats, missing)
