"""The derivatives of the operators, for `backward`, `torch.func` and `torch.compile`.

Each operator gets a kernel for the dispatcher's autograd key, where torch's own operators have
theirs: there every derivative is visible, in any mode and at any level of nested transforms, and
is either computed or refused. (`torch.library.register_autograd` serves `backward` only: it takes
an input's tangent for zero, and `torch.func` refuses it.)

Gradients are the kernels'; forward-mode derivatives are torch's own, of the loop in PyTorch.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from . import operators, tangents
from .operators import (
    LIBRARY,
    NO_SECOND,
    layer,
    layer_backward,
    recurrence,
    recurrence_backward,
)


class TangentFound(Exception):
    """An argument has a tangent."""


class OperatorFunction(torch.autograd.Function):
    """Base class. `forward` gets `compute`, which runs the operator below autograd, whether a
    gradient is recorded, and the operator's arguments.
    """

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """At one level of transforms: the dispatcher, not torch's Function, goes through levels."""
        return super(torch.autograd.Function, cls).apply(*arguments)  # type: ignore[misc]

    @staticmethod
    def jvp(ctx: Any, *found: Any) -> Any:
        """torch calls this where an argument has a tangent, after `forward`, whose results are then
        discarded; to look for tangents in every call would cost all calls time.
        """
        raise TangentFound

    @staticmethod
    def differentiable(*arguments: Any) -> Any:
        """The operator's results, computed by differentiable operations of torch."""
        raise NotImplementedError


def _register(operator: torch._ops.OpOverload, function: Any) -> None:
    """Make the Function the operator's autograd kernel."""

    def run(keyset: Any, *arguments: Any) -> Any:
        keyset = keyset & torch._C._after_autograd_keyset
        recording = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        recorded = recording[0] and torch._C._any_requires_grad(*arguments)
        compute = partial(_compute, operator, keyset, recording)
        try:
            if not torch._C._are_functorch_transforms_active():
                return function.apply(compute, recorded, *arguments)
            with enable_single_level_autograd_function():
                return function.apply(compute, recorded, *arguments)
        except TangentFound:
            return function.differentiable(*arguments)

    LIBRARY.impl(operator, run, "Autograd", with_keyset=True)


def _compute(
    operator: torch._ops.OpOverload, keyset: Any, recording: tuple[bool, bool], *arguments: Any
) -> Any:
    """Run the operator below this level's autograd. Within `forward` no derivatives are recorded;
    outer transforms record theirs if the caller does.
    """
    with torch._C._AutoDispatchBelowAutograd():
        if not torch._C._are_functorch_transforms_active():
            return operator.redispatch(keyset, *arguments)
        with torch.set_grad_enabled(recording[0]), _set_fwd_grad_enabled(recording[1]):
            return operator.redispatch(keyset, *arguments)


class _Recurrence(OperatorFunction):
    @staticmethod
    def forward(
        ctx, compute, recorded, gx, w_hh, b_hh, initial, lengths, resets, cell, direction, save,
        mode, precision,
    ):  # fmt: skip
        y, final, history, saved = compute(
            gx, w_hh, b_hh, initial, lengths, resets, cell, direction, save or recorded, mode,
            precision,
        )  # fmt: skip
        ctx.save_for_backward(w_hh, initial, lengths, resets, y, history, saved)
        ctx.mark_non_differentiable(history, saved)
        ctx.set_materialize_grads(False)
        ctx.options = cell, direction
        ctx.how = mode, precision
        return y, final, history, saved

    @staticmethod
    def backward(ctx, dy, dfinal, _dhistory, _dsaved):
        w_hh, initial, lengths, resets, y, history, saved = ctx.saved_tensors
        dy = torch.zeros_like(y) if dy is None else dy
        dfinal = torch.zeros_like(initial) if dfinal is None else dfinal
        needs_weight, needs_bias = ctx.needs_input_grad[3:5]
        dgx, dw, db, dinitial = recurrence_backward(
            dy, dfinal, w_hh, initial, lengths, resets, y, history, saved, *ctx.options,
            needs_weight, needs_bias, *ctx.how,
        )  # fmt: skip
        gradients = dgx, dw if needs_weight else None, db if needs_bias else None, dinitial
        return (None, None, *gradients, *(None,) * 7)

    @staticmethod
    def differentiable(gx, w_hh, b_hh, initial, lengths, resets, cell, direction, *_):
        y, final = tangents.loop(gx, w_hh, b_hh, initial, lengths, resets, cell, direction)
        # torch records what a gradient needs here. One at another level (jvp of grad) would be a
        # second derivative: it needs activations, finds none, and is refused.
        return y, final, gx.new_empty(0, dtype=torch.float32), gx.new_empty(0)


class _Layer(OperatorFunction):
    @staticmethod
    def forward(
        ctx, compute, recorded, x, w_ih, b_ih, w_hh, b_hh, initial, lengths, resets, cell,
        direction, mode, precision,
    ):  # fmt: skip
        tensors = x, w_ih, b_ih, w_hh, b_hh, initial, lengths, resets
        y, final = compute(*tensors, cell, direction, mode, precision)
        # Saved tensors refuse to be read after a change in place, as any operator's do.
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.options = cell, direction
        ctx.how = mode, precision
        ctx.shape = y.shape
        return y, final

    @staticmethod
    def backward(ctx, dy, dfinal):
        tensors = ctx.saved_tensors
        x, initial = tensors[0], tensors[5]
        dy = x.new_zeros(ctx.shape) if dy is None else dy
        dfinal = torch.zeros_like(initial) if dfinal is None else dfinal
        needs = ctx.needs_input_grad[2:7]
        *found, dinitial = layer_backward(dy, dfinal, *tensors, *ctx.options, needs, *ctx.how)
        gradients = (one if need else None for one, need in zip(found, needs, strict=True))
        return (None, None, *gradients, dinitial, *(None,) * 6)

    @staticmethod
    def differentiable(x, w_ih, b_ih, *loop):
        return tangents.loop(operators.project(x, w_ih, b_ih), *loop[:-2])


class _OnlyOnce(OperatorFunction):
    """An operator of the backward pass, which has no derivative in either mode."""

    @staticmethod
    def forward(ctx, compute, recorded, *arguments):
        return compute(*arguments)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Any:
        raise RuntimeError(NO_SECOND)

    @staticmethod
    def differentiable(*arguments: Any) -> Any:
        raise NotImplementedError(NO_SECOND)


_register(recurrence, _Recurrence)
_register(recurrence_backward, _OnlyOnce)
_register(layer, _Layer)
_register(layer_backward, _OnlyOnce)
