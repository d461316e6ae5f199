"""The Triton kernels of the floor's microbenchmarks.

They run in the interpreter too, where a clock reads 0.
"""

import triton
import triton.language as tl

from kernels.barrier import COUNTER_STRIDE, arrive, wait
from kernels.blocks import INTERPRETED, dot

WORD = 4  # bytes; all but the products move int32
# What a program of the forward LSTM stores at each step for H=1024, B=16 in bfloat16: 16 units of
# 16 sequences. Its slice of the state before it arrives at the barrier; the four activations and
# the cell state in float32 after it, so that those lines are dirty as it arrives at the next one.
PAIRS = 16 * 16
STATE_WORDS = PAIRS * 2 // WORD
SAVED_WORDS = PAIRS * (4 * 2 + 4) // WORD
SAVED_BLOCK = 256  # words that are stored at once
RING = 256  # steps until the same words are stored again: together more than L2 holds
FLAG_LINES = 64  # flags per pair and side, used in turn, since L2's slices are not equally far
CHAIN_ROWS, CHAIN_COLUMNS = 64, 256
CHAIN_K = 16  # columns of one instruction

_STRIDE = tl.constexpr(COUNTER_STRIDE)
_SAVED_BLOCK = tl.constexpr(SAVED_BLOCK)
CLOCK = tl.constexpr("mov.u64 $0, %clock64;")
RELAXED_LOAD = tl.constexpr("ld.relaxed.gpu.global.b32 $0, [$1];")
RELAXED_STORE = tl.constexpr("st.relaxed.gpu.global.b32 [$1], $2; mov.b32 $0, $2;")


@triton.jit
def clock():
    """This SM's clock counter; 0 in the interpreter."""
    if INTERPRETED:
        count = tl.full((), 0, tl.int64)
    else:
        count = tl.inline_asm_elementwise(CLOCK, "=l", [], dtype=tl.int64, is_pure=False, pack=1)
    return count


@triton.jit
def relaxed_load(ptr):
    """Load an int32 from L2 (relaxed, GPU scope), which orders no other access."""
    if INTERPRETED:
        word = tl.load(ptr)
    else:
        word = tl.inline_asm_elementwise(
            RELAXED_LOAD, "=r,l", [ptr], dtype=tl.int32, is_pure=False, pack=1
        )
    return word


