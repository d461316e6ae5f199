"""Comparing runs, and running the benchmarks by pytest-benchmark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import cli
from bench.cases.cases import DEFAULTS, make_case
from bench.measure.statistics import MIN_VISITS, visit_medians
from bench.records import store
from bench.records.provenance import ROOT
from bench.report import compare
from tests.helpers import synthetic

PLUGIN = Path(__file__).parents[1] / "helpers" / "bench_plugin.py"
runner = CliRunner()


def records(scale: float = 1.0, noise: float = 0.01, **values: object) -> list[store.Record]:
    """Those of five starts of the measuring process."""
    shape = {name: values.pop(name) for name in ("H", "cell") if name in values}
    case = make_case(**DEFAULTS | shape)
    medians = np.random.default_rng(0).normal(scale, noise * scale, 5).tolist()
    return [
        synthetic.timed(case, "ours", **{"median_ms": median, "start": start} | values)
        for start, median in enumerate(medians)
    ]


def write(path: Path, *found: store.Record) -> Path:
    synthetic.save(path.parent, found, path.name)
    return path


@pytest.mark.parametrize(
    ("scale", "noise", "threshold", "verdict", "code"),
    [
        (1.2, 0.01, 5, "slower", 1),
        (1.2, 0.01, 30, "same", 0),
        (1.0, 0.01, 5, "same", 0),
        (0.8, 0.01, 5, "faster", 0),
        (1.06, 0.4, 5, "undecided", 3),  # the interval straddles the threshold
    ],
)
def test_verdicts(
    tmp_path: Path, scale: float, noise: float, threshold: int, verdict: str, code: int
):
    a = write(tmp_path / "a.jsonl", *records(noise=noise))
    b = write(tmp_path / "b.jsonl", *records(scale, noise))
    (pair,) = compare.compare([a], [b], threshold / 100)
    assert pair.verdict == verdict
    assert pair.low is not None and pair.ratio is not None and pair.high is not None
    assert pair.low <= pair.ratio <= pair.high
    found = runner.invoke(cli.app, ["compare", str(a), str(b), "--all", f"--threshold={threshold}"])
    assert found.exit_code == code
    assert f"| {verdict} |" in found.stdout and "geometric mean" in found.stdout


def test_one_start_decides_nothing(tmp_path: Path):
    """Its interval would say nothing about what the next start of the process changes."""
    a, b = (write(tmp_path / name, records(x)[0]) for name, x in (("a.jsonl", 1), ("b.jsonl", 2)))
    found = runner.invoke(cli.app, ["compare", str(a), str(b), "--all"])
    assert found.exit_code == 3 and "undecided (fewer than 3 starts in a run" in found.stdout


@pytest.mark.parametrize("starts", [1, 2])
def test_few_starts_decide_nothing(tmp_path: Path, starts: int):
    a = write(tmp_path / "a.jsonl", *records()[:starts])
    b = write(tmp_path / "b.jsonl", *records(2.0)[:starts])
    (pair,) = compare.compare([a], [b])
    assert (pair.verdict, pair.reason) == (compare.UNDECIDED, compare.FEW_STARTS)


def test_a_case_that_is_gone_or_unsupported_is_not_the_same(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", *records(), *records(H=64), *records(H=128))
    lost = [
        r | {"status": "unsupported", "reason": "gone", "median_ms": None} for r in records(H=64)
    ]
    b = write(tmp_path / "b.jsonl", *records(), *lost)
    found = {p.case_id: (p.verdict, p.reason) for p in compare.compare([a], [b])}
    assert sorted(found.values()) == [
        (compare.BROKEN, "unsupported: gone"), (compare.SAME, ""),
        (compare.UNDECIDED, compare.MISSING),
    ]  # fmt: skip
    shown = runner.invoke(cli.app, ["compare", str(a), str(b)])
    assert shown.exit_code == 1 and "undecided (not in the second run)" in shown.stdout


def test_a_failure_in_one_start_is_a_regression(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", *records())
    died = {"status": "error", "reason": "died", "median_ms": None}
    b = write(tmp_path / "b.jsonl", *records()[:4], records()[4] | died)
    (pair,) = compare.compare([a], [b])
    assert (pair.verdict, pair.reason) == (compare.BROKEN, "error: died")


def test_what_worked_and_no_longer_does_is_a_regression(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", *records())
    gone = records(status="error", reason="broke", mode=None, median_ms=None, samples_ms=None)
    b = write(tmp_path / "b.jsonl", *gone)
    found = runner.invoke(cli.app, ["compare", str(a), str(b), "--out", str(tmp_path / "c.md")])
    assert found.exit_code == 1 and "broken (error: broke)" in found.stdout
    assert (tmp_path / "c.md").read_text().strip() in found.stdout


def test_what_cannot_be_compared_is_refused(tmp_path: Path):
    a = write(tmp_path / "a.jsonl", *records())
    other = write(tmp_path / "other.jsonl", *records(device={"name": "another"}))
    with pytest.raises(ValueError, match="different devices"):
        compare.compare([a], [other])
    assert compare.compare([a], [other], any_device=True)
    a = write(tmp_path / "a.jsonl", *records(H=128))
    b = write(tmp_path / "b.jsonl", *records(H=256))
    with pytest.raises(ValueError, match="in common"):
        compare.compare([a], [b])
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ValueError, match=r"no timed records in .*empty"):
        compare.compare([a], [empty])
    for wrong in ("nan", "-1"):
        found = runner.invoke(cli.app, ["compare", str(a), str(b), f"--threshold={wrong}"])
        assert "threshold is" in str(found.exception)
    with pytest.raises(FileNotFoundError, match="run is"):
        compare.find("no-such-run", tmp_path)
    with pytest.raises(FileNotFoundError, match="run is '/no/such/run'; accepted: a file"):
        compare.find("/no/such/run", tmp_path)


def test_a_run_is_found_by_its_name_in_all_of_its_files(tmp_path: Path):
    """One that went on after its records were compressed has two."""
    folder = tmp_path / "card" / "records"
    earlier = write(folder / "run.jsonl", *records(H=128))
    earlier.with_name("run.jsonl.gz").write_bytes(store.compressed(earlier.read_bytes()))
    earlier.unlink()
    assert compare.find("run", tmp_path) == [folder / "run.jsonl.gz"]
    later = write(earlier, *records(H=256))
    files = compare.find("run", tmp_path)
    assert files == [later, folder / "run.jsonl.gz"]
    assert {starts[0]["H"] for starts in compare.times(files).values()} == {128, 256}
    write(tmp_path / "other" / "records" / "run.jsonl", *records())
    with pytest.raises(ValueError, match="several devices"):
        compare.find("run", tmp_path)


def bench(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "pytest", "bench", "-q", "--preset", "tiny", "--plugin", str(PLUGIN),
        "--filter", "cell=lstm", "--seconds", "0.05", "--target", "0.5",
        "--benchmark-storage", str(tmp_path / "stored"), *words,
    ]  # fmt: skip
    # With these, pytest-benchmark would take this run for an xdist worker and measure nothing.
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, env=env)


@pytest.mark.slow
def test_pytest_benchmark_shows_the_engines_samples(tmp_path: Path):
    out = tmp_path / "out.json"
    chosen = ("--providers", "good,good-too,refuses,wrong")
    found = bench(tmp_path, *chosen, "--benchmark-autosave", "--benchmark-json", str(out))
    assert found.returncode == 1, found.stdout + found.stderr  # one provider is wrong
    assert "never in the mood" in found.stdout
    assert "incorrect: y is off by" in found.stdout
    report = json.loads(out.read_text())
    device = report["machine_info"]["rnnbench"]["device"]
    assert device["name"] and device["kind"] in ("cpu", "cuda")
    assert len(report["benchmarks"]) == 4  # two passes of the two providers that succeed
    for each in report["benchmarks"]:
        extra = each["extra_info"]
        assert extra["errors"]["y"]["rel_l2"] < 1e-5
        medians = visit_medians(each["stats"]["data"], extra["blocks"])
        assert extra["us_per_step"] == pytest.approx(np.median(medians) * 1e6 / 3)
        assert extra["checked_calls"] > 3 and len(medians) >= MIN_VISITS
        assert len(each["stats"]["data"]) == each["stats"]["rounds"]
        assert min(each["stats"]["data"]) > 0

    # pytest-benchmark's storage and comparison work, and another device's benchmark is refused.
    (stored,) = (tmp_path / "stored").rglob("*.json")
    same = ("--providers", "good", "-k", "bwd", "--benchmark-compare", "--benchmark-columns=median")
    found = bench(tmp_path, *same)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "(NOW)" in found.stdout and "(0001_" in found.stdout
    report = json.loads(stored.read_text())
    report["machine_info"]["rnnbench"]["device"]["name"] = "another card"
    stored.write_text(json.dumps(report))
    found = bench(tmp_path, *same)
    assert found.returncode != 0
    assert "not comparable" in found.stdout + found.stderr


def test_replayed_samples_are_exact():
    from bench.test_throughput import load, replay

    samples = [0.1, 0.25, 1e-7, 3.3333333]
    load(samples)
    pairs = [(replay(), replay()) for _ in samples]
    assert [end - start for start, end in pairs] == samples
