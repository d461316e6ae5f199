"""The figures and tables of numerical error, made from invented records."""

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.report import frames
from bench.report.error import figures, maps, memory, selection, steps, tables
from bench.report.speed import figures as speed_figures
from bench.report.style import looks
from bench.report.style.sheet import Sheet
from tests.helpers import synthetic

BIASES = ("memory-3", "memory-5", "memory-7")
GRADIENTS = ("gradient-state", "gradient-weight")
NAMES = ("ours", "torch.nn", "reference")


@pytest.fixture(scope="module")
def error() -> pd.DataFrame:
    """Growth with seeds, regimes and effects, a grid over B and H, and a pass without gradients."""
    found = list(synthetic.error_records())
    for case in synthetic.cases(cell="gru", dtype="fp32", B=[1, 3], T=16, H=[5, 33],
                                **{"pass": ["fwd", "fwd+bwd"]}):  # fmt: skip
        found += [synthetic.erroneous(case, name) for name in NAMES]
    # Many sizes of another axis must not hide the longest growth.
    for case in synthetic.cases(cell=["gru", "lstm"], dtype="bf16", B=2, T=[4, 16], H=33,
                                **{"pass": ["fwd", "fwd+bwd"]}):  # fmt: skip
        found += [
            synthetic.erroneous(case, name, seed)
            for name, seed in itertools.product((*NAMES, "ours-gemm", "ours-stepwise"), range(9))
        ]
    return frames.errors(found)


def test_growth_is_shown_as_far_as_it_was_measured(error, tmp_path):
    looks.apply_style()
    drawn = [path for job in figures.curve_jobs(error) for path in job(tmp_path)]
    data = {path.stem: pd.read_csv(path) for path in drawn if path.suffix == ".csv"}
    rows = data["error-T-layer-1dir-bf16"]
    assert set(rows["T"]) == {1, 4, 16, 64} and set(rows["seed"]) == {0, 1, 2}
    assert all(set(rows["pass"]) == {"fwd+bwd"} for rows in data.values())


def test_the_model_is_drawn_beside_ours(error):
    one = selection.one_pass(selection.by_part(error))
    one = one[(one["number"] == "bf16") & (one["H"] == 32) & one["regime"].isna()]
    models = figures.models(one, "T")
    assert set(models) == set(itertools.product(("gru", "lstm"), ("output", *GRADIENTS)))
    for sizes, curve in models.values():
        assert sizes == [1, 4, 16, 64]
        assert all(0.2 * 2**-8 < value < 2 * 2**-8 for value in curve)
    assert figures.models(one.assign(cell="slstm"), "T") == {}
    # A rectifier's gradient is a matter of few elements; the gradient's model has one direction.
    for other in ({"cell": "rnn_relu"}, {"directions": 2}):
        assert {part for _, part in figures.models(one.assign(**other), "T")} == {"output"}
    assert figures.models(one.assign(regime="large"), "T") == {}


def test_error_is_mapped_over_batch_and_hidden_size(error, tmp_path):
    looks.apply_style()
    drawn = [path for job in maps.jobs(error) for path in job(tmp_path)]
    names = {path.stem for path in drawn}
    assert {"error-map-ours-layer-1dir-fp32", "error-map-torch.nn-layer-1dir-fp32"} <= names
    rows = pd.read_csv(tmp_path / "error-map-ours-layer-1dir-fp32.csv")
    rows = rows[rows["cell"] == "gru"]
    assert {(1, 5), (1, 33), (3, 5), (3, 33)} <= set(zip(rows["B"], rows["H"], strict=True))
    assert (rows["roundoffs"] / (rows["rel_l2"] * 2.0**24) - 1).abs().max() < 1e-5


