"""A barrier among the programs of one group, bounded so that it can never hang.

Each group has one counter, alone on its cache line, that only grows: every program adds one when it
has finished a step, and waits until the counter reaches the number of programs times the steps. The
arrival releases what the program wrote; the poll acquires what the others wrote, so the read that
ends the wait is also the fence. A program that polls in vain `max_polls` times lifts the counter to
ABORTED, which lets everybody else through at once and tells them that the results are void. Nobody
waits after the last step, so a program that dies there goes unnoticed here; the driver reports it.
"""

import triton
import triton.language as tl

# int32 words between two counters: 128 bytes, the unit in which an L2 cache owns memory.
COUNTER_STRIDE = 32
# Far above any target: the host refuses launches whose last target reaches it.
ABORTED = 1 << 30

_STRIDE = tl.constexpr(COUNTER_STRIDE)
_ABORTED = tl.constexpr(ABORTED)


@triton.jit
def arrive(counters_ptr, group, failed):
    """Announce that everything this program wrote so far may be read by its group.

    After a failure nothing is announced: a program that waits for nobody would soon have arrived
    often enough to stand for the one that never does.
    """
    tl.debug_barrier()  # all warps have written before one thread releases for them
    counter_ptr = counters_ptr + group * _STRIDE
    tl.atomic_add(counter_ptr, tl.where(failed, 0, 1), sem="release", scope="gpu")


@triton.jit
def wait(counters_ptr, group, target, max_polls, failed, error_ptr, code):
    """Wait until the group's counter reaches `target`; return whether the group has failed by now.

    A program that gives up leaves `code` in `error_ptr`. After a failure it waits for nobody:
    however many counters it meets, it gives up once.
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
