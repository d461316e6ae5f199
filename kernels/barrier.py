"""A barrier among the programs of a group, bounded so that it can never hang.

Each group has one counter on a cache line of its own, which only grows: every program adds one when
it has finished a step, and waits until the counter reaches the number of programs times the steps.
Arriving is a release of what the program wrote; the poll is an acquire of what the others wrote.
After `max_polls` failed polls a program sets the counter to ABORTED; all waiters leave and mark
their outputs invalid. No program waits after the last step; if one dies there, only the driver
reports it.
"""

import triton
import triton.language as tl

# int32 words between two counters: 128 bytes, a cache line of L2.
COUNTER_STRIDE = 32
# Far above any target: the host refuses launches whose last target reaches it.
ABORTED = 1 << 30

_STRIDE = tl.constexpr(COUNTER_STRIDE)
_ABORTED = tl.constexpr(ABORTED)


@triton.jit
def arrive(counters_ptr, group, failed):
    """Add one to the group's counter, which releases everything this program wrote so far.

    After a failure nothing is added: the programs no longer wait, and their further arrivals would
    count for the one that is missing.
    """
    tl.debug_barrier()  # all warps have stored before one thread releases
    counter_ptr = counters_ptr + group * _STRIDE
    tl.atomic_add(counter_ptr, tl.where(failed, 0, 1), sem="release", scope="gpu")


@triton.jit
def wait(counters_ptr, group, target, max_polls, failed, error_ptr, code):
    """Wait until the group's counter reaches `target`; return whether the barrier has failed.

    A program that gives up stores `code` at `error_ptr`. After a failure it never waits again.
    """
    counter_ptr = counters_ptr + group * _STRIDE
    target = tl.where(failed, 0, target)
    seen = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
    polls = 0
    while (seen < target) & (polls < max_polls):
        seen = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
        polls += 1
    if seen < target:
        tl.atomic_max(counter_ptr, _ABORTED, sem="relaxed", scope="gpu")
        tl.store(error_ptr, code)
    return failed | (seen < target) | (seen >= _ABORTED)
