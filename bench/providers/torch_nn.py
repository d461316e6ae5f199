"""torch.nn: cuDNN on NVIDIA GPUs, oneDNN or native loops on the CPU. The baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.cases.cases import Case
from bench.providers import Call, provider
from bench.records.environment import Machine

if TYPE_CHECKING:
    from torch import Tensor

    from bench.cases.problem import Problem


def cudnn_algorithm(case: Case, machine: Machine) -> str | None:
    """The algorithm that torch asks cuDNN for, per pass: "small-h", "persist" or "standard".

    The rule of ``get_algo`` in torch's aten/src/ATen/native/cudnn/RNN.cpp (as of 2026; unchanged
    in 2.11 to 2.13), restated for unpacked inputs without projection. A forward+backward case
    gives "forward/backward", because torch decides twice.

    Returns:
        None where cuDNN does not compute: on a CPU or for resets.
    """
    if not machine.is_cuda or case.resets or case.track == "recurrence":
        return None
    forward = _algorithm(case, machine, forward=True)
    if case.pass_ == "fwd":
        return forward
    return f"{forward}/{_algorithm(case, machine, forward=False)}"


def _algorithm(case: Case, machine: Machine, forward: bool) -> str:
    plain = case.cell_info.torch_class == "RNN"
    major, minor = machine.capability
    largest = (384 if forward else 256) if plain else (192 if forward else 128)
    if major >= 6 and largest >= case.H:
        return "small-h"
    fits = (
        case.dtype == "fp16"
        and case.layers == 1
        and case.directions == 1
        and case.H <= 1024
        and case.H % 128 == 0
        and case.I % 128 == 0
    )
    return "persist" if fits and _device_persists(case, machine, major, minor) else "standard"


def _device_persists(case: Case, machine: Machine, major: int, minor: int) -> bool:
    B, T = case.B, case.T
    if major == 7:
        friendly = (B % 16 == 0 and B not in (80, 112)) or B == 8
        long = (T >= 40 and B <= 128) or (T >= 20 and B <= 96) or (T >= 10 and B <= 32)
        return minor != 5 and friendly and long
    if major < 8 or minor == 6 or machine.multiprocessors < 98 or case.cell == "gru":
        return False
    within = B % 8 == 0 and B <= 128
    return within and (case.cell == "lstm" or B < 96 or case.H < 896)


def supports(case: Case, machine: Machine) -> str | None:
    if case.track == "recurrence":
        return "torch.nn does not expose the loop without the input projection"
    if case.cell_info.torch_class is None:
        return f"torch.nn has no cell {case.cell}"
    if case.resets:
        return "torch.nn cannot reset a state inside a sequence"
    if case.precision == "tf32x3":
        return "cuDNN has no tf32x3 products"
    if case.precision == "tf32" and not machine.is_cuda:
        return "tf32 products exist on CUDA devices only"
    return None


def build(problem: Problem) -> Call:
    """A torch.nn module with the problem's weights, flattened as cuDNN wants them."""
    import torch

    from bench.cases.problem import named_outputs, weight_names

    case = problem.case
    extra = {"nonlinearity": case.cell_info.nonlinearity} if case.cell_info.nonlinearity else {}
    module = getattr(torch.nn, str(case.cell_info.torch_class))(
        case.I, case.H, case.layers, bidirectional=case.directions == 2, **extra
    ).to(problem.device, problem.inputs["x"].dtype)
    leaves: dict[str, Tensor] = {
        name: problem.inputs[name].detach() for name in ("x", "h0", "c0") if name in problem.inputs
    }
    with torch.no_grad():
        for names in weight_names(case):
            for name in names:
                parameter = module.get_parameter(
                    name.replace("w_", "weight_").replace("b_", "bias_")
                )
                parameter.copy_(problem.inputs[name])
                leaves[name] = parameter
    module.flatten_parameters()
    # Without a backward pass, cuDNN may run in its inference mode.
    module.train(case.pass_ != "fwd")
    hx = (leaves["h0"], leaves["c0"]) if "c0" in leaves else leaves["h0"]
    x = leaves["x"]
    if problem.lengths is None:
        return Call(lambda: named_outputs(case, *module(x, hx)), leaves)

    lengths = problem.lengths.cpu()

    def packed() -> dict[str, torch.Tensor]:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, last = module(sequence, hx)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=case.T)
        return named_outputs(case, y, last)

    return Call(packed, leaves)


_OPTIONS: dict[str, Any] = {"supports": supports, "package": "torch", "algorithm": cudnn_algorithm}
provider("torch.nn", baseline=True, **_OPTIONS)(build)
provider("torch.nn-graph", baseline=True, graph=True, **_OPTIONS)(build)
