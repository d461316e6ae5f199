"""The sweep: isolated failures, plugins, resuming, shards and budgets."""

import cProfile
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from bench import providers
from bench.cases.cases import DEFAULTS, make_case
from bench.cases.presets import Request
from bench.cli import app, progress, quick
from bench.providers import plain
from bench.records import environment, provenance, store
from bench.records.provenance import ROOT
from bench.sweep import sweep
from bench.sweep.plan import Options, default_run, describe, make_plan
from bench.sweep.worker_process import Isolated, Stopped

TIMEOUT_S = 30.0  # reached only by the provider that sleeps for an hour
MOST_CALLS = 300  # of functions for each case of a dry run; some 280 today
HELPERS = Path(__file__).parents[1] / "helpers"
PLUGIN, PRESETS = HELPERS / "bench_plugin.py", HELPERS / "bench_presets.toml"
QUICK = {"seconds": 0.02, "target": 0.5, "seed": 0}
BENCH = [sys.executable, "-m", "bench"]
FACTS = ("case_id", "provider", "status", "kind", "mode", "run_id", "seed")


def options(**values: object) -> Options:
    base: dict = {"preset": "little", "preset_file": PRESETS, "plugins": (PLUGIN,), "run": "run"}
    return Options(**base | values)


def measure(chosen: Options, results: Path) -> tuple[Counter[str], dict[str, str]]:
    """How many records ended how, and each provider's last reason."""
    _, counts, _ = sweep.sweep(chosen, QUICK, results)
    return counts, {record["provider"]: record["reason"] for record in store.read(results)}


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *words], cwd=ROOT, capture_output=True, text=True, timeout=600)


def facts(records: Path) -> set[tuple]:
    return {tuple(record[name] for name in FACTS) for record in store.read(records)}


@pytest.mark.slow
def test_every_failure_costs_one_provider_of_one_case(tmp_path: Path):
    bad = {
        "raises": "error", "no-memory": "oom", "aborts": "error", "killed": "oom",
        "hangs": "timeout", "wrong": "incorrect", "refuses": "unsupported", "set-plan": "error",
    }  # fmt: skip
    statuses = {"good": "ok", "needs-room": "ok"} | bad
    chosen = options(providers=",".join(statuses), filter="cell=lstm H=4")
    folder, counts, left = sweep.sweep(chosen, QUICK, tmp_path, timeout=TIMEOUT_S)
    assert left == 0
    found = {record["provider"]: record for record in store.read(tmp_path)}
    assert {name: record["status"] for name, record in found.items()} == statuses
    for name in bad:
        assert found[name]["reason"] and found[name]["median_ms"] is None, name
    assert "broke while timed" in found["raises"]["reason"]
    assert "SIGABRT" in found["aborts"]["reason"]
    assert "y is off by" in found["wrong"]["reason"] and found["wrong"]["errors"]
    assert found["set-plan"]["reason"].endswith("Object of type set is not JSON serializable")
    version = provenance.short_hash(PLUGIN.read_bytes())
    assert all(found[name]["provider_version"] == version for name in ("needs-room", "raises"))
    assert found["good"]["provider_version"] == provenance.version("torch")
    assert sum(counts.values()) == 10

    # Nothing is left to do; --rerun measures failures again.
    plan = make_plan(chosen, environment.probe(), folder)
    assert plan.requests == [] and plan.done == 10
    plan = make_plan(replace(chosen, rerun="failed"), environment.probe(), folder)
    assert set(plan.requests[0].providers) == bad.keys() - {"refuses"}


