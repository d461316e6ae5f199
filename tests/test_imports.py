"""Who may import whom, and what the command line must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# For each room, the rooms its files may import besides their own.
ALLOWED: dict[str, set[str]] = {
    "reference": set(),
    "kernels": set(),
    "bench": {"reference", "kernels"},
    "tests": {"reference", "kernels", "bench"},
}
FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


def imported(source: str, depth: int = 1) -> set[str]:
    """The top-level names that a file so deep in its room imports, in functions and by name too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level > depth:
            names.add("a relative import that leaves its room")
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__", "run_module"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(str(node.args[0].value))
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_the_rooms_it_may(path):
    room, *inside = path.relative_to(ROOT).parts
    found = imported(path.read_text(), len(inside))
    foreign = found & (set(ALLOWED) | {"results"}) - ALLOWED[room] - {room}
    assert not foreign, f"{room}/ may not import {', '.join(sorted(foreign))}"


def test_every_way_to_import_is_seen():
    source = """
import kernels.plan, torch
def f():
    from bench.records.store import read
    importlib.import_module("tests.helpers.pairwise")
"""
    assert imported(source) == {"kernels", "torch", "bench", "tests"}
    assert imported("from .. import kernels") == {"a relative import that leaves its room"}


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"]], ids=" ".join)
def test_the_command_line_explains_itself_without_torch(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['bench', *{arguments!r}]\n"
        "try:\n"
        "    runpy.run_module('bench', run_name='__main__')\n"
        "finally:\n"
        "    loaded = {'torch', 'triton'} & set(sys.modules)\n"
        "    sys.exit(f'{loaded} loaded') if loaded else None\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout


def test_what_reports_loads_no_torch():
    files = (ROOT / "bench" / "report").rglob("[!_]*.py")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = (
        "import importlib, sys\n"
        "sys.modules['torch'] = sys.modules['triton'] = None\n"
        f"for name in {sorted(names)!r}: importlib.import_module(name)\n"
    )
    assert len(names) > 10
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
