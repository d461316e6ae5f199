"""Every table, figure and page of a report, rebuilt from stored records without a GPU."""

import contextlib
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.records import files, store
from bench.report.pages import device_page, page
from bench.report.runs import Run, load
from bench.report.style import looks, sheet, typeset
from bench.report.style.sheet import Job
from bench.report.topics import TOPICS

FEW = 12  # figures that one process draws faster than a pool starts


def begin_drawing(providers: Sequence[str]) -> None:
    """Prepare a process that draws a report's figures."""
    looks.apply_style()
    looks.assign(providers)


@contextlib.contextmanager
def drawing(
    tasks: Iterable[tuple[Job, Path]], providers: Sequence[str]
) -> Iterator[Callable[[], list[list[Path]]]]:
    """Start to draw, many figures in several processes; yields a function that awaits the files.

    Args:
        providers: those of the whole report, which get their looks together.
    """
    looks.assign(providers)  # also for the results page
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, FEW + 1))
    processes = min(os.cpu_count() or 1, 8)
    if len(first) <= FEW or processes == 1:
        looks.apply_style()
        yield lambda: [job(folder) for job, folder in itertools.chain(first, tasks)]
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, begin_drawing, (providers,)) as pool:
        try:
            begun = [pool.submit(job, folder) for job, folder in itertools.chain(first, tasks)]
            yield lambda: [future.result() for future in begun]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else it draws all figures first
            raise


def all_tables(run: Run) -> list[typeset.Table]:
    """Every table that a run has records for."""
    return [table for topic in TOPICS for table in topic.tables(run)]


def build_report(paths: Sequence[Path]) -> list[Path]:
    """Write tables, figures and pages of these results folders or record files.

    Files of an earlier report that these records do not give are removed.

    Returns:
        The written files: of each run its tables, figures, download and page, then the results
        page.
    """
    runs = load(paths)
    tasks = (
        (job, run.folder / "figures") for run in runs for topic in TOPICS for job in topic.jobs(run)
    )
    drawn = ("time", "error", "energy")
    measured = (record for run in runs for kind in drawn for record in run.of(kind))
    providers = sorted({record["provider"] for record in measured})
    # The tables and the results page are made while other processes draw.
    with drawing(tasks, providers) as finished:
        tables = {run.folder: all_tables(run) for run in runs}
        pages = results_pages(runs)
        figures: dict[Path, list[Path]] = {run.folder: [] for run in runs}
        for made in finished():
            figures[made[0].parent.parent] += made
    written: list[Path] = []
    for run in runs:
        folder = run.folder
        made = [
            path for table in tables[folder] for path in typeset.write(table, folder / "tables")
        ]
        made += figures[folder]
        data = [path for path in made if path.suffix == ".csv"]
        kept = [path for path in made if path not in data]
        written += [*kept, *device_page.pack(folder, data)]
        written.append(device_page.write(run, figures[folder], tables[folder]))
        remove_stale(folder, set(kept))
    return written + pages


def remove_stale(folder: Path, kept: set[Path]) -> None:
    """Remove the tables and figures of an earlier report that this one did not write."""
    kinds = {f".{kind}" for kind in (*sheet.FORMATS, *typeset.FORMATS)}
    for name in ("tables", "figures"):
        for path in (folder / name).glob("*"):
            if path not in kept and path.suffix in kinds:
                path.unlink()


def results_pages(runs: Sequence[Run]) -> list[Path]:
    """Write the HTML pages: one for all devices of a results folder, one for each loose file.

    A device's page also holds the other devices of its results folder.
    """
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        devices = (run.folder / files.RECORDS).is_dir()
        groups.setdefault(run.folder.parent if devices else run.folder, []).append(run)
    written = []
    for folder, members in groups.items():
        seen = {run.folder.resolve() for run in members}
        others = [
            path.parent
            for path in sorted(folder.glob(f"*/{files.RECORDS}"))
            if path.parent.resolve() not in seen and has_records(path)
        ]
        all_runs = sorted([*members, *load(others)], key=lambda run: str(run.folder))
        shown = [run for run in all_runs if run.of("time") or run.of("error")]
        path = page.write(shown, folder / page.NAME) if shown else None
        written += [path] if path else []
    return written


def main(*folders: Path) -> list[Path]:
    """Report on folders and print where everything is."""
    started = time.monotonic()
    written = build_report(folders or device_folders())
    for folder in dict.fromkeys(path.parent for path in written):
        here = [path for path in written if path.parent == folder]
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        print(f"{shown}: {len(here)} files")
    if page.library() is None:
        print("no results page: it needs the package vl-convert-python")
    print(f"report made in {time.monotonic() - started:.1f} s")
    return written


def has_records(folder: Path) -> bool:
    """Whether a folder holds a record; a killed process may leave an empty file."""
    return next(store.read(folder), None) is not None


def device_folders() -> list[Path]:
    """The device folders under results/ that hold records.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = [path for path in sorted(files.RESULTS.glob("*/")) if has_records(path)]
    if not found:
        raise FileNotFoundError(
            f"no records under {files.RESULTS}; `python -m bench quick` measures this machine"
        )
    return found