def test_growth_regimes_and_effects_are_tabulated(error):
    found = {table.name: table for table in tables.tables(error)}
    assert set(found) == {
        *("error", "error-growth", "error-regimes", "error-memory"),
        *("error-products", "error-effects"),
    }
    growth = found["error-growth"].shown
    assert {"T=1", "T=4", "T=16", "T=64"} <= set(growth.columns)
    rows = error[(error["cell"] == "gru") & (error["number"] == "fp16") & (error["T"] == 64)]
    rows = rows[(rows["provider"] == "ours") & (rows["tensor"] == "y")]
    line = growth[(growth["cell"] == "GRU") & (growth["number"] == "fp16")]
    line = line[(line["provider"] == "ours") & (line["part"] == "output")]
    assert line["T=64"].item() == pytest.approx(rows["rel_l2"].median() * 2**11)
    regimes = found["error-regimes"].shown
    assert list(regimes.columns[4:]) == ["default", "orthogonal-1.1", "large", "tiny"]
    assert not regimes.isna().any(axis=None)
    effects = found["error-effects"].shown
    steps = ["inputs", "product", "carry-fp32", "carry-io", "all"]
    assert list(effects["rounded"].unique()) == steps
    for table in found.values():
        assert synthetic.DEVICE in table.origin
    empty = frames.errors([])
    assert tables.tables(empty) == [] and list(maps.jobs(empty)) == []


def test_a_largest_error_is_over_the_cases_that_both_measured():
    def row(provider: str, case: str, cell: str = "gru") -> dict[str, object]:
        return {"status": "ok", "tensor": "y", "regime": None, "provider": provider,
                "case_id": case, "cell": cell, "number": "fp32"}  # fmt: skip

    errors = pd.DataFrame(
        [row("ours", "a"), row("torch.nn", "a"), row("torch.nn", "long"), row("reference", "a"),
         row("reference", "long"), row("effect-all", "a"), row("ours", "c", "slstm")]
    )  # fmt: skip
    kept = frames.comparable(errors)
    assert set(zip(kept["provider"], kept["case_id"], strict=True)) == {
        ("ours", "a"), ("torch.nn", "a"), ("reference", "a"), ("ours", "c"),
    }  # fmt: skip


@pytest.fixture
def sheets(monkeypatch, tmp_path):
    """A function that draws jobs and returns the sheets by file name; nothing is written."""
    looks.apply_style()
    found: dict[str, Sheet] = {}

    def keep(sheet: Sheet, folder: Path, name: str, data: pd.DataFrame) -> list[Path]:
        found[name] = sheet
        return []

    def draw(jobs) -> dict[str, Sheet]:
        for job in jobs:
            job(tmp_path)
        return found

    monkeypatch.setattr(Sheet, "save", keep)
    return draw


def words(sheet: Sheet) -> str:
    """The text around the panels, in one line."""
    return " ".join(text.get_text().replace("\n", " ") for text in sheet.figure.texts)


def labels(sheet: Sheet) -> str:
    """The labels of the legend, in one line."""
    return str([text.get_text() for legend in sheet.figure.legends for text in legend.get_texts()])


def letters(axes) -> list[tuple[float, str]]:
    """The failure letters in a panel: (x position, letter)."""
    found = [text for text in axes.texts if len(text.get_text()) == 1]
    return [(text.get_position()[0], text.get_text()) for text in found]


GROWING = {
    "cell": ["lstm", "gru"], "dtype": ["bf16", "fp32"], "B": 4, "T": [4, 16, 64], "H": 32,
    "pass": "fwd+bwd",
}  # fmt: skip


def test_an_error_of_zero_is_drawn_at_the_bottom_with_a_note(sheets):
    found = []
    for case in synthetic.cases(**GROWING):
        exact = synthetic.erroneous(case, "ours")
        for metrics in exact["errors"].values():
            metrics["rel_l2"] = 0.0
        found += [exact, synthetic.erroneous(case, "torch.nn")]
    error = frames.errors(found)
    found = sheets([*figures.curve_jobs(error), *figures.category_jobs(error)])
    assert {"error-T-layer-1dir-bf16", "error-dtype-layer-1dir"} <= set(found)
    for name, sheet in found.items():
        assert "An error of zero is drawn at the bottom." in words(sheet), name
        low, high = sheet.shared.get_ylim()
        for axes in sheet.axes.flat:
            heights = [
                y for line in axes.lines for y in line.get_ydata() if line.get_marker() == "o"
            ]
            assert heights and all(low < y < low * (high / low) ** 0.1 for y in heights), name


