"""Argument checks of the public functions: bad input raises an error before anything is launched.

Each message has the form "NAME is VALUE; accepted: ...".
"""

from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .cells.cell import Cell
from .inputs import DIRECTIONS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTEGERS = (*UNSIGNED, torch.int8, torch.int16, torch.int32, torch.int64)
PRECISIONS = ("ieee", "tf32", "tf32x3")


class ArgumentError(ValueError, RuntimeError):
    """An argument's value, shape, dtype or device is wrong.

    It is a RuntimeError too because that is what torch.nn raises for many of these, and code
    written for torch.nn may rely on it.
    """


def check_choice(name: str, value: object, accepted: Collection[str]) -> str:
    """`value`, which must be one of `accepted`."""
    if not isinstance(value, str) or value not in accepted:
        raise ArgumentError(f"{name} is {value!r}; accepted: {', '.join(map(repr, accepted))}")
    return value


def check_flags(**flags: object) -> None:
    """Require bools, because a truthy value may be an argument in the wrong position."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {kind(value)}; accepted: a bool")


def check_how(mode: object, precision: object, dtype: torch.dtype, modes: Collection[str]) -> None:
    """Require a mode in `modes` and a precision that is valid for `dtype`, or None."""
    check_choice("mode", mode, modes)
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
        if precision != "ieee" and dtype != torch.float32:
            raise ArgumentError(
                f"precision is {precision!r} with {dtype}; accepted: None or 'ieee' but for float32"
            )


def check_dropout(dropout: object) -> None:
    if not isinstance(dropout, int | float) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ArgumentError(f"dropout is {dropout!r}; accepted: a probability in [0, 1]")


def check_input(name: str, value: Any, ranks: Collection[int], accepted: str) -> None:
    """Require a tensor with a supported dtype and a number of dimensions in `ranks`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {kind(value)}; accepted: a tensor {accepted}")
    check_strided(name, value)
    if value.dim() not in ranks:
        raise ArgumentError(f"{name} is {kind(value)}; accepted: {accepted}")
    check_dtype(name, value.dtype)


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Require a dtype that the kernels compute in."""
    if dtype not in DTYPES:
        raise TypeError(f"{name} is of {dtype}; accepted: {', '.join(map(str, DTYPES))}")


def check_tensor(name: str, value: object, dims: str, shape: Sequence[int], like: Tensor) -> None:
    """Require a tensor of this shape (`dims` in messages), with the dtype and device of `like`."""
    accepted = f"{dims} = {list(shape)}"
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {kind(value)}; accepted: a tensor {accepted}")
    check_strided(name, value)
    if value.shape != torch.Size(shape):
        raise ArgumentError(f"{name} is {kind(value)}; accepted: {accepted}")
    if value.dtype != like.dtype:
        raise ArgumentError(f"{name} is of {value.dtype}; accepted: the input's {like.dtype}")
    check_device(name, value, like)


def check_strided(name: str, value: Tensor) -> None:
    """Require a tensor with one stride for each dimension, whose values can be read."""
    if value.is_nested or value.layout is not torch.strided:
        what = "nested" if value.is_nested else f"of layout {value.layout}"
        raise ArgumentError(f"{name} is {what}; accepted: a tensor of layout torch.strided")


def check_readable(name: str, value: Tensor) -> None:
    """Require a strided tensor that is not made within torch.vmap or torch.func (as by packing a
    sequence there), where a tensor's values cannot be read.
    """
    check_strided(name, value)
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        raise ArgumentError(
            f"{name} is made within torch.vmap or torch.func; accepted: that of a sequence packed "
            "outside"
        )


def check_device(name: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        raise ArgumentError(f"{name} is on {value.device}; accepted: the input's {like.device}")


def check_loop(
    gx: Tensor, w_hh: Tensor, initial: Tensor, lengths: Tensor | None, resets: Tensor | None
) -> None:
    """Require numbers of rows and of weights that the kernels can count in 32 bits; and, of what
    `operators.recurrence` takes, shapes that fit gx: a graph of torch.jit.trace has no other check.
    """
    (T, B, D, _), H = gx.shape, w_hh.shape[-1]
    if initial.shape[1:] != (D, B, H):
        raise ArgumentError(
            f"the initial state is {kind(initial)}; accepted: [STATES, D, B, H] = "
            f"{[len(initial), D, B, H]}"
        )
    if lengths is not None and lengths.shape[-1] != B:
        raise ArgumentError(f"lengths is {kind(lengths)}; accepted: [N, B] with B = {B}")
    if resets is not None and resets.shape[1:] != (T, B):
        raise ArgumentError(f"resets is {kind(resets)}; accepted: [N, T, B] with T, B = {T}, {B}")
    if T * B * D >= 2**31:
        raise ArgumentError(f"T*B*D of x is {T * B * D}; accepted: under 2**31")
    if w_hh.numel() >= 2**31:
        raise ArgumentError(f"w_hh is of {w_hh.numel()} numbers; accepted: under 2**31")


def check_lengths(lengths: Any, x: Tensor, T: int, B: int) -> None:
    """Require None, B integers in 1..T, or an integer tensor [B], whose values
    `operators.sequence_ends` checks.
    """
    if lengths is None:
        return
    values = None
    if not isinstance(lengths, Tensor):
        values = whole_numbers(lengths)
    elif lengths.dtype not in INTEGERS:
        raise TypeError(f"lengths is {kind(lengths)}; accepted: an integer tensor [B]")
    else:
        check_strided("lengths", lengths)
        if lengths.is_meta and not x.is_meta:
            check_device("lengths", lengths, x)
    shape = list(lengths.shape) if values is None else [len(values)]
    if shape != [B]:
        raise ArgumentError(f"lengths is of shape {shape}; accepted: [B] = {[B]}")
    if values is not None:
        check_range(values, T)


def check_range(lengths: list[Any], T: int) -> None:
    """Require lengths in 1..T, unless a graph has yet to compute them."""
    if any(isinstance(n, torch.SymInt) for n in lengths):
        return  # `operators.sequence_ends` checks them when the graph runs
    if lengths and not 1 <= min(lengths) <= max(lengths) <= T:
        raise ArgumentError(f"lengths is {lengths}; accepted: integers in 1..T = 1..{T}")


def whole_numbers(lengths: Any) -> list[Any]:
    """Convert a sequence or array of integers to a list; TypeError for anything else. Numbers that
    a graph has yet to compute (`torch.SymInt`, as the sizes of an exported input) stay as they are.
    """
    found = lengths.tolist() if hasattr(lengths, "tolist") else lengths
    accepted = "a sequence of ints or an integer tensor"
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise TypeError(f"lengths is {kind(found)}; accepted: {accepted}")
    for k, n in enumerate(found):
        if not isinstance(n, Integral | torch.SymInt) or isinstance(n, bool):
            raise TypeError(f"lengths is {kind(found)} with {kind(n)} at {k}; accepted: {accepted}")
    return [n if isinstance(n, torch.SymInt) else int(n) for n in found]


def check_resets(resets: object, dims: str, shape: Sequence[int], like: Tensor) -> None:
    """Require None or a bool tensor of this shape (`dims` in messages) on `like`'s device."""
    if resets is None:
        return
    accepted = f"{dims} = {list(shape)}"
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        raise TypeError(f"resets is {kind(resets)}; accepted: a bool tensor {accepted}")
    check_strided("resets", resets)
    if resets.shape != torch.Size(shape):
        raise ArgumentError(f"resets is {kind(resets)}; accepted: {accepted}")
    check_device("resets", resets, like)


