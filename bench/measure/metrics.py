"""Error metrics of a tensor against float64, and how large an error still counts as correct."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.cases.cases import Case
from bench.cases.numbers import ROUNDOFF, product_roundoff
from bench.cases.problem import Problem, has_signs, truth, truth_at_signs, with_truth

LEAST_STEPS, MOST_STEPS = 48, 32  # of a case whose error is kept by time step, and at most kept
# The relative errors that are gated, and what a message calls them.
GATED = {
    "rel_l2": "relative L2",
    "rel_max": "maximum norm",
    "rel_l2_slice": "relative L2 of one row",
}
# Their tolerances in unit roundoffs of a 16-bit format, by the kind of tensor; see `tolerance`.
LIMITS = {
    "output or input": {"rel_l2": 8, "rel_max": 8, "rel_l2_slice": 8},
    "state": {"rel_l2": 16, "rel_max": 32, "rel_l2_slice": 16},
    "weight": {"rel_l2": 16, "rel_max": 64, "rel_l2_slice": 32},
}
FP32_FACTOR = 32  # as many times more roundoffs of fp32


class Incorrect(ValueError):
    """A result is wrong in value or shape, or missing."""


def same_shapes(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Check that tensors have the names and shapes of others.

    Args:
        what: "outputs" or "gradients", for the message.

    Raises:
        Incorrect: if one is missing, too many, no plain tensor or of another shape.
    """
    if got.keys() != wanted.keys():
        raise Incorrect(f"{what} are {', '.join(got)}; accepted: {', '.join(wanted)}")
    for name, value in got.items():
        shape = tuple(wanted[name].shape)
        if type(value) not in (Tensor, torch.nn.Parameter):
            raise Incorrect(f"{name} is a {type(value).__name__}; accepted: a tensor {shape}")
        if value.shape != shape:
            raise Incorrect(f"{name} has shape {tuple(value.shape)}; accepted: {shape}")


