"""Speed at equal accuracy: the front, the table of error levels, and which shape is shown."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.cases.cases import Case
from bench.records import store
from bench.report.runs import Run
from bench.report.speed import pareto, pareto_figure
from bench.report.speed import topic as speed
from tests.helpers.synthetic import cases, failed, number_types, timed

Errors = dict[str, float]


def run(records: list[store.Record]) -> Run:
    return Run("card", Path("card"), records)


def record(case: Case, provider: str, us: float, errors: Errors, **changes: object) -> store.Record:
    """A timing with a time per step and the relative L2 error of some tensors."""
    found = {name: {"rel_l2": value} for name, value in errors.items()}
    ms = us * case.T / 1e3
    ends = {"ci_low_ms": 0.99 * ms, "ci_high_ms": 1.01 * ms}
    facts = {"median_ms": ms, "us_per_step": us, "errors": found} | ends | changes
    return timed(case, provider, **facts)


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_point_beats(seed: int):
    draw = np.random.default_rng(seed)
    time, error = draw.integers(1, 9, (2, 25))  # few values, so that there are ties
    found = pareto.on_front(time, error)
    for k in range(25):
        beaten = any(
            time[j] <= time[k]
            and error[j] <= error[k]
            and (time[j], error[j]) != (time[k], error[k])
            for j in range(25)
        )
        assert found[k] == (not beaten)
    assert 0 < found.sum() < 25


def test_of_two_equal_points_both_are_on_the_front_and_of_a_worse_one_none():
    assert list(pareto.on_front([1, 1, 1, 2], [3, 3, 4, 3])) == [True, True, False, False]


def test_a_points_error_is_of_the_output_and_the_worst_gradient():
    forward, both = cases(**{"pass": ["fwd", "fwd+bwd"]})
    rows = pareto.points(
        run(
            [
                record(forward, "ours", 2.0, {"y": 0.1, "h_n": 9.0}),
                record(both, "ours", 2.0, {"y": 0.1, "h_n": 9.0, "dx": 0.2, "dw_hh_l0": 0.3,
                                           "db_hh_l0.gate": 9.0}),
                record(both, "torch.nn", 2.0, {"y": 0.5, "dx": 0.2}),
                failed(both, "ours-gemm", "oom", "out of memory"),
            ]
        )
    ).set_index(["pass", "provider"])  # fmt: skip
    assert list(rows.loc[("fwd", "ours"), list(pareto.ERRORS)].fillna(0)) == [0.1, 0, 0.1]
    assert list(rows.loc[("fwd+bwd", "ours"), list(pareto.ERRORS)]) == [0.1, 0.3, 0.3]
    assert list(rows.loc[("fwd+bwd", "torch.nn"), list(pareto.ERRORS)]) == [0.5, 0.2, 0.5]
    assert rows["front"].map({True: 1, False: 0}).to_dict() == pytest.approx(
        {
            ("fwd", "ours"): 1,
            ("fwd+bwd", "ours"): 1,
            ("fwd+bwd", "torch.nn"): 0,
            ("fwd+bwd", "ours-gemm"): float("nan"),
        },
        nan_ok=True,
    )


def measured() -> list[store.Record]:
    """Three number types of one shape, in both passes."""
    times = {  # µs per step and error: torch.nn-graph's, ours-graph's
        "fp32": (9.0, 1e-7, 8.0, 2e-7),
        "fp32:tf32": (7.0, 5e-4, 5.0, 6e-4),
        "bf16": (4.0, 3e-3, 2.0, 4e-3),
    }
    rows = []
    for pass_, dtype in itertools.product(("fwd", "fwd+bwd"), times):
        (case,) = cases(dtype=dtype, **{"pass": pass_})
        theirs, base_error, mine, error = times[dtype]
        for provider, us, off in (
            ("torch.nn-graph", theirs, base_error),
            ("ours-graph", mine, error),
        ):
            gradient = {"dx": 3 * off} if pass_ == "fwd+bwd" else {}
            rows.append(record(case, provider, us, {"y": off} | gradient))
    return rows


def test_the_table_lists_the_fastest_that_reaches_each_error():
    found = pareto.levels(pareto.points(run(measured())))
    rows = found.set_index(["pass", "level"])
    number, base = rows["number"].to_dict(), rows["base_number"].to_dict()
    exact, tf32, bf16 = "fp32", "fp32:tf32", "bf16"
    # Forward tf32 is within 1e-3 and bf16 within 1e-2; with gradients tf32 is off by 1.5e-3 or
    # more, and bf16 of ours by 1.2e-2, of torch.nn by 9e-3.
    assert number == {
        ("fwd", "4 x fp32"): exact, ("fwd", "1e-3"): tf32, ("fwd", "1e-2"): bf16,
        ("fwd+bwd", "4 x fp32"): exact, ("fwd+bwd", "1e-3"): exact, ("fwd+bwd", "1e-2"): bf16,
    }  # fmt: skip
    assert base == number
    assert rows["provider"].to_dict() == {
        key: "torch.nn-graph" if key == ("fwd+bwd", "1e-2") else "ours-graph" for key in rows.index
    }
    speed = [9 / 8, 7 / 5, 4 / 2, 9 / 8, 9 / 8, 1.0]
    assert list(rows["speed"]) == pytest.approx(speed)
    assert list(rows["limit"]) == pytest.approx([4e-7, 1e-3, 1e-2, 12e-7, 1e-3, 1e-2])
    table = pareto.table(run(measured()))
    assert table is not None
    shown = table.shown[["fastest", "torch.nn's fastest", "speed"]].values.tolist()
    assert shown[1] == ["ours-graph, fp32:tf32", "torch.nn-graph, fp32:tf32", pytest.approx(1.4)]
    assert "no interval" in table.caption and "choice of noise" in table.caption
    assert "inputs as rounded" in table.caption and "clock=graph" in table.caption


def test_a_level_that_torch_does_not_reach_has_no_speed():
    rows = [r for r in measured() if r["provider"] == "ours-graph" or r["dtype"] == "bf16"]
    found = pareto.levels(pareto.points(run(rows))).set_index(["pass", "level"])
    assert not (found.index.get_level_values("level") == "4 x fp32").any()  # no fp32 of torch's
    assert pd.isna(found.loc[("fwd", "1e-3"), "base_provider"])
    assert np.isnan(found.loc[("fwd", "1e-3"), "speed"])
    table = pareto.table(run(rows))
    assert table is not None and table.shown["torch.nn's fastest"].iloc[0] == "none"


def test_what_has_too_few_samples_is_no_point():
    rows = measured()
    unsure = [r | {"ci_low_ms": None, "ci_high_ms": None} if r["dtype"] == "bf16" else r
              for r in rows]  # fmt: skip
    found = pareto.points(run(unsure))
    assert set(pareto.measured(found)["number"]) == {"fp32", "fp32:tf32"}
    assert set(found.loc[found["front"].notna(), "number"]) == {"fp32", "fp32:tf32"}
    assert set(pareto.levels(found)["number"]) == {"fp32", "fp32:tf32"}


def chosen(*shapes: tuple[dict, str]) -> tuple[dict[str, int], set[str]]:
    """The sizes that a figure shows, and its cells, of these shapes by these providers."""
    rows = [
        record(case, provider, 2.0, {"y": 1e-3})
        for axes, providers in shapes
        for case in cases(**axes)
        for provider in providers.split()
    ]
    ((_, sizes, found),) = pareto.widest(pareto.points(run(rows)))
    return sizes, set(found["cell"])


def test_the_shape_shown_has_most_number_types_then_points_then_is_the_larger():
    two, three = ["fp16", "bf16"], ["fp32", "fp16", "bf16"]
    both, large = "torch.nn ours", {"B": 64, "T": 512, "H": 1024}
    small = {"B": 16, "T": 256, "H": 512}
    assert chosen(({"dtype": three} | small, "ours"), ({"dtype": two} | large, both))[0] == small
    assert chosen(({"dtype": two} | small, both), ({"dtype": two} | large, "ours"))[0] == small
    assert chosen(({"dtype": two} | small, both), ({"dtype": two} | large, both))[0] == large
    # A cell with one number type there has nothing to compare.
    more = ({"cell": "gru", "dtype": "bf16"} | small, both)
    assert chosen(({"dtype": two} | small, both), more) == (small, {"lstm"})


def test_without_two_number_types_the_page_says_what_would_measure_them():
    one = run([r for r in measured() if r["dtype"] == "bf16"])
    assert pareto.table(one) is None and not list(pareto_figure.jobs(one))
    (line,) = [line for line in speed.missing(one) if "equal accuracy" in line]
    assert "several number types" in line and "sweep --preset campaign" in line
    for records in ([], [failed(next(cases()), "ours", "oom", "out of memory")]):
        assert pareto.missing(run(records)) and pareto.table(run(records)) is None
    several = run(measured())
    assert not any("equal accuracy" in line for line in speed.missing(several))
    assert "pareto" in {table.name for table in speed.all_tables(several)}


def test_a_figure_per_clock_with_its_points_and_failures(tmp_path: Path):
    made = [job(tmp_path) for job in pareto_figure.jobs(run(number_types()))]
    names = {paths[1].stem: pd.read_csv(paths[2]) for paths in made}
    assert set(names) == {"pareto-layer-1dir-graph", "pareto-layer-1dir-event"}
    graph = names["pareto-layer-1dir-graph"]
    # The shape in five number types; torch.nn has no tf32x3.
    assert set(graph["H"]) == {512} and graph["number"].nunique() == 5
    assert len(graph) == 2 * 2 * 3 * 5
    bad = graph[graph["status"] == "unsupported"]
    assert set(bad["number"]) == {"fp32:tf32x3"} and bad["front"].isna().all()
    for _, here in graph[graph["status"] == "ok"].groupby(["cell", "pass"]):
        best = here[here["front"].eq(True)].sort_values("us_per_step")
        assert len(best) >= 2 and best["rel_l2"].is_monotonic_decreasing


def test_letters_beside_points_do_not_cover_each_other():
    figure = Figure(figsize=(1.4, 1.2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    at = np.array([[50.0, 50.0], [53.0, 50.0], [50.0, 55.0], [90.0, 90.0], [1.0, 1.0]])
    pareto_figure.write_tags(axes, at, ["bf", "16", "tf", "x3", "32"])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 5
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)
    panel = axes.bbox
    assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 for box in boxes)
