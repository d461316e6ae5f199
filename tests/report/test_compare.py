"""Comparing runs, and running the benchmarks by pytest-benchmark."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind
from typer.testing import CliRunner

from bench import cli
from bench.cases.cases import DEFAULTS, make_case
from bench.measure.statistics import MIN_VALUES, MIN_VISITS, visit_medians
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


QUESTION = ("case", "ours", "event")


def made(*ratios: float, error: float = 1e-3) -> list[compare.Pair]:
    """Pairs of these ratios with one standard error and many degrees of freedom."""
    return [
        compare.Pair(*QUESTION, 1.0, r, compare.UNDECIDED, "", r, error**2, 1e6) for r in ratios
    ]


def test_the_tests_are_welchs():
    """Of one pair of 3 and 4 starts, whose standard error is the family's mean."""
    old, new = np.array([1, 1.02, 0.98]), np.array([1.10, 1.06, 1.08, 1.09])
    pair = compare.pair(QUESTION, timings(*old), timings(*new))
    interval = ttest_ind(np.log(new), np.log(old), equal_var=False).confidence_interval(0.95)
    assert np.log(np.array([pair.low, pair.high], float)) == pytest.approx(
        [interval.low, interval.high]
    )
    for threshold in (0.0, 0.05, 0.2):

        def p(limit: float, side: str) -> float:
            shifted = np.log(new) - limit
            return ttest_ind(shifted, np.log(old), equal_var=False, alternative=side).pvalue

        limit = math.log1p(threshold)
        different, same = compare.probabilities([pair], threshold)
        assert different == pytest.approx(min(1, 2 * min(p(limit, "greater"), p(-limit, "less"))))
        assert same == pytest.approx(max(p(limit, "less"), p(-limit, "greater")))


@pytest.mark.parametrize("ratio", [1.06, 1 / 1.06])
def test_a_change_beyond_the_threshold_is_not_the_same(ratio: float):
    assert compare.probabilities(made(ratio), 0.05)[1] > 0.999
    # An error so large that nothing is claimed, of a ratio well within.
    assert compare.probabilities(made(ratio, error=1.0), 0.2)[1] > 0.05


@pytest.mark.parametrize(
    ("p", "rejected"),
    [
        ((0.03, 0.001, 0.0004), (True, True, True)),  # at .05 / 1, / 2 and / 3
        ((0.03, 0.026), (False, False)),
        ((0.06, 0.001, 0.02), (False, True, True)),
        ((0.02, 0.02, 0.02), (False, False, False)),
        ((), ()),
    ],
)
def test_claims_are_made_by_holms_procedure(p: tuple[float, ...], rejected: tuple[bool, ...]):
    assert tuple(compare.holm(np.array(p, float))) == rejected
    ratios = np.exp(1e-3 * norm.isf(np.array(p) / 2))
    verdicts = [each.verdict for each in compare.decided(made(*ratios), 0.0)]
    assert verdicts.count(compare.SLOWER) == sum(rejected)


def test_no_ratio_is_surer_than_the_mean_of_all():
    """Three starts that agree by chance do not make a ratio sure where others scatter."""
    quiet, *noisy = made(1.2), *made(1.0, 1.0, 1.0, error=0.1)
    family = [*quiet, *noisy]
    assert [each.verdict for each in compare.decided(quiet, 0.05)] == [compare.SLOWER]
    assert {each.verdict for each in compare.decided(family, 0.05)} == {compare.UNDECIDED}
    different, same = compare.probabilities(made(1.2, error=0.1 * math.sqrt(3 / 4)), 0.05)
    found = compare.probabilities(family, 0.05)
    assert (found[0][0], found[1][0]) == pytest.approx((different[0], same[0]), rel=1e-4)


def test_nothing_is_claimed_where_no_start_differs(tmp_path: Path):
    """A clock's tick of 6 % in all three starts of a case says nothing of the next start."""
    a = write(tmp_path / "a.jsonl", *records(median_ms=0.008), *records(H=64, median_ms=0.1))
    b = write(tmp_path / "b.jsonl", *records(median_ms=0.0085), *records(H=64, median_ms=0.1))
    found = compare.compare([a], [b])
    assert [(p.verdict, p.reason) for p in found] == [(compare.UNDECIDED, compare.NO_SPREAD)] * 2
    # Beside cases that scatter, the tick is judged by their spread.
    noisy = [r for H in (128, 256) for r in records(H=H, noise=0.05)]
    a = write(tmp_path / "c.jsonl", *records(median_ms=0.008), *noisy)
    b = write(tmp_path / "d.jsonl", *records(median_ms=0.0085), *noisy)
    assert compare.SLOWER not in {p.verdict for p in compare.compare([a], [b])}


def timings(*medians_ms: float) -> list[store.Record]:
    """The fields of starts' records that a pair is made of."""
    return [{"status": "ok", "n": 8, "median_ms": each} for each in medians_ms]