@pytest.mark.slow
def test_a_broken_supports_costs_only_its_provider(tmp_path: Path):
    chosen = options(providers="good,unsure,odd", filter="cell=lstm H=4")
    providers.load(chosen.plugins)
    plan = make_plan(chosen, environment.probe(), tmp_path)
    lines = list(describe(plan, environment.probe(), 1.0))
    assert "error unsure in 1 cases: its supports raised KeyError: 'mood'" in lines
    counts, reasons = measure(chosen, tmp_path)
    assert counts == {"ok": 1, "error": 2}
    assert reasons["odd"] == "its supports gave True; accepted: None, or why not"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1\ndef f(:\n", "line 2: SyntaxError: "),
        ("x = 1\n\nimport no_such_thing\n", "line 3: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
        (
            "from bench.providers import provider\nprovider('a/b')\n",
            "line 2: ValueError: provider is 'a/b'; accepted: at most 100 letters a-z or A-Z, dig",
        ),
    ],
)
def test_a_broken_plugin_is_one_sentence(tmp_path: Path, text: str, complaint: str):
    path = tmp_path / "broken.py"
    path.write_text(text)
    for more in ([], ["--dry-run"]):
        words = ["sweep", "--plugin", str(path), "--results", str(tmp_path / "results"), *more]
        found = run_cli(*words)
        assert found.returncode == 2 and "Traceback" not in found.stderr
        assert f"error: plugin {path}, {complaint}" in found.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_plugin_whose_import_changes_torchs_settings_is_refused_in_one_sentence(tmp_path: Path):
    path = tmp_path / "changes.py"
    path.write_text("import torch\ntorch.set_num_threads(torch.get_num_threads() + 1)\n")
    found = run_cli("sweep", "--plugin", str(path), "--results", str(tmp_path / "results"))
    assert found.returncode == 2 and "Traceback" not in found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: torch.get_num_threads() is ")
    assert "after the import of plugins ran" in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["time", "error"])
def test_a_wrong_shape_is_incorrect(tmp_path: Path, kind: str):
    names = "more-rows,one-number,no-state,part-gradient"
    chosen = options(preset="passes", kinds=(kind,), providers=names)
    counts, reasons = measure(chosen, tmp_path)
    assert counts == {"incorrect": 7, "ok": 1}  # part-gradient is right without gradients
    assert reasons == {
        "more-rows": "y has shape (3, 5, 4); accepted: (3, 2, 4)",
        "one-number": "y has shape (1, 1, 1); accepted: (3, 2, 4)",
        "no-state": "outputs are y; accepted: y, h_n, c_n",
        "part-gradient": "dx has shape (1, 2, 4); accepted: (3, 2, 4)",
    }


@pytest.mark.slow
def test_a_record_has_its_measurement_and_provenance(tmp_path: Path):
    chosen = options(kinds=("time", "error"), filter="H=4")
    folder, counts, _ = sweep.sweep(chosen, QUICK, tmp_path)
    assert folder.name == provenance.slug(environment.cpu_name())
    assert counts == {"ok": 8}
    for record in store.read(folder):
        assert record["device"]["name"] and record["software"]["torch"]
        assert record["errors"]["y"]["rel_l2"] < 0.1
        assert record["code"] == provenance.code_hash()
        if record["kind"] == "time":
            assert record["mode"] == "host" and not record["interpreted"]
            assert record["n"] == len(record["samples_ms"]) == sum(record["blocks"])
            assert record["ci_low_ms"] <= record["median_ms"] <= record["ci_high_ms"]
            assert record["us_per_step"] == pytest.approx(record["median_ms"] / 3 * 1e3)
        else:
            assert record["median_ms"] is None and record["compile_s"] is None
            assert {"y", "h_n", "dx", "dh0", "dw_hh_l0"} <= record["errors"].keys()


def test_a_plugins_cell_is_measured_like_any_other(tmp_path: Path):
    chosen = options(preset="leaky", providers="reference,good,torch.nn,ours")
    counts, reasons = measure(chosen, tmp_path)
    assert counts == {"ok": 2, "unsupported": 2}
    assert reasons["torch.nn"] == "torch.nn has no cell leaky"
    assert reasons["ours"] == "kernels has no cell leaky"


