"""A model of how rounding errors grow in the loop: the error to expect of y. Imports no torch.

bench/ERROR.md derives it. In short: pre-activations of a wide layer are nearly normal, so the mean
squares of states and slopes follow from integrals over the normal distribution; every rounding is
an independent error whose mean square is ROUNDING u^2 times its number's; and a step scales errors
by its mean squared slopes. An expectation, not a guarantee. ``gradient_model`` goes back in time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.cases.cases import Case
from bench.cases.numbers import ROUNDOFF

# A rounding to nearest is uniform over one spacing, whose half is u 2^e: its mean square is
# (u 2^e)^2 / 3. The number itself is m 2^e with m in [1, 2), whose mean square is 3 / (2 ln 2) if m
# is distributed as leading digits are (Hamming, 1970).
ROUNDING = 2 * math.log(2) / 9
# The mean square error of the kernels' activations over that of one such rounding of their values,
# for normal arguments of mean square 0.3 to 1 (the tests measure it again): a sigmoid rounds its
# exponential, 1 + e, the square of that, its root and the reciprocal, a tanh also 1 - e and the
# product, and 1 - e magnifies the error of e.
SIGMOID = 3.1
TANH = 5.2
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

# The cells of the model. sLSTM is none: its output is a ratio of two sums of exponentials, whose
# mean square does not follow from those of its parts.
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")


def mean_square(function: Callable[[np.ndarray], np.ndarray], variance: float) -> float:
    """E[f(z)^2] for z normal with mean 0, by Gauss-Hermite quadrature."""
    return float(_WEIGHTS @ function(_NODES * math.sqrt(variance)) ** 2)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def tanh_slope(x: np.ndarray) -> np.ndarray:
    return 1 - np.tanh(x) ** 2


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
        s2, t2 = mean_square(sigmoid, z), mean_square(np.tanh, z)
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
            h = mean_square(lambda x: 1 - sigmoid(x), z) * t2 + s2 * h
        if (h, c) == before:
            break
    return Moments(h, c, z)


class Layer:
    """What the model knows of a layer before any step.

    Attributes:
        gain: see ``recurrent_gain``.
        m: the stationary mean squares.
        io2, u2: mean squares of a rounding over its number's, to the I/O type and to fp32.
        operand2: that of a product's operands which are not of the I/O type: of tf32, both.
        s2, t2, tc2: of a sigmoid, of the tanh of z and of c; kept2: of 1 less a sigmoid.
        ds2, dt2, dtc2, relu2: of their derivatives, and of the rectifier's.
        fresh: mean square of a step's roundings in z.
    """

    def __init__(self, case: Case, regime: str | None = None) -> None:
        driven = _input_square(case)
        self.gain, self.m = recurrent_gain(case, regime), moments(case, regime)
        self.io2 = ROUNDING * ROUNDOFF[case.dtype] ** 2
        self.u2 = ROUNDING * ROUNDOFF["fp32"] ** 2
        self.operand2 = 0.0
        if case.precision == "tf32":
            self.operand2 = 2 * ROUNDING * ROUNDOFF["tf32"] ** 2
        z, c = self.m.z, self.m.c
        self.s2, self.kept2 = mean_square(sigmoid, z), mean_square(lambda x: 1 - sigmoid(x), z)
        self.t2, self.tc2 = mean_square(np.tanh, z), mean_square(np.tanh, c)
        self.ds2 = mean_square(lambda x: sigmoid(x) * (1 - sigmoid(x)), z)
        self.dt2, self.dtc2 = mean_square(tanh_slope, z), mean_square(tanh_slope, c)
        self.relu2 = mean_square(lambda x: (x > 0).astype(float), z)
        # Roundings of z: h in the I/O type, the loop's product and its sum, and on the layer track
        # the projection's and its storage; on the recurrence track the projection is given.
        stored2 = self.io2 + self.operand2
        recurrent = self.gain * self.m.h
        self.fresh = stored2 * recurrent + self.sum2(case.H, recurrent)
        if case.track == "layer":
            self.fresh += stored2 * driven + self.sum2(case.I, driven)

    def sum2(self, terms: int, square: float) -> float:
        """Mean square error of a sum in fp32 of that mean square.

        Its k-th partial sum has k/n of the mean square, so the roundings add up to n/2 of one.
        (That they grow as the root of the length is Higham and Mary's result, 2019.)
        """
        return self.u2 * terms / 2 * square


@dataclass(frozen=True)
class Errors:
    """Mean square errors after a step: of z, of the state h before it is rounded, and of c."""

    z: float = 0.0
    h: float = 0.0
    c: float = 0.0


def step(cell: str, layer: Layer, before: Errors) -> Errors:
    """The errors after a step, given those after the step before."""
    m, u2 = layer.m, layer.u2
    s2, t2, tc2, kept2 = layer.s2, layer.t2, layer.tc2, layer.kept2
    ds2, dt2 = layer.ds2, layer.dt2
    sigmoid2, tanh2 = SIGMOID * u2, TANH * u2  # of the activations' own errors
    e_z, e_c = layer.fresh + layer.gain * before.h, 0.0
    if cell == "rnn_tanh":
        e_h = dt2 * e_z + (tanh2 + u2) * m.h
    elif cell == "rnn_relu":
        e_h = layer.relu2 * e_z + u2 * m.h
    elif cell == "lstm":
        e_c = (
            s2 * before.c  # f dc
            + (m.c * ds2 + t2 * ds2 + s2 * dt2) * e_z  # c df, g di, i dg
            + sigmoid2 * s2 * (m.c + t2)
            + tanh2 * s2 * t2
            + u2 * m.c
        )
        e_h = s2 * layer.dtc2 * e_c + tc2 * ds2 * e_z + (sigmoid2 + tanh2 + u2) * m.h
    else:
        # n's argument is x_n + r (W h).
        argument = layer.fresh + s2 * layer.gain * before.h + layer.gain * m.h * ds2 * e_z
        e_n = dt2 * argument + tanh2 * t2
        e_h = (
            s2 * before.h
            + kept2 * e_n
            + (m.h + t2) * (ds2 * e_z + sigmoid2 * s2)
            + u2 * m.h
        )  # fmt: skip
    return Errors(e_z, min(e_h, 1e30), e_c)


def growth(case: Case, steps: int, regime: str | None = None) -> np.ndarray:
    """The model's relative L2 error of the output after each of ``steps`` steps, [steps].

    An implementation as ours: projection (layer track), product operand and output in the I/O type;
    products summed, activations computed and the state carried in fp32.

    Raises:
        ValueError: for a cell the model does not know.
    """
    layer, errors, found = Layer(case, regime), Errors(), []
    for _ in range(steps):
        errors = step(case.cell, layer, errors)
        found.append(math.sqrt(errors.h / layer.m.h + layer.io2))
    return np.array(found)
