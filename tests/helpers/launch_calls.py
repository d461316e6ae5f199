"""What each call of a public function launches, as JSON.

test_launches.py runs this as a process, because its own process interprets kernels.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from triton.runtime.jit import JITFunction

import kernels
from kernels.cells import CELLS
from kernels.planning import plans
from tests.helpers import launch_recorder

# Methods and functions of torch that allocate.
ALLOCATORS = {"new_empty", "new_zeros", "zeros", "empty", "empty_like", "zeros_like", "stack"}
ALLOCATORS |= {"cat", "clone", "to", "float", "mm", "addmm", "sum", "where"}


def arguments(call: dict[str, Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The tensors (gx and w_hh, or x and a layer's weights) and the options of a call."""
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
    """Make the call: forward, and backward if it says so."""
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
    """A JSON value for a launch (its fields), a tensor (its shape) or a function (its name)."""
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape)}
    if isinstance(value, frozenset):
        return sorted(value)
    return vars(value) if isinstance(value, launch_recorder.Launch) else value.__name__


def work(call: dict[str, Any]) -> dict[str, Any]:
    """Counts of the host's work in a call that compiles nothing.

    "bound": launches whose arguments Triton bound; "entered": functions of `kernels` entered;
    "tensors": their calls that allocate a tensor, by name.
    """
    counts = {"bound": 0, "entered": 0}
    tensors: Counter[str] = Counter()
    folder = str(Path(kernels.__file__).parent)

    def count(frame: FrameType, event: str, argument: Any) -> None:
        ours = frame.f_code.co_filename.startswith(folder)
        if event == "call":
            counts["bound"] += frame.f_code is JITFunction.run.__code__
            # Comprehensions are functions up to Python 3.11 only.
            counts["entered"] += ours and not frame.f_code.co_name.startswith("<")
        elif event == "c_call" and ours and argument.__name__ in ALLOCATORS:
            tensors[argument.__name__] += 1

    sys.setprofile(count)
    try:
        run(call)
    finally:
        sys.setprofile(None)
    return counts | {"tensors": tensors}


def main() -> None:
    recorder = launch_recorder.install()
    found = {}
    for name, call in json.loads(sys.argv[1]).items():
        run(call)
        launches, loaded = list(recorder.launches), list(recorder.loaded)
        found[name] = {"launches": launches, "loaded": loaded, "plans": planned(call)}
        found[name]["work"] = work(call)
        recorder.launches.clear()
        recorder.loaded.clear()
    print(json.dumps(found, default=plain))


if __name__ == "__main__":
    main()
