"""What the public functions accept; all else is refused in one sentence, before any launch."""

from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .cells.cell import Cell

# For each name, which of its directions run in reverse.
DIRECTIONS = {"forward": (False,), "reverse": (True,), "both": (False, True)}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
PRECISIONS = ("ieee", "tf32", "tf32x3")


class ArgumentError(ValueError, RuntimeError):
    """An argument's value, shape, dtype or device is wrong.

    It is a RuntimeError too because that is what torch.nn raises for many of these, and code
    written for torch.nn may rely on it.
    """


def check_choice(name: str, value: object, accepted: Collection[str]) -> str:
    """`value`, if it is one of `accepted`."""
    if not isinstance(value, str) or value not in accepted:
        raise ArgumentError(
            f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}"
        )
    return value


def check_flags(**flags: object) -> None:
    """Each a bool: what is only as good as true would hide an argument in the wrong place."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {kind(value)}")


def check_how(mode: object, precision: object, dtype: torch.dtype, modes: Collection[str]) -> None:
    """The way to run, and how float32 products are rounded."""
    check_choice("mode", mode, modes)
    if precision is None:
        return
    check_choice("precision", precision, PRECISIONS)
    if precision != "ieee" and dtype != torch.float32:
        raise ArgumentError(
            f"precision must be None or 'ieee' for {dtype}, got {precision!r}, which is for float32"
        )


def check_input(name: str, value: Any, ranks: Collection[int], accepted: str) -> None:
    """The tensor that all others must agree with."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor {accepted}, got {kind(value)}")
    if value.dim() not in ranks:
        raise ArgumentError(f"{name} must be {accepted}, got shape {list(value.shape)}")
    check_dtype(name, value.dtype)


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """One that the kernels compute in."""
    if dtype not in DTYPES:
        dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name} must have dtype {dtypes}, got {dtype}")


def check_tensor(name: str, value: object, dims: str, shape: Sequence[int], like: Tensor) -> None:
    """`value` must be a tensor of this shape (`dims` spells it in letters), like x in the rest."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor {dims}, got {kind(value)}")
    if value.shape != torch.Size(shape):
        raise ArgumentError(f"{name} must be {dims} = {list(shape)}, got {list(value.shape)}")
    if value.dtype != like.dtype:
        raise ArgumentError(f"{name} must have the input's dtype {like.dtype}, got {value.dtype}")
    if value.device != like.device:
        raise ArgumentError(
            f"{name} must be on the input's device {like.device}, got {value.device}"
        )


def readable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read now: not in tracing, nor in a graph's capture."""
    if torch.compiler.is_compiling() or type(tensor) is not Tensor or tensor.is_meta:
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def check_lengths(lengths: Any, T: int, B: int) -> None:
    """One integer in 1..T for each sequence; a tensor's values are read where they can be."""
    if lengths is None:
        return
    if isinstance(lengths, Tensor):
        if lengths.dtype not in INTEGERS:
            raise TypeError(f"lengths must be integers, got a tensor of {lengths.dtype}")
        shape, seen = list(lengths.shape), readable(lengths)
    else:
        shape, seen = [len(whole_numbers(lengths))], True
    if shape != [B]:
        raise ArgumentError(f"lengths must be [B] = {[B]}, one per sequence, got shape {shape}")
    if not seen:
        return
    values = lengths.tolist() if isinstance(lengths, Tensor) else whole_numbers(lengths)
    if values and not 1 <= min(values) <= max(values) <= T:
        raise ArgumentError(f"lengths must lie in 1..T = 1..{T}, got {values}")


def whole_numbers(lengths: Any) -> list[int]:
    """The lengths in a sequence of ints, numpy's and its arrays included."""
    found = lengths.tolist() if hasattr(lengths, "tolist") else lengths
    if not isinstance(found, Sequence) or not all(
        isinstance(n, Integral) and not isinstance(n, bool) for n in found
    ):
        raise TypeError(f"lengths must be a sequence of ints or an integer tensor, got {found!r}")
    return [int(n) for n in found]


def check_resets(resets: object, dims: str, shape: Sequence[int], like: Tensor) -> None:
    if resets is None:
        return
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        raise TypeError(f"resets must be a bool tensor {dims}, got {kind(resets)}")
    if resets.shape != torch.Size(shape):
        raise ArgumentError(f"resets must be {dims} = {list(shape)}, got {list(resets.shape)}")
    if resets.device != like.device:
        raise ArgumentError(
            f"resets must be on the input's device {like.device}, got {resets.device}"
        )


def check_recurrence(
    cell: Cell,
    gx: Any,
    w_hh: Any,
    b_hh: Any,
    h0: Any,
    c0: Any,
    reverse: bool,
    lengths: Any,
    resets: Any,
) -> None:
    """Refuse what `recurrence` cannot take."""
    check_flags(reverse=reverse)
    check_input("gx", gx, (4,), "[T, B, D, G*H]")
    (T, B, D, rows), G = gx.shape, cell.gates
    if T < 1:
        raise ArgumentError(f"gx must have at least one time step, got shape {list(gx.shape)}")
    if D not in (1, 2):
        raise ArgumentError(f"gx must be [T, B, D, G*H] with D 1 or 2, got shape {list(gx.shape)}")
    if D == 2 and reverse:
        raise ArgumentError("reverse must be False for two directions, got True with D = 2 in gx")
    if rows < 1 or rows % G:
        raise ArgumentError(f"gx must have {G}*H features for this cell, got {rows}")
    H = rows // G
    check_tensor("w_hh", w_hh, "[D, G*H, H]", (D, rows, H), gx)
    if b_hh is not None:
        check_tensor("b_hh", b_hh, "[D, G*H]", (D, rows), gx)
    if h0 is not None:
        check_tensor("h0", h0, "[D, B, H]", (D, B, H), gx)
    if c0 is not None:
        if cell.states == 1:
            raise ArgumentError(
                f"c0 must be None for a cell without a second state, got {kind(c0)}"
            )
        if cell.states == 2:
            check_tensor("c0", c0, "[D, B, H]", (D, B, H), gx)
        else:
            check_states("c0", c0, cell.states - 1, "[D, B, H]", (D, B, H), gx)
    check_lengths(lengths, T, B)
    check_resets(resets, "[T, B]", (T, B), gx)


