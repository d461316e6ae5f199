"""The kernels' activation functions over the whole float32 range, against float64.

They run compiled on a GPU and in Triton's interpreter on a CPU. Both use the device's own
exponential, so their errors differ; a result says which was measured.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch.nn.functional import logsigmoid

from bench.measure import metrics
from kernels import math as device

PER_EXPONENT = 1 << 13  # points of each sign in each of the 256 exponents: 2^22 in all
BLOCK = 1 << 12
SPECIAL = (float("inf"), float("-inf"), float("nan"), 0.0, -0.0)


@triton.jit
def _apply(x_ptr, y_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, FUNCTION(x), mask=at < n)


@triton.jit
def _saved_sigmoid_gradient(x):
    return device.unpack_sigmoid(device.sigmoid_and_packed(x)[1])[2]


def apply(function: Any, x: torch.Tensor) -> torch.Tensor:
    """A jit function of float32, applied by a kernel to every element of ``x``."""
    y = torch.full_like(x, float("nan"))
    _apply[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), function, BLOCK)
    return y


def points(per_exponent: int, seed: int = 0) -> torch.Tensor:
    """Random float32 numbers of both signs and every exponent (subnormals too), and the smallest
    and largest of each."""
    draw = np.random.default_rng(seed)
    found = []
    for exponent in range(255):
        bits = draw.integers(0, 1 << 23, per_exponent, dtype=np.uint32)
        bits[0], bits[-1] = 0, (1 << 23) - 1
        found.append((np.uint32(exponent) << np.uint32(23)) | bits)
    positive = np.concatenate(found).view(np.float32)
    return torch.from_numpy(np.concatenate([positive, -positive]))


def reference_values(x: torch.Tensor) -> dict[str, tuple[Any, torch.Tensor, torch.Tensor]]:
    """For each function the jit function, its argument, and its value in float64.

    The derivative of sigmoid goes through the packed form in which gates are saved. That of tanh
    takes tanh's float32 output, as the RNN's backward kernel does; its float64 value is of that
    same output, so that only the formula's own error counts.
    """
    exact = x.double()
    sigmoid, tanh = torch.sigmoid(exact), torch.tanh(exact)
    t = tanh.float()
    return {
        "sigmoid": (device.sigmoid, x, sigmoid),
        "tanh": (device.tanh, x, tanh),
        "exp": (device.exp, x.clamp(max=88.0), exact.clamp(max=88.0).exp()),  # infinite above
        "log_sigmoid": (device.log_sigmoid, x, logsigmoid(exact)),
        "sigmoid_gradient": (_saved_sigmoid_gradient, x, sigmoid * torch.sigmoid(-exact)),
        "tanh_gradient": (device.tanh_gradient, t, (1 - t.double()) * (1 + t.double())),
    }


def measure(per_exponent: int = PER_EXPONENT) -> dict[str, Any]:
    """Error of each activation in ULP of the correctly rounded float32 result.

    Returns:
        The number of points and, per function, the metrics of ``bench.measure.metrics.errors``, the
        argument of the worst point, the maximum per binary exponent of the argument, the results
        for special values, and the metrics of torch's own function.
    """
    x = points(per_exponent).to("cuda" if torch.cuda.is_available() else "cpu")
    functions: dict[str, Any] = {}
    for name, (function, argument, truth) in reference_values(x).items():
        got = apply(function, argument)
        units = (got.double() - truth).abs() / metrics.ulp(truth, torch.float32)
        worst = int(units.argmax())
        exponents = torch.frexp(argument.double())[1].cpu().numpy() - 1
        order = np.argsort(exponents, kind="stable")
        values, starts = np.unique(exponents[order], return_index=True)
        per = np.maximum.reduceat(units.cpu().numpy()[order], starts)
        functions[name] = metrics.errors(got, truth, torch.float32) | {
            "worst_at": argument[worst].item(),
            "exponents": values.tolist(),
            "max_ulp_per_exponent": per.tolist(),
            "special": _special(function, x.device),
        }
        library = getattr(torch, name, None)
        if library is not None:
            functions[name]["torch"] = metrics.errors(library(argument), truth, torch.float32)
    return {"points": x.numel(), "functions": functions}


def _special(function: Any, device: torch.device) -> dict[str, str]:
    """The results for infinities, NaN and zeros, as text, since JSON cannot hold them."""
    got = apply(function, torch.tensor(SPECIAL, device=device))
    return {str(x): str(y) for x, y in zip(SPECIAL, got.tolist(), strict=True)}
