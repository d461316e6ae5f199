"""Records: the schema, torn lines, two writers, and death at any moment."""

import gzip
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bench import providers
from bench.cases.arguments import MOST_NAME
from bench.cases.cases import DEFAULTS, make_case
from bench.records import provenance, schema, store
from bench.report import compare
from bench.sweep.plan import Options, finished, run_name
from tests.helpers import synthetic


def record(**values: object) -> store.Record:
    return synthetic.timed(make_case(**DEFAULTS), "torch.nn", **values)


def write(path: Path, *records: store.Record) -> Path:
    return synthetic.save(path.parent, records, path.name) / path.name


def seeds(path: Path) -> list[int]:
    return [each["seed"] for each in store.read(path)]


VERSUS = {"provider": "torch.nn", "ratio": 0.5, "low": 0.45, "high": 0.55}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"median_ms": 1.5, "samples_ms": [1, 1.5, 2], "blocks": [3], "mode": "event"},
        {"errors": {"y": dict.fromkeys(schema.ERROR_FIELDS, 0.5)}},
        {"errors": {"y": dict.fromkeys(schema.ERROR_FIELDS)}},
        {"by_step": {"y": [[1, 0.5], (2, None)]}},
        {"status": "oom", "reason": "too large", "I": None},
        # Old records lack counts; too few visits give no interval.
        {"n": None, "blocks": None, "ci_low_ms": None, "ci_high_ms": None},
        {"versus": VERSUS | {"low": None, "high": None}},
    ],
)
def test_a_record_of_the_right_fields_passes(values: dict[str, Any]):
    schema.check(record(**values))


@pytest.mark.parametrize(("name", "value"), [
    ("status", "fine"), ("B", "16"), ("B", 1.5), ("B", True), ("B", None), ("median_ms", "fast"),
    ("median_ms", 0.0), ("mode", "wall"), ("directions", 3), ("converged", 1), ("device", None),
    ("errors", {"y": {"max_abs": 1.0}}), ("samples_ms", ["1"]), ("samples_ms", 1.0),
    ("provider", "mine/fast"), ("provider", ""),
    ("by_step", {"y": [[1, 0.5], [2]]}), ("by_step", {"y": [1, 0.5]}),
    ("versus", {"provider": "torch.nn", "ratio": 0.5}), ("colour", "red"),
    ("median_ms", None), ("median_ms", math.inf), ("median_ms", math.nan), ("n", 15),
    ("samples_ms", [1.0]), ("blocks", [15]), ("blocks", []), ("ci_low_ms", 1e9),
    ("ci_high_ms", 1e-9), ("ci_low_ms", -1.0), ("versus", VERSUS | {"ratio": 0.0}),
    ("versus", VERSUS | {"low": -0.1}), ("versus", VERSUS | {"low": 0.6}),
    ("versus", VERSUS | {"high": 0.4}), ("versus", VERSUS | {"ratio": "half"}),
])  # fmt: skip
def test_a_wrong_or_missing_field_is_named(name: str, value: object):
    with pytest.raises(schema.BadRecord, match=name):
        schema.check(record() | {name: value})
    with pytest.raises(schema.BadRecord, match="lacks seed"):
        schema.check({name: value for name, value in record().items() if name != "seed"})


