"""A progress bar with the time left, on standard error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.cases.presets import Request


@contextlib.contextmanager
def bar(title: str, max_seconds: float | None = None) -> Iterator[Report]:
    """A bar for one sweep; ``max_seconds`` caps the time it says is left."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Report(progress, max_seconds)


class Report:
    """What a sweep calls with each step (see ``bench.sweep.sweep.Progress``)."""

    def __init__(self, progress: Progress, max_seconds: float | None) -> None:
        self.progress, self.max_seconds = progress, max_seconds
        self.task = progress.add_task("", total=None, left="", now="starting")
        self.started = time.monotonic()

    def __call__(self, done: int, total: int, request: Request, provider: str, doing: str) -> None:
        spent = time.monotonic() - self.started
        left = spent / done * (total - done) if done else None
        if left is not None and self.max_seconds is not None:
            left = min(left, max(0.0, self.max_seconds - spent))
        self.progress.update(
            self.task,
            total=total,
            completed=done,
            left="" if left is None else f"{left / 60:.1f} min left",
            now=f"{request.case.case_id} {provider} {doing}",
        )


@contextlib.contextmanager
def count_bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over ``total`` equal things; what it yields is called with each one's name."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, now="starting")
        yield lambda name: progress.update(task, advance=1, now=name)
