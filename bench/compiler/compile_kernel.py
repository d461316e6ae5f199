"""Compile one planned kernel for a GPU that need not be present, and count what is in the binary.

The arguments are those of a launch (``kernels.launch``), with tensors that have no memory. Needs
``TRITON_INTERPRET`` unset when ``kernels`` is first imported.
"""

import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cases.numbers import TORCH_NAMES
from kernels.plan import Plan
from kernels.plan.devices import Device

TRITON_NAMES = {name: dtype for dtype, name in TORCH_NAMES.items()} | {
    "int32": "i32", "int64": "i64", "uint8": "u8",
}  # fmt: skip
AMD_PREFIXES = "v|s|ds|global|buffer|flat|scratch"  # of instructions
TENSOR_CORE = ("HGMMA", "HMMA", "UTCHMMA", "UTCQMMA", "v_mfma")


@dataclass(frozen=True)
class Variant:
    """One kernel to compile: what a call of this cell, pass and plan would launch.

    ``features`` are the optional arguments that the call has: "lengths", "resets", "save" (forward:
    keep what the backward pass reads), "bias" (of a layer; only some cells' loops add a part of
    it), "loop bias" (of the loop itself).
    """

    cell: str
    pass_: str  # "fwd" or "bwd"
    H: int
    directions: int
    dtype: str  # "fp32", "fp16", "bf16"
    precision: str  # "ieee", "tf32"
    plan: Plan
    features: tuple[str, ...] = ("bias", "lengths", "resets", "save")
    without: str = ""  # a part of the loop to leave out (``bench.compiler.ablation``)


@dataclass
class Compiled:
    """Facts of a compiled kernel. Counts are of machine instructions in the loop over time."""

    registers: int
    stack_bytes: int
    spills: int  # loads and stores of spilled values in the whole kernel
    shared_bytes: int
    instructions: int  # of the whole kernel
    loop_instructions: int
    tensor_core: int
    loads: int
    stores: int
    barriers: int  # between the threads of a program
    atomics: int
    occupancy: int = 0  # programs that fit on one multiprocessor
    opcodes: dict[str, int] = field(default_factory=dict)


