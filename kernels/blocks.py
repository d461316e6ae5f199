"""Blocks of units by batch entries on the device: states, gates, saved activations, the product.

Shapes stand beside the pointers: T time, B batch, D directions, G gates, H hidden units. `step`
counts in the order of computation; `time` and `row` = time * B + batch index the tensors.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def time_of(step, length, mirrored):
    """The time index of a step: a mirrored sequence begins at its own last element."""
    return tl.where(mirrored, length - 1 - step, step)


@triton.jit
def sequences(tile, units, direction, B, H: tl.constexpr, BLOCK_B: tl.constexpr):
    """A batch tile's sequences, which `[units, batch]` pairs exist, and their places in a state."""
    batch = tile * BLOCK_B + tl.arange(0, BLOCK_B)
    mask = (units < H)[:, None] & (batch < B)[None, :]
    offset = (direction * B + batch).to(tl.int64)[None, :] * H + units[:, None]
    return batch, mask, offset


@triton.jit
def is_reset(resets_ptr, row, mask):
    """Whether the state returns to its initial value before the step at `row`."""
    return tl.load(resets_ptr + row, mask=mask, other=0) != 0


@triton.jit
def load_state(state_ptr, offset, plane, mask, STATES: tl.constexpr):
    state = ()
    for k in tl.static_range(STATES):
        state = state + (tl.load(state_ptr + k * plane + offset, mask=mask, other=0.0),)
    return state


@triton.jit
def reload_state(state_ptr, offset, plane, mask, state, STATES: tl.constexpr):
    """The state, but where `mask` says so from memory."""
    reloaded = ()
    for k in tl.static_range(STATES):
        value = tl.load(state_ptr + k * plane + offset, mask=mask, other=state[k])
        reloaded = reloaded + (value,)
    return reloaded


@triton.jit
def store_state(state_ptr, offset, plane, mask, state, STATES: tl.constexpr):
    for k in tl.static_range(STATES):
        tl.store(state_ptr + k * plane + offset, state[k], mask=mask)


@triton.jit
def select(condition, new, old, N: tl.constexpr):
    chosen = ()
    for k in tl.static_range(N):
        chosen = chosen + (tl.where(condition, new[k], old[k]),)
    return chosen


@triton.jit
def keep(condition, values, N: tl.constexpr):
    kept = ()
    for k in tl.static_range(N):
        kept = kept + (tl.where(condition, values[k], 0.0),)
    return kept


@triton.jit
def poison(values, failed, N: tl.constexpr):
    poisoned = ()
    for k in tl.static_range(N):
        poisoned = poisoned + (tl.where(failed, float("nan"), values[k]),)
    return poisoned


@triton.jit
def replace_first(values, first, N: tl.constexpr):
    replaced = (first,)
    for k in tl.static_range(1, N):
        replaced = replaced + (values[k],)
    return replaced


@triton.jit
def load_gates(ptr, offset, mask, GATES: tl.constexpr, H: tl.constexpr):
    """One float32 block for each gate; gate g lies g*H after the first."""
    gates = ()
    for g in tl.static_range(GATES):
        gates = gates + (tl.load(ptr + offset + g * H, mask=mask, other=0.0).to(tl.float32),)
    return gates


@triton.jit
def store_gates(ptr, offset, mask, gates, GATES: tl.constexpr, H: tl.constexpr):
    for g in tl.static_range(GATES):
        tl.store(ptr + offset + g * H, gates[g].to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def split_gates(rows, GATES: tl.constexpr, UNITS: tl.constexpr, BLOCK_B: tl.constexpr):
    """Unit-major rows `[units * padded gates, batch]` to a block `[units, batch]` per gate."""
    if GATES == 1:
        gates = (rows,)
    else:
        even, odd = tl.split(tl.permute(tl.reshape(rows, (UNITS, 2, 2, BLOCK_B)), (0, 3, 1, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        gates = (first, second, third, fourth)
    return gates


@triton.jit
def load_saved(ptr, offset, mask, SAVED: tl.constexpr):
    """The four activations of each unit, which lie side by side, as float32 blocks."""
    if SAVED == 4:
        kinds = tl.arange(0, 4)[None, None, :]
        packed = tl.load(ptr + offset[:, :, None] * 4 + kinds, mask=mask[:, :, None], other=0.0)
        even, odd = tl.split(
            tl.reshape(packed.to(tl.float32), (offset.shape[0], offset.shape[1], 2, 2))
        )
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        saved = (first, second, third, fourth)
    else:
        saved = ()
    return saved


@triton.jit
def store_saved(ptr, offset, mask, saved, SAVED: tl.constexpr):
    if SAVED == 4:
        pairs = tl.join(tl.join(saved[0], saved[2]), tl.join(saved[1], saved[3]))
        packed = tl.reshape(pairs.to(ptr.dtype.element_ty), (offset.shape[0], offset.shape[1], 4))
        kinds = tl.arange(0, 4)[None, None, :]
        tl.store(ptr + offset[:, :, None] * 4 + kinds, packed, mask=mask[:, :, None])


@triton.jit
def dot(left, right, total, PRECISION: tl.constexpr):
    """total + left @ right, with float32 sums."""
    if INTERPRETED:  # which would multiply the bits of bfloat16 as integers
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def load_weights(w_rows, mask, first, limit, STRIDE: tl.constexpr, BLOCK_K: tl.constexpr):
    """The columns `first` to `first + BLOCK_K` of some rows; those from `limit` on are zero."""
    ks = first + tl.arange(0, BLOCK_K)
    full = mask[:, None]
    if limit is not None:
        full = full & (ks < limit)[None, :]
    return tl.load(w_rows[:, None] + ks[None, :] * STRIDE, mask=full, other=0.0)


@triton.jit
def load_operand(rows, first, limit, BLOCK_K: tl.constexpr):
    """The right operand `[BLOCK_K, batch]`, past L1: other programs wrote it in this launch."""
    ks = first + tl.arange(0, BLOCK_K)
    pointers = rows[None, :] + ks[:, None]
    if limit is None:
        operand = tl.load(pointers, cache_modifier=".cg")
    else:
        operand = tl.load(pointers, mask=(ks < limit)[:, None], other=0.0, cache_modifier=".cg")
    return operand


@triton.jit
def multiply(
    product,
    weights,  # the resident chunks
    w_rows,
    w_mask,
    rows,  # pointers to the operand's columns, all of them valid
    first,
    limit,
    STRIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    CHUNKS: tl.constexpr,
    AHEAD: tl.constexpr,  # chunks of the operand that are on their way while one is multiplied
    PRECISION: tl.constexpr,
):
    """product + weights @ operand over the columns `first` to `limit`, one chunk of K at a time."""
    operands = ()
    for k in tl.static_range(RESIDENT + AHEAD):
        if k < RESIDENT:
            operands = operands + (load_operand(rows, first + k * BLOCK_K, limit, BLOCK_K),)
        if k >= AHEAD:
            product = dot(weights[k - AHEAD], operands[k - AHEAD], product, PRECISION)
    if RESIDENT < CHUNKS:
        for chunk in range(RESIDENT, CHUNKS):
            start = first + chunk * BLOCK_K
            streamed = load_weights(w_rows, w_mask, start, limit, STRIDE, BLOCK_K)
            operand = load_operand(rows, start, limit, BLOCK_K)
            product = dot(streamed, operand, product, PRECISION)
    return product
