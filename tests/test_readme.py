"""What README.md and CONTRIBUTING.md name exists, and what the README shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_linked_file_exists_and_holds_what_is_said_to_be_in_it(document):
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


def test_the_tables_are_rows_of_the_results():
    """A table in front is copied from the committed results, row by row."""
    shown = README.split("<!-- from ")[1:]
    assert shown
    for block in shown:
        path, _, rest = block.partition(" -->")
        rows = rest.partition("<!-- end -->")[0].strip().splitlines()[2:]
        stored = (ROOT / path).read_text().splitlines()
        assert rows and [row for row in rows if row not in stored] == []


@pytest.mark.slow
@pytest.mark.parametrize("code", [s for s in SNIPPETS if "import" in s])
def test_the_snippets_run(code):
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
