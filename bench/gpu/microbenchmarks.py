"""The floor's microbenchmarks: what each runs, how it is timed, and how long it may take.

Times are differences between a long and a short run, so that the launch is not in them; clocks are
counted on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.cases.problem import torch_precision
from bench.gpu import microbenchmark_launches as runs
from bench.gpu.microbenchmark_kernels import (
    CHAIN_COLUMNS,
    CHAIN_K,
    SAVED_WORDS,
    STATE_WORDS,
    WORD,
    nothing,
)
from bench.measure.statistics import interval

Entry = dict[str, Any]

SAMPLES = 20
STEPS = 1000  # of the loops with a barrier or a release, and rounds of flags
CHAIN_STEPS = 2000  # of CHAIN_COLUMNS columns each
# Sequences of a product and the warps of its program, as the plan takes them.
CHAINS = ((16, 4), (32, 4), (64, 8))
RELEASED_WORDS = (0, STATE_WORDS, 1024)  # that a program stores before it releases
LATENCY_LINES = 1 << 13  # 1 MiB: far more than L1 holds, far less than L2
HOPS = 4096
# Words that a program reads at once, its warps, and how many such programs fill a multiprocessor.
GATHERS = ((4096, 8, 4), (8192, 16, 2), (16384, 32, 1))
GATHER_BYTES = (64 << 10, 256 << 10, 1 << 20)  # of the source
GATHER_TOTAL = 8 << 20  # that one multiprocessor reads in a short run
COPIES = ((4096, 8), (8192, 8))  # words of a program, and its warps
COPY_BYTES = 1 << 30
LAUNCHES = (200, 600)  # a short and a long run
PRODUCTS = (
    ("bf16", torch.bfloat16, "none", 8192),
    ("fp16", torch.float16, "none", 8192),
    ("tf32", torch.float32, "tf32", 8192),
    ("ieee", torch.float32, "ieee", 4096),
)


def milliseconds(call: Callable[[], Any]) -> float:
    """Device time of one call."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def samples(call: Callable[[], Any]) -> list[float]:
    """Device times of calls, in ms, after three that are not counted."""
    for _ in range(3):
        call()
    return [milliseconds(call) for _ in range(SAMPLES)]


def differences(call: Callable[[int], Any], short: int, long: int) -> list[float]:
    """The time of one more repetition, in ms: neighbouring long and short runs, subtracted."""
    for _ in range(3):
        call(short)
        call(long)
    return [
        (milliseconds(lambda: call(long)) - milliseconds(lambda: call(short))) / (long - short)
        for _ in range(SAMPLES)
    ]


def entry(taken: list[float], unit: str = "ms", **facts: Any) -> Entry:
    """What was run, and the median of one repetition with its interval, in ms or clocks."""
    low, high = interval(taken) or (None, None)
    return facts | {
        unit: float(np.median(taken)),
        f"{unit}_low": low,
        f"{unit}_high": high,
        f"samples_{unit}": taken,
    }


