"""The loop alone, by hand: random tensors, and plans whose every number the test chooses."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels import launch
from kernels.cells import CELLS
from kernels.inputs import Recurrence
from kernels.plan import Plan, Problem, backward_plan, forward_plan, power_of_two
from kernels.plan.devices import DEVICES

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Tiling:
    """How a kernel's work is divided; the other numbers of a plan follow from these.

    At most `members` programs share the units of a group; `resident` and `ahead` are limited to
    the chunks that exist.
    """

    members: int
    split: int = 1  # of them, those that share one product (backward)
    block_b: int = 4
    block_k: int = 8
    resident: int = 2
    ahead: int = 1
    batch_groups: int = 1


@dataclass(frozen=True)
class Loop:
    """One recurrence: its sizes, its options, and the tilings of both its kernels."""

    cell: str
    T: int
    B: int
    H: int
    D: int = 1
    dtype: str = "fp32"
    reverse: bool = False
    lengths: bool = False
    resets: bool = False
    bias: bool = True
    forward: Tiling = Tiling(2)
    backward: Tiling = Tiling(2)
    seed: int = 0


def plan_of(loop: Loop, backward: bool, mode: str = "persistent") -> Plan:
    """The plan of a loop's forward or backward kernel as its tiling says."""
    cell, tiling = CELLS[loop.cell], loop.backward if backward else loop.forward
    dtype = str(DTYPES[loop.dtype]).removeprefix("torch.")
    problem = Problem(cell.gates, loop.B, loop.H, loop.D, dtype)
    base = (backward_plan if backward else forward_plan)(problem, DEVICES["h100"], "stepwise")
    K = cell.gates * loop.H if backward else loop.H
    split = tiling.split if backward else 1
    units = max(2 * split, power_of_two(-(-loop.H * split // tiling.members)))
    group = -(-loop.H // units) * split
    block_k, chunks = tiling.block_k, -(-K // (split * tiling.block_k))
    resident = min(tiling.resident, chunks)
    if group == 1:  # one program keeps all weights, a chunk for each of the backward pass's gates
        block_k, chunks = units, cell.gates if backward else 1
        resident = chunks
    batch_tiles = -(-loop.B // tiling.block_b)
    # A single program waits for no other, so it computes one batch tile only.
    batch_groups = batch_tiles if group == 1 else min(tiling.batch_groups, batch_tiles)
    tiles = -(-batch_tiles // batch_groups)
    if mode == "gemm":  # the kernels only do the pointwise part
        split, chunks, resident = 1, 0, 0
        group = -(-loop.H // units)
    if mode != "persistent":
        batch_groups, tiles = batch_tiles, 1
    return replace(
        base, mode=mode, units=units, split=split, block_b=tiling.block_b, block_k=block_k,
        chunks=chunks, resident=resident, ahead=max(1, min(tiling.ahead, resident)),
        group=group, batch_groups=batch_groups, tiles=tiles, directions=loop.D,
    )  # fmt: skip


@dataclass
class Tensors:
    """A loop's inputs and the gradients of its outputs, seeded, in `launch`'s shapes."""

    loop: Loop
    launch: Any = launch  # the module, or one with a fault

    def __post_init__(self) -> None:
        loop, cell = self.loop, CELLS[self.loop.cell]
        source = torch.Generator().manual_seed(loop.seed)
        dtype = DTYPES[loop.dtype]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=source)

        T, B, D, H, K = loop.T, loop.B, loop.D, loop.H, cell.gates * loop.H
        self.gx = normal(T, B, D, K).to(dtype)
        self.w_hh = (normal(D, K, H) / H**0.5).to(dtype)
        self.b_hh = normal(D, K).to(dtype) if loop.bias else None
        initial = normal(cell.states, D, B, H)
        if loop.cell == "slstm":  # its n is a sum of exponentials
            initial[2] = initial[2].abs() + 1
        self.initial = initial.to(dtype)
        self.dy = normal(T, B, D * H).to(dtype)
        self.dfinal = normal(cell.states, D, B, H)
        self.lengths = self.resets = None
        if loop.lengths:
            drawn = torch.randint(1, T + 1, (B,), generator=source)
            self.lengths = drawn.to(torch.int32)
        if loop.resets:
            self.resets = (torch.rand(T, B, generator=source) < 0.3).to(torch.uint8)

    @property
    def recurrence(self) -> Recurrence:
        return Recurrence(
            CELLS[self.loop.cell], self.w_hh, self.b_hh, self.initial, self.lengths, self.resets,
            self.loop.reverse, "ieee",
        )  # fmt: skip

    def forward(self, plan: Plan) -> dict[str, Tensor | None]:
        """All that the forward kernel writes."""
        names = ("y", "final", "history", "saved")
        outputs = self.launch.forward(self.recurrence, plan, self.gx, save=True)
        return dict(zip(names, outputs, strict=True))

    def backward(self, plan: Plan, forward: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """All that the backward kernel writes, from the forward kernel's outputs."""
        names = ("dgx", "dr", "dinitial")
        y = forward["y"]
        assert y is not None
        outputs = self.launch.backward(
            self.recurrence, plan, self.dy, self.dfinal, y, forward["history"], forward["saved"]
        )
        return dict(zip(names, outputs, strict=True))


def differing(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> list[str]:
    """The names whose tensors differ in any bit, NaN and what nobody wrote included."""
    return [name for name, left in a.items() if not _equal(left, b[name])]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )
