"""Run `kernels.launch` on random tensors, with plans whose tiles the test chooses."""

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
    """The free choices of a plan; `resident` and `ahead` are at most the number of chunks."""

    members: int  # programs that share a group's units, at most
    split: int = 1  # of these, programs that share one product (backward)
    block_b: int = 4
    block_k: int = 8
    resident: int = 2
    ahead: int = 1
    batch_groups: int = 1


@dataclass(frozen=True)
class Loop:
    """One recurrence: sizes, options, and a tiling for each kernel."""

    cell: str
    T: int
    B: int
    H: int
    D: int = 1
    dtype: str = "fp32"
    reverse: bool = False  # of D = 1
    lengths: bool = False
    resets: bool = False
    bias: bool = True
    models: int = 1  # side by side, of D directions each
    own_masks: bool = False  # of each model
    forward: Tiling = Tiling(2)
    backward: Tiling = Tiling(2)
    seed: int = 0

    @property
    def directions(self) -> int:
        """Of all models."""
        return self.D * self.models


def plan_of(loop: Loop, backward: bool, mode: str = "persistent") -> Plan:
    """The plan of a loop's forward or backward kernel, with the tiling that the loop gives."""
    cell, tiling = CELLS[loop.cell], loop.backward if backward else loop.forward
    dtype = str(DTYPES[loop.dtype]).removeprefix("torch.")
    problem = Problem(cell.gates, loop.B, loop.H, loop.directions, dtype)
    base = (backward_plan if backward else forward_plan)(problem, DEVICES["h100"], "stepwise")
    K = cell.gates * loop.H if backward else loop.H
    split = tiling.split if backward else 1
    units = max(2 * split, power_of_two(-(-loop.H * split // tiling.members)))
    group = -(-loop.H // units) * split
    block_k, chunks = tiling.block_k, -(-K // (split * tiling.block_k))
    resident = min(tiling.resident, chunks)
    if group == 1:  # one program keeps all weights: forward one chunk, backward one for each gate
        block_k, chunks = units, cell.gates if backward else 1
        resident = chunks
    batch_tiles = -(-loop.B // tiling.block_b)
    # A single-program group has no barrier, so each of its programs computes one batch tile.
    batch_groups = batch_tiles if group == 1 else min(tiling.batch_groups, batch_tiles)
    tiles = -(-batch_tiles // batch_groups)
    if mode == "gemm":  # the kernels do the pointwise part only
        split, chunks, resident = 1, 0, 0
        group = -(-loop.H // units)
    if mode != "persistent":
        batch_groups, tiles = batch_tiles, 1
    return replace(
        base, mode=mode, units=units, split=split, block_b=tiling.block_b, block_k=block_k,
        chunks=chunks, resident=resident, ahead=max(1, min(tiling.ahead, resident)),
        group=group, batch_groups=batch_groups, tiles=tiles, directions=loop.directions,
    )  # fmt: skip


@dataclass
class Tensors:
    """A loop's random inputs and gradients of outputs, as `kernels.launch` takes them."""

    loop: Loop
    launch: Any = launch  # the module, or a copy with a planted fault

    def __post_init__(self) -> None:
        loop, cell = self.loop, CELLS[self.loop.cell]
        source = torch.Generator().manual_seed(loop.seed)
        dtype = DTYPES[loop.dtype]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=source)

        T, B, D, H, K = loop.T, loop.B, loop.directions, loop.H, cell.gates * loop.H
        N = loop.models if loop.own_masks else 1
        self.gx = normal(T, B, D, K).to(dtype)
        self.w_hh = (normal(D, K, H) / H**0.5).to(dtype)
        self.b_hh = normal(D, K).to(dtype) if loop.bias else None
        initial = normal(cell.states, D, B, H)
        if loop.cell == "slstm":  # n, a sum of exponentials, is positive
            initial[2] = initial[2].abs() + 1
        self.initial = initial.to(dtype)
        self.dy = normal(T, B, D * H).to(dtype)
        self.dfinal = normal(cell.states, D, B, H)
        self.lengths = self.resets = None
        if loop.lengths:
            drawn = torch.randint(1, T + 1, (N, B), generator=source)
            self.lengths = drawn.to(torch.int32)
        if loop.resets:
            self.resets = (torch.rand(N, T, B, generator=source) < 0.3).to(torch.uint8)

    @property
    def recurrence(self) -> Recurrence:
        direction = "both" if self.loop.D == 2 else "reverse" if self.loop.reverse else "forward"
        return Recurrence(
            CELLS[self.loop.cell], self.w_hh, self.b_hh, self.initial, self.lengths, self.resets,
            direction, "ieee",
        )  # fmt: skip

    def forward(self, plan: Plan) -> dict[str, Any]:
        """The forward kernel's outputs by name: tensors, or None."""
        names = ("y", "final", "history", "saved")
        outputs = self.launch.forward(self.recurrence, plan, self.gx, save=True)
        return dict(zip(names, outputs, strict=True))

    def backward(self, plan: Plan, forward: dict[str, Any]) -> dict[str, Any]:
        """The backward kernel's outputs by name, from the forward kernel's."""
        names = ("dgx", "dr", "dinitial")
        saved = (forward[name] for name in ("y", "history", "saved"))
        outputs = self.launch.backward(self.recurrence, plan, self.dy, self.dfinal, *saved)
        return dict(zip(names, outputs, strict=True))


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names whose tensors differ in any bit; NaN equals NaN."""

    def bits(tensor: Tensor | None) -> Tensor:
        return torch.empty(0) if tensor is None else tensor.contiguous().view(torch.uint8)

    return [name for name, left in a.items() if not torch.equal(bits(left), bits(b[name]))]
