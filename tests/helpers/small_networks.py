"""Small networks: inputs, weights of any cell, layouts, and arguments that must be refused."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reference import CELLS

T, B, I, H = 4, 3, 2, 5

# A pattern for the start of the message, and the wrong arguments.
Refusal = tuple[str, dict[str, Any]]


def tensor(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) / 3).to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values, strided or transposed in memory."""
    if layout == "strided":
        wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "transposed":
        axes = tuple(reversed(range(tensor.dim())))
        return tensor.permute(axes).contiguous().permute(axes)
    return tensor


def weights_of(cell: str, layers: int = 1, D: int = 1, **options: Any) -> list[tuple[Tensor, ...]]:
    G = CELLS[cell].gates
    return [
        (
            tensor(G * H, I if k < D else D * H, **options),
            tensor(G * H, H, **options),
            tensor(G * H, **options),
            tensor(G * H, **options),
        )
        for k in range(layers * D)
    ]


def right_network(dtype: torch.dtype) -> dict[str, Any]:
    """Valid arguments of `layers`."""
    x = tensor(T, B, I, dtype=dtype)
    return {"cell": "lstm", "x": x, "weights": weights_of("lstm", dtype=dtype)}


def right_recurrence(dtype: torch.dtype) -> dict[str, Any]:
    """Valid arguments of `recurrence`."""
    gx, w_hh = tensor(T, B, 1, 4 * H, dtype=dtype), tensor(1, 4 * H, H, dtype=dtype)
    return {"cell": "lstm", "gx": gx, "w_hh": w_hh}


def assert_refused(call: Callable[[], Any], name: str) -> None:
    """The message is one line: NAME is VALUE; accepted: ..."""
    with pytest.raises((TypeError, ValueError)) as refusal:
        call()
    assert re.fullmatch(rf"({name}) is [^\n]+; accepted: [^\n]+", str(refusal.value))


def bad_networks(dtype: torch.dtype) -> list[Refusal]:
    """What both `reference.layers` and `kernels.layers` refuse."""
    x, weights = tensor(T, B, I, dtype=dtype), weights_of("lstm", dtype=dtype)
    w_ih, w_hh, b_ih, b_hh = weights[0]
    both = weights_of("lstm", 2, 2, dtype=dtype)
    gru = {"cell": "gru", "weights": weights_of("gru", dtype=dtype)}
    state, mask = tensor(1, B, H, dtype=dtype), torch.zeros(T, B, dtype=torch.bool)
    one = x[:, 0]  # sequence
    return [
        ("cell", {"cell": "lsmt"}),
        ("direction", {"direction": "backward"}),
        ("merge", {"merge": "mean"}),
        ("dropout", {"dropout": 1.5}),
        ("dropout", {"dropout": float("nan")}),
        ("x", {"x": [[1.0]]}),
        ("x", {"x": x[0, 0]}),
        ("x", {"x": x[None], "batch_first": True}),
        ("x", {"x": x.long()}),
        ("x|w_ih of weights.0.", {"x": tensor(T, B, I + 1, dtype=dtype)}),
        ("x|T", {"x": x[:0]}),
        ("w_ih of weights.0.", {"x": x.half()}),
        ("w_ih of weights.0.", {"x": x.to("meta")}),
        ("weights", {"weights": w_ih}),
        ("weights.*", {"weights": weights[0]}),
        ("weights", {"weights": []}),
        ("weights", {"direction": "both"}),
        ("weights.*", {"weights": [weights[0][:3]]}),
        ("w.*", {"weights": [(w_ih, None)]}),
        ("w_hh of weights.0.", {"weights": [(w_ih, w_hh[:, 1:])]}),
        ("w.*", {"weights": [(w_ih[1:], w_hh)]}),
        ("w.*", {"weights": [(1.0, w_hh)]}),
        ("b_ih of weights.0.", {"weights": [(w_ih, w_hh, b_ih[1:], b_hh)]}),
        ("b_hh of weights.0.", {"weights": [(w_ih, w_hh, b_ih, b_hh[1:])]}),
        ("w_ih of weights.2.", {"weights": both, "direction": "both", "merge": "sum"}),
        ("hx|the initial state", {"hx": state}),
        ("hx|the initial state", gru | {"hx": (state, state)}),
        ("h0|hx.0.", {"hx": (state[..., 1:], state)}),
        ("c0|hx.1.", {"hx": (state, state[:, 1:])}),
        ("c0|hx.1.", {"hx": (state, state.to("meta"))}),
        ("h0|hx.0.", {"x": one, "hx": (state, state)}),
        ("lengths", {"lengths": [4, 0, 1]}),
        ("lengths", {"lengths": torch.tensor([4, 5, 1])}),
        ("lengths", {"lengths": [4, 1]}),
        ("lengths", {"lengths": torch.ones(3)}),
        ("lengths", {"lengths": [1.0, 2, 3]}),
        ("lengths", {"lengths": 3}),
        ("lengths", {"lengths": np.ones(3)}),
        ("lengths", {"lengths": np.ones((3, 1), int)}),
        ("resets", {"resets": mask.int()}),
        ("resets", {"resets": [[True]]}),
        ("resets", {"resets": mask.t()}),
        ("resets", {"resets": mask, "x": x.transpose(0, 1), "batch_first": True}),
        ("resets", {"resets": mask.to("meta")}),
    ]


def bad_recurrences(dtype: torch.dtype) -> list[Refusal]:
    """What both `reference.recurrence` and `kernels.recurrence` refuse."""
    right = right_recurrence(dtype)
    gx, w_hh, state = right["gx"], right["w_hh"], tensor(1, B, H, dtype=dtype)
    two = {"gx": gx.expand(-1, -1, 2, -1), "w_hh": w_hh.expand(2, -1, -1)}
    gru = {"cell": "gru", "gx": gx[..., : 3 * H], "w_hh": w_hh[:, : 3 * H]}
    return [
        ("cell", {"cell": "rnn"}),
        ("gx", {"gx": None}),
        ("gx", {"gx": gx[:, :, 0]}),
        ("gx", {"gx": gx.int()}),
        ("gx|T", {"gx": gx[:0]}),
        ("gx", {"gx": gx.expand(-1, -1, 3, -1)}),
        ("gx", {"gx": gx[..., 1:]}),
        ("gx|reverse", two | {"reverse": True}),
        ("w_hh", {"w_hh": w_hh[0]}),
        ("w_hh", {"w_hh": w_hh.half()}),
        ("b_hh", {"b_hh": w_hh[0, :, 0]}),
        ("h0", {"h0": state[0]}),
        ("c0", {"c0": state[:, :2]}),
        ("c0|the initial state", gru | {"c0": state}),
        ("lengths", {"lengths": [5, 1, 1]}),
        ("resets", {"resets": torch.zeros(B, T, dtype=torch.bool)}),
    ]