def test_a_failure_is_a_letter_also_where_categories_are_compared(sheets):
    found = []
    for case in synthetic.cases(**GROWING):
        found.append(synthetic.erroneous(case, "ours"))
        if (case.cell, case.dtype) == ("gru", "bf16"):
            why = "torch.nn has no such thing"
            found.append(synthetic.failed(case, "torch.nn", "unsupported", why, kind="error"))
        else:
            found.append(synthetic.erroneous(case, "torch.nn"))
    sheet = sheets(figures.category_jobs(frames.errors(found)))["error-dtype-layer-1dir"]
    assert "U unsupported (torch.nn): torch.nn has no such thing" in words(sheet)
    (gru, lstm) = sheet.axes
    assert all(len(set(letters(axes))) == 1 for axes in gru)
    assert all(1 < place < 1.5 and letter == "U" for axes in gru for place, letter in letters(axes))
    assert not any(letters(axes) for axes in lstm)


def test_categories_are_compared_over_shapes_that_everyone_measured():
    found = []
    for case in synthetic.cases(**GROWING):
        found.append(synthetic.erroneous(case, "torch.nn"))
        if case.T < 64:
            found.append(synthetic.erroneous(case, "ours"))
    parts = selection.by_part(frames.errors(found))
    kept = selection.same_shapes(parts, "number")
    assert {name: set(rows["T"]) for name, rows in kept.groupby("provider")} == {
        "ours": {4, 16}, "torch.nn": {4, 16},
    }  # fmt: skip


def test_failures_of_another_pass_are_not_shown(sheets):
    found = [synthetic.erroneous(case, "ours") for case in synthetic.cases(**GROWING)]
    found += [
        synthetic.failed(case, "ours", "timeout", "no answer", kind="error")
        for case in synthetic.cases(**GROWING | {"pass": "fwd"})
    ]
    drawn = sheets(figures.curve_jobs(frames.errors(found))).values()
    assert drawn and not any(letters(axes) for sheet in drawn for axes in sheet.axes.flat)


def test_a_cell_that_nobody_could_measure_has_a_panel_of_letters(sheets):
    sizes = {"B": 16, "T": 64, "H": [64, 128, 256]}
    found = [synthetic.timed(case, "torch.nn") for case in synthetic.cases(cell="lstm", **sizes)]
    found += [
        synthetic.failed(case, name, "oom", "out of memory")
        for case in synthetic.cases(cell="gru", **sizes)
        for name in ("ours", "torch.nn")
    ]
    drawn = sheets(speed_figures.line_jobs(frames.flat(found)))
    for name in ("throughput-H-layer-1dir-bf16-event", "step-H-layer-1dir-bf16-event"):
        (gru, *_), (lstm, *_) = drawn[name].axes
        assert sorted(letters(gru)) == [(H, "M") for H in (64, 64, 128, 128, 256, 256)]
        assert not letters(lstm)
        assert "Rows of letters, from below: ours, torch.nn." in words(drawn[name])


def test_the_number_of_seeds_is_that_of_the_points():
    (case, other) = synthetic.cases(cell="lstm", T=[4, 16], **{"pass": "fwd+bwd"})
    found = [synthetic.erroneous(case, "ours", seed) for seed in range(3)]
    rows = selection.by_part(frames.errors([*found, synthetic.erroneous(other, "ours")]))
    assert selection.seed_count(rows, "T") == "1 to 3 seeds"
    assert selection.seed_count(rows[rows["T"] == 4], "T") == "3 seeds"
    assert selection.seed_count(rows[rows["T"] == 16], "T") == "1 seed"


