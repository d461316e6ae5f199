"""The figures and tables of numerical error, made from invented records."""

import itertools
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.report import figures_error, frames, heatmaps_error, plots, tables_error, typeset
from tests import synthetic

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
    plots.apply_style()
    drawn = [path for job in figures_error.curve_jobs(error) for path in job(tmp_path)]
    data = {path.stem: pd.read_csv(path) for path in drawn if path.suffix == ".csv"}
    rows = data["error-T-layer-1dir-bf16"]
    assert set(rows["T"]) == {1, 4, 16, 64} and set(rows["seed"]) == {0, 1, 2}
    assert all(set(rows["pass"]) == {"fwd+bwd"} for rows in data.values())


def test_the_model_is_drawn_beside_ours(error):
    one = figures_error.one_pass(figures_error.by_part(error))
    one = one[(one["number"] == "bf16") & (one["H"] == 32) & one["regime"].isna()]
    models = figures_error._models(one, "T")
    assert set(models) == {"gru", "lstm"}
    for sizes, curve in models.values():
        assert sizes == [1, 4, 16, 64]
        assert all(0.2 * 2**-8 < value < 2 * 2**-8 for value in curve)
    assert figures_error._models(one.assign(cell="slstm"), "T") == {}
    assert figures_error._models(one.assign(regime="large"), "T") == {}


def test_error_is_mapped_over_batch_and_hidden_size(error, tmp_path):
    plots.apply_style()
    drawn = [path for job in heatmaps_error.jobs(error) for path in job(tmp_path)]
    names = {path.stem for path in drawn}
    assert {"error-map-ours-layer-1dir-fp32", "error-map-torch.nn-layer-1dir-fp32"} <= names
    rows = pd.read_csv(tmp_path / "error-map-ours-layer-1dir-fp32.csv")
    rows = rows[rows["cell"] == "gru"]
    assert {(1, 5), (1, 33), (3, 5), (3, 33)} <= set(zip(rows["B"], rows["H"], strict=True))
    assert (rows["roundoffs"] / (rows["rel_l2"] * 2.0**24) - 1).abs().max() < 1e-5


def test_growth_regimes_and_effects_are_tabulated(error, tmp_path):
    found = {table.name: table for table in tables_error.all_tables(error)}
    assert set(found) == {"error-growth", "error-regimes", "error-effects"}
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
    assert list(effects["rounded"].unique()) == [
        "inputs",
        "product",
        "carry-fp32",
        "carry-io",
        "all",
    ]
    for table in found.values():
        for path in typeset.write(table, tmp_path):
            assert synthetic.DEVICE in path.read_text(encoding="utf-8")


def test_no_records_make_no_tables():
    empty = frames.errors([])
    assert tables_error.all_tables(empty) == [] and list(heatmaps_error.jobs(empty)) == []


def test_error_is_reported_without_torch():
    words = (
        "import sys; from bench.report import heatmaps_error, tables_error; "
        "print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", words], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


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