NO_NAMES = (
    *("", "a/b", "/", "..", ".hidden", "cost$\\frac$", "a\nb", "a\tb", "a\0b", "\ud800", "\x1b[0m"),
    *("a|b", "a,b", " a", "a ", "_a", "a`b", "<b>", "a:b", "a\\b", "a*", "a?", "a\u202eb"),
    *("x" * (MOST_NAME + 1), "x" * 250, "größe", "\u043eurs", "ours\u0661"),  # looks like ours
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_cannot_name_a_file_or_be_drawn_names_no_provider_and_no_run(name: str):
    """Neither when it is registered, before anything is measured, nor in a record."""
    with pytest.raises(ValueError) as refused:
        providers.provider(name)
    with pytest.raises(schema.BadRecord) as bad:
        schema.check(record() | {"provider": name})
    with pytest.raises(ValueError) as run:
        run_name(Options(run=name))
    said = str(refused.value)
    assert said == str(bad.value) == str(run.value).replace("run", "provider", 1)
    assert "accepted: at most 100 letters" in said and said.isprintable() and len(said) < 300


@pytest.mark.parametrize(
    "name", ["mine", "my kernel", "2.1+cu", "groesse_2", "a=b@c-d", "x" * MOST_NAME]
)
def test_a_name_of_letters_and_digits_names_a_provider_and_a_run(name: str):
    with patch.dict(providers.PROVIDERS):
        providers.provider(name)(lambda problem: None)  # type: ignore[arg-type, return-value]
    schema.check(record() | {"provider": name})
    assert run_name(Options(run=name)) == name


def test_missing_values_are_null_never_nan(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", record(warm_ms=math.nan, gbps=math.inf))
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    (back,) = store.read(path)
    assert back["warm_ms"] is None and back["gbps"] is None


def test_an_incomplete_last_line_is_skipped_then_removed_and_reported(tmp_path: Path, capsys):
    path = write(tmp_path / "a.jsonl", record(seed=1), record(seed=2))
    whole = path.read_bytes()
    for cut in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:cut])
        lost = cut < len(whole) - 1  # more than the newline is missing
        assert seeds(path) == ([1] if lost else [1, 2])
        assert seeds(write(path, record(seed=3))) == ([1, 3] if lost else [1, 2, 3])
        assert ("a.jsonl: removed an incomplete last line" in capsys.readouterr().err) == lost


@pytest.mark.parametrize(
    "bad", [b"[]\n", b"[]", b"\x00\xff\n", b"\xff", b'{"run_id": "r\n', b"\n", b'{"gbps": NaN}\n']
)
def test_any_other_line_is_refused_with_its_place(tmp_path: Path, bad: bytes):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(record()).encode() + b"\n" + bad)
    with pytest.raises(schema.BadRecord, match=r"a\.jsonl:2: the line is .*accepted"):
        list(store.read(path))
    path.write_text(json.dumps(record() | {"status": "fine"}) + "\n")
    with pytest.raises(schema.BadRecord, match=r"a\.jsonl:1: status"):
        list(store.read(path))


