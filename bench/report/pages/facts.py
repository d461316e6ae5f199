"""What a run was: hardware, versions, protocol, and its numbers in sentences. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.records import files
from bench.report import frames
from bench.report.device import checks as check_table
from bench.report.device import compiler as compiled
from bench.report.error import exactness
from bench.report.frames import CELL_NAMES, PASS_NAMES
from bench.report.speed import figures, tables
from bench.report.style import plots
from bench.report.style.typeset import interval, significant

CLOCKS = {
    "event": "CUDA events around each call, the L2 cache emptied before it",
    "graph": "CUDA events around each replay of a captured CUDA graph",
    "host": "the host's clock around each call",
}


def distinct(values: Iterable[Any]) -> list[str]:
    """The different values as text, in order of first appearance."""
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def versions(run: frames.Run) -> dict[str, str]:
    """Hardware and software in words; what a record does not hold is left out."""
    rows: dict[str, list[str]] = {}
    device = [record["device"] for record in run.records]
    software = [record["software"] for record in run.records]
    for words, found in (
        ("Device", distinct(d.get("name") for d in device)),
        (
            "Compiled for" if _only_compiled(run) else "Compute capability",
            distinct(d.get("capability") for d in device),
        ),
        ("Multiprocessors", distinct(d.get("multiprocessors") for d in device)),
        ("Memory", [_gib(v) for v in distinct(d.get("memory_bytes") for d in device)]),
        ("CPU cores", distinct(d.get("cores") for d in device)),
        ("CPU threads used", distinct(d.get("threads") for d in device)),
        ("Driver", distinct(d.get("driver") for d in device)),
        ("CUDA", distinct(d.get("cuda") for d in device)),
        ("cuDNN", distinct(frames.cudnn(d.get("cudnn")) for d in device)),
        ("torch", distinct(s.get("torch") for s in software)),
        ("Triton", distinct(s.get("triton") for s in software)),
        ("NumPy", distinct(s.get("numpy") for s in software)),
        ("Python", distinct(s.get("python") for s in software)),
        ("Platform", distinct(s.get("platform") for s in software)),
    ):
        if found:
            rows[words] = found
    return {words: ", ".join(found) for words, found in rows.items()}


def _only_compiled(run: frames.Run) -> bool:
    return all(record["device"].get("kind") == "compiled" for record in run.records)


def _gib(text: str) -> str:
    return f"{int(text) / 2**30:.0f} GiB"


def providers(run: frames.Run) -> list[tuple[str, str, int, int]]:
    """Who was measured: name, version, records that are ok, and all records."""
    found = []
    for name in plots.by_look(record["provider"] for record in run.records):
        mine = [record for record in run.records if record["provider"] == name]
        version = ", ".join(distinct(record["provider_version"] for record in mine)) or "–"
        found.append((name, version, sum(r["status"] == "ok" for r in mine), len(mine)))
    return found


def protocol(run: frames.Run) -> list[str]:
    """How it was measured, as sentences with the run's own numbers."""
    said = []
    timed = [r for r in run.of("time") if r["status"] == "ok"]
    if timed:
        modes = Counter(str(r["mode"]) for r in timed)
        clocks = "; ".join(f"{CLOCKS.get(mode, mode)} (`{mode}`)" for mode in sorted(modes))
        said.append(f"Clock: {clocks}. Times of different clocks are never compared.")
        counts = sorted(r["n"] for r in timed if r["n"])
        visits = sorted(len(r["blocks"] or []) for r in timed)
        converged = sum(bool(r["converged"]) for r in timed)
        said.append(
            f"{len(timed):,} timings of {counts[0]} to {counts[-1]} samples each (half have at "
            f"least {counts[len(counts) // 2]}), taken in turns: providers of one case are visited "
            f"in random order ({visits[0]} to {visits[-1]} visits). Median with a 95 % bootstrap "
            f"interval; {converged:,} of {len(timed):,} met the interval's target before their "
            "time ended."
        )
        said.append(
            "Before its time is taken, each provider's outputs and gradients are checked against "
            "a float64 reference at that very shape."
        )
    errors = [r for r in run.of("error") if r["status"] == "ok"]
    if errors:
        seeds = len({r["seed"] for r in errors})
        said.append(
            f"{len(errors):,} error measurements against a float64 reference on the same rounded "
            f"inputs, {seeds} seed{'s' * (seeds > 1)}."
        )
    if run.of("resources"):
        said.append(
            f"{len(run.of('resources')):,} kernels compiled for a target that need not be present; "
            "registers, stack and the loop's instructions read from the binary."
        )
    return said


def headlines(run: frames.Run) -> list[str]:
    """The numbers a reader came for, each with its interval and what it is over."""
    said = []
    time = run.time
    speed = tables.speedup_table(time) if (time["status"] == "ok").any() else None
    if speed is not None:
        rows = speed.full
        rivals = rows[~rows["provider"].str.startswith("reference")]
        best = rivals[rivals["provider"] == "ours"]
        rows = best if len(best) else rivals if len(rivals) else rows
        # For each cell and pass the provider and setting that were measured at most shapes.
        rows = rows.sort_values("shapes", ascending=False, kind="stable")
        rows = frames.ordered(rows.drop_duplicates(["provider", "cell", "pass"]))
        said += [_speed_headline(row, speed.full, time) for row in rows.to_dict("records")]
    said += _error_headlines(run)
    return [*said, *compiled.headline(run.of("resources"))]


