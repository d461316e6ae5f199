"""Launches of the microbenchmarks' kernels, and checks of what they compute.

Every ``check`` runs a kernel once and raises RuntimeError if its result is wrong. The interpreter
(``TRITON_INTERPRET=1``) can check all but clocks. It runs programs one after another, so a group is
one program there, and of two programs that answer each other, the second one's flags are preset.
"""

import numpy as np
import torch
from torch import Tensor

from bench.gpu import microbenchmark_kernels as k
from kernels.barrier import COUNTER_STRIDE

MAX_POLLS = 1 << 23  # several seconds


def zeros(device: torch.device, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def ring(programs: int, words: int, device: torch.device) -> Tensor:
    """A buffer for what programs store at each step: [RING, programs, words], filled with -1."""
    return zeros(device, k.RING, programs, words).fill_(-1)


def check_ring(stored: Tensor, steps: int, who: str) -> None:
    """Raise RuntimeError unless every word holds the last step that stored it."""
    slots = torch.arange(k.RING, dtype=torch.int32, device=stored.device)
    last = torch.where(slots < steps, (steps - 1 - slots) // k.RING * k.RING + slots, -1)
    if not bool((stored == last.to(torch.int32)[:, None, None]).all()):
        raise RuntimeError(f"{who} stored wrong values")


class Barrier:
    """Groups of programs with a barrier at every step; call it with the number of steps.

    Args:
        size: programs of a group.
        words: that each program stores before and after it arrives.
    """

    def __init__(
        self, size: int, groups: int, device: torch.device, words: tuple[int, int] = (0, 0)
    ) -> None:
        self.size, self.words = size, words
        self.counters = zeros(device, groups, COUNTER_STRIDE)
        self.error = zeros(device, 1, dtype=torch.int64)
        self.stored = ring(size * groups, sum(words), device)

    def __call__(self, steps: int) -> None:
        self.counters.zero_()
        k.barrier_loop[(self.size * len(self.counters),)](
            self.counters, self.error, self.stored, self.size, steps, MAX_POLLS, *self.words,
            k.RING, num_warps=4,
            launch_cooperative_grid=self.size > 1 and not torch.version.hip,
        )  # fmt: skip

    def check(self, steps: int) -> None:
        """Check that no program gave up waiting, and all arrived and stored what they should."""
        self(steps)
        if self.error.item() or not bool((self.counters[:, 0] == self.size * steps).all()):
            groups = len(self.counters)
            raise RuntimeError(
                f"a barrier among {self.size} programs in {groups} groups was not completed"
            )
        check_ring(self.stored, steps, "a program before its barrier")


class Release:
    """Programs that store `words` words and release; call it with the number of steps.

    ``clocks`` ([programs]) is the sum of the clock cycles of the last run's releases.
    """

    def __init__(self, programs: int, words: int, device: torch.device) -> None:
        self.stored = ring(programs, words, device)
        self.counters = zeros(device, programs, COUNTER_STRIDE)
        self.clocks = zeros(device, programs, dtype=torch.int64)

    def __call__(self, steps: int) -> None:
        self.counters.zero_()
        words = self.stored.shape[2]
        k.release_loop[(len(self.clocks),)](
            self.stored, self.counters, self.clocks, steps, words, k.RING, num_warps=4
        )

    def check(self, steps: int) -> None:
        """Check that every release was counted, and every word stored."""
        self(steps)
        if not bool((self.counters[:, 0] == steps).all()):
            raise RuntimeError(f"a program released {steps} times, and its counter differs")
        check_ring(self.stored, steps, "a program before its release")


class Flags:
    """Pairs of programs that answer each other; call it with the number of rounds.

    ``answered`` is whether the second programs' flags are preset, for the interpreter.
    """

    def __init__(self, pairs: int, device: torch.device) -> None:
        self.flags = zeros(device, pairs, k.FLAG_LINES, 2, COUNTER_STRIDE)
        self.error = zeros(device, 1)
        self.answered = device.type != "cuda"

    def __call__(self, rounds: int) -> None:
        self.flags.zero_()
        if self.answered:
            self.flags[:, :, 1, 0] = rounds
        k.flag_loop[(2 * len(self.flags),)](
            self.flags, self.error, rounds, MAX_POLLS, k.FLAG_LINES, num_warps=1,
            launch_cooperative_grid=not torch.version.hip,
        )  # fmt: skip

    def check(self, rounds: int) -> None:
        """Check that every flag was seen, and has its last number."""
        self(rounds)
        lines = torch.arange(k.FLAG_LINES, device=self.flags.device)
        used = lines < rounds
        last = (rounds - 1 - lines) // k.FLAG_LINES * k.FLAG_LINES + lines + 1
        before = torch.full_like(lines, rounds if self.answered else 0)
        sides = (torch.where(used, last, 0), torch.where(used, last, before))
        if self.error.item() or not bool((self.flags[..., 0] == torch.stack(sides, 1)).all()):
            raise RuntimeError(f"flags between {len(self.flags)} pairs of programs were not seen")


class Latency:
    """One program that follows links round a cycle of cache lines; call it with the hops.

    The first word of a line is the index of the next one's; ``end`` is where the last run ended.
    """

    def __init__(self, lines: int, device: torch.device) -> None:
        order = np.random.default_rng(0).permutation(lines - 1) + 1
        order = np.concatenate([[0], order]) * COUNTER_STRIDE  # begins at the first word
        links = np.zeros(lines * COUNTER_STRIDE, np.int32)
        links[order] = np.roll(order, -1)
        self.links, self.end = torch.from_numpy(links).to(device), zeros(device, 1)

    def __call__(self, hops: int) -> None:
        k.latency_loop[(1,)](self.links, self.end, hops, num_warps=1)

    def check(self, hops: int) -> None:
        """Check that the loads ended where their links lead."""
        self(hops)
        links, at = self.links.tolist(), 0
        for _ in range(hops):
            at = links[at]
        if self.end.item() != at:
            raise RuntimeError(f"a chain of {hops} dependent loads ended at the wrong word")


class Chain:
    """Programs that accumulate one product of integers, so that sums are exact.

    Call it with the number of products; ``total`` is [programs, CHAIN_ROWS, n] in float32.
    """

    def __init__(self, programs: int, n: int, warps: int, device: torch.device) -> None:
        generator, self.warps = torch.Generator().manual_seed(0), warps
        self.left, self.right = (
            torch.randint(-1, 2, (rows, k.CHAIN_COLUMNS), generator=generator).to(
                device, torch.bfloat16
            )
            for rows in (k.CHAIN_ROWS, n)
        )
        self.total = zeros(device, programs, k.CHAIN_ROWS, n, dtype=torch.float32)
        self.clocks = zeros(device, programs, dtype=torch.int64)

    def __call__(self, steps: int) -> None:
        k.chain_loop[(len(self.clocks),)](
            self.left, self.right, self.total, self.clocks, steps, k.CHAIN_ROWS, len(self.right),
            k.CHAIN_COLUMNS, num_warps=self.warps,
        )  # fmt: skip

    def check(self, steps: int) -> None:
        """Check that every sum is exact."""
        self(steps)
        product = self.left.cpu().double() @ self.right.cpu().double().T
        if not bool((self.total.cpu().double() == steps * product).all()):
            raise RuntimeError(f"the sum of {steps} products 64 x {len(self.right)} is wrong")


def run_gather(source: Tensor, sums: Tensor, words: int, warps: int, repeats: int) -> None:
    """Gather `words` at once, with a program for each row of ``sums`` [programs, words]."""
    k.gather_loop[(len(sums),)](source, sums, repeats, len(source) // words, words, num_warps=warps)


def run_copy(source: Tensor, target: Tensor, words: int, warps: int) -> None:
    k.copy_block[(len(source) // words,)](source, target, words, num_warps=warps)


def check_barrier(device: torch.device) -> None:
    size = 8 if device.type == "cuda" else 1
    for words in ((0, 0), (k.STATE_WORDS, k.SAVED_WORDS)):
        Barrier(size, 3, device, words).check(5)


def check_release(device: torch.device) -> None:
    for words in (0, k.STATE_WORDS):
        Release(3, words, device).check(5)


def check_gather(device: torch.device) -> None:
    source = torch.arange(4 << 12, dtype=torch.int32, device=device)
    sums = torch.empty(2, 1 << 12, dtype=torch.int32, device=device)
    run_gather(source, sums, 1 << 12, 8, 3)
    if not bool((sums == 3 * source.view(4, -1).sum(0)).all()):
        raise RuntimeError("the gather's sums are wrong")


def check_copy(device: torch.device) -> None:
    source = torch.arange(3 << 12, dtype=torch.int32, device=device)
    target = torch.zeros_like(source)
    run_copy(source, target, 1 << 12, 8)
    if not torch.equal(source, target):
        raise RuntimeError("the copy is not equal to its source")