def test_an_installed_package_adds_providers_through_an_entry_point(monkeypatch):
    add = lambda: providers.provider("installed")(plain.reference)  # noqa: E731
    entry = SimpleNamespace(name="theirs", load=add)
    groups = {"rnnbench.plugins": [entry]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: groups[group])
    assert "installed" in providers.load()
    with pytest.raises(ValueError, match=r"^plugin theirs: ValueError: .*not registered yet$"):
        providers.load()
    entry.load = sys.exit
    with pytest.raises(ValueError, match=r"^plugin theirs: SystemExit"):
        providers.load()


@pytest.mark.slow
def test_a_run_resumes_beside_its_compressed_records(tmp_path: Path):
    part, whole = (options(filter=f"cell=lstm{tail}") for tail in (" H=4", ""))
    measure(part, tmp_path)
    (plain,) = tmp_path.rglob("*.jsonl")
    packed = plain.with_name("run.jsonl.gz")
    store.merge([plain], packed)
    before = packed.read_bytes()
    plain.unlink()
    counts, _ = measure(part, tmp_path)
    assert not counts and not plain.exists(), "nothing is measured twice"
    counts, _ = measure(whole, tmp_path)
    assert packed.read_bytes() == before and len(facts(plain)) == sum(counts.values()) == 2
    assert {(r["H"], r["provider"]) for r in store.read(tmp_path)} == {
        (H, name) for H in (4, 6) for name in ("good", "good-too")
    }


@pytest.mark.slow
def test_two_shards_merged_equal_one_run(tmp_path: Path):
    for name, shards in (("whole", ["1/1"]), ("parts", ["1/2", "2/2"])):
        for each in shards:
            measure(options(shard=each), tmp_path / name)
    files = sorted((tmp_path / "parts").rglob("*.jsonl"))
    assert [file.name for file in files] == ["run.1of2.jsonl", "run.2of2.jsonl"]
    assert not facts(files[0]) & facts(files[1])
    merged = tmp_path / "merged.jsonl"
    assert store.merge(files, merged) == 8
    assert facts(merged) == facts(tmp_path / "whole")


@pytest.mark.slow
def test_a_sweep_killed_at_any_moment_resumes(tmp_path: Path):
    words = [
        "sweep", "--preset", "little", "--preset-file", str(PRESETS), "--plugin", str(PLUGIN),
        "--results", str(tmp_path), "--seconds", "0.05", "--target", "0.5",
    ]  # fmt: skip
    draw, quiet = random.Random(0), subprocess.DEVNULL
    for _ in range(2):
        child = subprocess.Popen([*BENCH, *words], cwd=ROOT, stdout=quiet, stderr=quiet)
        time.sleep(draw.uniform(2.0, 4.0))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    before = list(store.read(tmp_path))
    done = run_cli(*words)
    assert done.returncode == 0, done.stderr
    after = list(store.read(tmp_path))
    assert after[: len(before)] == before
    assert len(after) == 8 and len(facts(tmp_path)) == 8
    assert "none new" in run_cli(*words).stdout


@pytest.mark.slow
def test_a_deadline_ends_a_process_that_is_still_starting(tmp_path: Path):
    worker = Isolated({}, tmp_path)
    request = Request("time", make_case(**DEFAULTS), providers=("torch.nn",))
    with pytest.raises(Stopped):
        worker.measure(request, deadline=time.monotonic())
    assert worker._child is None


@pytest.mark.slow
def test_a_budget_stops_cleanly(tmp_path: Path):
    endless = {"seconds": 30.0, "target": 1e-9, "seed": 0}
    _, counts, left = sweep.sweep(options(), endless, tmp_path, max_minutes=0.1)
    assert left == 4 and not counts  # an unfinished case leaves no record
    assert list(store.read(tmp_path)) == []


