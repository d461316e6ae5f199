"""Triton's own launch path for an H100 that need not be there: launches are recorded, not made.

`install` makes a driver active that is Triton's `CudaDriver` with its `CudaUtils` and
`CudaLauncher`. Binding of the arguments, their specialization, the caches, the compiler and the
launcher's signature are the real ones, of Triton 3.6 and later. Replaced are

- the C extension that Triton builds against libcuda, by the few functions of `Extension`;
- the current device, its capability and its stream, which torch would ask the CUDA runtime for;
- `check_runnable` of `kernels`, which refuses CPU tensors. Nothing else in `kernels` refuses them:
  for a CPU tensor it plans for an H100, enters no device's context and locks no memory.

Needs TRITON_INTERPRET unset. What a call returns is whatever its memory held.
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
    cooperative: bool  # as the C launcher got it
    num_warps: int
    shared_bytes: int
    maxnreg: int | None
    hash: str  # of the compiled kernel: another if it was compiled from anything else
    arguments: dict[str, Any]
    types: dict[str, str]  # as Triton writes them: "*bf16", "i32", "constexpr"
    aligned: frozenset[str]  # compiled as multiples of 16


@dataclass
class Recorder:
    """What was launched, and which kernels were loaded: one for each that was compiled or found
    in the cache on the disk.
    """

    launches: list[Launch] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


class Extension:
    """What Triton's C extension offers: `cuda_utils`, and `__triton_launcher` of Triton 3.6."""

    # Parts of the launcher's signature since Triton 3.7.
    ARG_CONSTEXPR, ARG_KERNEL, ARG_TUPLE = range(3)
    PyKernelArg = SimpleNamespace
    # Tensor descriptors, clusters and printing: nothing here uses them.
    PyCUtensorMap = fill_tma_descriptor = cuOccupancyMaxActiveClusters = set_printf_fifo_size = None
    fill_tma_descriptor_tiled = fill_tma_descriptor_im2col = None

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.received: tuple[Any, ...] = ()

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, ...]:
        """Its module, function, registers, spills and most threads, as far as Triton looks."""
        assert binary.startswith(b"\x7fELF"), name
        self.recorder.loaded.append(name)
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": H100.shared_bytes, "multiprocessor_count": H100.multiprocessors}

    def build_signature_metadata(self, types: Sequence[str]) -> bytes:
        """A byte for each argument that is no constant; raises KeyError for an unknown type."""
        return bytes(len(nvidia.ty_to_cpp(each)) for each in types)

    def launch(self, *received: Any) -> None:
        self.received = received


def install(record: bool = True) -> Recorder:
    """Make such a driver active for the rest of the process.

    Without `record`, launches are not noted down, which costs time where time is measured.

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
            recorder.launches.append(_launch(self.source, self.metadata, extension.received, given))

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


def _launch(source: Any, metadata: Any, received: Sequence[Any], given: Sequence[Any]) -> Launch:
    names = source.fn.arg_names
    return Launch(
        kernel=source.fn.__name__,
        grid=tuple(received[:3]),
        cooperative=received[5],
        num_warps=metadata.num_warps,
        shared_bytes=metadata.shared,
        maxnreg=metadata.maxnreg,
        hash=metadata.hash,
        arguments=dict(zip(names, given[-len(names) :], strict=True)),
        types=dict(source.signature),
        aligned=frozenset(
            names[path[0]]
            for path, found in source.attrs.items()
            if ["tt.divisibility", 16] in found
        ),
    )
