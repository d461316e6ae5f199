"""Device functions on blocks `[units, batch]`: addresses, states, gates, activations, products.

T time, B batch, D directions, H hidden units. A step counts in the order of computation; a row is
time * B + batch, the index into a tensor `[T, B, ...]`.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def sequence_steps(lengths_ptr, batch, step, T, B):
    """Each sequence's length, and whether `step` (less than T) lies within it."""
    if lengths_ptr is None:
        length, active = T, batch < B
    else:
        length = tl.load(lengths_ptr + batch, mask=batch < B, other=0)
        active = step < length
    return length, active


@triton.jit
def row_of(step, length, mirrored, batch, B):
    """The row of a step; in a mirrored direction a sequence begins at its own last element."""
    return tl.where(mirrored, length - 1 - step, step) * B + batch


@triton.jit
def is_reset(resets_ptr, row, mask):
    """Whether the state returns to its initial value before the step at `row`."""
    return tl.load(resets_ptr + row, mask=mask, other=0) != 0


@triton.jit
def starts_anew(resets_ptr, row, step, active):
    """Whether an active sequence restarts from its initial state: at step 0 or a reset."""
    anew = active & (step == 0)
    if resets_ptr is not None:
        anew = anew | is_reset(resets_ptr, row, active)
    return anew


@triton.jit
def unit_offsets(row, units, WIDTH: tl.constexpr):
    """Offsets `[units, batch]` in a tensor of rows of WIDTH numbers."""
    return row.to(tl.int64)[None, :] * WIDTH + units[:, None]


@triton.jit
def batch_tile(tile, units, direction, B, H: tl.constexpr, BLOCK_B: tl.constexpr):
    """A tile's batch indices, the mask of valid `[units, batch]`, and offsets in `[D, B, H]`."""
    batch = tile * BLOCK_B + tl.arange(0, BLOCK_B)
    mask = (units < H)[:, None] & (batch < B)[None, :]
    return batch, mask, unit_offsets(direction * B + batch, units, H)


@triton.jit
def load_blocks(ptr, offset, stride, mask, N: tl.constexpr):
    """A tuple of N blocks, each `stride` elements after the one before, as they are in memory."""
    blocks = ()
    for k in tl.static_range(N):
        blocks = blocks + (tl.load(ptr + k * stride + offset, mask=mask, other=0.0),)
    return blocks


