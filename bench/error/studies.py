"""Studies of error outside the sweep; each returns the path of its results. Imports no torch.

A study runs in another process (``bench.sweep.pool.calls_elsewhere``), because whether kernels
are interpreted is decided when they are imported.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import interpreter
from bench.records import environment, files, store
from bench.records.provenance import provenance


def activations(folder: Path, binades: int | None = None) -> Path:
    """Measure the activations, at every float32 of so many binades (None: see ``measure``)."""
    from bench.error.activations import measure

    return _run(folder, files.ACTIVATIONS, partial(measure, binades))


def repeatability(folder: Path, filter: str = "") -> Path:
    """Measure the repeatability of the cases that match a filter (see ``cases.matches``)."""
    from bench.error.repeatability import measure, select_cases

    return _run(folder, files.REPEATABILITY, partial(measure, select_cases(filter)))


def training(folder: Path, cells: Sequence[str] | None = None, seeds: int | None = None) -> Path:
    """Record the losses of our modules and torch.nn's in training, per cell (default: all).

    Args:
        seeds: of the training in bf16, which is left out if there are none.
    """
    from bench.error import equivalence
    from bench.error.training import CELLS, measure

    chosen, count = cells or tuple(CELLS), equivalence.SEEDS if seeds is None else seeds

    def both() -> dict[str, Any]:
        return measure(chosen) | {"bf16": equivalence.measure(chosen, count) if count else None}

    return _run(folder, files.TRAINING, both)


def memory(folder: Path) -> Path:
    """Record the losses of GRUs in training on a task that needs memory, in bf16 and fp32."""
    from bench.error.memory import measure

    return _run(folder, files.MEMORY, measure)


def _run(folder: Path, name: str, measure: Callable[[], dict[str, Any]]) -> Path:
    """Measure, and write the result with its provenance; returns the file's path."""
    interpreted = environment.interpreted()
    if interpreted:
        interpreter.check()
        interpreter.prepare()
    found = measure() | {"interpreted": interpreted} | provenance(environment.device_facts())
    path = folder / files.RECORDS / name
    store.write_state(path, found)
    return path
