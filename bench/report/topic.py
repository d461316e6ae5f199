"""One subject of a report, in a form that pages can loop over."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.report.runs import Run
from bench.report.style.sheet import Job
from bench.report.style.typeset import Table


@dataclass(frozen=True)
class Section:
    """A section of a device's page.

    Attributes:
        figures: prefixes of the names of its figures.
        tables: the names of its tables.
    """

    title: str
    about: str
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


def _nothing(run: Run) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Topic:
    """One subject of a report; each function takes a run and may find nothing in it.

    Attributes:
        sections: of a device's page.
        jobs: the figures to draw.
        tables: the tables.
        headlines: the numbers a reader came for, in sentences.
        protocol: how they were measured, in sentences.
        caveats: what a reader must know before citing them.
        missing: what was not measured, and what would measure it.
    """

    sections: tuple[Section, ...] = ()
    jobs: Callable[[Run], Iterable[Job]] = _nothing
    tables: Callable[[Run], Iterable[Table]] = _nothing
    headlines: Callable[[Run], Iterable[str]] = _nothing
    protocol: Callable[[Run], Iterable[str]] = _nothing
    caveats: Callable[[Run], Iterable[str]] = _nothing
    missing: Callable[[Run], Iterable[str]] = _nothing
