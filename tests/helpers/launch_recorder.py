"""Triton's own launch path for an H100, without a GPU: launches are recorded, not made.

`install` activates Triton's `CudaDriver` with its `CudaUtils` and `CudaLauncher`. Binding,
specialization, caches, compiler and the launcher's signature are the real ones of Triton 3.6 and
later. Replaced are

- the C extension that Triton builds against libcuda, by `Extension`;
- the current device, its capability and its stream;
- `check_runnable` of `kernels`, which refuses CPU tensors; for those `kernels` plans for an H100.

Needs TRITON_INTERPRET unset. The results of a call are uninitialized memory.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import triton.backends.nvidia.driver as nvidia
from triton.runtime import driver

from kernels import functional
from kernels.plan.devices import DEVICES

H100 = DEVICES["h100"]


@dataclass(frozen=True)
class Launch:
    """One launch, with arguments and types by parameter."""

    kernel: str
    grid: tuple[int, ...]
    cooperative: bool  # as passed to the C launcher
    num_warps: int
    shared_bytes: int
    maxnreg: int | None
    hash: str  # of everything that the kernel was compiled from
    arguments: dict[str, Any]
    types: dict[str, str]  # as Triton writes them: "*bf16", "i32", "constexpr"
    aligned: frozenset[str]  # compiled as multiples of 16


@dataclass
class Recorder:
    """The launches, and the names of the kernels that were compiled or loaded from the cache."""

    launches: list[Launch] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


class Extension:
    """Triton's C extensions: `cuda_utils`, and `__triton_launcher` of Triton 3.6."""

    # Parts of the launcher's signature since Triton 3.7.
    ARG_CONSTEXPR, ARG_KERNEL, ARG_TUPLE = range(3)
    PyKernelArg = SimpleNamespace
    # Tensor descriptors, clusters and printing are not used.
    PyCUtensorMap = fill_tma_descriptor = cuOccupancyMaxActiveClusters = set_printf_fifo_size = None
    fill_tma_descriptor_tiled = fill_tma_descriptor_im2col = None

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.received: tuple[Any, ...] = ()

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, ...]:
        """Stand-ins for the module, function, registers, spills and largest number of threads."""
        assert binary.startswith(b"\x7fELF"), name
        self.recorder.loaded.append(name)
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": H100.shared_bytes, "multiprocessor_count": H100.multiprocessors}

    def build_signature_metadata(self, types: Sequence[str]) -> bytes:
        """A byte for each argument that is not a constant; raises KeyError for an unknown type."""
        return bytes(len(nvidia.ty_to_cpp(each)) for each in types)

    def launch(self, *received: Any) -> None:
        self.received = received


def install(record: bool = True) -> Recorder:
    """Activate this driver for the rest of the process; without `record`, launches take less time.

    Raises:
        RuntimeError: the kernels are interpreted.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET is '1'; accepted: unset, before kernels are imported")
    recorder = Recorder()
    extension = Extension(recorder)

    class Recording(nvidia.CudaLauncher):
        def __init__(self, source: Any, metadata: Any) -> None:
            super().__init__(source, metadata)
            self.source, self.metadata = source, metadata

        def __call__(self, *given: Any) -> None:
            super().__call__(*given)
            received, names = extension.received, self.source.fn.arg_names
            attributes = self.source.attrs.items()
            launch = Launch(
                kernel=self.source.fn.__name__,
                grid=tuple(received[:3]),
                cooperative=received[5],
                num_warps=self.metadata.num_warps,
                shared_bytes=self.metadata.shared,
                maxnreg=self.metadata.maxnreg,
                hash=self.metadata.hash,
                arguments=dict(zip(names, given[-len(names) :], strict=True)),
                types=dict(self.source.signature),
                aligned=frozenset(
                    names[path[0]] for path, found in attributes if ["tt.divisibility", 16] in found
                ),
            )
            recorder.launches.append(launch)

    nvidia.compile_module_from_src = lambda **_: extension
    nvidia.library_dirs = list  # none: libcuda need not be there
    active = nvidia.CudaDriver()
    active.get_current_device = lambda: 0
    active.get_current_stream = lambda device: 0
    active.get_device_capability = lambda device: (9, 0)
    if record:
        active.launcher_cls = Recording
    driver.set_active(active)
    functional.check_runnable = lambda device: None
    return recorder
