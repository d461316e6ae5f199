"""Text from outside the suite (reasons, names, notes), which every output shows as it is.

:func:`plain` makes it one line of printable letters; Markdown and LaTeX have an escape each.
Figures take it as it is, because the style turns off matplotlib's formulas.
"""

import re
import textwrap
from typing import Any


def plain(text: str) -> str:
    r"""A text in one line of printable letters.

    White space becomes a blank, any other unprintable letter its escape: control letters, escape
    sequences, NUL, half of a surrogate pair, marks that reverse the direction of writing.

    >>> plain("red\x1b[1m\nend"), plain("\ud800")
    ('red\\x1b[1m end', '\\ud800')
    """
    return "".join(map(_plain_letter, text)) if not text.isprintable() else text


def _plain_letter(letter: str) -> str:
    if letter.isprintable() or letter == "\u00a0":  # a blank at which no line is broken
        return letter
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()


def plain_values(value: Any) -> Any:
    """A value of JSON with all its strings and keys as plain text."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(name): plain_values(item) for name, item in value.items()}
    return list(map(plain_values, value)) if isinstance(value, list) else value


def shorten(text: str, width: int) -> str:
    """The text in at most ``width`` letters, cut between words unless one is very long.

    >>> shorten("one two three", 10), shorten("no " + 20 * "x", 10)
    ('one two …', 'no xxxxx …')
    """
    words = textwrap.shorten(text, width, placeholder=" …")
    if len(words) >= width / 2 or not words.endswith("…"):
        return words
    return f"{' '.join(text.split())[: width - 2]} …"


# What Markdown would not show as it is. An underscore within a word and a bracket that does not
# end a link's text mean nothing.
MARKUP = re.compile(
    r"[\\`*<>&$~|]|(?<![^\W_])_|_(?![^\W_])|\](?=[\(\[:])|^[#+-](?=\s)|(?<=^\d)[.)](?=\s)"
)


def as_markdown(text: str) -> str:
    r"""The text as Markdown shows it, also in a table's cell: no markup, HTML, link or formula.

    >>> print(as_markdown("run `a|b`, set $X, rnn_tanh"))
    run \`a\|b\`, set \$X, rnn_tanh
    """
    return MARKUP.sub(r"\\\g<0>", plain(text))


SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "·": r"$\cdot$", "µ": r"$\mu$", "×": r"$\times$", "–": "--", "…": r"\dots{}",
    "\u00a0": "~", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''", "\0": "{}",
}  # fmt: skip
LIGATURE = re.compile(r"(?<=[-'`])(?=[-'`])|(?<=[?!])(?=`)")  # between letters that LaTeX joins


def as_latex(text: str) -> str:
    r"""The text as LaTeX prints it, with no more packages than the report's tables need.

    >>> print(as_latex("50 % of --run"))
    50 \% of -{}-run
    """
    letters = LIGATURE.sub("\0", plain(text))
    return "".join(SPECIAL.get(letter, letter) for letter in letters)