def test_long_memory_is_shown_by_gate_bias(error, tmp_path):
    """In a figure and a table of its own, of dx and the gate's bias, and in no other."""
    looks.apply_style()
    jobs: Any = figures.category_jobs(error)
    of_memory = [job for job in jobs if job.args[0]["regime"].isin(BIASES).any()]
    assert [job.args[2] for job in of_memory] == ["memory", "memory"]  # bf16, fp32
    *_, data = of_memory[0](tmp_path)
    rows = pd.read_csv(data)
    assert set(rows["tensor"]) == {"dx", "db_ih_l0.gate"} and set(rows["regime"]) == set(BIASES)
    assert set(rows["cell"]) == {"lstm", "gru"} and set(rows["provider"]) == set(NAMES)
    found = {table.name: table for table in tables.tables(error)}
    shown = found["error-memory"].shown
    assert not set(BIASES) & set(found["error-regimes"].shown)
    one = error[error["regime"].eq("memory-7") & error["tensor"].eq("db_ih_l0.gate")]
    one = one[(one["cell"] == "lstm") & (one["number"] == "bf16") & (one["provider"] == "ours")]
    row = shown[
        shown["cell"].eq("LSTM") & shown["number"].eq("bf16") & shown["provider"].eq("ours")
    ]
    assert row["part"].tolist() == ["gradient of input", "gradient of gate bias"]
    assert row["memory-7"].iloc[1] == one["rel_l2"].item()


def test_the_largest_errors_leave_a_single_gate_out(error):
    parts = selection.by_part(error[error["regime"].isin(BIASES)])
    assert set(parts["part"]) == {"output", *GRADIENTS}
    whole = error[error["tensor"].isin(("dx", "dw_hh_l0")) & error["regime"].isin(BIASES)]
    assert parts.loc[parts["part"].isin(GRADIENTS), "rel_l2"].max() == whole["rel_l2"].max()


def test_the_page_states_what_long_memory_gave(error):
    found = list(memory.headlines(error, synthetic.memory() | {"interpreted": True}))
    assert [words.partition(" with")[0] for words in found[:2]] == ["GRU in bf16", "LSTM in bf16"]
    assert all(f"`{name}`" in words for words in found[:2] for name in NAMES)
    last = "`ours` in bf16 9.0e-3, `torch.nn` in bf16 4.8e-1, `torch.nn` in fp32 9.0e-3"
    assert last in found[2] and "T=12, B=8, H=16, 30 steps" in found[2]
    assert list(memory.headlines(error[error["regime"].isna()], None)) == []


def test_formats_of_products_are_compared_with_what_was_measured(error, sheets, tmp_path):
    """In a figure and a table of their own, and in no other; with a GPU's tf32 beside them."""
    tf32 = [
        synthetic.erroneous(case, "ours", seed)
        for case in synthetic.cases(
            cell="gru", dtype="fp32:tf32", B=4, T=[16, 64], H=32, **{"pass": "fwd+bwd"}
        )
        for seed in range(3)
    ]
    both = pd.concat([error, frames.errors(tf32)])
    rows = selection.by_product(both)
    pairs = set(zip(rows["provider"], rows["product"], strict=True))
    assert pairs == {
        *((name, "ieee") for name in NAMES), ("ours", "tf32"),
        *(("emulated", name) for name in ("tf32", "tf32x3", "bf16x3")),
    }  # fmt: skip
    found = {table.name: table.shown for table in tables.tables(both)}
    shown = found.pop("error-products")
    assert list(shown.columns[3:]) == ["ieee", "tf32x3", "bf16x3", "tf32"]
    line = shown[shown["cell"].eq("GRU") & shown["part"].eq("output")].set_index("provider")
    one = both[both["cell"].eq("gru") & both["provider"].eq("emulated-tf32")]
    assert line.loc["emulated", "tf32"] == one.loc[one["tensor"] == "y", "rel_l2"].median()
    assert line.loc["ours"].notna().tolist() == [True, True, True, False, False, True]
    assert not any("emulated" in str(table.to_dict()) for table in found.values())
    drawn = sheets([*figures.curve_jobs(both), *figures.category_jobs(both), *maps.jobs(both)])
    sheet = drawn.pop("error-products-layer-1dir")
    assert "'emulated'" in labels(sheet) and len(drawn) > 5
    assert not any("emulated" in labels(other) for other in drawn.values())
    assert selection.by_product(error[error["provider"].isin(NAMES)]).empty
    measured = both[both["provider"].isin(NAMES)].assign(directions=2)
    assert {*selection.by_product(pd.concat([both, measured]))["directions"]} == {1}
    less = both[~(both["cell"].eq("gru") & both["provider"].str.startswith("emulated"))]
    assert {*selection.by_product(less)["cell"]} == {*rows["cell"]} - {"gru"} != {*rows["cell"]}


