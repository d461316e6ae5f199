"""Everything people look at, rebuilt from stored records.

Needs no GPU and imports no torch.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.records import files, store
from bench.report import frames
from bench.report.device import checks as check_table
from bench.report.device import compiler as compiled
from bench.report.device import floor as floor_table
from bench.report.error import (
    exactness,
)
from bench.report.error import (
    figures as figures_error,
)
from bench.report.error import (
    maps as heatmaps_error,
)
from bench.report.error import (
    tables as tables_error,
)
from bench.report.error import (
    training as figures_training,
)
from bench.report.pages import device_page, download, page
from bench.report.speed import figures, tables
from bench.report.speed import maps as heatmaps
from bench.report.style import plots, typeset

FEW = 12  # figures that one process draws sooner than others start


def folder_of(path: Path) -> Path:
    """Where a run's report goes: the device's folder, or one of a single file's own.

    Never into the folder of a device of which the file is only a part.
    """
    if path.is_dir():
        return path
    inside = path.parent.name == "records"
    return (path.parent.parent if inside else path.parent) / store.stem(path)


def load(paths: Sequence[Path]) -> list[frames.Run]:
    """The runs of these folders and files, those of one folder together.

    Raises:
        FileNotFoundError: for a path that does not exist or a folder without records.
        ValueError: if one folder holds the records of several devices.
    """
    sources: dict[Path, list[Path]] = {}
    for path in map(Path.resolve, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; RUN is a folder or file of records")
        files = store.record_files(path) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} holds no records (*.jsonl, *.jsonl.gz)")
        sources.setdefault(folder_of(path), []).extend(files)
    runs = []
    for folder, files in sources.items():
        files = list(dict.fromkeys(file.resolve() for file in files))
        records = [record for file in files for record in store.read(file)]
        if not records:
            raise FileNotFoundError(f"{folder} holds no records, only empty files")
        devices = sorted({str(record["device"].get("name")) for record in records})
        if len(devices) > 1:
            raise ValueError(
                f"{folder} holds records of several devices ({', '.join(devices)}); a folder "
                "holds one device's"
            )
        kept, aside = frames.one_state(records)
        runs.append(frames.Run(devices[0], folder, kept, files, aside))
    return runs


def jobs(run: frames.Run) -> Iterator[figures.Job]:
    """Every figure that a run's records fill."""
    yield from compiled.jobs(run.of("resources"))
    timed, error = run.time, run.error
    if (timed["status"] == "ok").any():
        yield from figures.line_jobs(timed)
        yield from figures.growth_jobs(timed)
        yield from heatmaps.speedup_jobs(timed)
    if len(error):
        yield from figures_error.curve_jobs(error)
        yield from figures_error.category_jobs(error)
        yield from heatmaps_error.jobs(error)
    yield from exactness.jobs(run.folder)
    yield from figures_training.jobs(run.folder)


def _ready() -> None:
    """Make a process ready to draw."""
    plots.apply_style()
    # Figures are full of cycles: looking for garbage while one is made finds none and takes long.
    gc.freeze()
    gc.disable()


def _draw(job: figures.Job, folder: Path) -> list[Path]:
    written = job(folder)
    gc.collect()
    return written


@contextlib.contextmanager
def drawing(
    tasks: Iterable[tuple[figures.Job, Path]],
) -> Iterator[Callable[[], list[list[Path]]]]:
    """Begin to draw, in several processes where that pays; what is given waits for the files."""
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, FEW + 1))
    processes = min(os.cpu_count() or 1, 8)
    if len(first) <= FEW or processes == 1:
        plots.apply_style()
        yield lambda: [job(folder) for job, folder in itertools.chain(first, tasks)]
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_ready) as pool:
        try:
            begun = [pool.submit(_draw, *task) for task in itertools.chain(first, tasks)]
            yield lambda: [future.result() for future in begun]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else it draws them all first
            raise


def everything(paths: Sequence[Path]) -> list[Path]:
    """Write tables, figures and pages of these results folders or record files.

    Files of an earlier report that no record fills any more are removed.

    Returns:
        The written files: of each run its tables, figures, download and page, then the results
        page.
    """
    runs = load(paths)
    tasks = ((job, run.folder / "figures") for run in runs for job in jobs(run))
    # The tables and the results page are made while other processes draw.
    with drawing(tasks) as finished:
        made = {run.folder: all_tables(run) for run in runs}
        pages = results_pages(runs)
        drawn: dict[Path, list[Path]] = {run.folder: [] for run in runs}
        for files in finished():
            drawn[files[0].parent.parent] += files
    written: list[Path] = []
    for run in runs:
        found, figures_made = made[run.folder], drawn[run.folder]
        files = [path for table in found for path in typeset.write(table, run.folder / "tables")]
        files += figures_made
        data = [path for path in files if path.suffix == ".csv"]
        kept = [path for path in files if path not in data]
        written += [*kept, *download.pack(run.folder, data)]
        written.append(device_page.write(run, figures_made, found))
        remove_stale(run.folder, set(kept))
    return written + pages


def all_tables(run: frames.Run) -> list[typeset.Table]:
    """Every table that a run fills."""
    alone = (*exactness.tables(run.folder), *figures_training.tables(run.folder))
    error = tables_error.all_tables(run.error)
    card = [*check_table.tables(run.folder), *floor_table.tables(run.folder)]
    return [*tables.all_tables(run), *card, *error, *alone]


def remove_stale(folder: Path, kept: set[Path]) -> None:
    """Remove what an earlier report wrote and this one did not."""
    kinds = {f".{kind}" for kind in (*plots.FORMATS, *typeset.FORMATS)}
    for name in ("tables", "figures"):
        for path in (folder / name).glob("*"):
            if path not in kept and path.suffix in kinds:
                path.unlink()


def results_pages(runs: Sequence[frames.Run]) -> list[Path]:
    """The HTML pages: one for all devices beside each other, one for each loose file.

    A device's page holds the devices beside it too, also those not reported on now.
    """
    groups: dict[Path, list[frames.Run]] = {}
    for run in runs:
        devices = (run.folder / "records").is_dir()
        groups.setdefault(run.folder.parent if devices else run.folder, []).append(run)
    written = []
    for folder, members in groups.items():
        known = {run.folder.resolve() for run in members}
        others = [
            path.parent
            for path in sorted(folder.glob("*/records"))
            if path.parent.resolve() not in known and measured(path)
        ]
        everyone = sorted([*members, *load(others)], key=lambda run: str(run.folder))
        shown = [run for run in everyone if run.of("time") or run.of("error")]
        path = page.write(shown, folder / page.NAME) if shown else None
        written += [path] if path else []
    return written


def main(*folders: Path) -> list[Path]:
    """Report on folders and print where everything is."""
    started = time.monotonic()
    written = everything(folders or results())
    for folder in dict.fromkeys(path.parent for path in written):
        here = [path for path in written if path.parent == folder]
        print(f"{_shown(folder)}: {len(here)} files")
    if page.library() is None:
        print("no results page: it needs the package vl-convert-python")
    print(f"report made in {time.monotonic() - started:.1f} s")
    return written


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def measured(folder: Path) -> bool:
    """Whether a folder holds a record; an empty file is what a killed process may leave."""
    return next(store.read(folder), None) is not None


def results() -> list[Path]:
    """The device folders under results/ that hold records.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = [path for path in sorted(files.RESULTS.glob("*/")) if measured(path)]
    if not found:
        raise FileNotFoundError(
            f"no records under {files.RESULTS}; `python -m bench quick` measures this machine"
        )
    return found
