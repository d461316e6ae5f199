"""Calls of the public functions, and what each of them launches: run as a process by
test_launches.py, because kernels that are imported there are interpreted.
"""

import json
import os
import sys
from dataclasses import asdict
from typing import Any

import torch

import kernels
from kernels.autograd import plans
from kernels.cells import CELLS
from tests import launch_recorder


def arguments(call: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Positional tensors (gx and w_hh, or x and a module's weights) and the options."""
    cell, T, B, H, D = CELLS[call["cell"]], call["T"], call["B"], call["H"], call["D"]
    dtype = getattr(torch, call["dtype"])

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, requires_grad=call["backward"])

    options: dict[str, Any] = {"mode": call["mode"], "lengths": call["lengths"]}
    if call["resets"]:
        options["resets"] = torch.ones(T, B, dtype=torch.bool)
    if call["function"] == "recurrence":
        options |= {"precision": call["precision"], "reverse": call["reverse"]}
        if call["bias"]:
            options["b_hh"] = zeros(D, cell.gates * H)
        return [zeros(T, B, D, cell.gates * H), zeros(D, cell.gates * H, H)], options
    options["direction"] = "both" if D == 2 else "forward"
    sizes = ((cell.gates * H, H), (cell.gates * H, H), (cell.gates * H,), (cell.gates * H,))
    weights = [tuple(zeros(*size) for size in sizes) for _ in range(D)]
    return [zeros(T, B, H), weights], options  # type: ignore[list-item]


def run(call: dict[str, Any]) -> None:
    """Forward, and backward where asked for."""
    given, options = arguments(call)
    with torch.set_grad_enabled(call["backward"]):
        if call["function"] == "module":
            module = getattr(kernels, call["cell"].upper())(call["H"], call["H"])
            y, _ = module.to(given[0].dtype)(given[0])
        else:
            y, *_ = getattr(kernels, call["function"])(call["cell"], *given, **options)
        if call["backward"]:
            y.sum().backward()


def planned(call: dict[str, Any]) -> dict[str, Any]:
    """The forward and the backward plan, by the kernels' names."""
    cell, D, H = CELLS[call["cell"]], call["D"], call["H"]
    w_hh = torch.empty(D, cell.gates * H, H, dtype=getattr(torch, call["dtype"]))
    found = plans(cell, w_hh, call["B"], call["mode"], call["precision"] or "ieee")
    return {
        f"{loop}_kernel": asdict(plan) | {"programs": plan.programs}
        for loop, plan in zip(("forward", "backward"), found, strict=True)
    }


def plain(value: Any) -> Any:
    """An argument for JSON: a tensor's dtype and shape, a function's name."""
    if isinstance(value, torch.Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    return getattr(value, "__name__", value)


def described(launch: launch_recorder.Launch) -> dict[str, Any]:
    fields = {name: getattr(launch, name) for name in launch.__dataclass_fields__}
    fields["arguments"] = {name: plain(value) for name, value in launch.arguments.items()}
    return fields | {"aligned": sorted(launch.aligned)}


def main() -> None:
    recorder = launch_recorder.install()
    found = {}
    for name, call in json.loads(sys.argv[1]).items():
        run(call)
        found[name] = {
            "launches": [described(launch) for launch in recorder.launches],
            "loaded": list(recorder.loaded),
            "plans": planned(call),
        }
        recorder.launches.clear()
        recorder.loaded.clear()
    print(json.dumps({"calls": found, "interpreted": os.environ.get("TRITON_INTERPRET")}))


if __name__ == "__main__":
    main()
