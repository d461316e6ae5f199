"""Does this interpreter have what `make bench`, `make test` or `make lint` needs?

Usage: python .ci/requirements.py {bench,test,lint}

Reads the dependencies from pyproject.toml and needs the standard library only. Exits with 1 and one
line per package that is missing or too old. A package that only the results page or single tests
need is a warning: what needs it is left out and says so.
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def release(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" gives (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def unmet(requirements: list[str]) -> list[str]:
    """One line for each `name>=version` that is not installed here in that version."""
    lines = []
    for requirement in requirements:
        name, least = requirement.split(">=")
        try:
            found = version(name)
        except PackageNotFoundError:
            lines.append(f"{name} is missing (needs {requirement})")
            continue
        if release(found) < release(least):
            lines.append(f"{name} {found} is too old (needs {requirement})")
    return lines


def main(purpose: str) -> int:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text())["project"]
    groups = project["optional-dependencies"]
    wanted = groups["lint"] if purpose == "lint" else project["dependencies"]
    optional = {"bench": groups["page"], "test": groups["page"] + groups["test"], "lint": []}
    for line in unmet(optional[purpose]):
        print(f"warning: {line}; what needs it is left out", file=sys.stderr)
    errors = unmet(wanted)
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    if errors:
        print(
            f"{sys.executable} cannot run `make {purpose}`: install what is named above, or leave "
            "PYTHON= out to have `make` build .venv from requirements.lock",
            file=sys.stderr,
        )
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
