"""The microbenchmarks of the floor: what each runs, how it is timed, and how long it may take.

A time is the difference between a long and a short run, which excludes the launch; clock cycles
are counted on the device. ``bench.gpu.microbenchmark_launches`` launches the kernels.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.cases.problem import torch_precision
from bench.gpu import microbenchmark_kernels as k
from bench.gpu import microbenchmark_launches as runs
from bench.measure.statistics import median_interval

Entry = dict[str, Any]

SAMPLES = 20
STEPS = 1000  # steps of the barrier and release loops, rounds of the flag loop
CHAIN_STEPS = 2000  # of CHAIN_COLUMNS columns each
# Sequences of a product and the warps of its program, as the plan takes them.
CHAINS = ((16, 4), (32, 4), (64, 8))
RELEASED_WORDS = (0, k.STATE_WORDS, 1024)  # words that a program stores before its release
LATENCY_LINES = 1 << 13  # 1 MiB: far more than L1 holds, far less than L2
HOPS = 4096
# Words that a program reads at once, its warps, and how many such programs fill an SM.
GATHERS = ((4096, 8, 4), (8192, 16, 2), (16384, 32, 1))
GATHER_BYTES = (64 << 10, 256 << 10, 1 << 20)  # of the source
GATHER_TOTAL = 8 << 20  # bytes that one SM reads in a short run
COPIES = ((4096, 8), (8192, 8))  # words of a program, and its warps
COPY_BYTES = 1 << 30
LAUNCHES = (200, 600)  # a short and a long run
PRODUCTS = (
    ("bf16", torch.bfloat16, "none", 8192),
    ("fp16", torch.float16, "none", 8192),
    ("tf32", torch.float32, "tf32", 8192),
    ("ieee", torch.float32, "ieee", 4096),
)


def elapsed_ms(call: Callable[[], Any]) -> float:
    """Device time of one call, between two CUDA events."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def sample_ms(call: Callable[[], Any]) -> list[float]:
    """Device times of calls, in ms, after three warm-up calls."""
    for _ in range(3):
        call()
    return [elapsed_ms(call) for _ in range(SAMPLES)]


def ms_per_repetition(call: Callable[[int], Any], short: int, long: int) -> list[float]:
    """The time of one repetition, in ms: differences between neighbouring long and short runs."""
    for _ in range(3):
        call(short)
        call(long)
    return [
        (elapsed_ms(lambda: call(long)) - elapsed_ms(lambda: call(short))) / (long - short)
        for _ in range(SAMPLES)
    ]


def summarize(taken: list[float], unit: str = "ms", **facts: Any) -> Entry:
    """An entry of floor.json: `facts`, the samples, and their median with its 95 % interval."""
    low, high = median_interval(taken) or (None, None)
    return facts | {
        unit: float(np.median(taken)),
        f"{unit}_low": low,
        f"{unit}_high": high,
        f"samples_{unit}": taken,
    }


