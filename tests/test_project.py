"""The project's files agree: results, dependencies, lock, citation; what README.md and
CONTRIBUTING.md name exists, and the README's code runs.
"""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"].values()
REQUIREMENTS = [*PROJECT["dependencies"], *(r for group in GROUPS for r in group)]
LOCK = dict(
    re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
)
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_clone_is_small(tracked):
    sizes = {path: (ROOT / path).lstat().st_size for path in tracked if (ROOT / path).exists()}
    largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
    assert sum(sizes.values()) < 12e6, f"largest: {', '.join(map(str, largest))}"


def test_a_figure_is_kept_in_one_vector_and_one_bitmap_form(tracked):
    """Its data is in the page's download only."""
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


def test_unmet_requirements_are_named():
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


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_linked_file_exists_and_contains_the_names_said_to_be_in_it(document):
    links = re.findall(r"\]\(([^)#]+)\)", document)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
    named = re.findall(r"`(\w+)` in\s+\[[^]]*\]\(([^)]+)\)", document)
    assert named
    assert [name for name, path in named if name not in (ROOT / path).read_text()] == []


def test_every_command_exists():
    named = set(re.findall(r"python -m bench ([a-z-]+)", README))
    assert named and named <= {command.name for command in app.registered_commands}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", README)) <= targets


def test_the_tables_are_copied_from_the_results(committed_results):
    """Each row of a table in README.md or bench/ERROR.md is a row of the committed results."""
    text = README + (ROOT / "bench" / "ERROR.md").read_text()
    shown = text.split("<!-- from ")[1:]
    assert shown
    for block in shown:
        path, _, rest = block.partition(" -->")
        rows = rest.partition("<!-- end -->")[0].strip().splitlines()[2:]
        stored = (committed_results.parent / path).read_text().splitlines()
        assert rows and [row for row in rows if row not in stored] == []


@pytest.mark.slow
@pytest.mark.parametrize("code", [s for s in SNIPPETS if "import" in s])
def test_the_snippets_run(code):
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
