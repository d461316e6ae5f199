"""What is measured: presets, filters, shards, and the order of information."""

import csv
import doctest
import importlib
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cases import presets
from bench.cases.cases import (
    CELLS,
    DEFAULTS,
    Case,
    Cell,
    add_cell,
    find_cell,
    make_case,
    matches,
    shard,
)
from bench.cases.numbers import number_type
from bench.cases.presets import Request, coarse_first, expand, load_preset
from bench.cli import app

OWN_PRESETS = """
[mine]
about = "of a user"
providers = ["torch.nn"]
[[mine.grid]]
cell = ["lstm", "gru"]
B = [1, 2, 3]
T = 4
H = 5
I = 6
dtype = "fp32:tf32"
"""


def case(**values: object) -> Case:
    return make_case(**DEFAULTS | values)


def test_every_preset_has_distinct_cases_which_their_records_restore():
    for name in presets.preset_names():
        preset = load_preset(name)
        assert preset.about and preset.providers and preset.requests
        assert len(preset.requests) == len(set(preset.requests))
        cases = preset.cases("time")
        assert len(cases) == len({each.case_id for each in cases})
        assert [Case.from_fields(each.fields()) for each in cases] == cases


@pytest.mark.parametrize("name", ["quick-gpu", "campaign", "paper"])
def test_a_cards_presets_measure_every_number_type_at_one_shape(name: str):
    """In both passes, for speed at equal accuracy; graphs of both where the preset has graphs."""
    preset = load_preset(name)
    graphs = {"ours-graph", "torch.nn-graph"}
    assert {"ours", "torch.nn"} <= set(preset.providers)
    assert name == "paper" or graphs <= set(preset.providers)
    found: dict[tuple, set[str]] = {}
    for each in preset.cases("time"):
        shape = (each.cell, each.pass_, each.track, each.directions, each.B, each.T, each.I, each.H)
        found.setdefault(shape, set()).add(number_type(each.dtype, each.precision))
    full = {shape[:2] for shape, numbers in found.items() if len(numbers) == 5}
    assert {("lstm", "fwd"), ("lstm", "fwd+bwd")} <= full
    if name == "campaign":  # early, since a call may end any time
        first = preset.cases("time")[:10]
        assert len({(each.dtype, each.precision, each.pass_) for each in first}) == 10


def test_deepbench_is_all_its_shapes_and_names_its_source():
    path = presets.HERE / "data" / "deepbench_rnn.csv"
    text = path.read_text()
    assert "Apache License 2.0" in text and "DeepBench" in text
    rows = list(csv.DictReader(row for row in text.splitlines() if not row.startswith("#")))
    assert len(rows) == 125
    found = {(c.cell, c.B, c.T, c.H) for c in load_preset("deepbench").cases("time")}
    columns = ("batch", "seq_len", "hidden")
    assert found == {
        (row["cell"].replace("rnn", "rnn_relu"), *(int(row[name]) for name in columns))
        for row in rows
    }


def test_ends_and_middle_come_first():
    assert coarse_first(1) == [0] and coarse_first(2) == [0, 0]
    assert [each.H for each in expand({"H": [1, 2, 3, 4, 5]})] == [1, 5, 3, 2, 4]
    mixed = [(each.H, each.cell) for each in expand({"cell": ["lstm", "gru"], "H": [1, 2]})]
    assert mixed == [(1, "lstm"), (1, "gru"), (2, "lstm"), (2, "gru")]


def test_a_users_own_file(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN_PRESETS)
    preset = load_preset("mine", path)
    assert len(preset.requests) == 6
    assert {(c.precision, c.I) for c in preset.cases("time")} == {("tf32", 6)}
    grid = '[[mine.grid]]\nkind = "error"\nregimes = ["default", "tiny"]\nseeds = 2\n'
    path.write_text(grid + 'providers = ["reference"]\n')
    assert load_preset("mine", path).requests == tuple(
        Request("error", case(), regime, seed, ("reference",))
        for regime in (None, "tiny")
        for seed in (0, 1)
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[p.grid]]\nI = 3.5", "'p', grid 1: I is 3.5; accepted"),
        ("[[p.grid]]\n[[p.grid]]\nB = true", "'p', grid 2: B is True; accepted"),
        ("[[p.grid]]\nI = 0", "I is 0; accepted"),
        ("[[p.grid]]\nI = 'h'", "I is 'h'; accepted: an integer of at least 1, or 'H'"),
        ("[[p.grid]]\npass = 'bwd'", "pass is 'bwd'; accepted: fwd, fwd.bwd"),
        ("[[p.grid]]\ndtype = 'fp64'", "dtype is 'fp64'; accepted"),
        ("[[p.grid]]\ndtype = 'bf16:tf32'", "precision is 'tf32' with dtype bf16; accepted"),
        ("[[p.grid]]\ntrack = 'recurrence'\nlayers = 2", "recurrence has I=0, layers=2; accepted"),
        ("[[p.grid]]\ndirections = 3", "directions is 3; accepted: 1, 2"),
        ("[[p.grid]]\nresets = 2.0", "resets is 2.0; accepted"),
        ("[[p.grid]]\nH = []", r"H is \[\]; accepted"),
        ("[[p.grid]]\ndirections = 1.0", "directions is 1.0; accepted"),
        ("[[p.grid]]\ncell = 3", "cell is 3; accepted"),
        ("[[p.grid]]\nresets = 'x'", "resets is 'x'; accepted"),
        ("[[p.grid]]\nresets = nan", "resets is nan; accepted"),
        ("[[p.grid]]\nproviders = 'ours'", "providers is 'ours'; accepted"),
        ("[[p.grid]]\nkind = 3", "kind is 3; accepted"),
        ("[[p.grid]]\nseeds = 2", "regimes and seeds belong to grids of kind error"),
        ("[[p.grid]]\nkind = 'error'\nseeds = 'x'", "seeds is 'x'; accepted"),
        ("[[p.grid]]\nkind = 'error'\nseeds = 0", "seeds is 0; accepted"),
        ("[[p.grid]]\nkind = 'error'\nregimes = ['bogus']", "regimes is 'bogus'; accepted.*tiny"),
        ("[[p.grid]]\nkind = 'error'\nregimes = []", r"regimes is \[\]; accepted"),
        (
            "[[p.grid]]\nkind = 'error'\ncell = 'rnn'\nregimes = ['memory-7']",
            "regime is 'memory-7' with cell rnn_tanh; accepted: cells lstm, gru, slstm",
        ),
        ("[[p.grid]]\nsize = 3", "grid 1: key is 'size'; accepted: cell, pass"),
        ("[p.grid]\nB = 3", "preset 'p': grid is .*; accepted: tables"),
        ("[p]\nproviders = 'torch.nn'", "preset 'p': providers is 'torch.nn'; accepted"),
        ("[p]\nabout = 'x'", "preset 'p': it has no cases; accepted"),
        ("[p]\ngrids = 3", "preset 'p': key is 'grids'; accepted"),
        ("[p]\nshapes = 'no.csv'", "preset 'p': shapes is 'no.csv'; accepted"),
        ("[p]\nshapes = 'own.toml'", "shapes is 'own.toml'; accepted: a CSV file of batch"),
        ("p = 3", "preset 'p': it is 3; accepted"),
        ("p = = 3", "own.toml is not TOML"),
    ],
)
def test_a_wrong_preset_says_what_is_accepted(tmp_path: Path, text: str, complaint: str):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load_preset("p", path)


def test_different_fractions_make_different_names():
    ids = [case(resets=r).case_id for r in (0.01, 0.1234561, 0.1234562, 1.0)]
    assert [each.rsplit("-", 1)[1] for each in ids] == ["r0.01", "r0.1234561", "r0.1234562", "r1"]


def test_filters():
    for text in ("", "cell=lstm,gru", "T<=1024 H>=512 dtype=bf16", "pass=fwd B>8 B<17"):
        assert matches(case(), text), text
    for text in ("cell=gru", "T<=512", "dtype!=bf16"):
        assert not matches(case(), text), text
    for text in ("T", "colour=red", "T<=long", "=5", "T=nan", "H=inf", "cell=LSTM", "dtype=fp64",
                 "cell=lstm,lstmm", "cell!=lstmm", "directions=3"):  # fmt: skip
        with pytest.raises(ValueError, match="accepted"):
            matches(case(), text)


