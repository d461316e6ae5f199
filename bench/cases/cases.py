"""Cells, cases, filters and shards. Imports no torch, so that a dry run is instant."""

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from bench.cases.arguments import check_choice
from bench.cases.numbers import DTYPES, PRECISIONS, number_type, split_number_type

PASSES = ("fwd", "fwd+bwd")
TRACKS = ("recurrence", "layer")
# The weights and inputs that error is measured with; ``bench.cases.regimes`` makes them.
REGIMES = {
    "default": "torch's initial weights, normal inputs",
    "orthogonal-0.9": "recurrent weights of each gate orthogonal times 0.9: contracting",
    "orthogonal-1.0": "the same times 1.0: marginal",
    "orthogonal-1.1": "the same times 1.1: near-chaotic",
    "constant": "one input repeated at every step: gates saturate, c grows",
    "large": "inputs times 1000: a naive tanh overflows",
    "tiny": "inputs, states and biases times 1e-4: cancellation near zero",
    "lengths": "sequences of different lengths",
    "memory-3": "bias 3 of the gate that keeps the state; gradients of the last state only",
    "memory-5": "the same with bias 5: kept for some 150 steps",
    "memory-7": "the same with bias 7: kept for some 1,100 steps",
}
MEMORY = "memory-"  # begins a regime of long memory; the gate's bias follows
# That gate (the forget gate, or the GRU's update gate) of the cells that have one.
KEEPING_GATE = {"lstm": 1, "gru": 1, "slstm": 1}


@dataclass(frozen=True)
class Cell:
    """A recurrent cell as the suite knows it.

    Attributes:
        name: its name in ``reference``, which computes the float64 truth, and in ``kernels``.
        gates: rows of a weight matrix per hidden unit.
        states: the letters of the state's tensors, first the output's. The state n is a divisor,
            so its random initial values are at least 1.
        torch_class: its class in ``torch.nn``, None if there is none.
        kernels: whether ``kernels`` has it.
    """

    name: str
    gates: int
    states: tuple[str, ...]
    torch_class: str | None = None
    nonlinearity: str | None = None
    kernels: bool = True


CELLS: dict[str, Cell] = {}


def add_cell(cell: Cell) -> Cell:
    """Register a cell, the suite's own or a plugin's.

    Raises:
        ValueError: if there is one of that name.
    """
    if cell.name in CELLS:
        raise ValueError(f"cell is {cell.name!r}; accepted: a name that is not registered yet")
    CELLS[cell.name] = cell
    return cell


add_cell(Cell("rnn_tanh", 1, ("h",), "RNN", nonlinearity="tanh"))
add_cell(Cell("rnn_relu", 1, ("h",), "RNN", nonlinearity="relu"))
add_cell(Cell("lstm", 4, ("h", "c"), "LSTM"))
add_cell(Cell("gru", 3, ("h",), "GRU"))
add_cell(Cell("slstm", 4, ("h", "c", "n", "m")))


# Short names of cells: "rnn" is the tanh cell, as in ``kernels.rnn`` and ``torch.nn.RNN``.
FAMILIES = {"rnn": "rnn_tanh"}


def by_family(name: Any) -> Any:
    """The cell that a short name means; any other value unchanged."""
    return FAMILIES.get(name, name) if isinstance(name, str) and name not in CELLS else name


def cell_words(cells: Iterable[str]) -> str:
    """Names of cells for a message, and the short names of some of them."""
    names = list(cells)
    families = [f"{name} (for {cell})" for name, cell in FAMILIES.items() if cell in names]
    return ", ".join([*names, *families])


def find_cell(name: Any, cells: Collection[str] | None = None) -> str:
    """A cell's name, given it or its short name; one of ``cells``, by default of all.

    Raises:
        ValueError: for any other name.
    """
    cells = CELLS if cells is None else cells
    found = by_family(name)
    if not isinstance(found, str) or found not in cells:
        raise ValueError(f"cell is {name!r}; accepted: {cell_words(cells)}")
    return found


def check_regime(regime: Any, cell: str) -> None:
    """Raise ValueError for an unknown regime, or one that the cell cannot have."""
    check_choice("regime", regime, REGIMES)
    if regime.startswith(MEMORY) and cell not in KEEPING_GATE:
        able = ", ".join(KEEPING_GATE)
        raise ValueError(
            f"regime is {regime!r} with cell {cell}; accepted: cells {able}, which have a gate "
            "that keeps the state"
        )


CHOICES: dict[str, Collection[Any]] = {
    "cell": CELLS,
    "pass": PASSES,
    "track": TRACKS,
    "directions": (1, 2),
    "dtype": DTYPES,
    "precision": PRECISIONS,
}


