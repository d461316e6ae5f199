"""An archive of measurements: what it holds, joining, damage, and calls that resume from it."""

import io
import os
import signal
import tarfile
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.records import archive, files, store
from tests.helpers.results_tree import make_records, records_in


def test_an_archive_holds_what_was_measured_and_no_page(tmp_path: Path):
    tree, home, file = tmp_path / "tree", tmp_path / "home", tmp_path / "out" / "card.tar.gz"
    make_records(tree, "a", "b")
    (tree / "card" / "records" / "old.jsonl.gz").write_bytes(b"compressed")
    (tree / "card" / "check_gpu.json").write_text("{}")
    assert str(file) in archive.pack(tree, file)
    assert archive.restore(file, home) == [home / "card"]
    restored = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    kept = {"card/records/campaign-1.jsonl", "card/records/old.jsonl.gz", "card/check_gpu.json"}
    assert restored == kept
    assert all((home / name).read_bytes() == (tree / name).read_bytes() for name in kept)
    assert [path.name for path in file.parent.iterdir()] == ["card.tar.gz"]


def test_a_byte_that_changed_anywhere_is_noticed(tmp_path: Path):
    make_records(tmp_path / "tree", *(f"record-{k}" for k in range(500)))
    file = tmp_path / "card.tar.gz"
    archive.pack(tmp_path / "tree", file)
    whole = file.read_bytes()
    # Except in gzip's header: its time, system and flags are not read.
    for at in (0, 1, 2, *range(10, len(whole), len(whole) // 60), len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="cannot be unpacked"):
            archive.restore(file, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_records_of_two_archives_are_joined_and_states_replaced(tmp_path: Path):
    home, tree = tmp_path / "home", tmp_path / "tree"
    make_records(home, "a", "b")
    (home / "card" / "records" / "campaign-1.jsonl").open("a").write("half a rec")  # killed
    make_records(tree, "b", "c")
    make_records(tree, "d", name="other")
    for place, state, lines in ((home, "old", b"b\nc\n"), (tree, "new", b"a\nb\n")):
        (place / "card" / "limits.json").write_text(state)
        (place / "card" / "records" / "2.jsonl.gz").write_bytes(store.compressed(lines))
    archive.pack(tree, tmp_path / "x.tar.gz")
    for _ in range(2):  # the second time changes nothing
        archive.restore(tmp_path / "x.tar.gz", home)
        assert records_in(home) == ["a", "b", "c"] and records_in(home, "other") == ["d"]
        packed = store.lines(home / "card" / "records" / "2.jsonl.gz")
        assert list(packed) == [b"b\n", b"c\n", b"a\n"]
        assert (home / "card" / "limits.json").read_text() == "new"


@pytest.mark.parametrize(("module", "name"), [(os, "replace"), (os, "fsync"), (tarfile, "open")])
def test_a_kill_while_packing_leaves_a_whole_archive(module, name, tmp_path: Path, monkeypatch):
    tree, file = tmp_path / "tree", tmp_path / "x.tar.gz"
    make_records(tree, "a")
    archive.pack(tree, file)
    make_records(tree, "b")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, Mock(side_effect=KeyboardInterrupt))
        archive.pack(tree, file)
    archive.restore(file, tmp_path / "home")
    assert records_in(tmp_path / "home") == ["a"]


def pack_member(path: Path, name: str, data: bytes | None) -> None:
    """An archive of one member; None makes a link to /etc/passwd."""
    info = tarfile.TarInfo(name)
    if data is None:
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    info.size = len(data or b"")
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(data or b""))


def test_what_is_no_archive_of_a_campaign_is_refused_in_one_sentence(tmp_path: Path):
    make_records(tmp_path / "tree", "a" * 400)
    torn = tmp_path / "torn.tar.gz"
    archive.pack(tmp_path / "tree", torn)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    (tmp_path / "empty.tar.gz").touch()
    (tmp_path / "folder.tar.gz").mkdir()
    pack_member(tmp_path / "other.tar.gz", "file.txt", b"x")
    pack_member(tmp_path / "outside.tar.gz", "../card/records/x.jsonl", b"x\n")
    pack_member(tmp_path / "link.tar.gz", "card/records/x.jsonl", None)
    for name in ("none", "torn", "empty", "folder", "other", "outside", "link"):
        file = tmp_path / f"{name}.tar.gz"
        with pytest.raises(ValueError, match=r"archive is .*; accepted: a file that") as refused:
            archive.restore(file, tmp_path / "deep" / "home")
        assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "deep").exists() and not (tmp_path / "card").exists()


def test_the_report_takes_an_archive(tmp_path: Path, monkeypatch):
    make_records(tmp_path / "tree", "a")
    archive.pack(tmp_path / "tree", tmp_path / "card.tar.gz")
    reported: list[Path] = []
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("bench.report.build.main", lambda *folders: reported.extend(folders))
    found = CliRunner().invoke(app, ["report", str(tmp_path / "card.tar.gz"), str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert reported == [tmp_path / "results" / "card", tmp_path]
    assert records_in(tmp_path / "results") == ["a"]


def test_a_call_that_is_ended_saves_what_it_had_and_the_next_resumes(tmp_path: Path, capsys):
    file = tmp_path / "out" / "card.tar.gz"
    with pytest.raises(SystemExit), archive.workspace(tmp_path, file, None) as (inside, _):
        make_records(inside, "a")
        raise SystemExit(128 + signal.SIGTERM)
    assert "python -m bench report" in capsys.readouterr().out
    with archive.workspace(tmp_path, file, None) as (inside, save):
        assert records_in(inside) == ["a"]
        make_records(inside, "b")
        save()
        archive.restore(file, tmp_path / "saved")
        assert records_in(tmp_path / "saved") == ["a", "b"]
    # Another archive resumes from the first, and then from itself.
    other = tmp_path / "other.tar.gz"
    for expected, new in ((["a", "b"], "c"), (["a", "b", "c"], "d")):
        with archive.workspace(tmp_path, other, file) as (inside, _):
            assert records_in(inside) == expected
            make_records(inside, new)
    with archive.workspace(tmp_path / "plain", None, other) as (inside, _):
        assert inside == tmp_path / "plain" and records_in(inside) == ["a", "b", "c", "d"]


def test_one_call_at_a_time_measures_into_an_archive(tmp_path: Path, capsys):
    """Otherwise the last one to end would replace what the first one saved."""
    file = tmp_path / "x.tar.gz"
    with archive.workspace(tmp_path, file, None):
        pass
    assert "nothing was measured" in capsys.readouterr().out and not list(tmp_path.iterdir())
    with archive.workspace(tmp_path, file, None) as (inside, _):
        with pytest.raises(RuntimeError, match=r"by another process; .* another --archive"):
            archive.workspace(tmp_path, file, None).__enter__()
        make_records(inside, "a")
    with archive.workspace(tmp_path, file, None) as (inside, _):
        assert records_in(inside) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]
