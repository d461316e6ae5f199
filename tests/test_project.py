"""The project's files agree with each other: folders, dependencies, lock, citation, commands."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"].values()
REQUIREMENTS = [*PROJECT["dependencies"], *(r for group in GROUPS for r in group)]
LOCK = [
    line.split(" ")[0]
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git keeps, from the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git to know what belongs here")
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in done.stdout.split("\0")[:-1]]


def test_a_clone_is_small(tracked):
    sizes = {path: (ROOT / path).lstat().st_size for path in tracked if (ROOT / path).exists()}
    largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
    assert sum(sizes.values()) < 12e6, f"largest: {', '.join(map(str, largest))}"


def test_a_figure_is_kept_in_one_vector_and_one_bitmap_form(tracked):
    """And its data in the page's download, not beside it."""
    drawn = [path for path in tracked if path.match("results/*/figures/*")]
    forms: dict[str, set[str]] = {}
    for path in drawn:
        forms.setdefault(str(path.with_suffix("")), set()).add(path.suffix)
    assert forms and {name: kept for name, kept in forms.items() if kept != {".pdf", ".png"}} == {}
    results = [path for path in tracked if path.parts[0] == "results"]
    assert [path for path in results if path.suffix in (".csv", ".html", ".jsonl")] == []
    folders = {path.parents[1] for path in drawn}
    assert {folder / "data.zip" for folder in folders} <= set(tracked)


def test_the_rooms_are_these_and_no_others(tracked):
    folders = {path.parts[0] for path in tracked if len(path.parts) > 1}
    assert {f for f in folders if not f.startswith(".")} == {
        "bench",
        "kernels",
        "reference",
        "results",
        "tests",
    }


def test_the_lock_names_exact_versions_and_no_place():
    for line in LOCK:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line), line


def test_the_lock_meets_every_dependency():
    locked = {normal(line.split("==")[0]): line.split("==")[1] for line in LOCK}
    for requirement in map(Requirement, REQUIREMENTS):
        assert requirement.specifier.contains(locked[normal(requirement.name)]), requirement


def test_the_lock_serves_machines_with_and_without_a_gpu():
    """The pair that torch's CUDA build asks for; its CUDA libraries are that build's own matter."""
    assert "torch==2.13.0" in LOCK
    assert "triton==3.7.1" in LOCK
    cuda = [line for line in LOCK if line.startswith(("nvidia-", "cuda-"))]
    assert [line.split("==")[0] for line in cuda] == ["nvidia-ml-py"]


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "The rnnbench authors"}] == PROJECT["authors"]


def load_requirements_check() -> Any:
    path = ROOT / ".ci" / "requirements.py"
    spec = importlib.util.spec_from_file_location("requirements_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_an_interpreter_lacks_is_named():
    check = load_requirements_check()
    assert check.unmet(["pytest>=8.3"]) == []
    assert check.unmet(["no-such-package>=1.0", "pytest>=999.1"]) == [
        "no-such-package is missing (needs no-such-package>=1.0)",
        f"pytest {pytest.__version__} is too old (needs pytest>=999.1)",
    ]
    assert check.release("2.13.0+cpu") == (2, 13, 0)
    assert check.release("3.9") < check.release("3.10.1rc1")


def test_every_requirement_can_be_checked():
    """.ci/requirements.py reads `name>=version` and nothing else."""
    for requirement in REQUIREMENTS:
        assert re.fullmatch(r"[a-zA-Z0-9._-]+>=[0-9.]+", requirement), requirement


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_make_alone_lists_the_commands():
    run = make()
    assert run.returncode == 0, run.stderr
    for target in ("bench", "test", "test-fast", "lint", "report", "clean"):
        assert re.search(rf"^  {target} +[A-Z]", run.stdout, re.MULTILINE), target


def test_make_uses_a_named_interpreter_as_it_is():
    run = make("--dry-run", "test", f"PYTHON={sys.executable}")
    assert run.returncode == 0, run.stderr
    assert f"{sys.executable} -m pytest" in run.stdout
    assert "pip" not in run.stdout
    assert "venv " not in run.stdout
