"""Tables, figures and pages from stored records: their contents, and that they stay the same."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from bench.cases.cases import CELLS
from bench.compiler import resources
from bench.measure.statistics import MIN_VISITS
from bench.records import files, schema, store
from bench.report import build, frames, terms
from bench.report.device import compiler
from bench.report.pages import device_page
from bench.report.runs import Run, latest_consistent, load
from bench.report.speed import derived, tables
from bench.report.style import looks, plots, typeset
from bench.report.text import as_latex
from kernels.plan.devices import DEVICES
from tests.helpers import synthetic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a little of everything."""
    folder = synthetic.save(tmp_path_factory.mktemp("results") / "synthetic", synthetic.small())
    build.build_report([folder])
    return folder


@pytest.fixture(scope="module")
def run(made: Path) -> Run:
    return load([made])[0]


@pytest.mark.slow
def test_every_kind_of_figure_and_table_is_made_and_names_its_origin(made):
    names = {path.stem for path in (made / "figures").glob("*.png")}
    for start in (
        *("throughput-H", "throughput-B", "throughput-T", "speedup-ours", "step-H"),
        *("growth-T-fwd-layer", "growth-T-fwd-bwd", "error-T", "error-dtype", "error-regime"),
        *("error-effects", "resources-registers", "resources-loop-instructions", "energy-H"),
    ):
        assert any(name.startswith(start) for name in names), f"no figure {start}"
    drawn = {path.name for path in (made / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("pdf", "png")}
    written = {path.name for path in (made / "tables").iterdir()}
    found = {Path(name).stem for name in written}
    assert written == {f"{name}.{kind}" for name in found for kind in ("md", "tex")}
    assert found >= {
        *("time", "speedup", "growth", "energy", "error", "error-growth", "failures", "resources")
    }
    assert set(zipfile.ZipFile(made / device_page.DOWNLOAD).namelist()) == {
        *(f"figures/{name}.csv" for name in names),
        *(f"tables/{name}.csv" for name in found),
    }
    # Every file names device, versions, run and commit.
    wanted = (synthetic.DEVICE, "2.13.0", "3.7.1", "9.20.0", "synthetic-000000000000", "0" * 9)
    texts = {p: p.read_text(encoding="utf-8") for s in ("md", "tex") for p in made.rglob(f"*.{s}")}
    for path in (made / "figures").glob("*.png"):
        with Image.open(path) as picture:
            texts[path] = picture.info["Description"]
    with zipfile.ZipFile(made / device_page.DOWNLOAD) as archive:
        texts |= {Path(name): archive.read(name).decode() for name in archive.namelist()}
    assert len(texts) > 60
    for path, text in texts.items():
        missing = [word for word in wanted if word not in text]
        assert not missing, f"{path.name} lacks {missing}"
    for path in (made / "figures").glob("*.pdf"):
        # A PDF's metadata is UTF-16 where it has a character beyond ASCII, such as the middle dot.
        assert synthetic.DEVICE.encode("utf-16-be") in path.read_bytes(), path.name


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes_and_no_torch_is_needed(tmp_path):
    """Made here, and in a process where importing torch or Triton fails."""
    few = [
        record
        for record in synthetic.small()
        if (record["cell"], record["dtype"]) == ("lstm", "bf16")
        and record["T"] <= 256
        and record["B"] != 64
        and record["provider"] in ("torch.nn", "ours")
    ]
    folders = [synthetic.save(tmp_path / name / "synthetic", few) for name in ("one", "two")]
    written = build.build_report(folders[:1])
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from bench.report.build import main\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    main(Path({str(folders[1])!r}))\n"
    )
    (tmp_path / "main.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "report made in" in done.stdout
    for path in written:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_committed_tables_are_what_their_records_give(committed_results):
    folders = [path.parent for path in sorted(committed_results.glob("*/records"))]
    assert folders
    for run in load(folders):
        for table in build.all_tables(run):
            for kind, text in (("md", typeset.markdown(table)), ("tex", typeset.latex(table))):
                path = run.folder / "tables" / f"{table.name}.{kind}"
                assert path.read_text(encoding="utf-8") == text, (
                    f"{run.folder.name}/{path.name}: `make report` gives other bytes"
                )


def test_figures_are_one_column_wide_with_embedded_fonts_and_nothing_cut_off(made):
    for path in (made / "figures").glob("*.pdf"):
        data = path.read_bytes()
        assert b"/FontFile2" in data and b"/Type3" not in data, path.name  # type 42
        width = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", data)
        assert width and abs(float(width[1]) / 72 - 3.3) < 0.01, path.name
        with Image.open(path.with_suffix(".png")) as picture:
            assert abs(picture.width / picture.info["dpi"][0] - 3.3) < 0.01, path.name
            shades = np.asarray(picture.convert("L"))
        for edge in (shades[0], shades[-1], shades[:, 0], shades[:, -1]):
            assert edge.min() > 250, f"{path.stem} reaches over its edge"


def test_a_figures_bitmap_keeps_its_colours(made):
    """However small the area: a line's is a thousandth of the figure's."""
    with Image.open(made / "figures" / "throughput-H-layer-1dir-bf16-event.png") as picture:
        assert picture.mode == "P"
        palette = np.asarray(picture.convert("RGB"), float).reshape(-1, 3)
    for name in ("ours", "torch.nn", "flashrnn-fused"):
        rgb = 255 * np.array(to_rgb(looks.look(name).color))
        assert np.abs(palette - rgb).max(axis=1).min() < 12, name


def test_maps_show_the_newest_compiler_and_the_table_all():
    records = [r for r in synthetic.small() if r["kind"] == "resources"]
    older = [{**r, "provider": "triton-3.6.0", "provider_version": "3.6.0"} for r in records]
    newer = [{**r, "provider": "triton-3.10.0", "provider_version": "3.10.0"} for r in records]
    run = Run("synthetic", Path("synthetic"), [*older, *newer, *records])
    drawn = {name for job in compiler.jobs(run) for name in job.args[0]["provider"]}  # type: ignore[attr-defined]
    assert drawn == {"triton-3.10.0"}
    (table,) = compiler.tables(run)
    assert set(table.shown["provider"]) == {"triton-3.6.0", "triton-3.7.1", "triton-3.10.0"}


def test_the_download_does_not_depend_on_the_clock(tmp_path):
    path = tmp_path / "time.csv"
    path.write_text("a,b\n1,2\n")
    (target,) = device_page.pack(tmp_path, [path])
    assert [entry.date_time[0] for entry in zipfile.ZipFile(target).filelist] == [1980]
    assert not path.exists()
    assert device_page.pack(tmp_path, []) == [] and not target.exists()


def test_failures_are_in_figures_and_tables_with_their_reason(made):
    rows = synthetic.data(made, "figures/throughput-H-layer-1dir-bf16-event")
    reasons = " ".join(rows["reason"].dropna())
    assert "FlashRNN's fused backend has no GRU" in reasons and "out of memory: 1.00 GiB" in reasons
    failures = (made / "tables" / "failures.md").read_text(encoding="utf-8")
    for reason in ("no GRU", "1.00 GiB asked for", "no answer in 180 s"):
        assert reason in failures
    timed = [r for r in synthetic.small() if r["kind"] == "time"]
    failed = frames.flat([r for r in timed if r["status"] != "ok"])
    notes = plots.failure_notes(failed)
    assert [note[0] for note in notes] == ["U", "M", "T"]  # most frequent first


def test_no_figure_without_data_and_none_of_an_earlier_report(tmp_path):
    only = [r for r in synthetic.small() if r["kind"] == "time" and r["H"] == 512 and r["B"] == 16]
    folder = synthetic.save(tmp_path / "few", [r for r in only if r["T"] == 256])
    (folder / "figures").mkdir()
    (folder / "figures" / "throughput-H-old.png").write_bytes(b"old")
    (folder / "figures" / "notes.txt").write_text("a reader's own", encoding="utf-8")
    build.build_report([folder])
    assert [path.name for path in (folder / "figures").iterdir()] == ["notes.txt"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "needs a GPU" not in text.split("## Caveats")[0]


def test_no_curve_joins_different_code_or_versions(run):
    records = run.records
    short = [
        {**r, "code": "111111111111", "time": "2026-02-01T00:00:00+00:00"}
        for r in records
        if r["kind"] == "time" and r["provider"] == "ours" and r["H"] == 512
    ]
    kept, aside = latest_consistent([*records, *short])
    assert len(kept) == len(records) and {r["code"] for r in kept} == {"000000000000"}
    assert aside == {"time of ours: measured with other code or versions": len(short)}
    # Of two equally complete sets of records the later one is kept.
    mine = [r for r in records if r["provider"] == "ours" and r["kind"] == "time"]
    later = [{**r, "code": "1" * 12, "time": "2026-02-01T00:00:00+00:00"} for r in mine]
    assert {r["code"] for r in latest_consistent([*mine, *later])[0]} == {"1" * 12}
    # A provider that failed early has no version; its failure must still be shown.
    stepwise = [r for r in records if r["provider"] == "ours-stepwise"]
    assert {r["status"] for r in stepwise} == {"ok", "timeout"}


def test_speedup_is_over_the_same_case_and_clock():
    case = next(synthetic.cases(H=256))
    records = [
        synthetic.timed(case, "torch.nn", median_ms=2.0),
        synthetic.timed(case, "torch.nn-graph", median_ms=1.0),
        synthetic.timed(case, "ours", median_ms=1.0),
        synthetic.timed(case, "ours-stepwise-graph", median_ms=4.0),
    ]
    found = derived.speedups(frames.flat(records)).set_index("provider")
    assert found.loc["ours", "speedup"] == pytest.approx(2.0)
    assert np.isnan(found.loc["ours", "speedup_low"]), "not measured in turns, so no interval"
    assert found.loc["ours-stepwise-graph", "speedup"] == pytest.approx(0.25)
    # A paired ratio in the record counts more.
    versus = {"provider": "torch.nn", "ratio": 0.5, "low": 0.4, "high": 0.8}
    records = [synthetic.timed(case, "torch.nn"), synthetic.timed(case, "ours", versus=versus)]
    paired = derived.speedups(frames.flat(records)).iloc[0]
    assert tuple(paired[["speedup", "speedup_low", "speedup_high"]]) == (2.0, 1.25, 2.5)


@pytest.mark.parametrize("few", ["torch.nn", "ours"])
def test_too_few_samples_enter_no_ratio_and_few_visits_have_no_interval(few: str):
    """Such records are of a run that was measured by an older or another program."""
    case = next(synthetic.cases())
    versus = {"provider": "torch.nn", "ratio": 0.5, "low": 0.4, "high": 0.8}
    records = [synthetic.timed(case, "torch.nn"), synthetic.timed(case, "ours", versus=versus)]

    def found(**changes: object) -> tuple[dict, list[str]]:
        rows = frames.flat([r | (changes if r["provider"] == few else {}) for r in records])
        shown = tables.time_table(rows).shown
        names = [name for name in ("torch.nn", "ours") if "(too few)" in shown[name][0]]
        mine = rows[rows["provider"] == few].iloc[0]
        enough = len(changes.get("blocks", [2] * 8)) >= MIN_VISITS  # type: ignore[arg-type]
        assert enough == (mine["ci_low_ms"] > 0), "an interval of few visits"
        return derived.speedups(rows).to_dict("records")[0], names

    ratio, names = found()
    assert (ratio["speedup"], ratio["speedup_low"], names) == (2.0, 1.25, [])
    ratio, names = found(blocks=[9, 7])
    assert ratio["speedup"] == 2.0 and np.isnan(ratio["speedup_low"]) and names == []
    ratio, names = found(n=5, blocks=[5])
    assert np.isnan(ratio["speedup"]) and names == [few]


def test_growth_is_fitted():
    cases = synthetic.cases(T=[64, 128, 256, 512])
    records = [
        synthetic.timed(case, "ours", median_ms=0.003 * case.T, peak_bytes=1000 * case.T)
        for case in cases
    ]
    found = derived.growth_table(frames.flat(records)).iloc[0]
    assert found["us_per_step_fit"] == pytest.approx(3.0)
    assert found["time_exponent"] == pytest.approx(1.0)
    assert found["bytes_per_step_fit"] == pytest.approx(1000)


def test_a_figure_shows_the_sizes_with_most_points():
    times = [synthetic.timed(c, "ours") for c in synthetic.cases(B=[1, 16], T=256, H=[64, 128])]
    more = [synthetic.timed(c, "ours") for c in synthetic.cases(B=16, T=512, H=[64, 128, 256])]
    found = frames.best_slice(frames.flat([*times, *more]), "H")
    assert found is not None
    sizes, rows = found
    assert sizes == {"B": 16, "T": 512} and set(rows["H"]) == {64, 128, 256}


def test_providers_differ_without_colour_and_every_cell_has_a_name():
    assert set(CELLS) <= set(terms.CELL_NAMES), "bench/report/terms.py: CELL_NAMES and CELL_ORDER"
    found = [looks.look(name) for name in terms.PROVIDER_ORDER]
    for look in found:  # visible on white paper in greyscale
        assert np.dot(to_rgb(look.color), (0.299, 0.587, 0.114)) < 0.8, look
    assert set(looks.LOOKS) == set(terms.PROVIDER_ORDER)
    assert len({(look.marker, str(look.linestyle)) for look in found}) == len(found)
    mine = looks.look("somebody's own")
    assert mine == looks.look("somebody's own") and mine.color not in {x.color for x in found}


def test_the_page_of_a_run_says_what_a_reader_needs(made):
    text = (made / "README.md").read_text(encoding="utf-8")
    for words in (
        *("# Synthetic test device", "## Headline numbers", "## Hardware and versions"),
        *("## How it was measured", "## Reproduce", "## Caveats", "95 % intervals"),
        "[data.zip](data.zip)",
        "python -m bench report results/synthetic",
    ):
        assert words in text
    assert re.search(r"`ours` runs at [\d.]+ times the speed", text)
    assert "`bench/README.md` of the suite" in text and "](../" not in text  # not as a link
    for name in re.findall(r"\]\(((?:figures|tables|records)/[^)]+|data.zip)\)", text):
        assert (made / name).exists(), name


def test_the_measured_limits_of_a_card_are_tabulated(tmp_path):
    folder = synthetic.save(tmp_path / "x", [synthetic.timed(next(synthetic.cases(H=256)), "ours")])
    (folder / "floor.json").write_text(json.dumps(synthetic.floor()), encoding="utf-8")
    build.build_report([folder])
    text = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "a step's barrier among 8 programs, 16 groups, nothing stored | 2.00 [1.96, 2.04] | µs",
        "among 64 programs, 2 groups, after 3,584 bytes of stores | 3.36 [3.29, 3.43] | µs",
        "a flag through L2 to another multiprocessor and back, 1 pairs | 1.40 [1.37, 1.43] | µs",
        "after 512 bytes of stores, 132 programs | 650 [649, 651] | clocks",
        "64 x 16 x 16 from shared memory in a chain of sums, bf16, 4 warps | 24.0 [23.0, 25.0]",
        "from a load to its value in L2, 1024 KiB | 0.160 [0.157, 0.163] | µs",
        "132 reading the same 64 KiB, 4 programs of 4096 words at once, 8 warps | 90.0",
        *("1 reading the same 64 KiB", "| 95.0 [93.1, 96.9] | GB/s", "2900", "none is"),
        *("in a CUDA graph | 1.00 [0.980, 1.02] | µs", "bf16 | 687 [674, 701] | TFLOP/s"),
        "| multiply | failed: RuntimeError: no cuBLAS \\| here at all |",
    ):
        assert words in text, words
    assert "| 70.0" not in text  # only the best of each rate is shown
    full = synthetic.data(folder, "tables/floor")
    assert len(full) == 23 and {70.0, 90.0, 95.0} <= set(full["value"])


def test_caveats_name_what_a_reader_must_know(tmp_path):
    device = synthetic.facts()["device"] | {"throttle": ["SwPowerCap"]}
    unsure = {"device": device, "converged": False, "dirty": True}
    record = synthetic.timed(next(synthetic.cases()), "ours", **unsure)
    (run,) = load([synthetic.save(tmp_path / "x", [record])])
    said = " ".join(device_page.caveats(run))
    assert "SwPowerCap" in said and "uncommitted" in said and "target width" in said


def test_latex_is_what_booktabs_and_siunitx_take(made, run):
    for table in build.all_tables(run):
        assert len(table.shown) <= 2 * typeset.MOST_ROWS
    for path in (made / "tables").glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption", r"\label"):
            assert text.count(command) == 1, (path.name, command)
        assert text.count("{") == text.count("}"), path.name
        assert text.isascii(), path.name
        columns = re.search(r"\\begin\{tabular\}\{(.*)\}\n", text)
        assert columns
        count = len(re.sub(r"\[.*?\]", "", columns[1]))
        for line in text.splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == count - 1, line


@pytest.mark.parametrize("text", ["a_b", "50 %", "{x}", "1 & 2", "R^2", "µs · ×", "<5>", "\\"])
def test_special_letters_are_escaped_for_latex(text):
    escaped = as_latex(text)
    assert escaped.isascii()
    assert not re.search(r"(?<!\\)[&%_#]", escaped)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; RUN is"):
        load([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no records"):
        load([tmp_path / "empty"])
    case = next(synthetic.cases())
    device = synthetic.facts()["device"] | {"name": "Synthetic other device"}
    two = [synthetic.timed(case, "ours"), synthetic.timed(case, "torch.nn", device=device)]
    with pytest.raises(ValueError, match="several devices"):
        load([synthetic.save(tmp_path / "two", two)])


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz", "mine.txt", "records/mine.jsonl"])
def test_a_loose_file_gets_a_folder_of_its_own(tmp_path, name):
    """Also a part of a device's records, which does not replace the device's report."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    line = schema.encode(synthetic.timed(next(synthetic.cases()), "ours"))
    path.write_bytes(store.compressed(line) if path.suffix == ".gz" else line)
    written = build.build_report([path])
    assert {p.relative_to(tmp_path).parts[0] for p in written} == {"mine"}


def test_a_folder_of_empty_files_is_left_out_by_default_and_else_an_error(tmp_path, monkeypatch):
    synthetic.save(tmp_path / "one", [synthetic.timed(next(synthetic.cases()), "ours")])
    left = tmp_path / "killed" / "records" / "run.jsonl"
    left.parent.mkdir(parents=True)
    left.touch()
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert build.device_folders() == [tmp_path / "one"]
    build.build_report(build.device_folders())
    with pytest.raises(FileNotFoundError, match="killed holds no records, only empty files"):
        load([tmp_path / "killed"])


def test_a_folder_may_be_named_from_inside_it(tmp_path, monkeypatch):
    folder = synthetic.save(tmp_path / "device", [synthetic.timed(next(synthetic.cases()), "ours")])
    monkeypatch.chdir(folder)
    build.build_report([Path(".")])
    assert (tmp_path / "index.html").exists() and not (folder / "index.html").exists()
    assert "bench report results/device" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_compiled_runs_page_names_the_command_that_compiles_for_it():
    found = {DEVICES[name].architecture: name for name in resources.GRIDS}
    assert found == device_page.TARGETS