# A short name is accepted wherever a cell is named; records have the cell's own name.
NAMES = "rnn_tanh, rnn_relu, lstm, gru, slstm, rnn (for rnn_tanh)"


def test_a_short_name_means_its_cell(monkeypatch):
    assert find_cell("rnn") == "rnn_tanh" and find_cell("lstm") == "lstm"
    assert find_cell("rnn", ("rnn_tanh",)) == "rnn_tanh"
    with pytest.raises(ValueError, match=r"cell is 'rnn'; accepted: lstm, gru$"):
        find_cell("rnn", ("lstm", "gru"))
    for wrong in ("RNN", "rnn ", 3, ["rnn"], None):
        with pytest.raises(ValueError, match=re.escape(f"cell is {wrong!r}; accepted: {NAMES}")):
            find_cell(wrong)
    monkeypatch.setitem(CELLS, "rnn", Cell("rnn", 1, ("h",)))  # a plugin's
    assert find_cell("rnn") == "rnn"


def test_no_cell_is_replaced():
    before = CELLS["lstm"]
    with pytest.raises(ValueError, match="cell is 'lstm'; accepted: a name that is not registered"):
        add_cell(Cell("lstm", 4, ("h", "c"), "LSTM", nonlinearity="relu"))
    assert CELLS["lstm"] is before


def test_presets_and_filters_take_short_names(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text(OWN_PRESETS.replace('"lstm", "gru"', '"rnn", "gru"'))
    found = load_preset("mine", path).cases("time")
    assert {each.cell for each in found} == {"rnn_tanh", "gru"}
    assert all(each.case_id.startswith(("rnn_tanh-", "gru-")) for each in found)
    plain, rectified = case(cell="rnn"), case(cell="rnn_relu")
    for text in ("cell=rnn", "cell=gru,rnn", "cell!=rnn_relu"):
        assert matches(plain, text) and not matches(rectified, text), text
        assert matches(rectified, "cell!=rnn") and not matches(plain, "cell!=rnn")
    with pytest.raises(ValueError, match=re.escape(f"accepted for cell: {NAMES}")):
        matches(plain, "cell=rnns")
    with pytest.raises(ValueError, match=re.escape(f"cell is 'rnns'; accepted: {NAMES}")):
        case(cell="rnns")


def test_commands_take_short_names(monkeypatch, tmp_path: Path):
    from bench.compiler import profile, resources

    def called(*words: str) -> str:
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0, found.output
        return found.output

    cells: list[str] = []

    def compile_nothing(todo: list, *_: object) -> tuple[Path, list, int]:
        cells.extend(job.variant.cell for job in todo)
        return tmp_path, [], 0

    monkeypatch.setattr(profile, "report", lambda device, cell, *_, **__: cells.append(cell))
    monkeypatch.setattr(resources, "compile_missing", compile_nothing)
    called("profile", "--cell", "rnn", "--device", "h100")
    called("resources", "--quick", "--cells", "rnn,rnn_tanh")
    assert len(cells) > 1 and set(cells) == {"rnn_tanh"}
    assert called("plan", "--cell", "rnn", "--hidden", "64").startswith("rnn_tanh, H=64")
    assert NAMES in " ".join(called("plan", "--help").split())  # however wide the terminal is
    where = ("--dry-run", "--results", str(tmp_path))
    text = called("sweep", "--preset", "tiny", "--filter", "cell=rnn", *where)
    assert "rnn_tanh-fwd" in text and "lstm" not in text
    for words in (("plan", "--cell"), ("profile", "--cell"), ("resources", "--cells")):
        fault = CliRunner().invoke(app, [*words, "elman"]).exception
        assert isinstance(fault, ValueError) and "rnn (for rnn_tanh)" in str(fault)


def test_shards_partition():
    items = list(range(10))
    parts = [shard(items, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(parts[0] + parts[1] + parts[2]) == items
    for wrong in ("0/3", "4/3", "x", "1/0"):
        with pytest.raises(ValueError, match="shard"):
            shard(items, wrong)


ROOT = Path(__file__).parents[2]
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "bench").rglob("*.py"))
    if "\n    >>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_are_true(name: str):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
