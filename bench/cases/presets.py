"""Presets: named lists of what to measure, read from a TOML file."""

import csv
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases.arguments import Choices, check_choice
from bench.cases.cases import DEFAULTS, PASSES, REGIMES, Case, check_regime, make_case

HERE = Path(__file__).parent
PRESETS = HERE / "presets.toml"
KINDS = ("time", "error", "energy")
SIZES = ("B", "T", "I", "H")


@dataclass(frozen=True)
class Request:
    """One case to measure: its time, its error or its energy, for some providers.

    Args:
        kind: of ``KINDS``.
        regime: of ``bench.cases.regimes``; None for the default one.
        seed: of the inputs; in a preset it is added to the sweep's first seed.
        providers: in a preset, none means the preset's own.
        start: of the measuring process; each start of a case is measured in a process of its own.
    """

    kind: str
    case: Case
    regime: str | None = None
    seed: int = 0
    providers: tuple[str, ...] = ()
    start: int = 0


@dataclass(frozen=True)
class Preset:
    """A named list of requests, coarse grids before fine ones."""

    name: str
    about: str
    providers: tuple[str, ...]
    requests: tuple[Request, ...]

    def cases(self, kind: str) -> list[Case]:
        """The distinct cases of a kind."""
        return list(dict.fromkeys(r.case for r in self.requests if r.kind == kind))


KEYS = ("about", "providers", "grid", "shapes")
OPTIONS = ("why", "kind", "regimes", "seeds", "providers")


def coarse_first(n: int) -> list[int]:
    """The rank of each of ``n`` ordered values: 0 for the ends, 1 for the middle, 2 for quarters.

    >>> coarse_first(5)
    [0, 2, 1, 2, 0]
    """
    rank = [0] * n
    spans = [(0, n - 1, 1)]
    for low, high, level in spans:  # the loop appends the halves of each span
        if high - low > 1:
            middle = (low + high) // 2
            rank[middle] = level
            spans += [(low, middle, level + 1), (middle, high, level + 1)]
    return rank


def expand(grid: Mapping[str, Any]) -> list[Case]:
    """All cases of one grid, coarse before fine, so that a sweep stopped early spans the grid.

    Each of ``DEFAULTS`` may be one value or a list; ``I = "H"`` ties the input to the hidden size;
    ``dtype`` takes ``"fp32:tf32"`` for a precision other than ieee.

    Raises:
        ValueError: for an unknown axis or a value that no case takes.
    """
    for key in grid:
        check_choice("key", key, (*DEFAULTS, *OPTIONS))
    axes = {}
    for axis, usual in DEFAULTS.items():
        value = grid.get(axis, usual)
        axes[axis] = value if isinstance(value, list) else [value]
        if not axes[axis]:
            raise ValueError(f"{axis} is []; accepted: one value, or a list of at least one")
    # Sizes are ranked from coarse to fine; all other values are equally important.
    ranks = {axis: coarse_first(len(axes[axis])) for axis in SIZES}

    def order(at: dict[str, int]) -> tuple[int, ...]:
        # At equal rank, all cells, passes and dtypes of a shape come before the next shape.
        return sum(ranks[axis][at[axis]] for axis in SIZES), *(at[axis] for axis in SIZES)

    indices = itertools.product(*(range(len(values)) for values in axes.values()))
    places = sorted((dict(zip(axes, chosen, strict=True)) for chosen in indices), key=order)
    return [make_case(**{axis: axes[axis][k] for axis, k in at.items()}) for at in places]


def preset_names(path: Path = PRESETS) -> list[str]:
    """The names of the presets in a file."""
    return list(_read(path))


def load_preset(name: str, path: Path = PRESETS) -> Preset:
    """One preset of the built-in file, or of a user's own.

    Raises:
        ValueError: for an unknown preset, or a key or value that describes no case, with the
            preset's name and the grid's number.
        FileNotFoundError: if ``path`` is no file.
    """
    presets = _read(path)
    if name not in presets:
        raise ValueError(f"preset is {name!r}; accepted from {path.name}: {', '.join(presets)}")
    table, where = presets[name], f"preset {name!r}"
    requests: list[Request] = []
    try:
        _check_preset(table)
        for number, grid in enumerate(table.get("grid", ()), 1):
            where = f"preset {name!r}, grid {number}"
            requests += _requests(grid)
        where = f"preset {name!r}"
        if "shapes" in table:
            requests += [Request("time", case) for case in _shapes(path.parent, table["shapes"])]
    except ValueError as fault:
        raise ValueError(f"{where}: {fault}") from None
    return Preset(
        name=name,
        about=table.get("about", ""),
        providers=tuple(table.get("providers", ())),
        requests=tuple(dict.fromkeys(requests)),
    )