def test_the_times_shown_have_the_ratio_shown():
    """Geometric means: two slow starts of five move the ratio, but not the median."""
    pair = compare.pair(QUESTION, timings(1, 1, 1, 0.99, 1.01), timings(1, 1, 1, 1.9, 1.9))
    assert pair.before_ms and pair.after_ms and pair.ratio
    assert pair.ratio == pytest.approx(1.9 ** (2 / 5), rel=1e-3)
    assert pair.after_ms / pair.before_ms == pytest.approx(pair.ratio, rel=1e-12)


@pytest.mark.parametrize("ms", [0.008, 0.1, 0.3, 1.1, 7.7])
def test_equal_starts_have_no_spread_not_even_of_rounding(ms: float):
    for starts in range(3, 12):
        assert compare.pair(QUESTION, timings(*[ms] * starts), timings(*[1.0] * 3)).error2 == 0


def test_starts_of_few_samples_decide_nothing(tmp_path: Path):
    few = records(2.0)
    n = MIN_VALUES - 1
    few[1] |= {"n": n, "samples_ms": [2.0] * n, "blocks": [1] * n}
    a, b = write(tmp_path / "a.jsonl", *records()), write(tmp_path / "b.jsonl", *few)
    for first, second in ((a, b), (b, a)):
        (pair,) = compare.compare([first], [second])
        assert (pair.verdict, pair.reason) == (compare.UNDECIDED, compare.FEW_SAMPLES)


def test_a_mean_of_some_cases_says_of_how_many(tmp_path: Path):
    sizes = (64, 128, 256, 512)
    a = write(tmp_path / "a.jsonl", *(r for H in sizes for r in records(H=H)))
    failed = [r | {"status": "oom"} for H in sizes[1:] for r in records(H=H)]
    b = write(tmp_path / "b.jsonl", *records(0.5, H=64), *failed)
    text = compare.markdown(compare.compare([a], [b]), "a", "b", 0.05, False)
    assert "| ours | event | 4 | 0.500 (1 of 4) |" in text
    text = compare.markdown(compare.compare([a], [a]), "a", "a", 0.05, False)
    assert "| ours | event | 4 | 1.000 |" in text


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


NO_MODE = {"status": "timeout", "reason": "no answer", "mode": None, "median_ms": None}


def test_a_failure_without_a_mode_is_not_hidden_by_other_starts(tmp_path: Path):
    whole = write(tmp_path / "whole.jsonl", *records())
    part = write(tmp_path / "part.jsonl", *records()[:4], records()[4] | NO_MODE)
    (pair,) = compare.compare([whole], [part])
    assert (pair.verdict, pair.reason) == (compare.BROKEN, "timeout: no answer")
    (pair,) = compare.compare([part], [whole])
    assert (pair.verdict, pair.reason) == (compare.SAME, "")
    # A failure that was measured again later no longer counts.
    again = records(time="2026-01-02T00:00:00+00:00")[4]
    mended = write(tmp_path / "mended.jsonl", *records()[:4], records()[4] | NO_MODE, again)
    (pair,) = compare.compare([whole], [mended])
    assert (pair.verdict, pair.reason) == (compare.SAME, "")


def test_a_case_unsupported_in_one_start_is_compared(tmp_path: Path):
    lacking = records()[0] | NO_MODE | {"status": "unsupported"}
    a = write(tmp_path / "a.jsonl", lacking, *records()[1:])
    b = write(tmp_path / "b.jsonl", *records(1.5))
    assert [p.verdict for p in compare.compare([a], [b])] == [compare.SLOWER]


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


def test_a_run_of_several_devices_or_codes_is_refused(tmp_path: Path):
    device = records()[0]["device"]
    one, other = ({"device": device | {"name": name}} for name in ("one", "other"))
    a = write(tmp_path / "a.jsonl", *records(H=64, **one), *records(2.0, H=128, **other))
    b = write(tmp_path / "b.jsonl", *records(2.0, H=64, **other), *records(H=128, **one))
    with pytest.raises(ValueError, match=r"devices \(one, other and one, other\); accepted: the"):
        compare.compare([a], [b])
    assert len(compare.compare([a], [b], any_device=True)) == 2
    # Start 0 of new code and the others of old code are no run.
    whole = write(tmp_path / "c.jsonl", *records())
    for name, change in (
        ("code", {"code": "1" * 12}),
        ("torch", {"software": records()[0]["software"] | {"torch": "2.14.0"}}),
        ("driver", {"device": device | {"driver": "1.2"}}),
    ):
        mixed = write(tmp_path / f"{name}.jsonl", records()[0] | change, *records()[1:])
        for first, second in ((whole, mixed), (mixed, whole)):
            with pytest.raises(ValueError, match=rf"{name}.jsonl is of several codes.*accepted"):
                compare.compare([first], [second])
    later = write(tmp_path / "later.jsonl", *records(code="1" * 12))
    assert [p.verdict for p in compare.compare([whole], [later])] == [compare.SAME]


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
        assert extra["checked_calls"] >= 1 and len(medians) >= MIN_VISITS
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
