"""The kernels' activation functions over all of float32, against float64, in ULP.

A sample of every binade (the numbers of one binary exponent) finds where the errors are largest;
there every float32 of both signs is tried, since a sample's maximum is up to a fifth below that of
all numbers. The exponential is the device's own, on which the errors depend: a result names it, and
its error is measured too.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import logsigmoid

from bench.measure import metrics
from kernels import math as device

PER_EXPONENT = 1 << 13  # sampled points of each sign in each of the 255 exponents: 2^22 in all
BINADES = 10  # enumerated for each function on a CPU, in up to 3 s a binade; on a GPU all are
EXPONENTS = range(255)  # as they are stored; the last one is of infinities and NaN
BIAS = 127
FRACTIONS = 1 << 23  # numbers of one sign in a binade
PIECE = 1 << 20  # numbers of an enumeration at a time
SPECIAL = (float("inf"), float("-inf"), float("nan"), 0.0, -0.0)


@triton.jit
def _apply(x_ptr, y_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, FUNCTION(x), mask=at < n)


@triton.jit
def _saved_sigmoid_gradient(x):
    return device.unpack_sigmoid(device.sigmoid_and_packed(x)[1])[2]


@triton.jit
def _exp2(x):
    return tl.exp2(x)


def apply(function: Any, x: Tensor) -> Tensor:
    """A jit function of float32, applied by a kernel to every element of ``x``."""
    x = x.contiguous()
    y = torch.full_like(x, float("nan"))
    # The interpreter takes as long for a small block as for one of some thousand elements.
    block = 1024 if x.is_cuda else min(1 << 18, triton.next_power_of_2(x.numel()))
    _apply[(triton.cdiv(x.numel(), block),)](x, y, x.numel(), function, block)
    return y


@dataclass(frozen=True)
class Function:
    """A jit function, its value in float64, the arguments at which it is tried, and torch's own."""

    device: Any
    truth: Callable[[Tensor], Tensor]
    low: float = -math.inf
    high: float = math.inf
    torch: Callable[[Tensor], Tensor] | None = None

    def takes(self, x: Tensor) -> Tensor:
        """Where the function is tried at ``x``."""
        return (x >= self.low) & (x <= self.high)


# The derivative of sigmoid goes through the packed form in which gates are saved. That of tanh is a
# function of tanh's float32 output, as in the RNN's backward kernel, so that only the formula's own
# error counts. From 88.73 on exp is infinite. exp2 is the device's, where the others compute it.
FUNCTIONS = {
    "exp2": Function(_exp2, torch.exp2, -0.5, 0.5, torch.exp2),
    "sigmoid": Function(device.sigmoid, torch.sigmoid, torch=torch.sigmoid),
    "tanh": Function(device.tanh, torch.tanh, torch=torch.tanh),
    "exp": Function(device.exp, torch.exp, high=88.72, torch=torch.exp),
    "log_sigmoid": Function(device.log_sigmoid, logsigmoid, torch=logsigmoid),
    "sigmoid_gradient": Function(
        _saved_sigmoid_gradient, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)
    ),
    "tanh_gradient": Function(device.tanh_gradient, lambda y: (1 - y) * (1 + y), -1.0, 1.0),
}


def points(per_exponent: int, seed: int = 0) -> Tensor:
    """Random float32 numbers of every exponent, the subnormal one too: [255, 2 per_exponent].

    Both signs, and of each the smallest and the largest number of the exponent.
    """
    draw = np.random.default_rng(seed)
    found = draw.integers(0, FRACTIONS, (len(EXPONENTS), per_exponent), dtype=np.uint32)
    found[:, 0], found[:, -1] = 0, FRACTIONS - 1
    found |= np.array(EXPONENTS, np.uint32)[:, None] << 23
    positive = found.view(np.float32)
    return torch.from_numpy(np.concatenate([positive, -positive], axis=1))


def binade(exponent: int, where: torch.device | str = "cpu") -> Iterator[Tensor]:
    """Every float32 of both signs with this stored exponent, in pieces."""
    for start in range(exponent * FRACTIONS, (exponent + 1) * FRACTIONS, PIECE):
        bits = torch.arange(start, start + PIECE, dtype=torch.int32, device=where)
        positive = bits.view(torch.float32)
        yield positive
        yield -positive


def units(got: Tensor, truth: Tensor) -> Tensor:
    """|got - truth| in ULP of float32, for a float64 truth."""
    return (got.double() - truth).abs() / metrics.ulp(truth, torch.float32)


