"""No kernel accesses memory outside its tensors or reads unwritten memory (`access_checker.py`).

An off-by-one planted in each mask of the kernels' source shows that the check notices it.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from triton.runtime.errors import InterpreterError

import kernels
from kernels import launch
from kernels.cells import CELLS
from tests.helpers import concurrent_launch
from tests.helpers.access_checker import builder, checked
from tests.helpers.loops import DTYPES, Loop, Tensors, Tiling, plan_of
from tests.helpers.pairwise import label, pairwise

pytestmark = [
    pytest.mark.usefixtures("unwritten_is_nan"),
    pytest.mark.skipif(
        torch.cuda.is_available(),
        reason="on a GPU compute-sanitizer checks this, by `python -m bench check-gpu`",
    ),
]


@pytest.fixture(autouse=True)
def _integer_overflow_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "options", replace(builder.options, sanitize_overflow=True))


def run(loop: Loop, mode: str, module: ModuleType = launch) -> None:
    """Run both kernels with every access checked; inputs must stay unchanged."""
    tensors = Tensors(loop, module)
    given = {name: value for name, value in vars(tensors).items() if torch.is_tensor(value)}
    before = {name: value.clone() for name, value in given.items()}
    with checked(module) as memory:
        forward = tensors.forward(plan_of(loop, False, mode))
        launches = memory.launches
        tensors.backward(plan_of(loop, True, mode), forward)
    assert 0 < launches < memory.launches
    for name, value in given.items():
        assert torch.equal(value, before[name]), f"{name} was written"


SINGLE = Tiling(1, block_b=4)
SETTINGS = pairwise(
    cell=tuple(CELLS),
    mode=("stepwise", "gemm", "single"),
    dtype=tuple(DTYPES),
    D=(1, 2),
    reverse=(False, True),
    lengths=(False, True),
    resets=(False, True),
    bias=(False, True),
    models=(1, 3),
    own_masks=(False, True),
    sizes=((1, 1, 1), (3, 5, 7), (2, 3, 16), (4, 2, 9)),
    split=(1, 2, 4),
    resident=(0, 1, 9),
)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=label)
def test_every_access_is_inside_and_written(setting: dict[str, Any], seed: int) -> None:
    T, B, H = setting["sizes"]
    mode, split = setting["mode"], setting["split"]
    single = mode == "single"
    loop = Loop(
        setting["cell"], T, B, H, setting["D"], setting["dtype"],
        setting["reverse"] and setting["D"] == 1, setting["lengths"], setting["resets"],
        setting["bias"], setting["models"], setting["own_masks"],
        forward=SINGLE if single else Tiling(3, block_b=4, resident=setting["resident"]),
        backward=SINGLE if single else Tiling(3 * split, split, 4, resident=setting["resident"]),
        seed=seed,
    )  # fmt: skip
    run(loop, "persistent" if single else mode)


def test_concurrent_programs_keep_to_their_memory(seed: int) -> None:
    """The persistent launch with its barrier: memory written by one program is written for all."""
    loop = Loop(
        "lstm", T=2, B=3, H=7, D=2, lengths=True, resets=True, seed=seed,
        forward=Tiling(2), backward=Tiling(4, split=2),
    )  # fmt: skip
    with concurrent_launch.concurrent() as settings:
        run(loop, "persistent")
    assert settings.programs == [4, 8]


# Planted faults. No size is a multiple of its block, so one unit, batch row or column too many is
# possible; one step too many in the reverse direction is before the first.
PLANTED = Loop(
    "gru", T=3, B=3, H=5, D=2, lengths=True, resets=True,
    forward=Tiling(2, block_b=4, block_k=4), backward=Tiling(4, split=2, block_b=4, block_k=4),
)  # fmt: skip
FAULTS = {
    # function, its text, the faulty text
    "units": ("batch_tile", "(units < H)", "(units <= H)"),
    "batch": ("batch_tile", "(batch < B)", "(batch <= B)"),
    "lengths": ("sequence_steps", "mask=batch < B", "mask=batch <= B"),
    "steps": ("sequence_steps", "step < length", "step <= length"),
    "first step": ("starts_anew", "active & (step == 0)", "active & (step == -1)"),
    "forward weight rows": ("forward_kernel", "(row_unit < H)", "(row_unit <= H)"),
    "forward batch, idle": ("forward_kernel", "tl.minimum(batch, B - 1)", "tl.minimum(batch, B)"),
    "forward previous": ("forward_kernel", "row_of(step - 1,", "row_of(step,"),
    "backward outputs": ("backward_kernel", "outputs < H,", "outputs <= H,"),
    "backward batch": ("backward_kernel", "(batch < B)[None", "(batch <= B)[None"),
    "backward later": ("backward_kernel", "(step + 1 < length)", "(step + 1 <= length)"),
    "backward first step": ("backward_kernel", "& (step >= 0)", "& (step >= -1)"),
    "backward previous": ("backward_kernel", "mask & (anew == 0)[None, :]", "mask"),
    "backward parts": ("backward_kernel", "part * plane", "(part + 1) * plane"),
    "columns of weights": ("load_weights", "< matrix.limit)", "<= matrix.limit)"),
    "columns of the operand": ("load_operand", "< matrix.limit)", "<= matrix.limit)"),
    "loaded blocks": ("load_blocks", "ptr + k * stride", "ptr + (k + 1) * stride"),
    "state at a reset": ("reload_state", "state_ptr + k * plane", "state_ptr + (k + 1) * plane"),
    "stored blocks": ("store_blocks", "ptr + k * stride", "ptr + (k + 1) * stride"),
}  # fmt: skip


@contextmanager
def planted(folder: Path, function: str, old: str, new: str) -> Iterator[ModuleType]:
    """`kernels.launch` of a copy of the package, in which one function has a fault."""
    name = "kernels_with_a_fault"
    original = Path(kernels.__file__).parent
    file = "recurrence" if function.endswith("_kernel") else "blocks"
    for source in original.rglob("*.py"):
        text = source.read_text()
        if source.stem == file:
            begin = text.index(f"def {function}(")
            end = text.find("\n@triton.jit", begin)
            body = text[begin : end if end >= 0 else len(text)]
            assert old in body, f"{function} no longer contains {old!r}"
            text = text.replace(body, body.replace(old, new))
        copy = folder / source.relative_to(original)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text)
    package = ModuleType(name)  # without running its __init__, which registers operators
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    try:
        yield importlib.import_module(f"{name}.launch")
    finally:
        for module in [module for module in sys.modules if re.match(rf"{name}(\.|$)", module)]:
            del sys.modules[module]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_off_by_one_is_caught(fault: str, tmp_path: Path, seed: int) -> None:
    with (
        planted(tmp_path, *FAULTS[fault]) as module,
        pytest.raises(InterpreterError, match="Violation"),
    ):
        run(PLANTED, "stepwise", module)


def test_without_a_planted_fault_nothing_is_caught() -> None:
    run(PLANTED, "stepwise")