@pytest.mark.slow
def test_a_dry_run_takes_few_calls_per_case(tmp_path: Path):
    """Function calls, whose number does not depend on the machine."""
    machine = environment.Machine("cpu", "test")
    for name in ("tiny", "paper", "full"):  # the first also imports
        with cProfile.Profile() as profile:
            plan = make_plan(Options(preset=name), machine, tmp_path)
        calls = sum(each.callcount for each in profile.getstats())
        assert name == "tiny" or calls < MOST_CALLS * plan.matched, calls / plan.matched
    *lines, total = describe(plan, machine, 1.0)
    assert any("skip  ours in" in line and "interpreter" in line for line in lines)
    assert "about" in total and "(a guess)" in total


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--preset", "no"], "preset is 'no'"),
        (["--providers", "no"], "provider is 'no'"),
        (["--filter", "colour=red"], "filter has"),
        (["--shard", "3/2"], "shard is"),
        (["--rerun", "no"], "rerun is"),
        (["--filter", "cell=LSTM"], "accepted for cell: rnn_tanh"),
        (["--preset", "deepbench", "--kind", "error"], "no cases of that kind"),
        (["--filter", "T=77777"], "matches none of the"),
        (["--seconds", "0"], "seconds is 0; accepted"),
        (["--timeout", "0"], "timeout is 0; accepted"),
        (["--target=-1"], "target is -1; accepted"),
        (["--run", "a*"], "run is 'a*'; accepted"),
        (["--results", "README.md/x"], "README.md is a file; accepted: a folder"),
        (["--preset-file", "tests"], "preset file is tests; accepted"),
    ],
)
def test_a_wrong_option_says_what_is_accepted(words: list[str], complaint: str):
    fault = CliRunner().invoke(app, ["sweep", "--dry-run", *words]).exception
    assert isinstance(fault, ValueError | FileNotFoundError) and complaint in str(fault)


def test_names_in_a_progress_bar_are_no_markup(capsys):
    with progress.bar("{x}[/b]") as update:
        update(0, 1, Request("time", make_case(**DEFAULTS)), "[/mine]{y}", "time")
    said = "".join(capsys.readouterr().err.split())
    assert "{x}[/b]" in said and "[/mine]{y}" in said


def test_quick_measures_also_where_its_records_are_committed(tmp_path: Path):
    """Otherwise a fresh clone on a machine of the same name would measure nothing."""
    name = quick.run_name("tiny", tmp_path)
    assert name == default_run("tiny")
    (tmp_path / "records").mkdir()
    for file in (name, f"{name}-2"):
        (tmp_path / "records" / f"{file}.jsonl").touch()
        assert quick.run_name("tiny", tmp_path) == name  # resumed while it is not committed
    (tmp_path / "records" / f"{name}-3.jsonl.gz").touch()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for k, file in ((2, f"{name}.jsonl"), (3, f"{name}-2.jsonl"), (4, f"{name}-3.jsonl.gz")):
        subprocess.run(["git", "add", f"records/{file}"], cwd=tmp_path, check=True)
        assert quick.run_name("tiny", tmp_path) == f"{name}-{k}"


@pytest.mark.slow
def test_each_start_of_a_case_is_timed_in_a_process_of_its_own(tmp_path: Path):
    """All first starts come first, unsupported cases are recorded once, and a run resumes."""
    chosen = options(preset="passes", providers="good,refuses,process", starts=3)
    providers.load(chosen.plugins)
    plan = make_plan(chosen, environment.probe(), tmp_path / "nowhere")
    assert [each.start for each in plan.requests] == [0, 0, 1, 1, 2, 2]
    counts, _ = measure(chosen, tmp_path)
    assert counts == {"ok": 12, "unsupported": 2}
    records = [r for r in store.read(tmp_path) if r["provider"] == "process"]
    processes = {(r["start"], r["plan"]["pid"]) for r in records}
    assert len(processes) == len({pid for _, pid in processes}) == 3
    counts, _ = measure(replace(chosen, starts=4), tmp_path)
    assert counts == {"ok": 4}, "only the fourth start is missing"