def check_layers(
    cell: Cell,
    x: Any,
    weights: Any,
    hx: Any,
    direction: Any,
    merge: Any,
    lengths: Any,
    resets: Any,
    batch_first: bool,
    dropout: Any,
) -> None:
    """Refuse what `rnn`, `lstm` and `gru` cannot take."""
    D = len(DIRECTIONS[check_choice("direction", direction, DIRECTIONS)])
    check_choice("merge", merge, ("concat", "sum"))
    if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ArgumentError(f"dropout must be a probability in [0, 1], got {dropout!r}")

    layout = "[B, T, I]" if batch_first else "[T, B, I]"
    check_input("x", x, (2, 3), f"{layout} or [T, I]")
    batched = x.dim() == 3
    T, B = (x.shape[0], 1) if not batched else x.shape[1::-1] if batch_first else x.shape[:2]
    if T < 1:
        raise ArgumentError(f"x must have at least one time step, got shape {list(x.shape)}")

    H = check_weights(cell, weights, x, D, merge)
    if hx is not None:
        dims, shape = ("[L*D, B, H]", (B, H)) if batched else ("[L*D, H]", (H,))
        check_states("hx", hx, cell.states, dims, (len(weights), *shape), x)
    if lengths is not None and not batched:
        raise ArgumentError("lengths must be None for a single sequence [T, I]: its length is T")
    check_lengths(lengths, T, B)
    if not batched:
        check_resets(resets, "[T]", (T,), x)
    elif batch_first:
        check_resets(resets, "[B, T]", (B, T), x)
    else:
        check_resets(resets, "[T, B]", (T, B), x)


def check_weights(cell: Cell, weights: Any, x: Tensor, D: int, merge: str) -> int:
    """All weights fit each other and x; returns H."""
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    each = "(w_ih, w_hh, b_ih, b_hh) or (w_ih, w_hh) for each layer and direction"
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a sequence of tuples {each}, got {kind(weights)}")
    if not weights or len(weights) % D:
        raise ArgumentError(f"weights must hold {each} ({D} a layer), got {len(weights)} tuples")
    for k, one in enumerate(weights):
        if not isinstance(one, Sequence):
            raise TypeError(f"weights[{k}] must be a tuple {each}, got {kind(one)}")
        if len(one) not in (2, 4):
            raise ArgumentError(f"weights[{k}] must be a tuple {each}, got {len(one)} tensors")
        if len(one) != len(weights[0]):
            raise ArgumentError(
                f"weights must hold {each}, all with or all without biases, got {len(one)} tensors "
                f"in weights[{k}] and {len(weights[0])} in weights[0]"
            )

    G, w_hh = cell.gates, weights[0][1]
    if not isinstance(w_hh, Tensor):
        raise TypeError(f"w_hh of weights[0] must be a tensor [{G}*H, H], got {kind(w_hh)}")
    H = w_hh.shape[-1] if w_hh.dim() else 0
    if H < 1 or w_hh.shape != (G * H, H):
        raise ArgumentError(
            f"w_hh of weights[0] must be [{G}*H, H] with H >= 1 for this cell, "
            f"got {list(w_hh.shape)}"
        )
    w_ih, I = weights[0][0], x.shape[-1]
    if isinstance(w_ih, Tensor) and w_ih.dim() == 2 and w_ih.shape[1] != I:
        raise ArgumentError(
            f"x must have {w_ih.shape[1]} features, as the columns of w_ih of weights[0], "
            f"got shape {list(x.shape)}"
        )
    for k, one in enumerate(weights):
        if k == D:
            I = D * H if merge == "concat" else H
        shapes = ((G * H, I), (G * H, H), (G * H,), (G * H,))
        dims = (f"[{G}*H, I]", f"[{G}*H, H]", f"[{G}*H]", f"[{G}*H]")
        for name, value, dim, shape in zip(names, one, dims, shapes, strict=False):
            check_tensor(f"{name} of weights[{k}]", value, dim, shape, x)
    return H


def check_states(
    name: str, value: Any, count: int, dims: str, shape: Sequence[int], like: Tensor
) -> None:
    """A state is one tensor, or a tuple of as many as the cell has."""
    if count == 1:
        check_tensor(name, value, dims, shape, like)
        return
    labels = [f"{name}[{k}]" for k in range(count)]
    accepted = f"a tuple of {count} tensors {dims}"
    if count == 2:
        labels = [f"{label} of {name}" for label in ("h0", "c0")]
        accepted = f"a tuple (h0, c0) of tensors {dims}"
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be {accepted}, got {kind(value)}")
    if len(value) != count:
        raise ArgumentError(f"{name} must be {accepted}, got {len(value)} entries")
    for label, tensor in zip(labels, value, strict=True):
        check_tensor(label, tensor, dims, shape, like)


def kind(value: object) -> str:
    """What a message calls a value that came instead of another."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