def _speed_headline(row: dict[str, Any], rows: pd.DataFrame, time: pd.DataFrame) -> str:
    """The speed of `row`, of separate calls; that of graphs first if they were measured at all its
    cases, since a short call takes the host longer than the device.
    """
    pair = [row]
    if row["provider"] == "ours":
        alike = {name: row[name] for name in ("cell", "pass", *frames.SETTING) if name != "mode"}

        def same(frame: pd.DataFrame, provider: str) -> pd.DataFrame:
            wanted = pd.Series(alike | {"provider": provider})
            return frame[(frame[wanted.index] == wanted).all(axis=1)]

        pair += same(rows, "ours-graph").to_dict("records")
        compared = figures.speedups(time).dropna(subset="speedup")
        called, replayed = (set(same(compared, r["provider"])["case_id"]) for r in (row, pair[-1]))
        if called <= replayed:
            pair.reverse()
    return f"{_cell(row)}, {PASS_NAMES[row['pass']]}: {'; '.join(map(_speed, pair))}."


def _speed(row: dict[str, Any]) -> str:
    """One provider's speed over torch.nn under the same clock."""
    mean = interval(row["geomean"], row["geomean_low"], row["geomean_high"])
    where = f"at {row['most_at']}"
    if row["shapes"] > 1:
        where = (
            f"geometric mean over {row['shapes']} shapes, from {significant(row['least'])} at "
            f"{row['least_at']} to {significant(row['most'])} at {row['most_at']}"
        )
    over = frames.BASELINES.get(row["mode"], "torch.nn")
    return (
        f"`{row['provider']}` runs at {mean} times the speed of `{over}` ({where}; "
        f"{frames.setting_words(row)})"
    )


def _cell(row: dict[str, Any]) -> str:
    return CELL_NAMES.get(row["cell"], str(row["cell"]))


def _error_headlines(run: frames.Run) -> list[str]:
    error = run.error
    ok = frames.comparable(error)
    said = []
    for number in frames.known(ok["number"], frames.NUMBER_ORDER):
        here = ok[ok["number"] == number]
        words = []
        for provider in plots.by_look(here["provider"]):
            mine = here[here["provider"] == provider]
            output = mine.loc[mine["tensor"].isin(frames.OUTPUTS), "rel_l2"].max()
            gradient = mine.loc[mine["part"] == "gradient", "rel_l2"].max()
            text = f"`{provider}` {significant(output, -2)}"
            words.append(text + (f" / {significant(gradient, -2)}" if gradient == gradient else ""))
        said.append(
            f"Largest relative L2 error in {number}, output / gradient: {', '.join(words)} "
            f"(over {here['case_id'].nunique()} cases, default weights and inputs)."
        )
    found = exactness.read(run.folder, files.ACTIVATIONS)
    if found:
        units = {name: f["max_ulp"] for name, f in found["functions"].items()}
        said.append(
            f"Device activations over all of float32: tanh within {significant(units['tanh'])} "
            f"ULP, sigmoid within {significant(units['sigmoid'])} ULP."
        )
    return said


def caveats(run: frames.Run) -> list[str]:
    """What a reader must know before citing a number of this run."""
    said = []
    if any(r["interpreted"] for r in run.of("error")):
        said.append(
            "Errors of our kernels come from Triton's interpreter on the CPU: the same algorithm, "
            "but NumPy's sums and exponentials, at sizes it can do. Time in the interpreter says "
            "nothing and was not taken."
        )
    commits = distinct(frames.commit(r) for r in run.records)
    if any(commit.endswith("+") for commit in commits):
        said.append("A commit with a plus sign had uncommitted changes when it was measured.")
    if len(commits) > 1:
        said.append(f"Records come from {len(commits)} commits; no curve joins different code.")
    throttled = Counter(
        reason for r in run.of("time") for reason in (r["device"].get("throttle") or [])
    )
    if throttled:
        words = ", ".join(f"{reason} ({count})" for reason, count in sorted(throttled.items()))
        said.append(f"The card held its clocks down during some timings: {words}.")
    timed = [r for r in run.of("time") if r["status"] == "ok"]
    loose = [r for r in timed if not r["converged"]]
    if loose:
        said.append(
            f"{len(loose):,} of {len(timed):,} medians are known less well than asked for; their "
            "intervals say how well (`converged` in the download's time.csv)."
        )
    if timed and all(r["mode"] == "host" for r in timed):
        said.append(
            "A CPU run: other work on the machine shows in the times, and nothing here says how "
            "fast a GPU would be."
        )
    said += check_table.caveats(run.folder)
    said += [f"{count:,} records were set aside: {why}." for why, count in run.aside.items()]
    return said


def missing(run: frames.Run) -> list[str]:
    """Figures that these records do not fill, and what would."""
    if all(r["kind"] == "resources" for r in run.records):
        return ["time and error: nothing ran on this target"]
    time = run.time
    ok = time[time["status"] == "ok"]
    said = []
    if not ok["provider"].str.startswith("ours").any():
        said.append("speed of our kernels: needs a GPU")
    if not ok["peak_bytes"].notna().any():
        said.append("memory as T grows: needs a GPU, where torch counts it")
    if not ok["floor_share"].notna().any():
        said.append(
            "time per step beside its floor: needs a GPU and its limits (`python -m bench floor`)"
        )
    if not ok["algorithm"].notna().any():
        said.append("cuDNN's algorithms: need an NVIDIA GPU")
    if not run.of("error"):
        said.append("numerical error: `python -m bench error`")
    return said


def presets(run: frames.Run) -> list[str]:
    """The presets behind a run's records, from the runs' names (preset-code)."""
    return distinct(r["run_id"].rsplit("-", 1)[0] for r in run.records if "-" in r["run_id"])


def when(run: frames.Run) -> str:
    """The days of measuring."""
    days = sorted({str(r["time"])[:10] for r in run.records})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def frame(run: frames.Run) -> pd.DataFrame:
    """All records of a run, whatever their kind, with their provenance."""
    return run.every
