"""Every pair of settings, not every combination of all of them."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any


def pairwise(**choices: Sequence[Any]) -> list[dict[str, Any]]:
    """A list of settings in which each two values of two different names occur together.

    Greedy and always the same: a row begins with the first pair still missing, and each further
    name takes the value that adds the most missing pairs to it (the least used one of equals).
    """
    names = list(choices)
    missing = {
        ((a, i), (b, j)): None  # a dict, for its order
        for a, b in combinations(names, 2)
        for i in range(len(choices[a]))
        for j in range(len(choices[b]))
    }
    used = {(name, i): 0 for name in names for i in range(len(choices[name]))}
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for name in names:
            if name in row:
                continue

            def gain(i: int, name: str = name, row: dict[str, int] = row) -> tuple[int, int]:
                pairs = [_pair(names, (name, i), other) for other in row.items()]
                return sum(pair in missing for pair in pairs), -used[name, i]

            row[name] = max(range(len(choices[name])), key=gain)
        for a, b in combinations(row.items(), 2):
            missing.pop(_pair(names, a, b), None)
        for item in row.items():
            used[item] += 1
        rows.append({name: choices[name][row[name]] for name in names})
    return rows


def _pair(names: list[str], a: tuple[str, int], b: tuple[str, int]) -> Any:
    return (a, b) if names.index(a[0]) < names.index(b[0]) else (b, a)


def label(settings: dict[str, Any]) -> str:
    """A test's name from its settings: `pytest.mark.parametrize(..., ids=label)`."""
    return "-".join(f"{name}={value}".replace(" ", "") for name, value in settings.items())
