"""The roofline: intensity, rates and ceilings against hand counts, and what is shown of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.cases.roofline import Limits, floor_ms
from bench.records import files, limits, store
from bench.report.runs import Run
from bench.report.speed import roofline
from bench.report.speed import topic as speed
from bench.report.style.sheet import Sheet
from tests.helpers.synthetic import cases, floor, timed

LIMITS = limits.of_floor(floor())
PAIR = ("ours-graph", "torch.nn-graph")


def run(records: list[store.Record], folder: Path, bounds: Limits | None = LIMITS) -> Run:
    """A run of a device whose limits are in its folder."""
    if bounds is not None:
        store.write_state(folder / files.LIMITS, dataclasses.asdict(bounds))
    return Run("card", folder, records)


def grid(*names: str, **axes: object) -> list[store.Record]:
    return [timed(case, name, floor_share=None) for case in cases(**axes) for name in names]


def test_intensity_rates_and_shares_are_counted_by_hand(tmp_path: Path):
    (case,) = cases(B=2, T=3, H=4, I=5, dtype="fp32:tf32x3")
    bounds = dataclasses.replace(LIMITS, tflops=LIMITS.tflops | {"tf32x3": 100.0}, hbm_gbps=2000)
    record = timed(case, "ours", median_ms=1e-6, floor_share=None)
    (row,) = roofline.points(run([record], tmp_path, bounds)).to_dict("records")
    # 4 gates of 4 units, each 4 + 5 products and sums, 2 sequences, 3 steps; moved are 4 bytes each
    # of gx, y and W_hh, and of x, W_ih and gx (see test_operations_and_bytes_are_counted_by_hand).
    operations, moved = 2 * 4 * 4 * 9 * 2 * 3, 4 * (96 + 24 + 64 + 30 + 80 + 96)
    assert row["intensity"] == pytest.approx(operations / moved)
    assert row["achieved_tflops"] == pytest.approx(operations / 1e-9 / 1e12)
    assert row["product_tflops"] == 100.0
    assert row["memory_tflops"] == pytest.approx(operations / moved * 2.0)
    assert row["loop_tflops"] == pytest.approx(operations / (floor_ms(case, bounds) / 1e3) / 1e12)
    for name in ("product", "memory", "loop"):
        share = "floor_share" if name == "loop" else f"{name}_share"
        expected = row["achieved_tflops"] / row[f"{name}_tflops"]
        assert row[share] == pytest.approx(expected)


def test_without_limits_nothing_is_drawn_and_the_page_says_why(tmp_path: Path):
    bare = run(grid(*PAIR, H=[256, 512]), tmp_path, None)
    assert not list(roofline.jobs(bare)) and roofline.table(bare) is None
    (line,) = [line for line in speed.missing(bare) if "roofline" in line]
    assert "python -m bench floor" in line
    known = run(bare.records, tmp_path)
    assert not any("roofline" in line for line in speed.missing(known))
    assert "roofline" in {table.name for table in speed.all_tables(known)}


def test_a_plugins_cell_has_no_count_of_operations(tmp_path: Path):
    records = grid(*PAIR, H=[256, 512])
    foreign = [record | {"cell": "mine", "case_id": "mine"} for record in records]
    assert set(roofline.points(run(records + foreign, tmp_path))["cell"]) == {"lstm"}
    assert roofline.points(run(foreign, tmp_path)).empty


def test_a_figure_shows_the_largest_and_the_least_batch_with_most_points(tmp_path: Path):
    wide = grid(*PAIR, "reference", H=[128, 512, 1024], B=[4, 16, 64])
    few = grid(*PAIR, H=[512, 1024], B=[1, 256]) + grid(*PAIR, H=[512, 1024], T=[64])
    made = [job(tmp_path) for job in roofline.jobs(run(wide + few, tmp_path))]
    (rows,) = [pd.read_csv(paths[2]) for paths in made]
    assert made[0][1].stem == "roofline-layer-1dir-bf16-graph"
    assert set(rows["B"]) == {4, 64} and set(rows["T"]) == {1024}
    assert set(rows["provider"]) == set(PAIR)
    assert len(rows) == 2 * 3 * 2


def test_no_curve_is_drawn_above_its_ceiling(tmp_path: Path, monkeypatch):
    """The roof is the lower one of both peaks at every intensity, and the loop's is below it."""
    sheets: list[Sheet] = []
    save = Sheet.save

    def keep(self: Sheet, *arguments: object) -> list[Path]:
        sheets.append(self)
        return save(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Sheet, "save", keep)
    axes = {"cell": ["lstm", "gru"], "H": [128, 512, 2048], "pass": ["fwd", "fwd+bwd"]}
    for job in roofline.jobs(run(grid(*PAIR, **axes), tmp_path)):
        job(tmp_path)
    assert len(sheets) == 1 and sheets[0].axes.shape == (2, 2)
    bandwidth, product = (LIMITS.hbm_gbps or 0) / 1e3, LIMITS.tflops["bf16"]
    for panel in sheets[0].axes.flat:
        roof, loop, *curves = panel.get_lines()
        x, y = np.asarray(roof.get_xdata()), np.asarray(roof.get_ydata())
        assert y == pytest.approx(np.minimum(bandwidth * x, product))
        assert len(curves) == 2  # a provider each
        for line in (loop, *curves):
            at, height = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            assert (height <= 1.001 * np.minimum(bandwidth * at, product)).all()
            assert len(at) == 3


def test_a_time_of_too_few_samples_is_not_the_fastest_of_the_table(tmp_path: Path):
    records = grid(*PAIR, H=[256, 512])
    few = {"n": 5, "samples_ms": [1e-3] * 5, "blocks": [5], "median_ms": 1e-3}
    records = [r | few if r["provider"] == "ours-graph" else r for r in records]
    table = roofline.table(run(records, tmp_path))
    assert table is not None and list(table.shown["fastest"]) == ["torch.nn-graph"] * 2
    assert len(table.full) == 4
    assert roofline.table(run([r | few for r in records], tmp_path)) is None


def test_times_above_a_ceiling_are_counted(tmp_path: Path):
    records = grid(*PAIR, H=[256, 512, 1024])
    sound = run(records, tmp_path)
    assert not any("100 %" in line for line in speed.caveats(sound))
    points = roofline.points(sound).set_index("case_id")
    first = records[0]
    first["median_ms"] *= 1.01 * points.loc[first["case_id"], "product_share"].max()
    (line,) = [line for line in speed.caveats(run(records, tmp_path)) if "100 %" in line]
    assert line.startswith("1 of 6 times reach more than 100 %")
    assert not roofline.caveats(run(records, tmp_path / "bare", None))


def test_the_table_shows_the_fastest_of_each_case_by_graphs_first(tmp_path: Path):
    sizes = {"H": [256, 512], "B": 16}
    called = grid("torch.nn", "ours", "ours-gemm", **sizes, T=512)
    table = roofline.table(run(called + grid(*PAIR, **sizes), tmp_path))
    assert table is not None
    assert list(table.shown["fastest"]) == ["ours-graph"] * 2 and "T=1024" in table.caption
    best = table.full[table.full["provider"] == "ours-graph"]
    assert list(table.shown["% of products"]) == pytest.approx(100 * best["product_share"])
    assert len(table.full) == 10
    table = roofline.table(run(called, tmp_path))
    assert table is not None and list(table.shown["fastest"]) == ["ours"] * 2