def test_error_by_step_is_of_the_longest_case_that_was_compared(sheets):
    """Of a figure per number type; a longer case of torch.nn alone does not replace it."""
    found = [
        synthetic.erroneous(case, name)
        for case in synthetic.cases(**GROWING)
        for name in (*NAMES, "emulated-tf32")
    ]
    longer = synthetic.cases(**GROWING | {"T": 256, "dtype": "bf16"})
    found += [synthetic.erroneous(case, "torch.nn") for case in longer]
    drawn = sheets(steps.jobs(found))
    assert set(drawn) == {"error-step-layer-1dir-bf16", "error-step-layer-1dir-fp32"}
    for sheet in drawn.values():
        assert "LSTM B=4, T=64, H=32" in words(sheet) and "emulated" not in labels(sheet)
        for row in sheet.axes:
            curves = [line.get_xdata() for line in row[0].lines if len(line.get_xdata()) > 2]
            assert [max(line) for line in curves] == [64] * 4  # the providers' and the model's
            (ours,) = (line for line in row[1].lines if line.get_marker() == "o")
            assert ours.get_ydata()[-1] == pytest.approx(64**0.1 * ours.get_ydata()[0])
    assert list(steps.jobs([synthetic.erroneous(next(synthetic.cases(T=4)), "ours")])) == []


def test_an_error_that_is_not_a_number_is_left_out_of_a_figure_by_step(sheets):
    (case,) = synthetic.cases(cell="gru", dtype="fp16", B=4, T=64, H=32, **{"pass": "fwd+bwd"})
    record = synthetic.erroneous(case, "ours", regime="memory-7")
    record["by_step"] = {"y": [[1, 1e-3], [64, 0.0]], "dx": [[1, 1e-3], [64, None]]}
    (sheet,) = sheets(steps.jobs([record])).values()
    assert "memory-7" in sheet.title
    low, high = sheet.shared.get_ylim()
    assert 0 < low < 1e-3 < high < 1


def test_it_is_said_whose_error_a_weight_gradient_in_16_bits_is(error):
    """torch.nn's on a CPU; not those of a GPU, of fp32, of ours, or other gradients."""
    parts = selection.by_part(error)
    one = parts[parts["number"].eq("bf16") & parts["provider"].eq("torch.nn")].assign(cudnn=None)
    assert one["part"].isin(GRADIENTS).any()
    assert "0.3 u sqrt(T) on a CPU" in selection.remarks(one)[0]
    for other in (
        one.assign(cudnn="9.20.0"), one.assign(number="fp32"), one.assign(provider="ours"),
        one[one["part"] != "gradient-weight"],
    ):  # fmt: skip
        assert selection.remarks(other) == []


def test_the_largest_errors_are_in_roundoffs(error):
    (table,) = (each for each in tables.tables(error) if each.name == "error")
    shown = table.shown
    for number, u in (("fp16", 2**-11), ("bf16", 2**-8)):
        line = shown[(shown["cell"] == "GRU") & (shown["number"] == number)]
        line = line[line["provider"] == "ours"]
        rows = frames.comparable(error)
        rows = rows[(rows["cell"] == "gru") & (rows["number"] == number)]
        rows = rows[rows["provider"] == "ours"]
        for title, tensor in (("output", "y"), ("input, state", "dx"), ("weights", "dw_hh_l0")):
            here = rows[rows["tensor"] == tensor]
            assert line[f"{title}: L2"].item() == pytest.approx(here["rel_l2"].max() / u)
            assert line[f"{title}: max"].item() == pytest.approx(here["rel_max"].max() / u)
