"""The model of rounding errors, back in time: the error to expect of gradients. Imports no torch.

bench/ERROR.md derives it. Upstream gradients are normal with mean square 1 and independent of the
cell's numbers, so the mean squares of all gradients follow from those of the slopes, and their
errors from those of a step's roundings: of what the forward loop computed and saved, and of the
gates' gradients, which are stored in the I/O type and multiplied with the weights as stored.
"""

import math
from dataclasses import dataclass

import numpy as np

from bench.cases.cases import Case
from bench.error.rounding_model import (
    SIGMOID,
    TANH,
    Errors,
    Layer,
    mean_square,
    sigmoid,
    step,
    tanh_slope,
)

# A gate's gradient is a product of some three factors, each of which rounds in fp32.
POINTWISE = 3.0
SMALL = 0.5  # below it a tanh is saved as it is (kernels/math.py)


@dataclass(frozen=True)
class Square:
    """The mean square of a number, and that of its error."""

    value: float
    error: float = 0.0

    def __add__(self, other: "Square") -> "Square":
        return Square(self.value + other.value, self.error + other.error)

    def __mul__(self, other: "Square") -> "Square":
        """Of the product of two independent numbers with independent errors."""
        return Square(self.value * other.value, self.value * other.error + self.error * other.value)

    def rounded(self, square: float) -> "Square":
        """With a further rounding of that mean square over the number's."""
        return Square(self.value, self.error + square * self.value)

    @property
    def relative(self) -> float:
        return math.sqrt(self.error / self.value)


class Saved:
    """What the backward loop reads of a step: gates, their derivatives, and states.

    Sigmoids and tanhs are saved packed (kernels/math.py), in the I/O type: of a sigmoid s the
    smaller of s and 1 - s, of a tanh 1 - |y| from ``SMALL`` on and y below. Rounding the packed
    number p by dp, s is off by dp, s' = p (1 - p) by (1 - 2 p) dp, and y' by 2 |y| dp.
    """

    def __init__(self, layer: Layer, errors: Errors) -> None:
        z, io2, u2, m = layer.m.z, layer.io2, layer.u2, layer.m

        def packed(x: np.ndarray) -> np.ndarray:
            return np.minimum(sigmoid(x), sigmoid(-x))

        def packed_tanh(x: np.ndarray) -> np.ndarray:
            y = np.abs(np.tanh(x))
            return np.where(np.abs(x) < SMALL, y, 1 - y)

        def bend(x: np.ndarray) -> np.ndarray:  # the second derivative of a sigmoid
            return sigmoid(x) * sigmoid(-x) * (1 - 2 * sigmoid(x))

        of_s, of_t = io2 + SIGMOID * u2, io2 + TANH * u2
        s_error = layer.ds2 * errors.z + of_s * mean_square(packed, z)
        self.s, self.kept = Square(layer.s2, s_error), Square(layer.kept2, s_error)
        self.s_slope = Square(
            layer.ds2,
            mean_square(bend, z) * errors.z
            + of_s * mean_square(lambda x: (1 - 2 * packed(x)) * packed(x), z),
        )
        self.t = Square(layer.t2, layer.dt2 * errors.z + of_t * mean_square(packed_tanh, z))
        y_slope = mean_square(lambda x: np.tanh(x) * tanh_slope(x), z)  # of y' = 1 - y^2: 2 y y'
        self.t_slope = Square(
            layer.dt2,
            4 * y_slope * errors.z
            + 4 * of_t * mean_square(lambda x: np.tanh(x) * packed_tanh(x), z),
        )
        # An RNN's derivative is 1 - y^2 of its rounded output.
        self.y_slope = Square(
            layer.dt2,
            4 * y_slope * errors.z + 4 * of_t * mean_square(lambda x: np.tanh(x) ** 2, z),
        )
        # A rectifier's derivative is wrong where an error changes the sign of z: for normal z and
        # error that is the angle between z and what was computed, over pi.
        flips = math.atan(math.sqrt(errors.z / z)) / math.pi
        self.relu_slope = Square(layer.relu2, flips)
        self.h = Square(m.h, errors.h + io2 * m.h)
        self.c = Square(m.c, errors.c)
        self.tc = Square(layer.tc2, layer.dtc2 * errors.c + TANH * u2 * layer.tc2)
        bend_c = mean_square(lambda x: 2 * np.tanh(x) * tanh_slope(x), m.c)
        self.tc_slope = Square(
            layer.dtc2,
            bend_c * errors.c + 4 * TANH * u2 * mean_square(lambda x: np.tanh(x) ** 2, m.c),
        )
        recurrent = layer.gain * m.h
        # In a GRU's W h: h in the I/O type, the product's operands, and what is saved.
        self.q = Square(
            recurrent, layer.gain * errors.h + (2 * io2 + layer.operand2) * recurrent
        )  # fmt: skip


