"""Checks of arguments that several commands share. Imports no torch."""

import math
from collections.abc import Container, Iterable
from typing import Any, Protocol

# Beyond these one layer's weights, or one step's states, fill any GPU's memory.
MOST_HIDDEN, MOST_BATCH = 1 << 16, 1 << 22
MOST_MINUTES = 30_000  # three weeks; the longest wait that the system accepts is little more


class Choices(Container[Any], Iterable[Any], Protocol):
    """A collection of accepted values, or a mapping with them as keys."""


def check_choice(name: str, value: Any, accepted: Choices) -> None:
    """Raise ValueError unless a value is one of those accepted."""
    if value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted: {', '.join(map(str, accepted))}")


def parse_choices(name: str, words: str | tuple[str, ...], accepted: Choices) -> tuple[str, ...]:
    """Words, also comma-separated in one string, each of which must be accepted."""
    found = tuple(map(str.strip, words.split(","))) if isinstance(words, str) else words
    for word in found:
        check_choice(name, word, accepted)
    return found


def check_sizes(hidden: int, batch: int) -> None:
    """Raise ValueError unless a loop of H hidden units over B sequences could be planned."""
    for name, size, most in (("hidden", hidden, MOST_HIDDEN), ("batch", batch, MOST_BATCH)):
        if not 1 <= size <= most:
            raise ValueError(f"{name} is {size}; accepted: an integer from 1 to {most}")


def check_minutes(max_minutes: float | None) -> None:
    """Raise ValueError unless this is None, for no limit, or a positive number of minutes."""
    if max_minutes is None:
        return
    if not (math.isfinite(max_minutes) and 0 < max_minutes <= MOST_MINUTES):
        raise ValueError(
            f"max-minutes is {max_minutes:g}; accepted: a number above 0, at most {MOST_MINUTES}"
        )
