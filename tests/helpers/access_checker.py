"""A check of every memory access of interpreted kernels.

Within `checked(launch)` each tensor of a launch is copied to memory with wide gaps around it, so
that an access just outside it is in no other tensor. Each active lane of each load, store and
atomic must be inside a tensor. Each byte read must have been written, by the host or by a kernel
(NaN counts as unwritten: see the fixture `unwritten_is_nan`). Of programs that no barrier orders,
none may write what another of the same launch reads or writes.
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

# Bytes on either side of a tensor, far more than in any test's tensor.
GAP = 1 << 18
# Most programs of one launch; the last number marks a byte that several programs read.
MAX_PROGRAMS = 1 << 16
SEVERAL_READERS = MAX_PROGRAMS - 1

# The interpreter's memory operations: positions of the pointers and the mask, and what they do.
ACCESSES = {
    "create_masked_load": (0, 1, "read"),
    "create_masked_store": (0, 2, "write"),
    "create_atomic_rmw": (1, 3, "read and write"),
    "create_atomic_cas": (0, None, "read and write"),
}


class Violation(Exception):
    """A kernel accessed memory that it must not access."""


class Region:
    """A tensor's copy between gaps; for each byte whether it was written, its writer and reader."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.original = name, tensor
        # Shared between processes, like `written`, because concurrent programs are processes.
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
        self.seen = raw.numpy().copy()  # as host and kernels last exchanged them
        self.writer = np.full(tensor.nbytes, -1, dtype=np.int64)
        self.reader = np.full(tensor.nbytes, -1, dtype=np.int64)

    @property
    def bytes(self) -> np.ndarray:
        return self.arena[GAP : GAP + self.original.nbytes].numpy()

    def copy_from_host(self) -> None:
        """Copy the elements that the host changed since the last launch; they count as written."""
        host = self.original.flatten().view(torch.uint8).numpy()
        size = self.original.element_size()
        changed = (host != self.seen).reshape(-1, size).any(1).repeat(size)
        self.bytes[changed] = host[changed]
        self.written[changed] = True

    def copy_to_host(self) -> None:
        """Copy the tensor back to the original if kernels changed it."""
        if not np.array_equal(self.bytes, self.seen):
            self.original.copy_(self.copy)
            self.seen = self.bytes.copy()


class Memory:
    """The tensors of all launches so far, and the check of each access."""

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
            region.copy_from_host()
        self.launches += 1
        self.ordered_by_barrier = arguments["counters_ptr"] is not None
        accesses: dict[str, Any] = {name: self.checking(name) for name in ACCESSES}
        with mock.patch.multiple(builder, **accesses):
            kernel[grid](**arguments)
        for region in self.regions:
            region.copy_to_host()

    def checking(self, name: str) -> Callable[..., Any]:
        """The builder's function of this name, preceded by the check."""
        original, (pointers, mask, kinds) = getattr(builder, name), ACCESSES[name]

        def access(*args: Any) -> Any:
            active = None if mask is None else args[mask]
            self.check(args[pointers], active, "read" in kinds, "write" in kinds)
            return original(*args)

        return access

    def check(self, pointers: Any, mask: Any, reads: bool, writes: bool) -> None:
        """Raise Violation for a lane out of bounds, a read of unwritten bytes, or a conflict."""
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
            address = int(addresses[outside][0])
            near = min(self.regions, key=lambda r: abs(address - (r.begin + r.end) // 2))
            raise Violation(f"{what} outside its tensor: {place(near, address - near.begin)}")
        for one in np.unique(index):
            region = self.regions[one]
            offsets = (addresses[index == one] - np.uint64(region.begin)).astype(np.int64)
            where = (offsets[:, None] + np.arange(size)).ravel()
            if reads and not region.written[where].all():
                first = where[~region.written[where]][0]
                raise Violation(f"a load of unwritten memory: {place(region, first)}")
            if writes:
                region.written[where] = True
            if not self.ordered_by_barrier:
                self.check_order(region, where, what, reads, writes)

    def check_order(
        self, region: Region, where: np.ndarray, what: str, reads: bool, writes: bool
    ) -> None:
        """Raise Violation if another program of this launch wrote what this one accesses, or read
        what it writes.
        """
        launch = self.launches * MAX_PROGRAMS
        me = launch + builder.grid_idx[0]
        writer, reader = region.writer[where], region.reader[where]
        conflicts = (writer >= launch) & (writer != me)
        if writes:
            conflicts |= (reader >= launch) & (reader != me)
        if conflicts.any():
            raise Violation(
                f"{what} of what another program of the launch wrote or read: "
                f"{place(region, where[conflicts][0])}"
            )
        if writes:
            region.writer[where] = me
        if reads:
            other = (reader >= launch) & (reader != me)
            region.reader[where] = np.where(other, launch + SEVERAL_READERS, me)


def place(region: Region, offset: int) -> str:
    """The tensor and element at an offset in bytes, and the running program."""
    tensor = region.original
    return (
        f"{region.name} {tuple(tensor.shape)}, element {offset // tensor.element_size()} of "
        f"{tensor.numel()}, program {builder.grid_idx[0]}"
    )


@contextmanager
def checked(module: ModuleType) -> Iterator[Memory]:
    """Check every access of the kernels that `module` launches."""
    memory = Memory()
    with launched_by(memory.launch, module):
        yield memory
