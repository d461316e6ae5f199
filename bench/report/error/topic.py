"""Numerical error as a topic of the report: its figures, tables and sentences."""

from collections.abc import Iterator

from bench.report import frames, terms
from bench.report.error import equivalence, exactness, figures, maps, memory, steps, tables
from bench.report.runs import Run
from bench.report.style.numbers import significant
from bench.report.style.sheet import Job
from bench.report.style.typeset import Table
from bench.report.topic import Section, Topic

SECTION = Section(
    "Numerical error",
    "Against float64 on the same rounded inputs; see [bench/ERROR.md](../../bench/ERROR.md).",
    figures=("error-", "activations", "training"),
    tables=(
        *("error", "error-growth", "error-regimes", "error-memory"),
        *("error-products", "error-effects"),
        *("activations", "repeatability", "training", "training-bf16", "training-memory"),
    ),
)


def jobs(run: Run) -> Iterator[Job]:
    """The figures of the error records and of the studies' files."""
    yield from figures.curve_jobs(run.error)
    yield from figures.category_jobs(run.error)
    yield from maps.jobs(run.error)
    yield from steps.jobs(run.ok("error"))
    yield from exactness.jobs(run)


def all_tables(run: Run) -> list[Table]:
    """The tables of the error records and of the studies' files."""
    return [*tables.tables(run.error), *exactness.tables(run)]


def headlines(run: Run) -> list[str]:
    """The largest error per number format, those of the activations and of long memory."""
    ok = frames.comparable(run.error)
    found = []
    for number in terms.ordered_numbers(ok["number"]):
        here = ok[ok["number"] == number]
        words = []
        for provider in terms.ordered_providers(here["provider"]):
            mine = here[here["provider"] == provider]
            parts = mine[mine["part"].str.startswith(terms.GRADIENT)].groupby("part")["rel_l2"]
            output = mine.loc[mine["tensor"].isin(frames.OUTPUTS), "rel_l2"].max()
            values = [output, *parts.max()]  # by part, in alphabetical order
            text = " / ".join(significant(value / terms.roundoff(number), 2) for value in values)
            words.append(f"`{provider}` {text}")
        found.append(
            f"Largest relative L2 error in {number}, in unit roundoffs, of output / gradient of "
            f"input and state / of weights: {', '.join(words)} "
            f"(over {here['case_id'].nunique()} cases, default weights and inputs)."
        )
    activations = run.read(exactness.ACTIVATIONS)
    if activations:
        units = {name: each["max_ulp"] for name, each in activations["functions"].items()}
        found.append(
            "Activations, at every float32 of the binades with the largest errors: tanh within "
            f"{significant(units['tanh'])} ULP, sigmoid within {significant(units['sigmoid'])} ULP "
            f"(with {activations['exponential']})."
        )
    if in_bf16 := exactness.trained_in_bf16(run):
        found.append(equivalence.headline(in_bf16))
    found += memory.headlines(run.error, run.read(exactness.MEMORY))
    return found


def protocol(run: Run) -> list[str]:
    """The number of error measurements and seeds, and the reference."""
    errors = run.ok("error")
    if not errors:
        return []
    seeds = terms.plural(len({r["seed"] for r in errors}), "seed")
    return [
        f"{len(errors):,} error measurements against a float64 reference on the same rounded "
        f"inputs, {seeds}."
    ]


def missing(run: Run) -> list[str]:
    """The command that measures errors, if there are none."""
    return [] if run.of("error") else ["numerical error: `python -m bench error`"]


TOPIC = Topic((SECTION,), jobs, all_tables, headlines, protocol, missing=missing)