def ulp(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of ``dtype``'s numbers at each float64 value of ``truth``.

    Below the smallest normal number the spacing is that of the subnormal numbers.
    """
    info = torch.finfo(dtype)
    # frexp's fraction is in [1/2, 1), so its exponent is one above the number's own.
    _, exponent = torch.frexp(truth.abs().clamp_min(info.smallest_normal))
    return torch.ldexp(torch.full_like(truth, info.eps), exponent - 1)


def errors(got: Tensor, truth: Tensor) -> dict[str, float]:
    """Absolute errors, and errors relative to the truth: of the whole, of the largest, of a slice.

    A slice is the last dimension: of outputs, inputs and states a batch row (at a time step), of a
    weight matrix a row, of a bias all of it.

    Args:
        got: what was computed, any floating type.
        truth: float64, the same shape.

    Returns:
        max_abs and mean_abs; rel_l2 and rel_max, the error's L2 and maximum norm over the truth's;
        rel_l2_slice, the largest L2 norm of a slice of the error over the truth's there, or over
        the root mean square of all slices' norms where that is larger, so that a slice that is
        nearly zero does not count for more. Relative to a truth of zero an error is absolute. All
        are NaN or infinite where ``got`` is.

    Raises:
        Incorrect: if the shapes differ.
    """
    if got.shape != truth.shape:
        raise Incorrect(f"got has shape {tuple(got.shape)}; accepted: {tuple(truth.shape)}")
    norm = torch.linalg.vector_norm
    off = truth - got  # the one tensor as large as the truth; norms make no copy
    slices, off_slices = norm(truth, dim=-1), norm(off, dim=-1)
    typical = norm(slices) / math.sqrt(slices.numel())
    largest = norm(off, math.inf)

    def relative(error: Tensor, size: Tensor) -> float:
        return (error / torch.where(size > 0, size, 1.0)).max().item()

    return {
        "max_abs": largest.item(),
        "mean_abs": norm(off, 1).item() / off.numel(),
        "rel_l2": relative(norm(off), norm(slices)),
        "rel_max": relative(largest, norm(truth, math.inf)),
        "rel_l2_slice": relative(off_slices, slices.clamp_min(typical)),
    }


def by_step(got: Tensor, truth: Tensor, from_last: bool = False) -> list[tuple[int, float]]:
    """The relative L2 error at some time steps, closer together at the first of them.

    Args:
        got: [T, ...], any floating type.
        truth: float64, the same shape.
        from_last: count steps from the last one, as a gradient reaches them.

    Returns:
        At most ``MOST_STEPS`` pairs of a step, counted from 1, and the error there, to three
        digits; absolute where the truth is zero.
    """
    T, norm = len(truth), torch.linalg.vector_norm
    steps = torch.logspace(0, math.log2(T), MOST_STEPS, 2).round().int().unique().tolist()
    found = []
    for step in steps:
        t = T - step if from_last else step - 1
        off, size = norm(got[t].double() - truth[t]).item(), norm(truth[t]).item()
        found.append((step, float(f"{off / size if size > 0 else off:.3g}")))
    return found


def all_errors(
    got: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    parts: Mapping[str, tuple[str, slice]] | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of every tensor of ``got``, and of parts of them.

    Args:
        parts: as in ``Problem``.
    """
    pairs = {name: (value, exact[name]) for name, value in got.items()}
    for part, (name, entries) in (parts or {}).items():
        if part in got:
            raise ValueError(f"part is {part!r}; accepted: a name that no tensor has")
        if name in got:
            pairs[part] = (got[name][..., entries], exact[name][..., entries])
    return {name: errors(*pair) for name, pair in pairs.items()}


def nearest_limit(found: Mapping[str, float], case: Case, name: str) -> tuple[float, str]:
    """The largest share that a tensor's relative errors take of their tolerance, and which does.

    Args:
        found: what `errors` returns.

    Returns:
        A share, above 1 or NaN where the tensor is wrong, and a key of GATED.
    """
    shares = {metric: found[metric] / tolerance(case, name, metric) for metric in GATED}
    worst = max(
        shares, key=lambda metric: math.inf if math.isnan(shares[metric]) else shares[metric]
    )
    return shares[worst], worst


def verdict(found: Mapping[str, Mapping[str, float]], case: Case) -> str | None:
    """Why tensors are incorrect, in a sentence on the first that is; None if all are correct.

    Args:
        found: by tensor, what `errors` returns.
    """
    for name, metrics in found.items():
        share, metric = nearest_limit(metrics, case, name)
        if not share <= 1:  # also when it is NaN
            off, allowed = metrics[metric], tolerance(case, name, metric)
            how = GATED[metric]
            return f"{name} is off by {off:.3g} ({how}) from float64; accepted: {allowed:.3g}"
    return None


def check(
    problem: Problem, got: dict[str, Tensor]
) -> tuple[dict[str, dict[str, float]], str | None]:
    """The metrics of every tensor (of the rows with a truth), and why they are incorrect or None.

    The derivative of a rectifier is a step function: of N pre-activations some 0.1 N u are so near
    zero that rounding changes their sign, and with it their whole gradient, in any implementation.
    So gradients of rnn_relu are off by about sqrt(u) of their norm. Whether they are correct is
    judged by the float64 gradients at the signs that the outputs in ``got`` have: those signs are
    right wherever it matters if the outputs are within their tolerance.

    Args:
        got: outputs and, in a backward case, gradients; as `truth` names them.
    """
    case = problem.case
    mine = with_truth(problem, got)
    found = all_errors(mine, truth(problem, case.pass_ != "fwd"), problem.parts)
    gradients = {name: value for name, value in mine.items() if name.startswith("d")}
    if not gradients or not has_signs(case):
        return found, verdict(found, case)
    at_signs = all_errors(gradients, truth_at_signs(problem, got["y"]), problem.parts)
    return found, verdict(found | at_signs, case)


def largest(
    one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """By tensor and metric the larger of two calls' errors; what only one has as it is."""
    return {
        name: {
            metric: max(each.get(name, {}).get(metric, 0.0) for each in (one, other))
            for metric in {**one.get(name, {}), **other.get(name, {})}
        }
        for name in {**one, **other}
    }


def tolerance(case: Case, name: str, metric: str = "rel_l2") -> float:
    """The error up to which a tensor counts as correct at any benchmarked shape.

    A correct implementation in the I/O type rounds the state once a step. Under torch's default
    weights the loop contracts, so these roundings do not add up over time. In unit roundoffs u of
    16-bit types, the worst of torch.nn, the reference (which rounds after every operation) and
    ours over all cells, T to 512, B to 64, H from 16 to 512, 4 layers, and what is accepted:

                                            L2         maximum     slice
        outputs                             1.5   8    3.4   8    2.6   8
        gradients of x and gx               2.2   8    2.9   8    4.6   8
        gradients of initial states         3.0  16    4.5  32    4.7  16
        gradients of weights and biases     8.0  16     21  64     13  32

    The rest is for tensors of 5 to 16 entries (up to 4, 7, 29 and 15 u), gates saved in the I/O
    type and another order of summation. Weight gradients that are added up over time in the I/O
    type, as torch.nn's and the reference's are on a CPU, are off by 0.3 u sqrt(T). Products in fp32
    sum up to some thousand terms in any order (measured: 10 u at H=512, 33 u for a bias), hence 32
    times as many u of that format. A tile of 16 batch rows that reads the state of a step before
    is off by 0.1 or more in a slice (tests/bench/test_gate.py), a swapped gate by 0.1 in L2, a
    wrong direction by 1.

    Gradients of rnn_relu are those at given signs; see `check`. Of several layers the signs are not
    known; 8 sqrt(u) in L2 is allowed for them (measured: 4.4 for dh0 of 128 entries), which still
    catches a wrong sign or a missing term, but no race.
    """
    u = product_roundoff(case.dtype, case.precision)
    if not name.startswith("d") or name in ("dx", "dgx"):
        kind = "output or input"
    else:
        kind = "weight" if name.startswith(("dw_", "db_")) else "state"
    if name.startswith("d") and case.cell_info.nonlinearity == "relu" and not has_signs(case):
        return 8 * math.sqrt(u) if metric == "rel_l2" else math.inf
    return u * LIMITS[kind][metric] * (FP32_FACTOR if u == ROUNDOFF["fp32"] else 1)