def check_steps(lengths: Any, resets: object, x: Tensor, batch_first: bool) -> None:
    """Check `lengths` and `resets` of `layers` against x."""
    batched = x.dim() == 3
    if lengths is not None and not batched:
        raise ArgumentError(f"lengths is {kind(lengths)}; accepted: None for one sequence [T, I]")
    T, B = (x.shape[0], 1) if not batched else x.shape[1::-1] if batch_first else x.shape[:2]
    if T < 1:
        raise ArgumentError(f"x is {kind(x)}; accepted: at least one time step")
    check_lengths(lengths, x, T, B)
    dims = "[T]" if not batched else "[B, T]" if batch_first else "[T, B]"
    check_resets(resets, dims, x.shape[:-1], x)


def check_recurrence(
    cell: Cell, gx: Any, weights: tuple[Any, Any], states: tuple[Any, Any], reverse: bool
) -> None:
    """Check gx, (w_hh, b_hh) and (h0, c0) of `recurrence`."""
    check_flags(reverse=reverse)
    check_input("gx", gx, (4,), "[T, B, D, G*H]")
    (T, B, D, rows), G = gx.shape, cell.gates
    if T < 1:
        raise ArgumentError(f"gx is {kind(gx)}; accepted: at least one time step")
    if D not in (1, 2):
        raise ArgumentError(f"gx is {kind(gx)}; accepted: [T, B, D, G*H] with D 1 or 2")
    if D == 2 and reverse:
        raise ArgumentError("reverse is True with D = 2 in gx; accepted: False for two directions")
    if rows < 1 or rows % G:
        raise ArgumentError(f"gx is {kind(gx)}; accepted: {G}*H features for this cell")
    H = rows // G
    (w_hh, b_hh), (h0, c0) = weights, states
    check_tensor("w_hh", w_hh, "[D, G*H, H]", (D, rows, H), gx)
    if b_hh is not None:
        check_tensor("b_hh", b_hh, "[D, G*H]", (D, rows), gx)
    if h0 is not None:
        check_tensor("h0", h0, "[D, B, H]", (D, B, H), gx)
    if c0 is not None:
        if cell.states == 1:
            raise ArgumentError(f"c0 is {kind(c0)}; accepted: None for a cell with one state")
        check_states("c0", c0, cell.states - 1, "[D, B, H]", (D, B, H), gx)