@triton.jit
def store_blocks(ptr, offset, stride, mask, blocks, N: tl.constexpr):
    """Store N blocks in the layout that `load_blocks` reads, in the type of the pointer."""
    for k in tl.static_range(N):
        tl.store(ptr + k * stride + offset, blocks[k].to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def widen(blocks, N: tl.constexpr):
    """N blocks in float32.

    Called where they are used, not where they are loaded: a conversion of a block's layout, with
    its barrier, is placed with this one, and no load would be issued before the last has arrived.
    """
    widened = ()
    for k in tl.static_range(N):
        widened = widened + (blocks[k].to(tl.float32),)
    return widened


@triton.jit
def reload_state(state_ptr, offset, plane, mask, state, STATES: tl.constexpr):
    """The state, with the elements selected by `mask` loaded from memory."""
    reloaded = ()
    for k in tl.static_range(STATES):
        value = tl.load(state_ptr + k * plane + offset, mask=mask, other=state[k])
        reloaded = reloaded + (value,)
    return reloaded


@triton.jit
def add_where(condition, state_ptr, offset, plane, mask, state, STATES: tl.constexpr):
    """Add `state` to the one in memory, where both `mask` and the condition hold."""
    for k in tl.static_range(STATES):
        pointers = state_ptr + k * plane + offset
        total = tl.load(pointers, mask=mask & condition, other=0.0) + state[k]
        tl.store(pointers, total, mask=mask & condition)


@triton.jit
def select(condition, new, old, N: tl.constexpr):
    """N blocks, each from `new` where the condition holds and from `old` elsewhere."""
    selected = ()
    for k in tl.static_range(N):
        selected = selected + (tl.where(condition, new[k], old[k]),)
    return selected


@triton.jit
def zero_unless(condition, values, N: tl.constexpr):
    """N blocks, zero where the condition does not hold."""
    zeroed = ()
    for k in tl.static_range(N):
        zeroed = zeroed + (tl.where(condition, values[k], 0.0),)
    return zeroed


@triton.jit
def poison(values, failed, N: tl.constexpr):
    """N blocks, all NaN if the program's barrier has failed."""
    poisoned = ()
    for k in tl.static_range(N):
        poisoned = poisoned + (tl.where(failed, float("nan"), values[k]),)
    return poisoned


@triton.jit
def replace_first(values, first, N: tl.constexpr):
    """The N blocks with `first` in place of the first one."""
    replaced = (first,)
    for k in tl.static_range(1, N):
        replaced = replaced + (values[k],)
    return replaced


@triton.jit
def split_gates(rows, GATES: tl.constexpr, UNITS: tl.constexpr, BLOCK_B: tl.constexpr):
    """Split rows `[units * padded gates, batch]` into a block `[units, batch]` per gate."""
    if GATES == 1:
        gates = (rows,)
    else:
        even, odd = tl.split(tl.permute(tl.reshape(rows, (UNITS, 2, 2, BLOCK_B)), (0, 3, 1, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        gates = (first, second, third, fourth)
    return gates


@triton.jit
def convert_layout(values, like, mask, N: tl.constexpr):
    """The N blocks in the layout of `like`, where the mask holds; elsewhere any values.

    Without this the compiler computes in the layout in which it loaded the blocks, and converts
    every result instead of these N blocks.
    """
    converted = ()
    for k in tl.static_range(N):
        converted = converted + (tl.where(mask, values[k], like),)
    return converted


@triton.jit
def dot(left, right, total, PRECISION: tl.constexpr):
    """total + left @ right, with float32 sums."""
    if INTERPRETED:  # the interpreter would multiply the bits of bfloat16 as integers
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


class Matrix(NamedTuple):
    """Rows of the recurrent weights, the left operand of a product, read in chunks of columns."""

    rows: Any  # pointers to each row's first number
    mask: Any  # rows that exist
    first: Any  # the column at which chunk 0 begins
    limit: Any  # columns from this one on are zero; None if every chunk is full
    stride: Any  # from one column to the next


@triton.jit
def load_weights(matrix, chunk, BLOCK_K: tl.constexpr):
    """One chunk of the weights, `[rows, BLOCK_K]`."""
    ks = matrix.first + chunk * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = matrix.mask[:, None]
    if matrix.limit is not None:
        mask = mask & (ks < matrix.limit)[None, :]
    return tl.load(matrix.rows[:, None] + ks[None, :] * matrix.stride, mask=mask, other=0.0)


@triton.jit
def load_operand(matrix, columns, chunk, BLOCK_K: tl.constexpr):
    """The rows `[BLOCK_K, batch]` of the right operand that a chunk of the weights multiplies.

    Other programs wrote them during this launch, so the load bypasses L1.
    """
    ks = matrix.first + chunk * BLOCK_K + tl.arange(0, BLOCK_K)
    pointers = columns[None, :] + ks[:, None]
    if matrix.limit is None:
        operand = tl.load(pointers, cache_modifier=".cg")
    else:
        mask = (ks < matrix.limit)[:, None]
        operand = tl.load(pointers, mask=mask, other=0.0, cache_modifier=".cg")
    return operand


@triton.jit
def multiply(
    product,
    matrix,
    resident,  # the first chunks of the weights, kept on chip; the others are streamed
    columns,  # pointers to the right operand's columns, all of them valid
    BLOCK_K: tl.constexpr,
    CHUNKS: tl.constexpr,
    AHEAD: tl.constexpr,  # chunks of the right operand in flight while one is multiplied
    PRECISION: tl.constexpr,
):
    """product + weights @ operand, one chunk of K at a time."""
    RESIDENT: tl.constexpr = len(resident)
    operands = ()
    for k in tl.static_range(RESIDENT + AHEAD):
        if k < RESIDENT:
            operands = operands + (load_operand(matrix, columns, k, BLOCK_K),)
        if k >= AHEAD:
            product = dot(resident[k - AHEAD], operands[k - AHEAD], product, PRECISION)
    if RESIDENT < CHUNKS:
        for chunk in range(RESIDENT, CHUNKS):
            streamed = load_weights(matrix, chunk, BLOCK_K)
            operand = load_operand(matrix, columns, chunk, BLOCK_K)
            product = dot(streamed, operand, product, PRECISION)
    return product
