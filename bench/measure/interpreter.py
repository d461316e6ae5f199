"""Triton's interpreter: whether it runs with the installed packages; its rounding and its speed.

Imports torch and Triton only when called.
"""

from dataclasses import replace
from typing import Any


def check() -> None:
    """Raise RuntimeError if Triton's interpreter does not run with the packages installed here.

    Called before anything is measured or checked with interpreted kernels.
    """
    from kernels.planning import interpreter_fault

    fault = interpreter_fault()
    if fault is not None:
        raise RuntimeError(fault)


def prepare() -> None:
    """Let the interpreter round as a GPU does and take half the time, in the rest of a process."""
    round_to_nearest()
    patch_once_per_module()


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


def patch_once_per_module() -> None:
    """Let the interpreter leave out what it repeats at each call and operation; no value changes.

    Triton's language is patched once per module instead of at each call of a device function, and
    integers are not checked for overflow.
    """
    from triton.runtime import interpreter

    function = interpreter.InterpretedFunction
    if getattr(function.__call__, "patches_once", False):
        return
    patched: set[str] = set()

    def call(self: Any, *args: Any, **options: Any) -> Any:
        if self.fn.__module__ not in patched:
            patched.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **options)

    call.patches_once = True  # type: ignore[attr-defined]
    function.__call__ = call
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