def gradient_errors(case: Case, regime: str | None = None) -> dict[str, float]:
    """The model's relative L2 errors of the gradients of one layer in one direction.

    Returns:
        By name of the tensor: of the input ("dx", on the recurrence track "dgx"), the initial
        states ("dh0", of an LSTM "dc0") and the recurrent weights ("dw_hh", "dw_hh_l0"). Those of
        rnn_relu are carried by few elements, whose slope is wrong: as a mean over many tensors.

    Raises:
        ValueError: for a cell the model does not know.
    """
    return {name: found.relative for name, found in gradients(case, regime)[0].items()}


def gradients(case: Case, regime: str | None = None) -> tuple[dict[str, Square], list[Square]]:
    """By name as ``gradient_errors``: the squared norm over B H, and that of the error.

    Second, the same of dgx by gate, in the order of its columns. That of dx is dgx's, which W_ih
    only scales; that of weights, over B H^2, takes the terms of successive steps as independent,
    in the gradient as in its error.
    """
    layer, errors = Layer(case, regime), Errors()
    for _ in range(case.T):
        errors = step(case.cell, layer, errors)
    saved, io2 = Saved(layer, errors), layer.io2
    K = case.cell_info.gates * case.H

    def stored(gate: Square) -> Square:
        return gate.rounded(io2 + POINTWISE * layer.u2)

    def product(gates: Square) -> Square:
        """Of R^T times the gates' gradients."""
        found = Square(layer.gain) * gates
        return found.rounded(layer.operand2 + layer.sum2(K, 1.0))

    one = Square(1.0)
    dh = dc = one  # of the last states
    nothing = Square(0.0)
    dgx = [nothing] * case.cell_info.gates  # of the input's gates, over all steps
    dr = nothing  # of the recurrent gates
    for _ in range(case.T):
        dh += one  # of y
        if case.cell == "lstm":
            dc += dh * saved.s * saved.tc_slope
            gates = [
                stored(dc * saved.t * saved.s_slope),
                stored(dc * saved.c * saved.s_slope),
                stored(dc * saved.s * saved.t_slope),
                stored(dh * saved.tc * saved.s_slope),
            ]
            dc *= saved.s
            recurrent, direct = gates, nothing
        elif case.cell == "gru":
            dn = dh * saved.kept * saved.t_slope
            gates = [
                stored(dn * saved.q * saved.s_slope),
                stored(dh * (saved.h + saved.t) * saved.s_slope),
                stored(dn),
            ]
            recurrent, direct = [*gates[:2], stored(dn * saved.s)], dh * saved.s
        else:
            slope = saved.y_slope if case.cell == "rnn_tanh" else saved.relu_slope
            gates = recurrent = [stored(dh * slope)]
            direct = nothing
        gate_sum = sum(recurrent, nothing)
        dgx, dr = [a + b for a, b in zip(dgx, gates, strict=True)], dr + gate_sum
        dh = product(gate_sum) + direct
    dw = (dr * saved.h).rounded(io2 + layer.operand2 + layer.sum2(case.T * case.B, 1.0))
    all_gates = sum(dgx, nothing)
    found = {"dgx": all_gates, "dh0": dh.rounded(io2), "dw_hh": dw}
    if case.track == "layer":
        dx = all_gates.rounded(io2 + layer.operand2 + layer.sum2(K, 1.0))  # W^T dgx
        found = {"dx": dx, "dh0": found["dh0"], "dw_hh_l0": dw}
    if case.cell == "lstm":
        found["dc0"] = dc.rounded(io2)
    return found, dgx