@dataclass(frozen=True)
class Case:
    """What is measured: a cell with its sizes, number format, pass and track.

    ``T, B, I, H`` are time steps, batch, input features and hidden units. In the recurrence
    track there is no input projection and ``I`` is 0. ``resets`` is the fraction of steps at
    which a sequence starts anew.
    """

    cell: str
    pass_: str
    track: str
    directions: int
    dtype: str
    precision: str
    layers: int
    B: int
    T: int
    I: int
    H: int
    resets: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("directions", "layers", "B", "T", "H", *(["I"] if self.track == "layer" else []))
        for name in sizes:
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                accepted = "an integer of at least 1" + (", or 'H'" if name == "I" else "")
                raise ValueError(f"{name} is {size!r}; accepted: {accepted}")
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, "pass_" if name == "pass" else name), choices)
        if (self.precision == "none") != (self.dtype != "fp32"):
            raise ValueError(
                f"precision is {self.precision!r} with dtype {self.dtype}; accepted: "
                "ieee, tf32 or tf32x3 with fp32, none with fp16 and bf16"
            )
        if self.track == "recurrence" and (self.I != 0 or self.layers != 1):
            raise ValueError(
                f"track recurrence has I={self.I}, layers={self.layers}; accepted: I=0, layers=1, "
                "because it is the loop without its input projection"
            )
        number = isinstance(self.resets, int | float) and not isinstance(self.resets, bool)
        if not number or not 0.0 <= self.resets <= 1.0:
            raise ValueError(f"resets is {self.resets!r}; accepted: a fraction from 0 to 1")

    @property
    def cell_info(self) -> Cell:
        return CELLS[self.cell]

    @functools.cached_property
    def case_id(self) -> str:
        """The case as one word, different for different cases."""
        number = number_type(self.dtype, self.precision)
        parts = [self.cell, self.pass_, self.track, f"{self.directions}dir", number]
        parts += [f"L{self.layers}", f"B{self.B}", f"T{self.T}", f"I{self.I}", f"H{self.H}"]
        if self.resets:
            short = f"{self.resets:g}"  # six digits, or all if six are not exact
            parts.append(f"r{short if float(short) == self.resets else repr(self.resets)}")
        return "-".join(parts)

    def fields(self) -> dict[str, Any]:
        """The fields of a record that describe the case."""
        return self._fields.copy()

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        values = {name.rstrip("_"): value for name, value in vars(self).items() if name in _NAMES}
        return {"case_id": self.case_id} | values | {"I": self.I or None}

    @classmethod
    def from_fields(cls, record: Mapping[str, Any]) -> Self:
        values = {name: record[name.rstrip("_")] for name in _NAMES}
        return cls(**values | {"I": record["I"] or 0, "resets": float(record["resets"])})


_NAMES = [field.name for field in dataclasses.fields(Case)]
# The axes of a preset's grid, in their order, and the value of each that a grid does not name.
DEFAULTS: dict[str, Any] = {
    "cell": "lstm", "pass": "fwd", "track": "layer", "directions": 1, "dtype": "bf16",
    "layers": 1, "B": 16, "T": 1024, "I": "H", "H": 512, "resets": 0.0,
}  # fmt: skip


def make_case(**values: Any) -> Case:
    """A case from axis values as presets write them (see ``bench.cases.presets``)."""
    values["cell"] = find_cell(values["cell"])
    dtype, precision = split_number_type(str(values.pop("dtype")))
    inputs = values.pop("I")
    if values["track"] == "recurrence":
        inputs = 0
    elif inputs == "H":
        inputs = values["H"]
    return Case(pass_=values.pop("pass"), dtype=dtype, precision=precision, I=inputs, **values)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


def matches(case: Case, text: str) -> bool:
    """Whether a case passes a filter such as ``"cell=lstm,gru T<=512 dtype=bf16"``.

    All terms must hold; the values after ``=`` are alternatives.

    Raises:
        ValueError: for a term that does not compare a field with values that it can have.
    """
    if not text.strip():
        return True
    for name, sign, wanted in _terms(text):
        have = case._fields[name]
        if name in NUMBERS:
            have = float(have or 0)
        if sign == "=":
            if have not in wanted:
                return False
        elif not all(_COMPARE[sign](have, want) for want in wanted):
            return False
    return True


NUMBERS = ("directions", "layers", "B", "T", "I", "H", "resets")


@functools.lru_cache
def _terms(text: str) -> list[tuple[str, str, tuple[Any, ...]]]:
    """A filter's terms: field, comparison, values."""
    fields = ["case_id", *(name.rstrip("_") for name in _NAMES)]
    terms = []
    for term in text.split():
        found = re.fullmatch(r"(\w+)(<=|>=|!=|=|<|>)(.+)", term)
        if found is None or found[1] not in fields:
            raise ValueError(
                f"filter has {term!r}; accepted: FIELD=VALUE[,VALUE], also with != < <= > >=, "
                f"of {', '.join(fields)}"
            )
        name, sign, value = found.groups()
        values: tuple[Any, ...] = tuple(value.split(","))
        if name == "cell" and sign in ("=", "!="):
            values = tuple(map(by_family, values))
        if name in NUMBERS:
            try:
                values = tuple(float(part) for part in values)
            except ValueError:
                values = (math.nan,)
            if not all(map(math.isfinite, values)):
                raise ValueError(f"filter has {term!r}; accepted: a number for {name}")
        choices = CHOICES.get(name, values)
        if sign in ("=", "!=") and not set(values) <= set(choices):
            accepted = cell_words(CELLS) if name == "cell" else ", ".join(map(str, choices))
            raise ValueError(f"filter has {term!r}; accepted for {name}: {accepted}")
        terms.append((name, sign, values))
    return terms


def shard(items: list[Any], which: str) -> list[Any]:
    """For ``"i/n"`` every n-th item from the i-th, so that each shard has coarse and fine cases.

    Raises:
        ValueError: unless 1 <= i <= n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", which)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard is {which!r}; accepted: i/n with 1 <= i <= n, such as 1/4")
    return items[int(found[1]) - 1 :: int(found[2])]
