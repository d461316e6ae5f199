"""FlashRNN (PyPI ``flashrnn``, Apache-2.0; Pöppel et al., ICLR 2025, arXiv 2412.07752), optional.

Its loop takes the projected input, so the layer track adds torch's own GEMM in front. Gate orders:
LSTM as torch's (i, f, g, o). GRU: the input in r, z, n; the recurrent weights in n, r, z; four
biases, b_hn, b_r, b_z, b_in.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

from bench.cases.cases import Case
from bench.cases.numbers import TORCH_NAMES
from bench.providers import Call, provider, require
from bench.records.environment import Machine
from bench.records.provenance import version

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem

FUNCTIONS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "elman"}
# Building its CUDA code for a shape takes minutes.
PATIENCE = 1200.0


def supports(
    case: Case, machine: Machine, backend: str, cells: tuple[str, ...], number: str | None
) -> str | None:
    reason = require(case, cell=cells, directions=(1,), layers=(1,), resets=(0.0,))
    if reason:
        return f"FlashRNN {backend} does not support {reason}"
    if case.dtype == "fp32" and case.precision != number:
        return f"FlashRNN {backend} does not support fp32 {case.precision} products"
    if version("flashrnn") is None:
        return "the package flashrnn is not installed"
    if not machine.is_cuda:
        return "FlashRNN's kernels need a CUDA device"
    if backend == "triton_fused":
        if case.H not in (16, 32, 64, 128):
            return f"FlashRNN {backend} does not support H {case.H} (a power of two up to 128)"
        if tuple(map(int, (version("triton") or "0.0").split(".")[:2])) >= (3, 9):
            return "FlashRNN triton_fused uses make_block_ptr, which Triton 3.9 removed"
        return None
    for tool in ("nvcc", "g++", "ninja"):
        if shutil.which(tool) is None:
            return f"FlashRNN {backend} is built when first called and needs {tool}"
    if version("einops") is None:
        return "FlashRNN needs the package einops"
    return None


def recurrent_weight(case: Case, w_hh: Tensor) -> Tensor:
    """torch's [G*H,H] as FlashRNN's [G,1,H,H], in its gate order."""
    gates = w_hh.view(case.cell_info.gates, 1, case.H, case.H)
    return gates[[2, 0, 1]] if case.cell == "gru" else gates


def bias(case: Case, b_hh: Tensor) -> Tensor:
    """torch's recurrent bias [G*H] as FlashRNN's [G,1,H]; the input's own bias is in the input."""
    gates = b_hh.view(case.cell_info.gates, 1, case.H)
    if case.cell != "gru":
        return gates
    return gates.new_zeros(4, 1, case.H).index_copy(0, gates.new_tensor([1, 2, 0]).long(), gates)


def torch_gates(case: Case, gradient: Tensor) -> Tensor:
    """A gradient of ``recurrent_weight`` or ``bias`` back in torch's order and shape."""
    if case.cell == "gru":
        gradient = gradient[[1, 2, 0]]
    return gradient.reshape(-1, case.H) if gradient.dim() == 4 else gradient.reshape(-1)


def build(problem: Problem, backend: str) -> Call:
    import torch
    from flashrnn import flashrnn
    from torch.nn.functional import linear

    case, inputs = problem.case, problem.inputs
    G, H = case.cell_info.gates, case.H
    layer = case.track == "layer"
    w_hh, b_hh = (
        (inputs["w_hh_l0"], inputs["b_hh_l0"]) if layer else (inputs["w_hh"][0], inputs["b_hh"][0])
    )
    states = [inputs[name] for name in ("h0", "c0") if name in inputs]
    leaves = {
        "R": recurrent_weight(case, w_hh).contiguous(),
        "b": bias(case, b_hh).contiguous(),
        "states": torch.stack(states)[:, 0, :, None, None].contiguous(),  # [S,B,1,1,H]
    }  # fmt: skip
    if layer:
        leaves["x"] = inputs["x"].transpose(0, 1).contiguous()
        leaves |= {name: inputs[name].detach() for name in ("w_ih_l0", "b_ih_l0")}
    else:
        leaves["gx"] = inputs["gx"].view(case.T, case.B, G, 1, H).transpose(0, 1).contiguous()
    function, dtype = FUNCTIONS[case.cell], TORCH_NAMES[case.dtype]

    def forward() -> dict[str, Tensor]:
        if layer:
            wx = linear(leaves["x"], leaves["w_ih_l0"], leaves["b_ih_l0"])
            wx = wx.view(case.B, case.T, G, 1, H)
        else:
            wx = leaves["gx"]
        found, last = flashrnn(
            wx, leaves["R"], leaves["b"], leaves["states"], function, backend=backend, dtype=dtype
        )  # fmt: skip
        outputs = {"y": found[0, :, :, 0].transpose(0, 1), "h_n": last[0, :, :, 0].transpose(0, 1)}
        if "c0" in inputs:
            outputs["c_n"] = last[1, :, :, 0].transpose(0, 1)
        return outputs

    def standard(d: dict[str, Tensor]) -> dict[str, Tensor]:
        tail, first = ("_l0", slice(None)) if layer else ("", None)
        found = {
            f"w_hh{tail}": torch_gates(case, d["R"])[first],
            f"b_hh{tail}": torch_gates(case, d["b"])[first],
        }
        state = d["states"][:, :, 0, 0]  # [S,B,H]
        found["h0"] = state[:1]
        if "c0" in inputs:
            found["c0"] = state[1:]
        if layer:
            found |= {name: d[name] for name in ("w_ih_l0", "b_ih_l0")}
            found["x"] = d["x"].transpose(0, 1)
        else:
            found["gx"] = d["gx"].transpose(0, 1).reshape(case.T, case.B, 1, G * H)
        return found

    return Call(forward, leaves, standard)


for _name, _backend, _cells, _number in (
    ("flashrnn-fused", "cuda_fused", ("lstm", "rnn_tanh"), "tf32"),
    ("flashrnn-alternating", "cuda", ("lstm", "gru", "rnn_tanh"), "ieee"),
    ("flashrnn-triton", "triton_fused", ("lstm",), None),
):
    provider(
        _name,
        supports=partial(supports, backend=_backend, cells=_cells, number=_number),
        package="flashrnn",
        patience=PATIENCE,
    )(partial(build, backend=_backend))
