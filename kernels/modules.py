"""RNN, LSTM and GRU: subclasses of torch.nn's modules, computed by the kernels.

Constructors, parameters, checkpoints, shapes and PackedSequence are torch's. Beyond torch,
`recompute` keeps no activations for the backward pass, and `forward` takes `resets`. Precision and
autocast are those of `kernels.layers`. A module may be made in float64, and converted later, but
computes in float32, float16 and bfloat16 only. Making or loading a module sets
`torch._dynamo.config.allow_rnn`, so that torch.compile traces it.
"""

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .autocast import autocasts
from .cells import CELLS
from .checks import (
    DTYPES,
    ArgumentError,
    check_dtype,
    check_flags,
    check_resets,
    check_strided,
    kind,
)
from .functional import layers
from .packed import check_order, check_packed, pad

if TYPE_CHECKING:
    Base = nn.RNNBase
else:
    Base = object


PROJECTION = "the kernels have no projected LSTM (torch.nn.LSTM has)"
ONLY_LSTM = "proj_size argument is only supported for LSTM, not RNN or GRU"


class ProjectionError(NotImplementedError, ValueError):
    """proj_size is not supported; a ValueError too, as torch raises for RNN and GRU."""


class _Kernels(Base):
    """A base class placed before torch.nn's, whose computation it replaces."""

    recompute = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Kernels":
        # Without this torch.compile breaks the graph at every subclass of torch.nn's; set when the
        # first module is made or loaded, since importing Dynamo takes a second.
        import torch._dynamo

        torch._dynamo.config.allow_rnn = True
        module = super().__new__(cls)
        # torch.fx (and prepare_fx) asks the module, not its class, whether it is torch.nn's; only
        # then it is one node of a graph. ("torch.nn.modules" would make Dynamo guard less.)
        module.__module__ = "torch.nn"
        return module

    def __init__(self, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        check_flags(recompute=recompute)
        size = kwargs.get("proj_size")
        if isinstance(size, int) and size > 0:  # torch refuses other values
            why = PROJECTION if isinstance(self, nn.LSTM) else ONLY_LSTM
            raise ProjectionError(f"proj_size is {size!r}; accepted: 0 ({why})")
        super().__init__(*args, **kwargs)
        if self.proj_size:
            raise ProjectionError(f"proj_size is {self.proj_size!r}; accepted: 0 ({PROJECTION})")
        self.recompute = recompute

    def forward(
        self, input: Tensor | PackedSequence, hx: Any = None, *, resets: Tensor | None = None
    ) -> tuple[Any, Any]:
        """What torch's module returns for these arguments.

        Args:
            input: [T, B, I], [B, T, I] with `batch_first`, [T, I], or a PackedSequence.
            hx: the initial state, [L*D, B, H] ([L*D, H] for [T, I]), for LSTM (h_0, c_0); or None.
            resets: [T, B] bool ([B, T] with `batch_first`, [T] for [T, I]), in the order of hx: the
                state returns to the initial one before that step.

        Raises:
            TypeError, ValueError or RuntimeError: where torch's module raises, and for float64.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, resets)
        if not isinstance(input, Tensor):
            raise TypeError(f"input is {kind(input)}; accepted: a tensor or a PackedSequence")
        check_strided("input", input)
        if input.dim() not in (2, 3):
            tensor = " tensor" if isinstance(self, nn.RNN) else ""  # as torch says it
            raise ArgumentError(
                f"{self._get_name()}: Expected input to be 2D or 3D, "
                f"got {input.dim()}D{tensor} instead"
            )
        batch_dim = 0 if self.batch_first else 1
        x = input if input.dim() == 3 else input.unsqueeze(batch_dim)
        if x.shape[1 - batch_dim] < 1:
            raise ArgumentError(
                f"input is {kind(input)}; accepted: at least one time step "
                "(Expected sequence length to be larger than 0)"
            )
        if hx is None:
            self.check_input(x, None)
        else:
            states = self._states(hx, input.dim())
            if input.dim() == 2:
                states = tuple(state.unsqueeze(1) for state in states)
            self.check_forward_args(x, _one_or_all(states), None)
        return self._layers(input, hx, self.batch_first, None, resets)

    def _forward_packed(
        self, packed: PackedSequence, hx: Any, resets: Tensor | None
    ) -> tuple[PackedSequence, Any]:
        check_packed(packed)
        data, batch_sizes, order, back = packed
        T, B = len(batch_sizes), int(batch_sizes[0])
        check_order("unsorted_indices", back, B, data)
        if hx is None:
            self.check_input(data, batch_sizes)
        else:
            self._states(hx, 3)
            self.check_forward_args(data, hx, batch_sizes)
        if resets is not None:
            dims, shape = ("[B, T]", (B, T)) if self.batch_first else ("[T, B]", (T, B))
            check_resets(resets, dims, shape, data)
            resets = resets.t() if self.batch_first else resets
        if order is not None and (hx is not None or resets is not None):
            check_order("sorted_indices", order, B, data)
            hx = None if hx is None else self.permute_hidden(hx, order)
            resets = None if resets is None else resets.index_select(1, order)
        x, lengths, rows = pad(packed)
        y, last = self._layers(x, hx, False, lengths, resets)
        y = y.flatten(0, 1).index_select(0, rows)
        return PackedSequence(y, batch_sizes, order, back), self.permute_hidden(last, back)

    def _layers(
        self, x: Tensor, hx: Any, batch_first: bool, lengths: Tensor | None, resets: Tensor | None
    ) -> tuple[Tensor, Any]:
        return layers(
            self.mode.lower(),
            x,
            self.all_weights,
            hx,
            direction="both" if self.bidirectional else "forward",
            lengths=lengths,
            resets=resets,
            batch_first=batch_first,
            dropout=self.dropout,
            training=self.training,
            recompute=self.recompute,
        )

    def _states(self, hx: Any, rank: int) -> tuple[Tensor, ...]:
        """The initial state's tensors, as many as the cell has, of this rank."""
        if CELLS[self.mode.lower()].states == 1:
            if not isinstance(hx, Tensor):
                raise TypeError(f"hx is {kind(hx)}; accepted: a tensor")
            states: tuple[Tensor, ...] = (hx,)
        else:
            accepted = "a tuple (h_0, c_0) of tensors"
            if not isinstance(hx, tuple | list):
                raise TypeError(f"hx is {kind(hx)}; accepted: {accepted}")
            for k, state in enumerate(hx):
                if not isinstance(state, Tensor):
                    raise TypeError(f"hx[{k}] is {kind(state)}; accepted: {accepted}")
            if len(hx) != 2:
                raise ArgumentError(f"hx is {len(hx)} tensors; accepted: a tuple (h_0, c_0)")
            states = tuple(hx)
        if any(state.dim() != rank for state in states):
            what = "batched 3-D" if rank == 3 else "unbatched 2-D"
            names, found = "hx", f"{states[0].dim()}-D tensor"
            if len(states) > 1:
                names = "hx and cx"
                found = f"({', '.join(f'{state.dim()}-D' for state in states)}) tensors"
            raise ArgumentError(
                f"For {what} input, {names} should also be {rank}-D but got {found}"
            )
        return states

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """torch's check, against this call's weights (functional_call may have swapped them)."""
        weight = getattr(self, self._all_weights[0][0])
        if input.device != weight.device:
            raise ArgumentError(
                "Input and parameter tensors are not at the same device, found input tensor at "
                f"{input.device} and parameter tensor at {weight.device}"
            )
        dtype = weight.dtype
        if input.dtype != dtype and not autocasts(input):
            other = f", or convert model: model.to({input.dtype})" if input.dtype in DTYPES else ""
            raise ArgumentError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}){other}"
            )
        check_dtype("input", input.dtype)
        rank = 3 if batch_sizes is None else 2
        if input.dim() != rank:
            raise ArgumentError(f"input is of {input.dim()} dimensions; accepted: {rank}")
        if input.size(-1) != self.input_size:
            raise ArgumentError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.size(-1)}"
            )

    @property
    def qconfig(self) -> Any:
        """What torch.ao.quantization assigns to every module; these layers are not quantized."""
        if "qconfig" not in self.__dict__:
            raise AttributeError("qconfig")
        return self.__dict__["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        self.__dict__["qconfig"] = value
        if _asked_by_quantize_dynamic(self, value):
            warnings.warn(
                f"quantize_dynamic leaves kernels.{self._get_name()} as it is: the kernels have no "
                "quantized layers",
                stacklevel=2,
            )

    @qconfig.deleter
    def qconfig(self) -> None:
        del self.__dict__["qconfig"]

    def __prepare_scriptable__(self) -> Any:
        """torch.jit.script calls this of every module that it finds in a model."""
        raise NotImplementedError(
            f"torch.jit.script does not take kernels.{self._get_name()}; torch.jit.trace does"
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (", recompute=True" if self.recompute else "")


def _asked_by_quantize_dynamic(module: nn.Module, qconfig: Any) -> bool:
    """Whether a running `quantize_dynamic` is to quantize recurrent layers, and cannot this one.

    It assigns None to module types that it does not know, as users do to exclude a module; only its
    own arguments tell these apart.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "quantize_dynamic":
        frame = frame.f_back
    if frame is None or type(module) in (frame.f_locals.get("mapping") or ()):
        return False
    asked = frame.f_locals.get("qconfig_spec") or ()
    return qconfig is not None or any(
        isinstance(key, type) and issubclass(key, nn.RNNBase) for key in asked
    )


def _one_or_all(states: tuple[Tensor, ...]) -> Any:
    return states[0] if len(states) == 1 else states


# Each class has a `forward` of its own because Dynamo counts compilations, of which it allows only
# so many, by function.
class RNN(_Kernels, nn.RNN):
    """`torch.nn.RNN` computed by the kernels, with the additions `recompute` and `resets`."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        return super().forward(input, hx, resets=resets)


class LSTM(_Kernels, nn.LSTM):
    """`torch.nn.LSTM` computed by the kernels, with the additions `recompute` and `resets`."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        return super().forward(input, hx, resets=resets)


class GRU(_Kernels, nn.GRU):
    """`torch.nn.GRU` computed by the kernels, with the additions `recompute` and `resets`."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        return super().forward(input, hx, resets=resets)
