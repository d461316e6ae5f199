"""Checks of arguments that several commands share. Imports no torch."""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

MOST_NAME = 100  # letters of a name; the rest of a file's name takes as many, of 255 that may be


@dataclass(frozen=True)
class Number:
    """The numbers that an argument may be: from ``least`` to ``most``.

    Attributes:
        whole: whether only integers are accepted.
        above: whether ``least`` itself is refused.
    """

    least: int
    most: int
    whole: bool = False
    above: bool = False

    def __str__(self) -> str:
        if self.above:
            return f"a number above {self.least}, at most {self.most}"
        return f"{'an integer' if self.whole else 'a number'} from {self.least} to {self.most}"

    def check(self, name: str, value: Any) -> Any:
        """The number that a value is, or that its text means.

        Raises:
            ValueError: if it is none of those accepted.
        """
        kind = int if self.whole else float
        try:
            number = kind(value) if isinstance(value, str) else value
        except ValueError:
            number = float("nan")
        if not (self.least < number if self.above else self.least <= number) or number > self.most:
            raise ValueError(f"{name} is {value!s:.40}; accepted: {self}")
        return number


MINUTES = Number(0, 30_000, above=True)  # three weeks; the system's longest wait is little more
SECONDS = Number(0, 60 * MINUTES.most, above=True)
TARGET = Number(0, 1, above=True)  # a relative half-width
SEED = Number(0, 2**31 - 1, whole=True)  # a case's own is added; torch's generator takes 32 bits
STARTS = Number(1, 100, whole=True)  # of the measuring process, per case
# Beyond these one layer's weights, or one step's states, fill any GPU's memory.
HIDDEN, BATCH = Number(1, 1 << 16, whole=True), Number(1, 1 << 22, whole=True)
DIRECTIONS = Number(1, 2, whole=True)
PERCENT = Number(0, 1_000_000)


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


def check_name(what: str, name: Any) -> None:
    """Raise ValueError unless a name can be a part of a file's name, and of a list with commas.

    Of ASCII only, where no two letters look alike.
    """
    pattern = r"[a-zA-Z0-9]([\w.+=@ -]*[\w.+=@-])?"
    good = isinstance(name, str) and re.fullmatch(pattern, name, re.ASCII)
    if not good or len(name) > MOST_NAME:
        raise ValueError(
            f"{what} is {name!a:.{MOST_NAME}}; accepted: at most {MOST_NAME} letters a-z or "
            "A-Z, digits and _ . + = @ - or blanks within, the first a letter or digit, because it "
            "names files"
        )
