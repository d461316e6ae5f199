"""What Triton needs to start: a C compiler with Python's headers, and folders it can write to."""

from pathlib import Path

import pytest

from bench.sweep import toolchain

check = toolchain.check.__wrapped__  # without its cache


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("PATH", "/nowhere", "neither CC, gcc nor clang names one; install gcc or set CC"),
        ("CC", "no-such-cc", "CC is 'no-such-cc'"),
        ("CC", "false", "false cannot compile a line with Python.h"),
    ],
)
def test_a_missing_compiler_is_named(name: str, value: str, why: str, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="Triton compiles C when it starts") as raised:
        check()
    assert why in str(raised.value) and "\n" not in str(raised.value)


def test_missing_headers_are_named(tmp_path: Path, monkeypatch):
    check()  # this machine passes
    monkeypatch.setattr(toolchain, "headers", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match=r"Python\.h: install the headers of Python 3"):
        check()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "cache"))
    with pytest.raises(RuntimeError, match="set TRITON_CACHE_DIR to another folder"):
        toolchain.check_cache()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    toolchain.check_cache()
    with pytest.raises(RuntimeError, match="--out takes another place"):
        toolchain.check_writable(file / "out", "results go to", "--out takes another place")
