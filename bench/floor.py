"""What bounds a recurrent loop on this card, each bound by a kernel that does nothing else.

- barrier: a step of a persistent loop that holds only its barrier, by how many programs meet
- gather: bytes per second from L2 to one multiprocessor while all read the same
- copy: bytes per second of device memory, reads and writes counted
- launch: from one empty kernel to the next, on a stream and in a CUDA graph
- multiply: operations per second of a large cuBLAS product, by number type

Every kernel's answer is checked before it is timed; without a GPU (``TRITON_INTERPRET=1``) it is
only checked. Times are differences between a long and a short run, so that the launch is not in
them. All samples go to ``floor.json``, the bounds to ``limits.json``, which ``bench.model`` reads.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from bench import environment, interpreter, model, store, sweep
from bench.problem import torch_precision
from bench.statistics import interval
from kernels.barrier import COUNTER_STRIDE, arrive, wait

FILE = model.FLOOR_FILE
MAX_POLLS = 1 << 23  # several seconds
SAMPLES = 40
STEPS = 2000  # of the barrier's loop
WORD = 4  # bytes; the bandwidth kernels move int32
# Words that a program reads at once, and its warps: 64 or 128 bytes for each thread.
GATHERS = ((4096, 4), (4096, 8), (8192, 8), (8192, 16), (16384, 16), (16384, 32))
GATHER_BYTES = (64 << 10, 256 << 10, 1 << 20)  # of the source
GATHER_TOTAL = 16 << 20  # that one program reads in a short run
COPIES = ((2048, 4), (4096, 4), (4096, 8), (8192, 8))
COPY_BYTES = 1 << 30
LAUNCHES = 1000
PRODUCTS = (
    ("bf16", torch.bfloat16, "none", 8192),
    ("fp16", torch.float16, "none", 8192),
    ("tf32", torch.float32, "tf32", 8192),
    ("ieee", torch.float32, "ieee", 4096),
)


@triton.jit(do_not_specialize=["size", "steps", "max_polls"])
def barrier_loop(counters_ptr, error_ptr, size, steps, max_polls):
    """The persistent loop without its work: `size` programs meet at every step."""
    group = tl.program_id(0) // size
    code = (group + 1).to(tl.int64)
    failed = group < 0
    for step in tl.range(0, steps, disable_licm=True):
        failed = wait(counters_ptr, group, step * size, max_polls, failed, error_ptr, code)
        arrive(counters_ptr, group, failed)


@triton.jit(do_not_specialize=["repeats"])
def gather_loop(source_ptr, sums_ptr, repeats, WORDS: tl.constexpr, BLOCK: tl.constexpr):
    """Each program reads the same words from L2, past L1, again and again."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    for block in tl.range(0, repeats * (WORDS // BLOCK), disable_licm=True):
        at = (block % (WORDS // BLOCK)) * BLOCK
        total += tl.load(source_ptr + at + lanes, cache_modifier=".cg")
    tl.store(sums_ptr + tl.program_id(0) * BLOCK + lanes, total)


@triton.jit
def copy_block(source_ptr, target_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target_ptr + at, tl.load(source_ptr + at))


@triton.jit
def nothing(_ptr):
    pass


@dataclasses.dataclass(frozen=True)
class Barrier:
    """Groups of `size` programs that meet at every step; call it with the number of steps."""

    size: int
    counters: Tensor  # [groups, COUNTER_STRIDE] int32
    error: Tensor  # [1] int64

    @classmethod
    def among(cls, size: int, groups: int, device: torch.device) -> Barrier:
        counters = torch.zeros(groups, COUNTER_STRIDE, dtype=torch.int32, device=device)
        return cls(size, counters, torch.zeros(1, dtype=torch.int64, device=device))

    def __call__(self, steps: int) -> None:
        self.counters.zero_()
        barrier_loop[(self.size * len(self.counters),)](
            self.counters,
            self.error,
            self.size,
            steps,
            MAX_POLLS,
            num_warps=4,
            launch_cooperative_grid=self.size > 1 and not torch.version.hip,
        )

    def check(self, steps: int) -> None:
        """Run it once.

        Raises:
            RuntimeError: if a program gave up waiting, or fewer arrived than should have.
        """
        self(steps)
        if self.error.item() or not bool((self.counters[:, 0] == self.size * steps).all()):
            groups = len(self.counters)
            raise RuntimeError(
                f"a barrier among {self.size} programs in {groups} groups was not completed"
            )


def run_gather(source: Tensor, sums: Tensor, words: int, warps: int, repeats: int) -> None:
    """Launch the gather: `words` at once, a program for each row of ``sums`` [programs, words]."""
    gather_loop[(len(sums),)](source, sums, repeats, len(source), words, num_warps=warps)


def run_copy(source: Tensor, target: Tensor, words: int, warps: int) -> None:
    copy_block[(len(source) // words,)](source, target, words, num_warps=warps)


def verify(device: torch.device) -> None:
    """Check what every kernel computes, at a size that the interpreter can do.

    The interpreter runs programs one after another, so a group there is of one program.

    Raises:
        RuntimeError: naming the kernel whose answer is wrong.
    """
    Barrier.among(8 if device.type == "cuda" else 1, 3, device).check(5)
    source = torch.arange(3 << 12, dtype=torch.int32, device=device)
    sums = torch.empty(2, 1 << 12, dtype=torch.int32, device=device)
    run_gather(source, sums, 1 << 12, 4, 3)
    if not bool((sums == 3 * source.view(3, -1).sum(0)).all()):
        raise RuntimeError("the gather's sums are wrong")
    target = torch.zeros_like(source)
    run_copy(source, target, 1 << 12, 4)
    if not torch.equal(source, target):
        raise RuntimeError("the copy is not equal to its source")


def milliseconds(call: Callable[[], Any]) -> float:
    """Device time of one call."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def samples(call: Callable[[], Any], count: int = SAMPLES) -> list[float]:
    """Device times of calls, in ms, after three that are not counted."""
    for _ in range(3):
        call()
    return [milliseconds(call) for _ in range(count)]


def differences(call: Callable[[int], Any], short: int, long: int) -> list[float]:
    """The time of one more repetition, in ms: neighbouring long and short runs, subtracted."""
    for _ in range(3):
        call(short)
        call(long)
    return [
        (milliseconds(lambda: call(long)) - milliseconds(lambda: call(short))) / (long - short)
        for _ in range(SAMPLES)
    ]


def entry(taken: list[float], **facts: Any) -> dict[str, Any]:
    """A measured bound: what was run, and the median time of one repetition with its interval."""
    low, high = interval(taken) or (None, None)
    median = float(np.median(taken))
    return facts | {"ms": median, "ms_low": low, "ms_high": high, "samples_ms": taken}


def barriers(device: torch.device, multiprocessors: int) -> Iterator[dict[str, Any]]:
    """A step's time by the number of programs that meet, the device full of such groups."""
    sizes = [1 << k for k in range(multiprocessors.bit_length())]
    for size in sorted({*sizes, max(1, multiprocessors // 2), multiprocessors}):
        groups = multiprocessors // size
        barrier = Barrier.among(size, groups, device)
        barrier.check(STEPS)
        yield entry(differences(barrier, STEPS, 2 * STEPS), programs=size, groups=groups)


def gathers(device: torch.device, multiprocessors: int) -> Iterator[dict[str, Any]]:
    """Reading rates of one multiprocessor while all read, by size and by shape of the reads."""
    for size in GATHER_BYTES:
        source = torch.randint(-9, 9, (size // WORD,), dtype=torch.int32, device=device)
        for words, warps in GATHERS:
            if words * WORD > size:
                continue
            sums = torch.empty(multiprocessors, words, dtype=torch.int32, device=device)
            repeats = GATHER_TOTAL // size

            call = partial(run_gather, source, sums, words, warps)
            found = entry(
                differences(call, repeats, 3 * repeats), bytes=size, words=words, warps=warps
            )
            yield found | {"gbps": size / found["ms"] / 1e6}


def copies(device: torch.device) -> Iterator[dict[str, Any]]:
    """Rates of device memory, each byte counted once read and once written."""
    free, _ = torch.cuda.mem_get_info()
    size = COPY_BYTES
    while 3 * size > free:
        size //= 2
    source = torch.ones(size // WORD, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    for words, warps in COPIES:
        taken = samples(partial(run_copy, source, target, words, warps))
        found = entry(taken, bytes=size, words=words, warps=warps)
        yield found | {"gbps": 2 * size / found["ms"] / 1e6}


def launches(device: torch.device) -> Iterator[dict[str, Any]]:
    """From one empty kernel to the next, in ms."""
    word = torch.zeros(1, dtype=torch.int32, device=device)

    def stream() -> None:
        for _ in range(LAUNCHES):
            nothing[(1,)](word, num_warps=1)

    taken = samples(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream()
    for how, times in (("stream", taken), ("graph", samples(graph.replay))):
        yield entry([each / LAUNCHES for each in times], how=how)


def products(device: torch.device) -> Iterator[dict[str, Any]]:
    """Rates of a large square product by cuBLAS."""
    for number, dtype, precision, n in PRODUCTS:
        a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        with torch_precision(precision):
            taken = samples(partial(torch.mm, a, b, out=out))
        found = entry(taken, number=number, n=n)
        yield found | {"tflops": 2 * n**3 / found["ms"] / 1e9}


def limits(found: dict[str, list[dict[str, Any]]], facts: dict[str, Any]) -> model.Limits:
    """The bounds that the cost model reads: the best of what was measured."""
    tflops = {each["number"]: each["tflops"] for each in found["multiply"]}
    return model.Limits(
        # One tf32x3 product is three in tf32.
        tflops=tflops | {"tf32x3": tflops["tf32"] / 3},
        hbm_gbps=max(each["gbps"] for each in found["copy"]),
        gather_gbps=max(each["gbps"] for each in found["gather"]),
        barrier_us={str(each["programs"]): each["ms"] * 1e3 for each in found["barrier"]},
        shared_bytes=facts["max_shared_mem"],
        multiprocessors=facts["multiprocessor_count"],
    )


def measure(device: torch.device) -> tuple[dict[str, Any], model.Limits]:
    """Everything that bounds a loop on this device, and what the cost model needs of it."""
    from triton.runtime import driver

    facts = driver.active.utils.get_device_properties(torch.cuda.current_device())
    multiprocessors = facts["multiprocessor_count"]
    before = environment.sensors()
    found = {
        "barrier": list(barriers(device, multiprocessors)),
        "gather": list(gathers(device, multiprocessors)),
        "copy": list(copies(device)),
        "launch": list(launches(device)),
        "multiply": list(products(device)),
    }
    after = environment.sensors()
    commit, dirty = environment.git_state()
    origin = {
        "device": environment.with_sensors(environment.device_facts(), before, after),
        "software": environment.software_facts(),
        "code": environment.code_hash(),
        "commit": commit,
        "dirty": dirty,
        "time": sweep.now(),
    }
    return found | origin, limits(found, facts)


def write(folder: Path, found: dict[str, Any], bounds: model.Limits) -> Path:
    """Put the samples and then the bounds, whose presence says that all has been measured."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(store.clean(found), indent=1) + "\n", encoding="utf-8")
    path = folder / model.LIMITS_FILE
    path.write_text(
        json.dumps(store.clean(dataclasses.asdict(bounds)), indent=1) + "\n", encoding="utf-8"
    )
    return path


def main() -> None:
    """``python -m bench.floor FOLDER``: measure a device's bounds into its results folder."""
    if environment.interpreted():
        interpreter.check()
    folder = Path(sys.argv[1])
    cuda = torch.cuda.is_available()
    verify(torch.device("cuda" if cuda else "cpu"))
    if not cuda:
        print("every kernel of the floor computes what it should; without a GPU nothing is timed")
        return
    print(write(folder, *measure(torch.device("cuda"))))


if __name__ == "__main__":
    main()