def check_layers(
    cell: Cell, x: Any, weights: Any, hx: Any, direction: Any, merge: Any, batch_first: bool
) -> None:
    """Check the arguments of `layers` except those that `check_steps` checks."""
    D = len(DIRECTIONS[check_choice("direction", direction, DIRECTIONS)])
    check_choice("merge", merge, ("concat", "sum"))
    check_input("x", x, (2, 3), f"{'[B, T, I]' if batch_first else '[T, B, I]'} or [T, I]")
    H = check_weights(cell, weights, x, D, merge)
    if hx is not None:
        batch = [] if x.dim() == 2 else [x.shape[0 if batch_first else 1]]
        dims = "[L*D, B, H]" if batch else "[L*D, H]"
        check_states("hx", hx, cell.states, dims, (len(weights), *batch, H), x)


def check_weights(cell: Cell, weights: Any, x: Tensor, D: int, merge: str) -> int:
    """Require weights whose shapes and dtypes fit each other and x; return H."""
    each = "(w_ih, w_hh, b_ih, b_hh), or (w_ih, w_hh) in all, for each layer and direction"
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights is {kind(weights)}; accepted: a sequence of tuples {each}")
    if not weights or len(weights) % D:
        raise ArgumentError(f"weights is {len(weights)} tuples; accepted: {each}, {D} a layer")
    for k, one in enumerate(weights):
        if not isinstance(one, Sequence):
            raise TypeError(f"weights[{k}] is {kind(one)}; accepted: {each}")
        if len(one) not in (2, 4) or len(one) != len(weights[0]):
            raise ArgumentError(f"weights[{k}] is {len(one)} tensors; accepted: {each}")

    G, w_hh = cell.gates, weights[0][1]
    if not isinstance(w_hh, Tensor):
        raise TypeError(f"w_hh of weights[0] is {kind(w_hh)}; accepted: a tensor [{G}*H, H]")
    H = w_hh.shape[-1] if w_hh.dim() else 0
    if H < 1 or w_hh.shape != (G * H, H):
        raise ArgumentError(
            f"w_hh of weights[0] is {kind(w_hh)}; accepted: [{G}*H, H] with H >= 1 for this cell"
        )
    w_ih, I = weights[0][0], x.shape[-1]
    if isinstance(w_ih, Tensor) and w_ih.dim() == 2 and w_ih.shape[1] != I:
        raise ArgumentError(
            f"x is {kind(x)}; accepted: {w_ih.shape[1]} features, as w_ih of weights[0] has columns"
        )
    for k, one in enumerate(weights):
        if k == D:
            I = D * H if merge == "concat" else H
        shapes = {"w_ih": (G * H, I), "w_hh": (G * H, H), "b_ih": (G * H,), "b_hh": (G * H,)}
        dims = {"w_ih": f"[{G}*H, I]", "w_hh": f"[{G}*H, H]"}
        for (name, shape), value in zip(shapes.items(), one, strict=False):
            label = f"{name} of weights[{k}]"
            check_tensor(label, value, dims.get(name, f"[{G}*H]"), shape, x)
    return H


def check_states(
    name: str, value: Any, count: int, dims: str, shape: Sequence[int], like: Tensor
) -> None:
    """Require a tensor of this shape (`count` 1), or a tuple or list of `count` of them."""
    if count == 1:
        check_tensor(name, value, dims, shape, like)
        return
    accepted = f"a tuple of {count} tensors {dims}"
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} is {kind(value)}; accepted: {accepted}")
    if len(value) != count:
        raise ArgumentError(f"{name} is a tuple of {len(value)}; accepted: {accepted}")
    for k, tensor in enumerate(value):
        check_tensor(f"{name}[{k}]", tensor, dims, shape, like)


def kind(value: object) -> str:
    """A value for a message: a tensor's shape and dtype, anything else's type."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