def barriers(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Time of a step of a barrier loop by group size, with groups on all SMs.

    First with the stores of an LSTM step, then without stores; from large groups to small.
    """
    sizes = {1 << i for i in range(multiprocessors.bit_length())}
    sizes |= {max(1, multiprocessors // 2), multiprocessors}
    for words in ((k.STATE_WORDS, k.SAVED_WORDS), (0, 0)):
        for size in sorted(sizes, reverse=True):
            groups = multiprocessors // size
            barrier = runs.Barrier(size, groups, device, words)
            barrier.check(STEPS)
            taken = ms_per_repetition(barrier, STEPS, 2 * STEPS)
            yield summarize(taken, programs=size, groups=groups, stored_bytes=k.WORD * sum(words))


def flags(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Round-trip time between two SMs through L2: one stores a flag, the other stores a reply."""
    for pairs in dict.fromkeys((1, max(1, multiprocessors // 2))):
        flag = runs.Flags(pairs, device)
        flag.check(STEPS)
        yield summarize(ms_per_repetition(flag, STEPS, 2 * STEPS), pairs=pairs)


def releases(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Clock cycles of a release at GPU scope (MEMBAR.GPU), by the bytes stored before it."""
    for programs in dict.fromkeys((multiprocessors, 1)):
        for words in RELEASED_WORDS:
            release = runs.Release(programs, words, device)
            release.check(STEPS)
            taken = []
            for _ in range(SAMPLES):
                release(STEPS)
                taken.append(float(release.clocks.double().mean()) / STEPS)
            yield summarize(taken, "clocks", programs=programs, stored_bytes=k.WORD * words)


def chains(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Clock cycles of a 64 x n x 16 product in a chain of dependent sums, on all SMs.

    ``ghz`` is the clock rate during the run.
    """
    for n, warps in CHAINS:
        chain = runs.Chain(multiprocessors, n, warps, device)
        chain.check(CHAIN_STEPS)

        def clocks(steps: int, chain: runs.Chain = chain) -> float:
            chain(steps)
            return float(chain.clocks.double().mean())

        counted = [
            (clocks(2 * CHAIN_STEPS) - clocks(CHAIN_STEPS)) / CHAIN_STEPS for _ in range(SAMPLES)
        ]
        timed = np.median(ms_per_repetition(chain, CHAIN_STEPS, 2 * CHAIN_STEPS))
        each = k.CHAIN_COLUMNS // k.CHAIN_K
        found = summarize([value / each for value in counted], "clocks", n=n, warps=warps)
        yield found | {"ghz": float(np.median(counted)) / float(timed) / 1e6}


def launches(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Time from one empty kernel to the next, launched by a CUDA graph or from Python."""
    word = torch.zeros(1, dtype=torch.int32, device=device)

    def stream(count: int) -> None:
        for _ in range(count):
            k.nothing[(1,)](word, num_warps=1)

    stream(1)  # compile and load the kernel, which a capture does not allow
    graphs = {count: torch.cuda.CUDAGraph() for count in LAUNCHES}
    for count, graph in graphs.items():
        with torch.cuda.graph(graph):
            stream(count)
    for how, call in (("graph", lambda count: graphs[count].replay()), ("stream", stream)):
        yield summarize(ms_per_repetition(call, *LAUNCHES), how=how)


def latencies(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """The latency of a load from L2."""
    latency = runs.Latency(LATENCY_LINES, device)
    latency.check(HOPS)
    taken = ms_per_repetition(latency, HOPS, 2 * HOPS)
    yield summarize(taken, bytes=latency.links.numel() * k.WORD)


def gathers(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Bandwidth from L2 to one SM in GB/s, while all SMs read the same and while only it does."""
    for size in GATHER_BYTES:
        source = torch.randint(-9, 9, (size // k.WORD,), dtype=torch.int32, device=device)
        for words, warps, each in GATHERS:
            if words * k.WORD > size:
                continue
            # A single program must fill its SM, since two may run on different SMs.
            for readers in dict.fromkeys((multiprocessors, 1) if each == 1 else (multiprocessors,)):
                sums = torch.empty(readers * each, words, dtype=torch.int32, device=device)
                repeats = max(1, GATHER_TOTAL // (size * each))
                call = partial(runs.run_gather, source, sums, words, warps)
                found = summarize(
                    ms_per_repetition(call, repeats, 3 * repeats),
                    bytes=size, words=words, warps=warps, programs=each, readers=readers,
                )  # fmt: skip
                yield found | {"gbps": size * each / found["ms"] / 1e6}


def copies(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Bandwidth of device memory in GB/s, the sum of reads and writes."""
    free, _ = torch.cuda.mem_get_info()
    size = COPY_BYTES
    while 3 * size > free:
        size //= 2
    source = torch.ones(size // k.WORD, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    for words, warps in COPIES:
        taken = sample_ms(partial(runs.run_copy, source, target, words, warps))
        found = summarize(taken, bytes=size, words=words, warps=warps)
        yield found | {"gbps": 2 * size / found["ms"] / 1e6}


def products(device: torch.device, multiprocessors: int) -> Iterator[Entry]:
    """Throughput of a large square cuBLAS product in TFLOP/s."""
    for number, dtype, precision, n in PRODUCTS:
        a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        with torch_precision(precision):
            taken = sample_ms(partial(torch.mm, a, b, out=out))
        found = summarize(taken, number=number, n=n)
        yield found | {"tflops": 2 * n**3 / found["ms"] / 1e9}


@dataclasses.dataclass(frozen=True)
class Microbenchmark:
    """One thing to measure.

    Attributes:
        seconds: the time it may take, with compilation; it is not begun if less is left.
        measure: yields an entry for each variant, the most informative first.
        check: raises RuntimeError if its kernels' results are wrong; fast in the interpreter.
    """

    name: str
    seconds: float
    measure: Callable[[torch.device, int], Iterator[Entry]]
    check: Callable[[torch.device], object] = lambda device: None


# The most informative first, since the last are left out if time is short. With START_SECONDS, all
# together take under a minute.
START_SECONDS = 12  # importing torch, making the context, the first compilation
MICROBENCHMARKS = (
    # 20 variants x 23 runs of 1 + 2 thousand steps of some 1.5 us: 2.1 s, and their intervals
    Microbenchmark("barrier", 9, barriers, runs.check_barrier),
    # 2 variants x 23 runs of 1 + 2 thousand rounds of some 1.5 us: 0.2 s
    Microbenchmark("flag", 2, flags, lambda device: runs.Flags(2, device).check(k.FLAG_LINES + 6)),
    # 6 variants x 20 runs of 1 thousand steps of some 1 us: 0.2 s, and three compilations
    Microbenchmark("release", 3, releases, runs.check_release),
    # 3 variants x 43 runs of 2 + 4 thousand x 16 instructions of 20 ns: 0.3 s, and 3 compilations
    Microbenchmark("chain", 3, chains, lambda device: runs.Chain(2, 16, 4, device).check(3)),
    # capture and 23 runs of 200 + 600 launches, of up to 100 us each on a stream: 1.9 s
    Microbenchmark("launch", 4, launches),
    # 23 runs of 4 + 8 thousand loads of some 0.2 us: 0.1 s
    Microbenchmark("latency", 1, latencies, lambda device: runs.Latency(16, device).check(37)),
    # 12 variants x 23 runs of 8 + 24 MiB at some 60 GB/s: 0.2 s, and three compilations
    Microbenchmark("gather", 4, gathers, runs.check_gather),
    # 2 variants x 23 runs of 2 GiB at some 3 TB/s: 0.1 s, and two compilations
    Microbenchmark("copy", 3, copies, runs.check_copy),
    # 4 variants x 23 runs of some 3 ms: 0.3 s, and cuBLAS's start
    Microbenchmark("multiply", 8, products),
)