def arguments(
    variant: Variant, T: int = 2, B: int | None = None, device: str = "meta"
) -> tuple[Any, dict[str, Any]]:
    """The kernel and the arguments of its launch.

    Tensors are zero, except lengths, which are T; on the meta device they have no memory.
    """
    import torch

    from kernels import launch
    from kernels.cells import CELLS
    from kernels.inputs import Recurrence
    from kernels.recurrence import BOTH, POINTWISE, PRODUCT, backward_kernel, forward_kernel

    cell, plan = CELLS[variant.cell], variant.plan
    B, D, H, G = B or plan.block_b, variant.directions, variant.H, cell.gates
    dtype = getattr(torch, TORCH_NAMES[variant.dtype])

    def tensor(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    w_hh, initial = tensor(D, G * H, H), tensor(cell.states, D, B, H)
    lengths = None
    if "lengths" in variant.features:
        lengths = torch.full((1, B), T, dtype=torch.int32, device=device)
    resets = tensor(1, T, B, dtype=torch.uint8) if "resets" in variant.features else None
    bias = None
    if variant.pass_ == "fwd" and (
        "loop bias" in variant.features or (cell.separate and "bias" in variant.features)
    ):
        bias = tensor(D, G * H)
    recurrence = Recurrence(
        cell, w_hh, bias, initial, lengths, resets, "both" if D == 2 else "forward",
        variant.precision,
    )  # fmt: skip
    if variant.pass_ == "fwd":
        found = launch.forward_arguments(
            recurrence, plan, tensor(T, B, D, G * H), "save" in variant.features
        )
        found |= {"begin": 0, "end": T}
    else:
        history = saved = None
        if cell.states > 1:
            history = tensor(cell.states - 1, T, B, D, H, dtype=torch.float32)
        if cell.saved:
            saved = tensor(cell.saved, T, B, D, H)
        found = launch.backward_arguments(
            recurrence, plan, tensor(T, B, D * H),
            tensor(cell.states, D, B, H, dtype=torch.float32), tensor(T, B, D * H), history, saved,
        )  # fmt: skip
        phase = BOTH
        if plan.mode == "gemm":
            phase = POINTWISE
        elif plan.mode == "stepwise" and plan.split > 1:
            phase = PRODUCT  # the phase that holds weights
        found |= {"begin": 0, "end": T + 1, "PHASE": phase.value}
    if variant.without:
        from bench.compiler.ablation import leave_out

        found = leave_out(variant.without, variant.pass_, found)
    return forward_kernel if variant.pass_ == "fwd" else backward_kernel, found


def signature(values: dict[str, Any]) -> dict[str, str | None]:
    """Each argument's type as Triton writes it, or None for a compile-time constant."""
    from kernels.recurrence import RUNTIME

    types: dict[str, str | None] = {}
    for name, value in values.items():
        if hasattr(value, "dtype"):
            types[name] = "*" + TRITON_NAMES[str(value.dtype).removeprefix("torch.")]
        else:
            types[name] = "i32" if name in RUNTIME else None
    return types


def identity(variant: Variant, hip: bool = False) -> str:
    """A variant's compiler inputs besides the source, as JSON: types, constants, launch options."""
    from kernels import launch

    kernel, values = arguments(variant)
    types = signature(values)
    words = {name: types[name] or constant(value) for name, value in values.items()}
    options = {name: str(value) for name, value in launch.options(variant.plan, hip).items()}
    return json.dumps({"kernel": constant(kernel)} | words | options, sort_keys=True)


def constant(value: Any) -> str:
    """A compile-time constant as text; for a function, interpreted or compiled, its name."""
    function = getattr(value, "fn", value)
    return str(getattr(function, "__name__", value))


def compile_variant(variant: Variant, device: Device) -> Any:
    """Triton's compiled kernel for ``device``'s architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels import launch

    kernel, values = arguments(variant)
    types = signature(values)
    signatures, constants, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        signatures[name] = types[name] or "constexpr"
        if types[name] is None:
            constants[(index,)] = values[name]
        elif signatures[name].startswith("*"):
            attributes[(index,)] = [["tt.divisibility", 16]]  # as torch allocates
    source = ASTSource(kernel, signatures, constants, attributes)
    hip = device.architecture.startswith("gfx")
    if hip:
        target = GPUTarget("hip", device.architecture, device.warp)
    else:
        target = GPUTarget("cuda", int(device.architecture.removeprefix("sm_")), device.warp)
    return triton.compile(source, target=target, options=launch.options(variant.plan, hip))


def inspect(kernel: Any, variant: Variant, device: Device) -> Compiled:
    """Registers, stack and the loop's instructions of a compiled kernel."""
    found = _nvidia(kernel) if "cubin" in kernel.asm else _amd(kernel)
    found.occupancy = device.occupancy(
        found.shared_bytes, found.registers, variant.plan.num_warps * device.warp
    )
    return found


def cuobjdump(kernel: Any, option: str) -> str:
    """What Triton's cuobjdump prints of a compiled kernel."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        # It warns of its own settings with every binary.
        command = [str(tool), option, file.name]
        return subprocess.check_output(command, stderr=subprocess.PIPE, text=True)


def _nvidia(kernel: Any) -> Compiled:
    usage = re.search(r"REG:(\d+) STACK:(\d+)", cuobjdump(kernel, "-res-usage"))
    if usage is None:
        raise RuntimeError("cuobjdump -res-usage names no registers")
    code = sass(cuobjdump(kernel, "-sass"))
    span = time_loop(code)
    loop = [text for address, text in code if address in span]
    every = Counter(opcode(text) for _, text in code)
    return _count_instructions(
        [opcode(text) for text in loop],
        registers=int(usage[1]),
        stack_bytes=int(usage[2]),
        spills=every["LDL"] + every["STL"],
        shared_bytes=kernel.metadata.shared,
        instructions=len(code),
    )


def sass(listing: str) -> list[tuple[int, str]]:
    """Addresses and instructions of a listing by cuobjdump."""
    lines = re.finditer(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", listing, re.MULTILINE)
    return [(int(line[1], 16), line[2]) for line in lines]


def time_loop(code: list[tuple[int, str]]) -> range:
    """The addresses of the loop over time: the widest span of a backward branch."""
    found = ((address, re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)) for address, text in code)
    return _widest_span((address, int(branch[1], 16)) for address, branch in found if branch)


def _widest_span(branches: Iterable[tuple[int, int]]) -> range:
    """The widest span of a backward branch; each branch is its own address and its target's."""
    spans = (range(target, at + 1) for at, target in branches if target < at)
    return max(spans, key=len, default=range(0))


def opcode(text: str) -> str:
    """An instruction's name without predicate and modifiers."""
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0]


def _count_instructions(loop: list[str], **facts: Any) -> Compiled:
    seen = Counter(loop)

    def count(*prefixes: str) -> int:
        return sum(n for name, n in seen.items() if name.startswith(prefixes))

    return Compiled(
        **facts,
        loop_instructions=len(loop),
        tensor_core=count(*TENSOR_CORE),
        loads=count("LDG", "global_load", "buffer_load", "flat_load"),
        stores=count("STG", "global_store", "buffer_store", "flat_store"),
        barriers=count("BAR", "s_barrier"),
        atomics=count("ATOM", "RED", "global_atomic", "buffer_atomic", "flat_atomic"),
        opcodes=dict(seen.most_common()),
    )


def _amd(kernel: Any) -> Compiled:
    text = kernel.asm["amdgcn"]

    def fact(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        return int(found[1]) if found else 0

    # Labels, with their colon, and instructions.
    lines = (line.split(";")[0].strip() for line in text.splitlines())
    code = [line for line in lines if re.match(rf"\.?\w+:$|({AMD_PREFIXES})_", line)]
    labels = {line[:-1]: index for index, line in enumerate(code) if line.endswith(":")}
    branches = ((i, re.match(r"s_c?branch\S*\s+(\S+)", line)) for i, line in enumerate(code))
    span = _widest_span((i, labels[to[1]]) for i, to in branches if to and to[1] in labels)
    loop = code[span.start : span.stop]
    return _count_instructions(
        [line.split()[0] for line in loop if not line.endswith(":")],
        # On CDNA 2 and 3 the count of vector registers includes the accumulators.
        registers=fact("vgpr_count"),
        stack_bytes=fact("private_segment_fixed_size"),
        spills=fact("vgpr_spill_count") + fact("sgpr_spill_count"),
        shared_bytes=kernel.metadata.shared,
        instructions=sum(not line.endswith(":") for line in code),
    )
