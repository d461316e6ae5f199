"""Triton's interpreter: whether it runs with the installed packages, and a fix of its rounding.

Imports torch and Triton only when called.
"""

from typing import Any


def check() -> None:
    """Raise RuntimeError if Triton's interpreter does not run with the packages installed here.

    Called before anything is measured or checked with interpreted kernels.
    """
    from kernels.planning import interpreter_fault

    fault = interpreter_fault()
    if fault is not None:
        raise RuntimeError(fault)


def round_to_nearest() -> None:
    """Let the interpreter round fp32 to bf16 to nearest, as every GPU does.

    It truncates instead (in Triton 3.6 and 3.7), which doubles each such error. It rounds fp16
    correctly.
    """
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    inner = builder.cast_impl
    if getattr(inner, "rounds_to_nearest", False):
        return

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar != tl.float32 or dst_type.scalar != tl.bfloat16:
            return inner(self, src, dst_type)
        rounded = torch.from_numpy(np.ascontiguousarray(src.data)).to(torch.bfloat16)
        bits = rounded.view(torch.int16).numpy().view(np.uint16).reshape(src.data.shape)
        return interpreter.TensorHandle(bits, dst_type.scalar)

    cast_impl.rounds_to_nearest = True  # type: ignore[attr-defined]
    builder.cast_impl = cast_impl
