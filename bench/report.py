"""``python -m bench report``: everything people look at, rebuilt from stored records.

Needs no GPU and imports no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from bench import (
    device_page,
    environment,
    exactness,
    figures,
    figures_error,
    frames,
    heatmaps,
    plots,
    store,
    tables,
    typeset,
)

RESULTS = environment.ROOT / "results"
FEW = 12  # figures that one process draws sooner than others start


def folder_of(path: Path) -> Path:
    """Where a run's report goes: the device's folder, or one beside a loose file."""
    if path.is_dir():
        return path
    if path.parent.name == "records":
        return path.parent.parent
    return path.with_suffix("")


def load(paths: Sequence[Path]) -> list[frames.Run]:
    """The runs of these folders and files, those of one folder together.

    Raises:
        FileNotFoundError: for a path that does not exist or a folder without records.
        ValueError: if one folder holds the records of several devices.
    """
    sources: dict[Path, list[Path]] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; RUN is a results folder or a .jsonl")
        files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} holds no records (*.jsonl)")
        sources.setdefault(folder_of(path), []).extend(files)
    runs = []
    for folder, files in sources.items():
        files = list(dict.fromkeys(file.resolve() for file in files))
        records = [record for file in files for record in store.read(file)]
        devices = sorted({str(record["device"].get("name")) for record in records})
        if len(devices) > 1:
            raise ValueError(
                f"{folder} holds records of several devices ({', '.join(devices)}); a folder "
                "holds one device's"
            )
        kept, aside = frames.one_state(records)
        runs.append(frames.Run(devices[0] if devices else folder.name, folder, kept, files, aside))
    return runs


def jobs(run: frames.Run) -> list[figures.Job]:
    """Every figure that a run's records fill."""
    found: list[figures.Job] = []
    timed, error = frames.flat(run.of("time")), frames.errors(run.of("error"))
    if (timed["status"] == "ok").any():
        found += figures.line_jobs(timed)
        found += figures.growth_jobs(timed)
        found += heatmaps.speedup_jobs(timed)
    if len(error):
        found += figures_error.curve_jobs(error)
        found += figures_error.category_jobs(error)
    return [*found, *exactness.jobs(run.folder)]


def _draw(job: figures.Job, folder: Path) -> list[Path]:
    return job(folder)


def draw(found: Sequence[figures.Job], folder: Path) -> list[Path]:
    """Carry out jobs, in several processes where that pays."""
    processes = min(os.cpu_count() or 1, 8, len(found))
    if len(found) <= FEW or processes == 1:
        plots.apply_style()
        return [path for job in found for path in job(folder)]
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=plots.apply_style
    ) as pool:
        return [path for paths in pool.map(_draw, found, [folder] * len(found)) for path in paths]


def build(paths: Sequence[Path], *, page: bool = True) -> list[Path]:
    """Write tables, figures and pages of these results folders or record files.

    Files of an earlier report that no record fills any more are removed.

    Returns:
        The written files, tables first.
    """
    written: list[Path] = []
    for run in load(paths):
        found = [*tables.all_tables(run), *exactness.tables(run.folder)]
        made = [p for table in found for p in typeset.write(table, run.folder / "tables")]
        made += draw(jobs(run), run.folder / "figures")
        for name in ("tables", "figures"):
            for old in (run.folder / name).glob("*"):
                if old not in made and old.suffix in (
                    ".csv",
                    ".md",
                    ".tex",
                    ".pdf",
                    ".svg",
                    ".png",
                ):
                    old.unlink()
        pictures = [path for path in made if path.parent.name == "figures"]
        written += [*made, device_page.write(run, pictures, found)]
    return written


def main(*folders: Path) -> list[Path]:
    """Report on folders and print where everything is."""
    started = time.monotonic()
    written = build(folders or results())
    for folder in dict.fromkeys(path.parent for path in written):
        here = [path for path in written if path.parent == folder]
        print(f"{_shown(folder)}: {len(here)} files")
    print(f"report made in {time.monotonic() - started:.1f} s")
    return written


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def results() -> list[Path]:
    """The device folders under results/ that hold records.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = [path for path in sorted(RESULTS.glob("*/")) if any(path.rglob("*.jsonl"))]
    if not found:
        raise FileNotFoundError(
            f"no records under {RESULTS}; `python -m bench quick` measures this machine"
        )
    return found


def command(
    run: Annotated[
        list[Path] | None,
        typer.Argument(help="Results folders or .jsonl files; all of results/ by default."),
    ] = None,
) -> None:
    """Rebuild every table, figure and page from stored records. Needs no GPU."""
    main(*(run or ()))