def test_no_empty_file_is_left_and_one_holds_no_records(tmp_path: Path):
    path = write(tmp_path / "a.jsonl")
    assert not path.exists()
    path.touch()
    with pytest.raises(ValueError, match="no records in"):
        store.merge([path], tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_two_processes_never_write_one_file(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with store.Writer(path), pytest.raises(RuntimeError, match="another process"):
        store.Writer(path)
    store.Writer(path).close()


@pytest.mark.parametrize("how", ["removed", "replaced", "its folder removed", "replaced, empty"])
def test_a_writer_stops_when_its_file_is_no_longer_in_place(tmp_path: Path, how: str):
    """Or a sweep would go on measuring, and say that all is well, with nothing on the disk."""
    path = tmp_path / "records" / "run.jsonl"
    writer = store.Writer(path)
    if how != "replaced, empty":
        writer.append(record(seed=1))
    if how == "its folder removed":
        shutil.rmtree(path.parent)
    else:
        path.unlink()
    if how.startswith("replaced"):
        path.write_bytes(b"another file")
    if how != "replaced, empty":
        with pytest.raises(RuntimeError, match=r"run\.jsonl was removed or replaced while records"):
            writer.append(record(seed=2))
    writer.close()
    assert path.exists() == how.startswith("replaced")  # closing removes no file of others


WRITE_FOREVER = """
import json, sys
from pathlib import Path
from bench.records import store
record = json.loads(sys.argv[2])
with store.Writer(Path(sys.argv[1])) as writer:
    for seed in range(10**9):
        writer.append(record | {"seed": seed, "warm_samples_ms": [0.1] * 2000})
        print(seed, flush=True)
"""


def test_sigkill_at_random_moments_keeps_every_finished_record(tmp_path: Path):
    draw = random.Random(0)
    for attempt in range(6):
        path = tmp_path / f"{attempt}.jsonl"
        command = [sys.executable, "-c", WRITE_FOREVER, str(path), json.dumps(record())]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=provenance.ROOT, stdout=pipe, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()  # it writes
            time.sleep(draw.uniform(0.0, 0.05))
            child.kill()
            written = child.stdout.read().split()
        finished_ones = int(written[-1]) + 1 if written else 1
        found = seeds(path)
        assert found == list(range(len(found))) and len(found) >= finished_ones


def test_the_later_record_counts_whatever_its_files_name(tmp_path: Path):
    late = record(time="2026-01-02T00:00:00+00:00")
    failed = record(status="error", reason="x")
    # Of records with the same time the last counts; another seed is another measurement.
    found = store.latest([failed, record(seed=1), record()])
    assert [(r["status"], r["seed"]) for r in found] == [("ok", 0), ("ok", 1)]
    for name, each in (("run.1of2", late), ("run", failed)):
        write(tmp_path / "records" / f"{name}.jsonl", each | {"run_id": "run"})
    assert [r["status"] for r in store.latest(store.read(tmp_path))] == ["ok"]
    assert list(finished(tmp_path, "run").values()) == ["ok"]
    assert [r["status"] for (r,) in compare.times([tmp_path]).values()] == ["ok"]
    store.merge([tmp_path], tmp_path / "merged.jsonl")
    assert [r["status"] for r in store.read(tmp_path / "merged.jsonl")] == ["ok"]


def test_merge_refuses_to_mix(tmp_path: Path):
    for name, values in (("a", {}), ("b", {"device": {"name": "other"}}), ("c", {"run_id": "s"})):
        write(tmp_path / f"{name}.jsonl", record(**values))
    with pytest.raises(ValueError, match="several devices"):
        store.merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="several runs"):
        store.merge([tmp_path / "a.jsonl", tmp_path / "c.jsonl"], tmp_path / "m.jsonl")
    assert store.merge([tmp_path / "a.jsonl"], tmp_path / "m.jsonl") == 1
    with pytest.raises(FileExistsError):
        store.merge([tmp_path / "a.jsonl"], tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match=r"out is .*m\.json; accepted: .*\.jsonl or \.jsonl\.gz"):
        store.merge([tmp_path / "a.jsonl"], tmp_path / "m.json")


def test_compressed_records_are_read_as_plain_ones(tmp_path: Path):
    """Also a run that is continued in a plain file next to its compressed one."""
    path = tmp_path / "records" / "run.jsonl"
    write(path, *(record(seed=seed, run_id="run") for seed in (1, 2)))
    packed = path.with_name("run.jsonl.gz")
    assert store.merge([path], packed) == 2
    assert gzip.decompress(packed.read_bytes()) == path.read_bytes()
    assert packed.read_bytes()[3:8] == bytes(5)  # neither a name nor a time
    path.unlink()
    assert seeds(packed) == [1, 2]
    later = {"run_id": "run", "time": "2026-01-02T00:00:00+00:00"}
    write(path, *(record(seed=seed, **later) for seed in (2, 3)))
    assert store.record_files(tmp_path) == store.record_files(tmp_path, "run") == [path, packed]
    assert {store.stem(file) for file in (path, packed)} == {"run"}
    assert len(finished(tmp_path, "run")) == 3
    both = tmp_path / "both.jsonl.gz"
    assert store.merge([tmp_path / "records"], both) == 3
    assert [(r["seed"], r["time"][9]) for r in store.read(both)] == [(1, "1"), (2, "2"), (3, "2")]


@pytest.mark.parametrize("broken", ["empty", "cut", "flipped", "plain"])
def test_a_broken_compressed_file_is_refused_by_its_name(tmp_path: Path, broken: str):
    whole = store.compressed(json.dumps(record()).encode() + b"\n")
    flipped = bytes(byte ^ 255 * (place == len(whole) // 2) for place, byte in enumerate(whole))
    data = {"empty": b"", "cut": whole[:-9], "flipped": flipped, "plain": b'{"run_id": "r"}\n'}
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data[broken])
    with pytest.raises(schema.BadRecord, match=r"a\.jsonl\.gz: damaged gzip file \(.+\); accepted"):
        list(store.read(tmp_path))
