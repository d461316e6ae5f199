"""A progress bar with the time left, on standard error."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress
from rich.console import Console

from bench.cases.presets import Request
from bench.sweep.sweep import Progress


@contextlib.contextmanager
def bar(title: str, max_seconds: float | None = None) -> Iterator[Progress]:
    """A bar for one sweep, which shows at most ``max_seconds`` as the time left."""
    started = time.monotonic()
    with _bar(progress.TextColumn("{task.fields[left]}")) as shown:
        task = shown.add_task(title, total=None, left="", now="starting")

        def update(done: int, total: int, request: Request, provider: str, doing: str) -> None:
            spent = time.monotonic() - started
            left = ""
            if done:
                seconds = spent / done * (total - done)
                if max_seconds is not None:
                    seconds = min(seconds, max(0.0, max_seconds - spent))
                left = f"{seconds / 60:.1f} min left"
            now = f"{request.case.case_id} {provider} {doing}"
            shown.update(task, total=total, completed=done, left=left, now=now)

        yield update


@contextlib.contextmanager
def count_bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over ``total`` steps; call what it yields with each finished step's name."""
    with _bar(progress.TimeRemainingColumn()) as shown:
        task = shown.add_task(title, total=total, now="starting")
        yield lambda name: shown.update(task, advance=1, now=name)


def _bar(left: progress.ProgressColumn) -> progress.Progress:
    # Titles and cases have names from outside, in which brackets are no markup.
    title, now = (
        progress.TextColumn(text, markup=False)
        for text in ("{task.description}", "{task.fields[now]}")
    )
    first = (title, progress.BarColumn(), progress.MofNCompleteColumn())
    return progress.Progress(*first, left, now, console=Console(stderr=True))
