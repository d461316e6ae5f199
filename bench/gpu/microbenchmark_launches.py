"""Launches of the microbenchmarks' kernels, and checks of what they compute.

The interpreter (``TRITON_INTERPRET=1``) can check all but clocks. It runs programs one after
another, so a group is one program there, and of two programs that answer each other the second
one's flags are set beforehand.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from bench.gpu.microbenchmark_kernels import (
    CHAIN_COLUMNS,
    CHAIN_ROWS,
    FLAG_LINES,
    RING,
    SAVED_WORDS,
    STATE_WORDS,
    barrier_loop,
    chain_loop,
    copy_block,
    flag_loop,
    gather_loop,
    latency_loop,
    release_loop,
)
from kernels.barrier import COUNTER_STRIDE

MAX_POLLS = 1 << 23  # several seconds


def ring(programs: int, words: int, device: torch.device) -> Tensor:
    """A buffer for what programs store at each step: [RING, programs, words], filled with -1."""
    return torch.full((RING, programs, words), -1, dtype=torch.int32, device=device)


def check_ring(stored: Tensor, steps: int, who: str) -> None:
    """Raise RuntimeError unless every word holds the last step that stored it."""
    slots = torch.arange(RING, dtype=torch.int32, device=stored.device)
    last = torch.where(slots < steps, (steps - 1 - slots) // RING * RING + slots, -1)
    if not bool((stored == last.to(torch.int32)[:, None, None]).all()):
        raise RuntimeError(f"what {who} stored is not what it should be")


@dataclasses.dataclass(frozen=True)
class Barrier:
    """Groups of `size` programs with a barrier at every step; call it with the number of steps."""

    size: int
    counters: Tensor  # [groups, COUNTER_STRIDE] int32
    error: Tensor  # [1] int64
    stored: Tensor  # [RING, programs, words] int32
    words: tuple[int, int]  # that each program stores before and after it arrives

    @classmethod
    def make(
        cls, size: int, groups: int, device: torch.device, words: tuple[int, int] = (0, 0)
    ) -> Barrier:
        counters = torch.zeros(groups, COUNTER_STRIDE, dtype=torch.int32, device=device)
        error = torch.zeros(1, dtype=torch.int64, device=device)
        return cls(size, counters, error, ring(size * groups, sum(words), device), words)

    def __call__(self, steps: int) -> None:
        self.counters.zero_()
        barrier_loop[(self.size * len(self.counters),)](
            self.counters,
            self.error,
            self.stored,
            self.size,
            steps,
            MAX_POLLS,
            *self.words,
            RING,
            num_warps=4,
            launch_cooperative_grid=self.size > 1 and not torch.version.hip,
        )

    def check(self, steps: int) -> None:
        """Run it once.

        Raises:
            RuntimeError: if a program gave up waiting, fewer arrived than should have, or stored
                something else.
        """
        self(steps)
        if self.error.item() or not bool((self.counters[:, 0] == self.size * steps).all()):
            groups = len(self.counters)
            raise RuntimeError(
                f"a barrier among {self.size} programs in {groups} groups was not completed"
            )
        check_ring(self.stored, steps, "a program before its barrier")


@dataclasses.dataclass(frozen=True)
class Release:
    """Programs that store and release; call it with the number of steps."""

    stored: Tensor  # [RING, programs, words] int32
    counters: Tensor  # [programs, COUNTER_STRIDE] int32
    clocks: Tensor  # [programs] int64: of all the last run's releases

    @classmethod
    def make(cls, programs: int, words: int, device: torch.device) -> Release:
        counters = torch.zeros(programs, COUNTER_STRIDE, dtype=torch.int32, device=device)
        clocks = torch.zeros(programs, dtype=torch.int64, device=device)
        return cls(ring(programs, words, device), counters, clocks)

    def __call__(self, steps: int) -> None:
        self.counters.zero_()
        release_loop[(len(self.clocks),)](
            self.stored,
            self.counters,
            self.clocks,
            steps,
            self.stored.shape[2],
            RING,
            num_warps=4,
        )

    def check(self, steps: int) -> None:
        """Run it once; raise RuntimeError if something else was counted or stored."""
        self(steps)
        if not bool((self.counters[:, 0] == steps).all()):
            raise RuntimeError(f"a program that released {steps} times was counted otherwise")
        check_ring(self.stored, steps, "a program before its release")


@dataclasses.dataclass(frozen=True)
class Flags:
    """Pairs of programs that answer each other; call it with the number of rounds."""

    flags: Tensor  # [pairs, FLAG_LINES, 2, COUNTER_STRIDE] int32
    error: Tensor  # [1] int32
    answered: bool  # whether the second program's flags are set before, for the interpreter

    @classmethod
    def make(cls, pairs: int, device: torch.device) -> Flags:
        shape = (pairs, FLAG_LINES, 2, COUNTER_STRIDE)
        flags = torch.zeros(shape, dtype=torch.int32, device=device)
        error = torch.zeros(1, dtype=torch.int32, device=device)
        return cls(flags, error, device.type != "cuda")

    def __call__(self, rounds: int) -> None:
        self.flags.zero_()
        if self.answered:
            self.flags[:, :, 1, 0] = rounds
        flag_loop[(2 * len(self.flags),)](
            self.flags,
            self.error,
            rounds,
            MAX_POLLS,
            FLAG_LINES,
            num_warps=1,
            launch_cooperative_grid=not torch.version.hip,
        )

    def check(self, rounds: int) -> None:
        """Run it once; raise RuntimeError if a flag was not seen or has not its last number."""
        self(rounds)
        lines = torch.arange(FLAG_LINES, device=self.flags.device)
        used = lines < rounds
        last = (rounds - 1 - lines) // FLAG_LINES * FLAG_LINES + lines + 1
        before = torch.full_like(lines, rounds if self.answered else 0)
        sides = (torch.where(used, last, 0), torch.where(used, last, before))
        if self.error.item() or not bool((self.flags[..., 0] == torch.stack(sides, 1)).all()):
            raise RuntimeError(f"flags between {len(self.flags)} pairs of programs were not seen")


@dataclasses.dataclass(frozen=True)
class Latency:
    """One program that follows links round a cycle of cache lines; call it with the hops."""

    links: Tensor  # [lines * COUNTER_STRIDE] int32; the first word of a line names the next one's
    end: Tensor  # [1] int32: where the last run ended

    @classmethod
    def make(cls, lines: int, device: torch.device) -> Latency:
        order = np.random.default_rng(0).permutation(lines - 1) + 1
        order = np.concatenate([[0], order]) * COUNTER_STRIDE  # begins at the first word
        links = np.zeros(lines * COUNTER_STRIDE, np.int32)
        links[order] = np.roll(order, -1)
        return cls(
            torch.from_numpy(links).to(device), torch.zeros(1, dtype=torch.int32, device=device)
        )

    def __call__(self, hops: int) -> None:
        latency_loop[(1,)](self.links, self.end, hops, num_warps=1)

    def check(self, hops: int) -> None:
        """Run it once; raise RuntimeError if it ended elsewhere than its links lead."""
        self(hops)
        links, at = self.links.tolist(), 0
        for _ in range(hops):
            at = links[at]
        if self.end.item() != at:
            raise RuntimeError(f"{hops} loads, each from where the last led, ended elsewhere")


@dataclasses.dataclass(frozen=True)
class Chain:
    """Programs that accumulate one product; call it with the number of products."""

    left: Tensor  # [CHAIN_ROWS, CHAIN_COLUMNS] bfloat16: whole numbers, so that sums are exact
    right: Tensor  # [n, CHAIN_COLUMNS]
    total: Tensor  # [programs, CHAIN_ROWS, n] float32
    clocks: Tensor  # [programs] int64
    warps: int

    @classmethod
    def make(cls, programs: int, n: int, warps: int, device: torch.device) -> Chain:
        generator = torch.Generator().manual_seed(0)
        left, right = (
            torch.randint(-1, 2, (rows, CHAIN_COLUMNS), generator=generator)
            .to(torch.bfloat16)
            .to(device)
            for rows in (CHAIN_ROWS, n)
        )
        total = torch.zeros(programs, CHAIN_ROWS, n, device=device)
        return cls(
            left, right, total, torch.zeros(programs, dtype=torch.int64, device=device), warps
        )

    def __call__(self, steps: int) -> None:
        chain_loop[(len(self.clocks),)](
            self.left, self.right, self.total, self.clocks, steps, CHAIN_ROWS, len(self.right),
            CHAIN_COLUMNS, num_warps=self.warps,
        )  # fmt: skip

    def check(self, steps: int) -> None:
        """Run it once; raise RuntimeError unless every sum is exactly what it should be."""
        self(steps)
        product = self.left.cpu().double() @ self.right.cpu().double().T
        if not bool((self.total.cpu().double() == steps * product).all()):
            raise RuntimeError(f"the sum of {steps} products 64 x {len(self.right)} is wrong")


def run_gather(source: Tensor, sums: Tensor, words: int, warps: int, repeats: int) -> None:
    """Launch the gather: `words` at once, a program for each row of ``sums`` [programs, words]."""
    gather_loop[(len(sums),)](source, sums, repeats, len(source) // words, words, num_warps=warps)


def run_copy(source: Tensor, target: Tensor, words: int, warps: int) -> None:
    copy_block[(len(source) // words,)](source, target, words, num_warps=warps)


def check_barrier(device: torch.device) -> None:
    size = 8 if device.type == "cuda" else 1
    for words in ((0, 0), (STATE_WORDS, SAVED_WORDS)):
        Barrier.make(size, 3, device, words).check(5)


def check_release(device: torch.device) -> None:
    for words in (0, STATE_WORDS):
        Release.make(3, words, device).check(5)


def check_flag(device: torch.device) -> None:
    Flags.make(2, device).check(FLAG_LINES + 6)


def check_latency(device: torch.device) -> None:
    Latency.make(16, device).check(37)


def check_chain(device: torch.device) -> None:
    Chain.make(2, 16, 4, device).check(3)


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