@triton.jit
def relaxed_store(ptr, word):
    if INTERPRETED:
        tl.store(ptr, word)
    else:
        tl.inline_asm_elementwise(
            RELAXED_STORE, "=r,l,r", [ptr, word], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def slot_of(stored_ptr, step, WORDS: tl.constexpr, RING: tl.constexpr):
    """Pointer to this program's words of a step in a ring buffer [RING, programs, WORDS]."""
    slot = (step % RING) * tl.num_programs(0) + tl.program_id(0)
    return stored_ptr + slot.to(tl.int64) * WORDS


@triton.jit(do_not_specialize=["size", "steps", "max_polls"])
def barrier_loop(
    counters_ptr,
    error_ptr,
    stored_ptr,  # [RING, programs, BEFORE + AFTER] int32
    size,
    steps,
    max_polls,
    BEFORE: tl.constexpr,  # words that each program stores before it arrives
    AFTER: tl.constexpr,  # and after it
    RING: tl.constexpr,
):
    """A persistent loop whose steps are only stores and a barrier of `size` programs."""
    group = tl.program_id(0) // size
    code = (group + 1).to(tl.int64)
    failed = group < 0
    for step in tl.range(0, steps, disable_licm=True):
        failed = wait(counters_ptr, group, step * size, max_polls, failed, error_ptr, code)
        words_ptr = slot_of(stored_ptr, step, BEFORE + AFTER, RING)
        if BEFORE > 0:
            tl.store(words_ptr + tl.arange(0, BEFORE), step)
        arrive(counters_ptr, group, failed)
        for first in tl.static_range(BEFORE, BEFORE + AFTER, _SAVED_BLOCK):
            tl.store(words_ptr + first + tl.arange(0, _SAVED_BLOCK), step)


@triton.jit(do_not_specialize=["steps"])
def release_loop(
    stored_ptr,  # [RING, programs, WORDS] int32
    counters_ptr,  # [programs, COUNTER_STRIDE] int32, each program's own
    clocks_ptr,  # [programs] int64
    steps,
    WORDS: tl.constexpr,
    RING: tl.constexpr,
):
    """Store `WORDS` words and release them at GPU scope, as `arrive` does; count the clock cycles.

    The atomic addition is issued once the fence before it has ended; the clock is read after it.
    """
    program = tl.program_id(0)
    spent = tl.full((), 0, tl.int64)
    for step in tl.range(0, steps, disable_licm=True):
        if WORDS > 0:
            tl.store(slot_of(stored_ptr, step, WORDS, RING) + tl.arange(0, WORDS), step)
        tl.debug_barrier()
        begin = clock()
        tl.atomic_add(counters_ptr + program * _STRIDE, 1, sem="release", scope="gpu")
        spent += clock() - begin
    tl.store(clocks_ptr + program, spent)


@triton.jit
def poll(flag_ptr, target, max_polls, failed):
    """Wait until a flag reaches `target`; return whether this or an earlier wait gave up."""
    polls = 0
    seen = relaxed_load(flag_ptr)
    while (seen < target) & (polls < max_polls) & (failed == 0):
        seen = relaxed_load(flag_ptr)
        polls += 1
    return failed | (seen < target)


@triton.jit(do_not_specialize=["rounds", "max_polls"])
def flag_loop(flags_ptr, error_ptr, rounds, max_polls, LINES: tl.constexpr):
    """Pairs of programs that signal each other in turn; each side reuses LINES flags.

    `flags_ptr` holds [pairs, LINES, 2 sides, COUNTER_STRIDE] int32, `error_ptr` one int32.
    """
    side = tl.program_id(0) % 2
    pair_ptr = flags_ptr + (tl.program_id(0) // 2) * (2 * LINES * _STRIDE)
    failed = side < 0
    for step in tl.range(0, rounds, disable_licm=True):
        line = 2 * (step % LINES)
        own_ptr = pair_ptr + (line + side) * _STRIDE
        other_ptr = pair_ptr + (line + 1 - side) * _STRIDE
        if side == 0:
            relaxed_store(own_ptr, step + 1)
            failed = poll(other_ptr, step + 1, max_polls, failed)
        else:
            failed = poll(other_ptr, step + 1, max_polls, failed)
            relaxed_store(own_ptr, step + 1)
    if failed:
        tl.store(error_ptr, 1)


@triton.jit(do_not_specialize=["hops"])
def latency_loop(links_ptr, end_ptr, hops):
    """Chase `hops` pointers through L2: each word is the index of the next one to load."""
    at = tl.program_id(0)
    for _ in tl.range(0, hops):
        at = tl.load(links_ptr + at, cache_modifier=".cg")
    tl.store(end_ptr, at)


@triton.jit(do_not_specialize=["steps"])
def chain_loop(
    left_ptr,  # [ROWS, K]
    right_ptr,  # [N, K]
    total_ptr,  # [programs, ROWS, N] float32
    clocks_ptr,  # [programs] int64
    steps,
    ROWS: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """`steps` times total += left @ right.T, each sum depending on the one before."""
    rows, ns, ks = tl.arange(0, ROWS), tl.arange(0, N), tl.arange(0, K)
    left = tl.load(left_ptr + rows[:, None] * K + ks[None, :])
    right = tl.load(right_ptr + ns[None, :] * K + ks[:, None])
    total = tl.zeros((ROWS, N), tl.float32)
    begin = clock()
    for _ in tl.range(0, steps, num_stages=1):
        total = dot(left, right, total, "ieee")
    spent = clock() - begin
    at = (tl.program_id(0) * ROWS + rows[:, None]) * N + ns[None, :]
    tl.store(total_ptr + at, total)
    tl.store(clocks_ptr + tl.program_id(0), spent)


@triton.jit(do_not_specialize=["repeats", "blocks"])
def gather_loop(source_ptr, sums_ptr, repeats, blocks, BLOCK: tl.constexpr):
    """Each program reads the same blocks from L2, bypassing L1, `repeats` times.

    `blocks` is a power of two.
    """
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    for block in tl.range(0, repeats * blocks, disable_licm=True):
        at = (block & (blocks - 1)) * BLOCK
        total += tl.load(source_ptr + at + lanes, cache_modifier=".cg")
    tl.store(sums_ptr + tl.program_id(0) * BLOCK + lanes, total)


@triton.jit
def copy_block(source_ptr, target_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target_ptr + at, tl.load(source_ptr + at))


@triton.jit
def nothing(_ptr):
    pass