def barriers(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """A step's time by the programs of a group, the device full of such groups.

    First with the stores of a real step, then without any; the largest groups first.
    """
    sizes = {1 << k for k in range(multiprocessors.bit_length())}
    sizes |= {max(1, multiprocessors // 2), multiprocessors}
    for words in ((STATE_WORDS, SAVED_WORDS), (0, 0)):
        for size in sorted(sizes, reverse=True):
            groups = multiprocessors // size
            barrier = runs.Barrier.among(size, groups, device, words)
            barrier.check(STEPS)
            taken = differences(barrier, STEPS, 2 * STEPS)
            yield entry(taken, programs=size, groups=groups, stored_bytes=WORD * sum(words))


def flags(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """From a store on one multiprocessor to its answer's being seen there, through L2."""
    for pairs in dict.fromkeys((1, max(1, multiprocessors // 2))):
        flag = runs.Flags.between(pairs, device)
        flag.check(STEPS)
        yield entry(differences(flag, STEPS, 2 * STEPS), pairs=pairs)


def releases(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Clocks of a release to the GPU (MEMBAR.GPU) after stores, by their bytes."""
    for programs in dict.fromkeys((multiprocessors, 1)):
        for words in RELEASED_WORDS:
            release = runs.Release.by(programs, words, device)
            release.check(STEPS)
            taken = []
            for _ in range(SAMPLES):
                release(STEPS)
                taken.append(float(release.clocks.double().mean()) / STEPS)
            yield entry(taken, "clocks", programs=programs, stored_bytes=WORD * words)


def chains(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Clocks of 64 rows times 16 columns, the next waiting for their sum, on all multiprocessors.

    ``ghz`` is the rate of the clock meanwhile.
    """
    for n, warps in CHAINS:
        chain = runs.Chain.by(multiprocessors, n, warps, device)
        chain.check(CHAIN_STEPS)

        def clocks(steps: int, chain: runs.Chain = chain) -> float:
            chain(steps)
            return float(chain.clocks.double().mean())

        counted = [
            (clocks(2 * CHAIN_STEPS) - clocks(CHAIN_STEPS)) / CHAIN_STEPS for _ in range(SAMPLES)
        ]
        timed = np.median(differences(chain, CHAIN_STEPS, 2 * CHAIN_STEPS))
        each = CHAIN_COLUMNS // CHAIN_K
        found = entry([value / each for value in counted], "clocks", n=n, warps=warps)
        yield found | {"ghz": float(np.median(counted)) / float(timed) / 1e6}


def launches(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """From one empty kernel to the next: as the node of a graph, and launched by Python."""
    word = torch.zeros(1, dtype=torch.int32, device=device)

    def stream(count: int) -> None:
        for _ in range(count):
            nothing[(1,)](word, num_warps=1)

    stream(1)  # what a capture must not do: compile and load
    graphs = {count: torch.cuda.CUDAGraph() for count in LAUNCHES}
    for count, graph in graphs.items():
        with torch.cuda.graph(graph):
            stream(count)
    for how, call in (("graph", lambda count: graphs[count].replay()), ("stream", stream)):
        yield entry(differences(call, *LAUNCHES), how=how)


def latencies(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """From a load to its value in L2."""
    latency = runs.Latency.over(LATENCY_LINES, device)
    latency.check(HOPS)
    taken = differences(latency, HOPS, 2 * HOPS)
    yield entry(taken, bytes=latency.links.numel() * WORD)


def gathers(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Reading rates of one multiprocessor, while all read and alone."""
    for size in GATHER_BYTES:
        source = torch.randint(-9, 9, (size // WORD,), dtype=torch.int32, device=device)
        for words, warps, each in GATHERS:
            if words * WORD > size:
                continue
            # One program alone must fill its multiprocessor, since nobody says where two would be.
            for readers in dict.fromkeys((multiprocessors, 1) if each == 1 else (multiprocessors,)):
                sums = torch.empty(readers * each, words, dtype=torch.int32, device=device)
                repeats = max(1, GATHER_TOTAL // (size * each))
                call = partial(runs.run_gather, source, sums, words, warps)
                found = entry(
                    differences(call, repeats, 3 * repeats),
                    bytes=size, words=words, warps=warps, programs=each, readers=readers,
                )  # fmt: skip
                yield found | {"gbps": size * each / found["ms"] / 1e6}


def copies(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Rates of device memory, each byte counted once read and once written."""
    free, _ = torch.cuda.mem_get_info()
    size = COPY_BYTES
    while 3 * size > free:
        size //= 2
    source = torch.ones(size // WORD, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    for words, warps in COPIES:
        taken = samples(partial(runs.run_copy, source, target, words, warps))
        found = entry(taken, bytes=size, words=words, warps=warps)
        yield found | {"gbps": 2 * size / found["ms"] / 1e6}


def products(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Rates of a large square product by cuBLAS."""
    for number, dtype, precision, n in PRODUCTS:
        a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        with torch_precision(precision):
            taken = samples(partial(torch.mm, a, b, out=out))
        found = entry(taken, number=number, n=n)
        yield found | {"tflops": 2 * n**3 / found["ms"] / 1e9}


def unchecked(device: torch.device) -> None:
    """An empty kernel has no answer, and cuBLAS's is not ours to check."""


@dataclasses.dataclass(frozen=True)
class Microbenchmark:
    """One thing to measure.

    Attributes:
        seconds: that it may take on a card, compiling included; it is not begun with less left.
        check: of its kernels' answers, at a size that the interpreter can do.
        measure: an entry for each variant, the most telling first.
    """

    name: str
    seconds: float
    check: Callable[[torch.device], None]
    measure: Callable[[torch.device, int], Iterator[Entry]]


# The most telling first: what is left out for time is the last. With START_SECONDS under a minute.
START_SECONDS = 12  # importing torch, making the context, the first compilation
MICROBENCHMARKS = (
    # 20 variants x 23 runs of 1 + 2 thousand steps of some 1.5 us: 2.1 s, and their intervals
    Microbenchmark("barrier", 9, runs.check_barrier, barriers),
    # 2 variants x 23 runs of 1 + 2 thousand rounds of some 1.5 us: 0.2 s
    Microbenchmark("flag", 2, runs.check_flag, flags),
    # 6 variants x 20 runs of 1 thousand steps of some 1 us: 0.2 s, and three compilations
    Microbenchmark("release", 3, runs.check_release, releases),
    # 3 variants x 43 runs of 2 + 4 thousand x 16 instructions of some 20 ns: 0.3 s; it compiles 3
    Microbenchmark("chain", 3, runs.check_chain, chains),
    # capture and 23 runs of 200 + 600 launches, of up to 100 us each on a stream: 1.9 s
    Microbenchmark("launch", 4, unchecked, launches),
    # 23 runs of 4 + 8 thousand loads of some 0.2 us: 0.1 s
    Microbenchmark("latency", 1, runs.check_latency, latencies),
    # 12 variants x 23 runs of 8 + 24 MiB at some 60 GB/s: 0.2 s, and three compilations
    Microbenchmark("gather", 4, runs.check_gather, gathers),
    # 2 variants x 23 runs of 2 GiB at some 3 TB/s: 0.1 s, and two compilations
    Microbenchmark("copy", 3, runs.check_copy, copies),
    # 4 variants x 23 runs of some 3 ms: 0.3 s, and cuBLAS's start
    Microbenchmark("multiply", 8, unchecked, products),
)
