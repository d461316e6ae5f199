"""Every access of an interpreted kernel, checked: within its tensor, and of what somebody wrote.

Within `checked(launch)` each tensor of a launch is copied to a place of its own with wide gaps
around it, so that one step too far lies in no other tensor. Each active lane of each load, store
and atomic must lie inside a tensor; each byte read must have been written, by the host or by a
kernel (tensors from `empty` count as unwritten where they hold NaN, with which torch fills them
under `use_deterministic_algorithms`); and programs that no barrier orders must not meet: none may
write what another of the same launch reads or writes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from tests.helpers.concurrent_launch import launched_by

builder = interpreter.interpreter_builder

# Bytes on either side of a tensor, far more than any test's tensor has.
GAP = 1 << 18
# Programs of one launch, at most; SEVERAL stands for more than one reader.
MOST = 1 << 16
SEVERAL = MOST - 1

# How a kernel reaches memory: which arguments are the pointers and the mask, and what is done.
ACCESSES = {
    "create_masked_load": (0, 1, "read"),
    "create_masked_store": (0, 2, "write"),
    "create_atomic_rmw": (1, 3, "read and write"),
    "create_atomic_cas": (0, None, "read and write"),
}


class Violation(Exception):
    """A kernel touched memory that it must not."""


class Region:
    """A tensor's copy, between two gaps, and what is known of each of its bytes."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.original = name, tensor
        # Shared, so that concurrent programs see each other's writes, in data and in bookkeeping.
        self.arena = torch.empty(2 * GAP + tensor.nbytes, dtype=torch.uint8).share_memory_()
        raw = self.arena[GAP : GAP + tensor.nbytes]
        self.copy = raw.view(tensor.dtype).view(tensor.shape)
        self.copy.copy_(tensor)
        self.begin = self.copy.data_ptr()
        self.end = self.begin + tensor.nbytes
        self.written = torch.ones(tensor.nbytes, dtype=torch.bool).share_memory_().numpy()
        if tensor.is_floating_point():
            unwritten = tensor.isnan().flatten().repeat_interleave(tensor.element_size())
            self.written[:] = ~unwritten.numpy()
        self.seen = raw.numpy().copy()  # as host and kernels last agreed on
        self.writer = np.full(tensor.nbytes, -1, dtype=np.int64)
        self.reader = np.full(tensor.nbytes, -1, dtype=np.int64)

    @property
    def bytes(self) -> np.ndarray:
        return self.arena[GAP : GAP + self.original.nbytes].numpy()

    def fetch(self) -> None:
        """Take over what the host wrote since the last launch."""
        host = self.original.flatten().view(torch.uint8).numpy()
        size = self.original.element_size()
        changed = (host != self.seen).reshape(-1, size).any(1).repeat(size)
        self.bytes[changed] = host[changed]
        self.written[changed] = True

    def give(self) -> None:
        """Show the host what kernels wrote."""
        if not np.array_equal(self.bytes, self.seen):
            self.original.copy_(self.copy)
            self.seen = self.bytes.copy()


class Memory:
    """The tensors of some launches, and the check of each access."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.adopted: dict[tuple[int, int, torch.dtype], Region] = {}
        self.launches = 0
        self.ordered_by_barrier = False

    def adopt(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.nbytes:
            return tensor
        key = (tensor.data_ptr(), tensor.nbytes, tensor.dtype)
        if key not in self.adopted:
            region = self.adopted[key] = Region(name, tensor)
            self.regions = sorted([*self.regions, region], key=lambda region: region.begin)
            self.begins = np.array([region.begin for region in self.regions], dtype=np.uint64)
            self.ends = np.array([region.end for region in self.regions], dtype=np.uint64)
        return self.adopted[key].copy

    def launch(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                arguments[name] = self.adopt(name, value)
        for region in self.regions:
            region.fetch()
        self.launches += 1
        self.ordered_by_barrier = arguments["counters_ptr"] is not None
        accesses: dict[str, Any] = {name: self.checking(name) for name in ACCESSES}
        with mock.patch.multiple(builder, **accesses):
            kernel[grid](**arguments)
        for region in self.regions:
            region.give()

    def checking(self, name: str) -> Callable[..., Any]:
        """The builder's function of this name, with a check ahead of it."""
        original, (pointers, mask, kinds) = getattr(builder, name), ACCESSES[name]

        def access(*args: Any) -> Any:
            active = None if mask is None else args[mask]
            self.check(args[pointers], active, "read" in kinds, "write" in kinds)
            return original(*args)

        return access

    def check(self, pointers: Any, mask: Any, reads: bool, writes: bool) -> None:
        """Check the active lanes of one access."""
        addresses = pointers.data.ravel()
        if mask is not None:
            active = np.broadcast_to(mask.data, pointers.data.shape).ravel()
            addresses = addresses[active != 0]
        if not addresses.size:
            return
        size = pointers.get_element_ty().primitive_bitwidth // 8
        index = np.searchsorted(self.begins, addresses, side="right") - 1
        outside = (index < 0) | (addresses + np.uint64(size) > self.ends[index])
        what = "a store" if writes else "a load"
        if outside.any():
            raise Violation(f"{what} outside its tensor: {self.place(addresses[outside][0])}")
        for one in np.unique(index):
            region = self.regions[one]
            offsets = (addresses[index == one] - np.uint64(region.begin)).astype(np.int64)
            where = (offsets[:, None] + np.arange(size)).ravel()
            if reads and not region.written[where].all():
                first = where[~region.written[where]][0]
                raise Violation(f"a load of what nothing wrote: {self.place(first, region)}")
            if writes:
                region.written[where] = True
            if not self.ordered_by_barrier:
                self.check_order(region, where, what, reads, writes)

    def check_order(
        self, region: Region, where: np.ndarray, what: str, reads: bool, writes: bool
    ) -> None:
        """Check that the programs of a launch could run in any order."""
        launch = self.launches * MOST
        me = launch + builder.grid_idx[0]
        writer, reader = region.writer[where], region.reader[where]
        meets = (writer >= launch) & (writer != me)
        if writes:
            meets |= (reader >= launch) & (reader != me)
        if meets.any():
            raise Violation(
                f"{what} of what another program of the launch wrote or read: "
                f"{self.place(where[meets][0], region)}"
            )
        if writes:
            region.writer[where] = me
        if reads:
            other = (reader >= launch) & (reader != me)
            region.reader[where] = np.where(other, launch + SEVERAL, me)

    def place(self, address: Any, region: Region | None = None) -> str:
        """Where an address, or an offset in a region, lies: tensor, shape, and element."""
        if region is None:
            middles = [(region.begin + region.end) // 2 for region in self.regions]
            region = self.regions[int(np.argmin([abs(int(address) - m) for m in middles]))]
            address = int(address) - region.begin
        shape, size = tuple(region.original.shape), region.original.element_size()
        return (
            f"{region.name} {shape}, element {int(address) // size} of "
            f"{region.original.numel()}, program {builder.grid_idx[0]}"
        )


@contextmanager
def checked(module: ModuleType) -> Iterator[Memory]:
    """Within it, every access of the kernels that `module` launches is checked."""
    memory = Memory()
    with launched_by(memory.launch, module):
        yield memory
