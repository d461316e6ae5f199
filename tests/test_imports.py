"""The pictures of the rooms match the code's imports, and light commands stay free of torch.

A picture has an arrow for an import between rooms unless a chain of other arrows replaces it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from bench.cli import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("reference", "kernels", "bench", "tests")
FILES = [
    path.relative_to(ROOT) for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))
]
INIT = "__init__.py"
INITS = [p for p in FILES if p.name == INIT]

# The lines of a picture: a room and its path; arrows to the rooms it imports; the frame.
ROOM = re.compile(r'(\w+)\["([\w/.]+?)/?(?:<br>.*)?"\]')
ARROWS = re.compile(r"(\w+) --> (\w+(?: & \w+)*)")
FRAME = re.compile(r"flowchart \w+|subgraph .*|end|")

Graph = dict[str, set[str]]  # the rooms that each room imports


def drawn(document: str) -> Graph:
    """The rooms and imports in a document's Mermaid diagram."""
    (picture,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    paths: dict[str, str] = {}
    arrows = []
    for line in map(str.strip, picture.splitlines()):
        if room := ROOM.fullmatch(line):
            paths[room[1]] = room[2]
        elif arrow := ARROWS.fullmatch(line):
            arrows += [(arrow[1], target) for target in arrow[2].split(" & ")]
        else:
            assert FRAME.fullmatch(line), f"{document}: {line!r} is neither a room nor an arrow"
    graph: Graph = {path: set() for path in paths.values()}
    for source, target in arrows:
        graph[paths[source]].add(paths[target])
    return graph


@cache
def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, also relatively, in functions or as strings."""
    package, names = ".".join(path.parent.parts), set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: package.count(".") + 2 - node.level]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__", "run_module"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(str(node.args[0].value))
    return names


def file_of(name: str) -> Path | None:
    """The project's file of a module, or of a name in a module; None for anything else."""
    path = Path(*name.split("."))
    candidates = [f for p in (path, *path.parents[:-1]) for f in (p.with_suffix(".py"), p / INIT)]
    return next((file for file in candidates if file in FILES), None)


def room_of(path: Path, rooms: Collection[str]) -> str:
    """The innermost room that holds a file."""
    return next(name for name in map(str, (path, *path.parents)) if name in rooms)


def real(rooms: Collection[str]) -> Graph:
    """The code's imports between rooms."""
    graph: Graph = {room: set() for room in rooms}
    for path in FILES:
        room = room_of(path, rooms)
        for name in imported(path):
            if file := file_of(name):
                graph[room] |= {room_of(file, rooms)} - {room}
    return graph


def reach(graph: Graph, room: str) -> set[str]:
    """All rooms that arrows lead to from `room`."""
    return graph[room].union(*(reach(graph, other) for other in graph[room]))


def reduced(graph: Graph) -> Graph:
    """The transitive reduction of a graph; raises CycleError if it has a cycle."""
    TopologicalSorter(graph).prepare()
    return {
        room: others.difference(*(reach(graph, other) for other in others))
        for room, others in graph.items()
    }


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_a_picture_shows_the_imports_between_rooms(document):
    picture = drawn(document)
    assert picture == reduced(real(picture))


def test_every_folder_of_the_kernels_and_the_benchmark_is_in_the_detailed_picture():
    folders = {str(path.parent) for path in INITS if len(path.parts) == 3}
    inner = {name for name in folders if name.startswith(("kernels", "bench"))}
    assert inner <= drawn("CONTRIBUTING.md").keys()


def test_no_test_imports_another():
    for path in FILES:
        assert not re.findall(r"tests\S*\.test_\w+", " ".join(imported(path))), path


@pytest.mark.parametrize("path", INITS, ids=lambda path: str(path.parent))
def test_a_room_says_what_it_holds_and_what_to_import(path):
    """In two lines or more; names in backticks are its modules or defined in its `__init__`."""
    source = (ROOT / path).read_text()
    text = ast.get_docstring(ast.parse(source)) or ""
    assert len(text.splitlines()) >= 2
    modules = {file.stem for file in FILES if file.parent == path.parent}
    folders = {file.parent.name for file in INITS if file.parent.parent == path.parent}
    defined = set(re.findall(r"\w+", source.split('"""', 2)[2]))
    assert set(re.findall(r"`(\w+)`", text)) <= modules | folders | defined | set(PACKAGES)


def test_help_and_a_dry_run_load_nothing_heavy():
    commands = [["--help"], *([each.name, "--help"] for each in app.registered_commands)]
    commands += [["sweep", "--preset", "full", "--dry-run"]]
    code = (
        "import runpy, sys\n"
        f"for command in {commands!r}:\n"
        "    sys.argv = ['bench', *command]\n"
        "    try: runpy.run_module('bench', run_name='__main__')\n"
        "    except SystemExit as end: assert not end.code, command\n"
        "    heavy = {'torch', 'triton', 'numpy', 'pandas', 'scipy'} & sys.modules.keys()\n"
        "    assert not heavy, (command, heavy)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Usage: ") == len(commands) - 1 > 10
    assert "cases to measure" in run.stdout


def test_packages_and_what_reports_load_no_torch():
    paths = [path for path in FILES if path.parts[:2] == ("bench", "report")]
    paths += [path for path in INITS if path.parts[0] == "bench"]
    names = {".".join(p.parent.parts if p.name == INIT else p.with_suffix("").parts) for p in paths}
    code = (
        "import importlib, sys\n"
        "sys.modules['torch'] = sys.modules['triton'] = None\n"
        f"for name in {sorted(names)!r}: importlib.import_module(name)\n"
    )
    assert len(names) > 20
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


LEAN = {"torch", "triton", "numpy", "scipy", "typer", "rich", "pynvml", "pytest", *PACKAGES[:3]}


def test_measuring_imports_only_the_lean_list():
    for path in FILES:
        if path.parts[0] == "tests" or "report" in path.parts:
            continue
        measured = {path.stem} if path.match("bench/providers/*") else set()
        foreign = {name.split(".")[0] for name in imported(path)} - LEAN - measured
        assert foreign <= sys.stdlib_module_names, path
