"""A model of how rounding errors grow in the loop: the error to expect. Imports no torch.

bench/ERROR.md derives it. In short: pre-activations of a wide layer are nearly normal, so the mean
squares of states and slopes follow from integrals over the normal distribution; every rounding is
an independent error whose mean square is ROUNDING u^2 times its number's; and a step scales errors
by its mean squared slopes. An expectation, not a guarantee.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.cases.cases import Case
from bench.cases.numbers import ROUNDOFF, product_roundoff

# A rounding to nearest is uniform over one spacing, whose half is u 2^e: its mean square is
# (u 2^e)^2 / 3. The number itself is m 2^e with m in [1, 2), whose mean square is 3 / (2 ln 2) if m
# is distributed as leading digits are (Hamming, 1970).
ROUNDING = 2 * math.log(2) / 9
# An activation in fp32 is off by about one such rounding in its argument's exponential and result.
ACTIVATION = 2.0
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

# The cells of the model. sLSTM is none: its output is a ratio of two sums of exponentials, whose
# mean square does not follow from those of its parts.
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")


def mean_square(function: Callable[[np.ndarray], np.ndarray], variance: float) -> float:
    """E[f(z)^2] for z normal with mean 0, by Gauss-Hermite quadrature."""
    return float(_WEIGHTS @ function(_NODES * math.sqrt(variance)) ** 2)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Moments:
    """Mean squares of a layer in its stationary state: of h, c, and a gate's pre-activation z."""

    h: float
    c: float
    z: float


def recurrent_gain(case: Case, regime: str | None) -> float:
    """Mean square of (W h)_k over the mean square of h: the row sums of W squared.

    torch's initial weights are uniform in +-1/sqrt(H), so a row's squares sum to 1/3; an
    orthogonal matrix's rows sum to 1.
    """
    if regime and regime.startswith("orthogonal"):
        return float(regime.split("-")[1]) ** 2
    return 1 / 3


def _input_square(case: Case) -> float:
    """Mean square of W x + b_ih + b_hh for normal x and torch's initial weights."""
    if case.track == "recurrence":
        return 1 / 3 + 1 / (3 * case.H)
    return (case.I + 2) / (3 * case.H)


def moments(case: Case, regime: str | None = None) -> Moments:
    """The stationary mean squares, by iterating the cell's equations on them.

    Raises:
        ValueError: for a cell the model does not know.
    """
    if case.cell not in CELLS:
        raise ValueError(
            f"cell is {case.cell!r}; accepted: {', '.join(CELLS)}, whose mean squares follow from "
            "those of their parts"
        )
    gain, driven = recurrent_gain(case, regime), _input_square(case)
    h = c = 0.25
    z = driven
    for _ in range(500):
        before = (h, c)
        z = driven + gain * h
        s2, t2 = mean_square(_sigmoid, z), mean_square(np.tanh, z)
        if case.cell == "rnn_tanh":
            h = t2
        elif case.cell == "rnn_relu":
            h = min(mean_square(lambda x: np.maximum(x, 0), z), 1e30)
        elif case.cell == "lstm":
            c = s2 * c + s2 * t2
            h = s2 * mean_square(np.tanh, c)
        else:
            # n's argument is x_n + r (W h): its recurrent part is scaled by the reset gate.
            t2 = mean_square(np.tanh, driven + s2 * gain * h)
            h = mean_square(lambda x: 1 - _sigmoid(x), z) * t2 + s2 * h
        if (h, c) == before:
            break
    return Moments(h, c, z)


def growth(case: Case, steps: int, regime: str | None = None) -> np.ndarray:
    """The model's relative L2 error of the output after each of ``steps`` steps, [steps].

    An implementation as ours: projection, product operand and output in the I/O type; products
    summed, activations computed and the state carried in fp32.

    Raises:
        ValueError: for a cell the model does not know.
    """
    gain, m = recurrent_gain(case, regime), moments(case, regime)
    io2 = ROUNDING * ROUNDOFF[case.dtype] ** 2
    u2 = ROUNDING * ROUNDOFF["fp32"] ** 2
    operand2 = ROUNDING * product_roundoff(case.dtype, case.precision) ** 2
    if case.precision == "tf32":
        # W is rounded too.
        operand2 *= 2
    # Rounding of z: the stored projection, the product's operand, and sums of H and of I terms: the
    # k-th partial sum has k/H of the final mean square, so the roundings add up to H/2 of one.
    # (That they grow as the root of the length is Higham and Mary's result, 2019.)
    sums2 = u2 / 2 * (case.H * gain * m.h + case.I * _input_square(case))
    fresh = io2 * _input_square(case) + operand2 * gain * m.h + sums2
    s2, t2 = mean_square(_sigmoid, m.z), mean_square(np.tanh, m.z)
    tc, kept = mean_square(np.tanh, m.c), mean_square(lambda x: 1 - _sigmoid(x), m.z)
    # Mean squares of derivatives: of the sigmoid, of the tanh at z and at c, of the rectifier.
    ds = mean_square(lambda x: _sigmoid(x) * (1 - _sigmoid(x)), m.z)
    dt, dtc = (mean_square(lambda x: 1 - np.tanh(x) ** 2, variance) for variance in (m.z, m.c))
    relu = mean_square(lambda x: (x > 0).astype(float), m.z)
    act = ACTIVATION * u2
    e_h, e_c = 0.0, 0.0
    found = []
    for _ in range(steps):
        e_z = fresh + gain * e_h
        if case.cell in ("rnn_tanh", "rnn_relu"):
            slope = dt if case.cell == "rnn_tanh" else relu
            e_h = slope * e_z + (act + u2) * m.h
        elif case.cell == "lstm":
            e_c = (
                s2 * e_c  # f dc
                + (m.c * ds + t2 * ds + s2 * dt) * e_z  # c df, g di, i dg
                + act * (s2 * m.c + 2 * s2 * t2)
                + u2 * m.c
            )
            e_h = s2 * dtc * e_c + tc * ds * e_z + (2 * act + u2) * m.h
        else:
            e_n = dt * (fresh + s2 * gain * e_h + gain * m.h * ds * e_z) + act * t2
            e_h = s2 * e_h + kept * e_n + (m.h + t2) * (ds * e_z + act * s2) + u2 * m.h
        found.append(math.sqrt(min(e_h, 1e30) / m.h + io2))
    return np.array(found)
