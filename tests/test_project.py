"""The project's files agree with each other: results, dependencies, lock, citation."""

import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"].values()
REQUIREMENTS = [*PROJECT["dependencies"], *(r for group in GROUPS for r in group)]
LOCK = dict(
    re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
)


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


def test_the_lock_meets_every_dependency():
    for requirement in map(Requirement, REQUIREMENTS):
        assert requirement.specifier.contains(LOCK[requirement.name]), requirement


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "The rnnbench authors"}] == PROJECT["authors"]


def test_what_an_interpreter_lacks_is_named():
    check = runpy.run_path(str(ROOT / ".ci" / "requirements.py"))
    assert check["unmet"](["pytest>=8.3"]) == []
    assert check["unmet"](["no-such-package>=1.0", "pytest>=999.1"]) == [
        "no-such-package is missing (needs no-such-package>=1.0)",
        f"pytest {pytest.__version__} is too old (needs pytest>=999.1)",
    ]
    assert check["release"]("2.13.0+cpu") == (2, 13, 0)
    assert check["release"]("3.9") < check["release"]("3.10.1rc1")
    # It reads `name>=version` and nothing else.
    assert [line for line in REQUIREMENTS if not re.fullmatch(r"[\w.-]+>=[\d.]+", line)] == []