def order_statistic(values: Tensor, share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed."""
    place = max(1, math.ceil(share * values.numel()))
    return float(np.partition(values.cpu().numpy(), place - 1)[place - 1])


def exponential(where: torch.device) -> str:
    """Whose exponential and reciprocal square root the kernels compute with on this device."""
    if where.type == "cpu":
        return f"NumPy {np.__version__}'s exp2 and sqrt in float32"
    if torch.version.hip:
        return "v_exp_f32 and v_rsq_f32"
    return "ex2.approx.ftz.f32 and rsqrt.approx.ftz.f32"


def measure(binades: int | None = None, per_exponent: int = PER_EXPONENT) -> dict[str, Any]:
    """Error of each activation in ULP of the correctly rounded float32 result.

    Args:
        binades: for each function, of how many binades every float32 is tried; by default
            ``BINADES`` on a CPU, and all of them on a GPU.
        per_exponent: the sampled points of each exponent and sign.

    Returns:
        Whose exponential it is, the number of sampled points and, per function, what
        ``measure_function`` returns and the results for special values.
    """
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if binades is None:
        binades = BINADES if where.type == "cpu" else len(EXPONENTS)
    sample = points(per_exponent).to(where)
    return {
        "exponential": exponential(where),
        "points": sample.numel(),
        "functions": {
            name: measure_function(function, sample, binades)
            | {"special": _special(function.device, where)}
            for name, function in FUNCTIONS.items()
        },
    }


def measure_function(function: Function, sample: Tensor, binades: int) -> dict[str, Any]:
    """The error of one activation, and of torch's own.

    Args:
        sample: [exponents, points] as ``points`` gives them.
        binades: how many are enumerated, those with the largest sampled errors.

    Returns:
        ``max_ulp`` over all points and its argument ``worst_at``; the number ``n`` of sampled
        points and the error ``p99_ulp`` that 99 % of them do not exceed; binary ``exponents`` of
        the argument and the maximum in each; those ``enumerated`` and the largest error outside
        them, ``elsewhere_ulp`` (None: all are); and the maximum of torch's function,
        ``torch_max_ulp`` (None: it has none).
    """
    inside = function.takes(sample)
    sampled, torch_most = _errors(function, sample)
    most, at = (each.tolist() for each in sampled.max(1))
    worst = [sample[k, column].item() for k, column in enumerate(at)]
    tried = [k for k in EXPONENTS if inside[k].any()]
    order = sorted(tried, key=lambda k: _size(most[k]), reverse=True)
    chosen = sorted(order[:binades])
    for k in chosen:
        for x in binade(k, sample.device):
            found, of_torch = _errors(function, x)
            torch_most = max(torch_most, of_torch, key=_size)
            place = int(found.argmax())
            if _size(found[place].item()) > _size(most[k]):
                most[k], worst[k] = found[place].item(), x[place].item()
    top = max(tried, key=lambda k: _size(most[k]))
    return {
        "max_ulp": most[top],
        "worst_at": worst[top],
        "n": int(inside.sum()),
        "p99_ulp": order_statistic(sampled[inside], 0.99),
        "exponents": [k - BIAS for k in tried],
        "max_ulp_per_exponent": [most[k] for k in tried],
        "enumerated": [k - BIAS for k in chosen],
        "elsewhere_ulp": max((most[k] for k in tried if k not in chosen), default=None),
        "torch_max_ulp": torch_most if function.torch else None,
    }


def _size(error: float) -> float:
    """For comparisons: NaN is the largest of errors."""
    return math.inf if math.isnan(error) else error


def _errors(function: Function, x: Tensor) -> tuple[Tensor, float]:
    """The errors in ULP at ``x``, 0 where it is not tried, and the largest of torch's function."""
    truth, inside = function.truth(x.double()), function.takes(x)

    def off(got: Tensor) -> Tensor:
        return torch.where(inside, units(got, truth), 0.0)

    of_torch = off(function.torch(x)).max().item() if function.torch else 0.0
    return off(apply(function.device, x)), of_torch


def _special(function: Any, where: torch.device) -> dict[str, str]:
    """The results for infinities, NaN and zeros, as text, since JSON cannot hold them."""
    got = apply(function, torch.tensor(SPECIAL, device=where))
    return {str(x): str(y) for x, y in zip(SPECIAL, got.tolist(), strict=True)}
