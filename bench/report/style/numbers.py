"""Numbers as figures and tables write them."""

import math
import re
from typing import Any


def engineering(value: float, _: Any = None) -> str:
    """A number with a unit prefix: 64000 is 64k.

    >>> engineering(64000), engineering(0.25), engineering(1.5e6)
    ('64k', '0.25', '1.5M')
    """
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def scientific(value: float, digits: int = 1) -> str:
    """A number in scientific notation without padded exponents: 2e-07 is 2e-7.

    >>> scientific(2e-7), scientific(1.234e-12, 3)
    ('2e-7', '1.23e-12')
    """
    return re.sub(r"e([-+])0", r"e\1", f"{value:.{digits - 1}e}").replace("e+", "e")


def short(number: float) -> str:
    """A ratio in at most four characters.

    >>> short(0.123), short(3.456), short(45.6), short(1234)
    ('0.12', '3.5', '46', '1.2k')
    """
    if number >= 1000:
        return engineering(float(f"{number:.2g}"))
    if number >= 9.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 0.95 else f"{number:.2f}"


def significant(value: Any, digits: int = 3) -> str:
    """A number with ``digits`` significant digits; 0: whole, negative: in scientific notation.

    >>> significant(1234.5), significant(0.012345), significant(3.2e-7), significant(None)
    ('1230', '0.0123', '3.20e-7', '')
    >>> significant(9.996), significant(1e7), significant(12.0, 0), significant(0.5, -2)
    ('10.0', '1.00e7', '12', '5.0e-1')
    """
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    if digits == 0:
        return f"{value:.0f}"
    if digits < 0 or abs(value) < 1e-3 or abs(value) >= 1e6:
        return scientific(value, abs(digits))
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{places}f}"


def interval(middle: float, low: float | None, high: float | None) -> str:
    """A number with its interval: 1.55 [1.51, 1.58]."""
    if low is None or high is None or low != low or high != high:
        return significant(middle)
    return f"{significant(middle)} [{significant(low)}, {significant(high)}]"


def uncertain(middle: float, low: float | None, high: float | None) -> str:
    """A number with its interval's half-width in brackets, in units of the last digit (siunitx).

    >>> uncertain(0.65432, 0.6443, 0.6643)
    '0.654(10)'
    """
    if low is None or high is None or not high > low:
        return significant(middle)
    half = (high - low) / 2
    places = max(0, 1 - math.floor(math.log10(half)))
    digits = round(half * 10**places)
    return f"{middle:.{places}f}({max(digits, 1)})"