def _check_preset(table: Any) -> None:
    """Raise ValueError unless a preset is a table of grids or shapes."""
    if not isinstance(table, dict):
        raise ValueError(f"it is {table!r}; accepted: a table of {', '.join(KEYS)}")
    for key in table:
        check_choice("key", key, KEYS)
    _string_list(table, "providers")
    grids = table.get("grid", [])
    if not (isinstance(grids, list) and all(isinstance(grid, dict) for grid in grids)):
        raise ValueError(f"grid is {grids!r}; accepted: tables, each under [[PRESET.grid]]")
    if not grids and "shapes" not in table:
        raise ValueError("it has no cases; accepted: at least one [[PRESET.grid]], or shapes")


def _string_list(table: Mapping[str, Any], key: str, accepted: Choices = ()) -> tuple[str, ...]:
    """A table's list of at least one string, each one of ``accepted`` if given; () without a list.

    Raises:
        ValueError: for any other value.
    """
    value = table.get(key, ())
    words = isinstance(value, list) and value and all(isinstance(word, str) for word in value)
    if key in table and not words:
        raise ValueError(f"{key} is {value!r}; accepted: a list of at least one string")
    for word in value if accepted else ():
        check_choice(key, word, accepted)
    return tuple(value)


def _requests(grid: Mapping[str, Any]) -> Iterator[Request]:
    kind = grid.get("kind", "time")
    check_choice("kind", kind, KINDS)
    if kind != "error" and ("regimes" in grid or "seeds" in grid):
        raise ValueError("regimes and seeds belong to grids of kind error")
    providers = _string_list(grid, "providers")
    regimes = _string_list(grid, "regimes", REGIMES) or (None,)
    seeds = grid.get("seeds", 1)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}; accepted: a number of seeds, at least 1")
    for case, regime, seed in itertools.product(expand(grid), regimes, range(seeds)):
        check_regime(regime or "default", case.cell)
        # The default regime is None, so that naming it makes no second request.
        yield Request(kind, case, None if regime == "default" else regime, seed, providers)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"preset file is {path}; accepted: a TOML file that exists")
    with path.open("rb") as file:
        try:
            return tomllib.load(file)
        except ValueError as fault:  # also raised for bytes that are not UTF-8
            raise ValueError(f"{path} is not TOML: {fault}") from None


def _shapes(folder: Path, name: Any) -> Iterator[Case]:
    """The published shapes of a CSV file: training sets run both passes, inference sets one.

    Each is measured as a layer (as torch.nn runs it) and then as only the loop, because
    DeepBench has cuDNN skip the input projection (CUDNN_SKIP_INPUT).
    """
    if not (isinstance(name, str) and (folder / name).is_file()):
        raise ValueError(f"shapes is {name!r}; accepted: a CSV file in the presets' folder")
    text = (folder / name).read_text(encoding="utf-8")
    rows = list(csv.DictReader(row for row in text.splitlines() if not row.startswith("#")))
    columns = ("batch", "cell", "hidden", "seq_len", "set")
    if not rows or not rows[0].keys() >= set(columns):
        raise ValueError(f"shapes is {name!r}; accepted: a CSV file of {', '.join(columns)}")
    for track, row in itertools.product(("layer", "recurrence"), rows):
        for pass_ in PASSES if row["set"] == "training" else PASSES[:1]:
            shape = {
                # DeepBench's plain RNN is the rectified one.
                "cell": {"rnn": "rnn_relu"}.get(row["cell"], row["cell"]),
                "pass": pass_,
                "track": track,
                "dtype": "fp16",
                "B": int(row["batch"]),
                "T": int(row["seq_len"]),
                "H": int(row["hidden"]),
            }
            yield make_case(**DEFAULTS | shape)
