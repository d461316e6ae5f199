"""The device activations alone, over the whole float32 range, against float64.

Runs in Triton's interpreter on a CPU and as compiled code on a GPU: the exponential they build on
is the device's own, so the two differ and the result says which it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch.nn.functional import logsigmoid

from bench.measure import interpreter, metrics
from bench.records import environment, files, provenance
from kernels import math as device

PER_EXPONENT = 1 << 13  # points of each sign in each of the 256 exponents: 2^22 in all
BLOCK = 1 << 12
SPECIAL = (float("inf"), float("-inf"), float("nan"), 0.0, -0.0)


@triton.jit
def _apply(x_ptr, y_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, FUNCTION(x), mask=at < n)


def on_device(function: Any, x: torch.Tensor) -> torch.Tensor:
    """A jit function of float32 applied to every element of ``x``."""
    y = torch.full_like(x, float("nan"))
    _apply[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), function, BLOCK)
    return y


def points(per_exponent: int = PER_EXPONENT, seed: int = 0) -> torch.Tensor:
    """float32 numbers of both signs in every exponent, subnormals included, with both ends."""
    draw = np.random.default_rng(seed)
    found = []
    for exponent in range(255):
        bits = draw.integers(0, 1 << 23, per_exponent, dtype=np.uint32)
        bits[0], bits[-1] = 0, (1 << 23) - 1
        found.append((np.uint32(exponent) << np.uint32(23)) | bits)
    positive = np.concatenate(found).view(np.float32)
    return torch.from_numpy(np.concatenate([positive, -positive]))


def references(x: torch.Tensor) -> dict[str, tuple[Any, torch.Tensor, torch.Tensor]]:
    """Each function: the jit function, its argument, and the float64 truth.

    The derivatives take the function's float32 output, as the kernels do, and are held against
    the derivative at the true argument's rounded output: what the formula itself loses.
    """
    exact = x.double()
    sigmoid, tanh = torch.sigmoid(exact), torch.tanh(exact)
    s, t = sigmoid.float(), tanh.float()
    return {
        "sigmoid": (device.sigmoid, x, sigmoid),
        "tanh": (device.tanh, x, tanh),
        "exp": (device.exp, x.clamp(max=88.0), exact.clamp(max=88.0).exp()),  # then it is infinite
        "log_sigmoid": (device.log_sigmoid, x, logsigmoid(exact)),
        "sigmoid_gradient": (device.sigmoid_gradient, s, s.double() * (1 - s.double())),
        "tanh_gradient": (device.tanh_gradient, t, (1 - t.double()) * (1 + t.double())),
    }


def measure(device_name: str = "cpu", per_exponent: int = PER_EXPONENT) -> dict[str, Any]:
    """Error of each activation in ULP of the correctly rounded float32 result.

    Returns:
        Provenance and, per function, the metrics of ``bench.measure.metrics.errors``, the
        argument of the worst point, the maximum per binary exponent of the argument,
        and torch's own error.
    """
    x = points(per_exponent).to(device_name)
    functions: dict[str, Any] = {}
    for name, (function, argument, truth) in references(x).items():
        got = on_device(function, argument)
        units = (got.double() - truth).abs() / metrics.ulp(truth, torch.float32)
        worst = int(units.argmax())
        exponents = torch.frexp(argument.double())[1].cpu().numpy() - 1
        per = np.zeros(0)
        order = np.argsort(exponents, kind="stable")
        values, starts = np.unique(exponents[order], return_index=True)
        per = np.maximum.reduceat(units.cpu().numpy()[order], starts)
        functions[name] = metrics.errors(got, truth, torch.float32) | {
            "worst_at": argument[worst].item(),
            "exponents": values.tolist(),
            "max_ulp_per_exponent": per.tolist(),
            "special": _special(name, function, device_name),
        }
        library = getattr(torch, name, None)
        if library is not None:
            functions[name]["torch"] = metrics.errors(library(argument), truth, torch.float32)
    return {
        "points": x.numel(),
        "interpreted": environment.interpreted(),
        "functions": functions,
        **provenance.provenance(environment.device_facts()),
    }


def _special(name: str, function: Any, device_name: str) -> dict[str, str]:
    """What comes of infinities, NaN and zeros, as text, since JSON has no words for them."""
    got = on_device(function, torch.tensor(SPECIAL, device=device_name))
    return {str(x): str(y) for x, y in zip(SPECIAL, got.tolist(), strict=True)}


def write(folder: Path, found: dict[str, Any]) -> Path:
    path = folder / files.RECORDS / files.ACTIVATIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """``python -m bench.error.activations FOLDER [PER_EXPONENT]``, for ``bench.cli.error``."""
    if environment.interpreted():
        interpreter.check()
    where = "cuda" if torch.cuda.is_available() else "cpu"
    per_exponent = int(sys.argv[2]) if len(sys.argv) > 2 else PER_EXPONENT
    print(write(Path(sys.argv[1]), measure(where, per_exponent)))


if __name__ == "__main__":
    main()
