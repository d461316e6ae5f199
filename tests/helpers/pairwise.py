"""Settings that cover every pair of values, not every combination."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(**choices: Sequence[Any]) -> list[dict[str, Any]]:
    """Settings in which any two values of two names occur together, always the same list.

    Greedy: a row begins with the first missing pair, and each further name takes the value that
    adds most missing pairs (of equals the least used).
    """
    names = list(choices)
    values = {name: [(name, i) for i in range(len(choices[name]))] for name in names}
    pairs = (pair for a, b in combinations(names, 2) for pair in product(values[a], values[b]))
    missing = dict.fromkeys(map(frozenset, pairs))  # a dict, for its order
    used: Counter[Any] = Counter()
    rows = []
    while missing:
        row = dict(sorted(next(iter(missing)), key=lambda value: names.index(value[0])))

        def gain(value: Any, row: dict[str, int] = row) -> tuple[int, int]:
            added = sum(frozenset((value, other)) in missing for other in row.items())
            return added, -used[value]

        for name in names:
            if name not in row:
                row |= [max(values[name], key=gain)]
        for pair in combinations(row.items(), 2):
            missing.pop(frozenset(pair), None)
        used.update(row.items())
        rows.append({name: choices[name][row[name]] for name in names})
    return rows


def label(settings: dict[str, Any]) -> str:
    """A test's name from its settings: `pytest.mark.parametrize(..., ids=label)`."""
    return "-".join(f"{name}={value}".replace(" ", "") for name, value in settings.items())
