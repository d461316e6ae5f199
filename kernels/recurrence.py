"""The persistent recurrent loop: a kernel forward in time and one back through it, for every cell.

A *group* of programs shares one direction and one part of the batch. In the forward kernel each
program of a group owns UNITS hidden units: it keeps their rows of the recurrent weights on chip for
all time steps, reads the previous hidden state of all units, and writes the next one of its own. A
barrier among the group ends each step. Blocks are unit-major, `[units, batch]`: the weights are the
stationary left operand of the product, which tensor cores read from shared memory as it lies.

The same kernels also run stepwise, one launch for each step, with the state in `state_ptr` between
the launches: then no program ever waits for another (see `launch.py`).

Shapes stand beside the pointers: T time, B batch, D directions, G gates, H hidden units. `step`
counts in the order of computation; `time` is the index into the tensors.

The loops over time switch off the hoisting of invariants: else the addresses of all resident chunks
stay in registers, three times as many as the kernels need. They have one stage: in a loop without
a barrier the compiler would else keep room to load the operand of a next step, which a launch for
one step has not.
"""

import triton
import triton.language as tl

from .barrier import arrive, wait
from .blocks import (
    dot,
    is_reset,
    keep,
    load_gates,
    load_saved,
    load_state,
    load_weights,
    multiply,
    poison,
    reload_state,
    replace_first,
    select,
    sequences,
    split_gates,
    store_gates,
    store_saved,
    store_state,
    time_of,
)

# The phases of a backward launch.
BOTH = tl.constexpr(0)
PRODUCT = tl.constexpr(1)
POINTWISE = tl.constexpr(2)

# Launch arguments that no compilation depends on: a new length or batch size compiles nothing.
RUNTIME = [
    "T",
    "B",
    "begin",
    "end",
    "tiles",
    "batch_groups",
    "reverse",
    "first_program",
    "max_polls",
]


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
    gx_ptr,  # [T, B, D, G*H] the input gates
    w_ptr,  # [D, G*H, H] recurrent weights
    bias_ptr,  # [D, G*H] recurrent bias, or None
    h0_ptr,  # [D, B, H]
    lengths_ptr,  # [B] int32, or None
    resets_ptr,  # [T, B] uint8, or None
    initial_ptr,  # [STATES, D, B, H] float32, read at resets only, or None
    state_ptr,  # [STATES, D, B, H] float32: the initial state comes in, the final one goes out
    y_ptr,  # [T, B, D*H]
    history_ptr,  # [STATES-1, T, B, D, H] float32: the state but for h after each step, or None
    saved_ptr,  # [T, B, D, H, SAVED] activations for the backward pass, or None
    product_ptr,  # [D, B, G*H] float32: R h(t-1) + b where a GEMM outside made it, else None
    counters_ptr,  # [groups * tiles, COUNTER_STRIDE] int32, zeroed
    error_ptr,  # [1] int64: where a failure leaves its code
    T,
    B,
    begin,  # the steps of this launch
    end,
    tiles,  # batch tiles that each program serves in turn within a step
    batch_groups,
    reverse,  # 1 if the only direction is backward in time
    first_program,
    max_polls,
    STEP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,  # chunks of K whose weights stay on chip; the others stream from L2
    AHEAD: tl.constexpr,
    INTERLEAVED: tl.constexpr,  # several tiles: their states live in memory
    PERSISTENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Steps `begin` to `end` of state(t) = STEP(gx(t), R h(t-1) + b, state(t-1)) for some units."""
    GROUP: tl.constexpr = (H + UNITS - 1) // UNITS
    CHUNKS: tl.constexpr = (H + BLOCK_K - 1) // BLOCK_K
    LIMIT: tl.constexpr = None if H % BLOCK_K == 0 else H
    PADDED: tl.constexpr = 1 if GATES == 1 else 4
    IO: tl.constexpr = y_ptr.dtype.element_ty

    program = tl.program_id(0) + first_program
    member = program % GROUP
    direction = (program // GROUP) % D
    batch_group = program // (GROUP * D)
    mirrored = (direction ^ reverse) != 0  # this direction runs back in time

    units = member * UNITS + tl.arange(0, UNITS)
    rows = tl.arange(0, UNITS * PADDED)
    row_unit = member * UNITS + rows // PADDED
    row_gate = rows % PADDED
    row_mask = (row_unit < H) & (row_gate < GATES)
    w_rows = w_ptr + ((direction * GATES + row_gate) * H + row_unit) * H
    weights = ()
    for k in tl.static_range(RESIDENT):  # none with a GEMM outside
        weights = weights + (load_weights(w_rows, row_mask, k * BLOCK_K, LIMIT, 1, BLOCK_K),)
    if bias_ptr is not None:
        bias_offset = (direction * GATES + row_gate) * H + row_unit
        bias = tl.load(bias_ptr + bias_offset, mask=row_mask, other=0.0).to(tl.float32)

    plane = D * B.to(tl.int64) * H  # between two tensors of the state
    if not INTERLEAVED:
        batch, unit_mask, state_offset = sequences(batch_group, units, direction, B, H, BLOCK_B)
        state = load_state(state_ptr, state_offset, plane, unit_mask, STATES)

    failed = False
    for item in tl.range(begin * tiles, end * tiles, num_stages=1, disable_licm=True):
        step = item
        tile = batch_group
        if INTERLEAVED:
            step, tile = item // tiles, batch_group + (item % tiles) * batch_groups
            batch, unit_mask, state_offset = sequences(tile, units, direction, B, H, BLOCK_B)
            state = load_state(state_ptr, state_offset, plane, unit_mask, STATES)

        length, active = T, batch < B
        if lengths_ptr is not None:
            length = tl.load(lengths_ptr + batch, mask=batch < B, other=0)
            active = step < length
        time = time_of(step, length, active & mirrored)
        row = time * B + batch
        mask = unit_mask & active[None, :]
        at = (row * D + direction).to(tl.int64)[None, :] * H + units[:, None]
        x_at = (row * D + direction).to(tl.int64)[None, :] * (GATES * H) + units[:, None]
        x = load_gates(gx_ptr, x_at, mask, GATES, H)

        from_initial = active & (step == 0)
        if resets_ptr is not None:
            from_initial = from_initial | is_reset(resets_ptr, row, active)
            if initial_ptr is not None:
                back = mask & from_initial[None, :]
                state = reload_state(initial_ptr, state_offset, plane, back, state, STATES)

        if PERSISTENT and GROUP > 1:
            group = tile * D + direction
            code = ((step + 1).to(tl.int64) << 32) | (group << 1)
            failed = wait(counters_ptr, group, step * GROUP, max_polls, failed, error_ptr, code)

        if product_ptr is not None:
            product_at = (direction * B + batch).to(tl.int64)[None, :] * (GATES * H) + units[
                :, None
            ]
            r = load_gates(product_ptr, product_at, mask, GATES, H)
        else:
            product = tl.zeros((UNITS * PADDED, BLOCK_B), tl.float32)
            if bias_ptr is not None:
                product += bias[:, None]
            if GROUP == 1:  # the whole previous state is this program's own
                product = dot(weights[0], state[0].to(IO), product, PRECISION)
            else:
                # Where there is no previous step, idle columns too, h0 is read: no mask needed.
                inside = tl.minimum(batch, B - 1)
                first_rows = h0_ptr + (direction * B + inside).to(tl.int64) * H
                previous_row = time_of(step - 1, length, mirrored) * B + batch
                later_rows = y_ptr + (previous_row * D + direction).to(tl.int64) * H
                h_rows = tl.where(from_initial | (active == 0), first_rows, later_rows)
                product = multiply(
                    product,
                    weights,
                    w_rows,
                    row_mask,
                    h_rows,
                    0,
                    LIMIT,
                    1,
                    BLOCK_K,
                    RESIDENT,
                    CHUNKS,
                    AHEAD,
                    PRECISION,
                )
            r = split_gates(product, GATES, UNITS, BLOCK_B)

        new = STEP(x, r, state)
        state = select(active[None, :], new[0], state, STATES)
        h = tl.where(active[None, :], state[0], 0.0)
        if PERSISTENT and GROUP > 1:
            h = tl.where(failed, float("nan"), h)
        tl.store(y_ptr + at, h.to(IO), mask=unit_mask)
        if PERSISTENT and GROUP > 1:
            arrive(counters_ptr, group, failed)
        if history_ptr is not None:
            for k in tl.static_range(1, STATES):
                tl.store(history_ptr + (k - 1) * T * plane + at, state[k], mask=unit_mask)
        if saved_ptr is not None:
            store_saved(saved_ptr, at, unit_mask, new[1], SAVED)
        if INTERLEAVED:
            if PERSISTENT and GROUP > 1:
                state = poison(state, failed, STATES)
            store_state(state_ptr, state_offset, plane, unit_mask, state, STATES)

    if not INTERLEAVED:
        if PERSISTENT and GROUP > 1:
            state = poison(state, failed, STATES)
        store_state(state_ptr, state_offset, plane, unit_mask, state, STATES)


@triton.jit(do_not_specialize=RUNTIME)
def backward_kernel(
    w_ptr,  # [D, G*H, H]
    h0_ptr,  # [D, B, H]
    initial_ptr,  # [STATES, D, B, H] float32
    lengths_ptr,  # [B] int32, or None
    resets_ptr,  # [T, B] uint8, or None
    y_ptr,  # [T, B, D*H]
    history_ptr,  # [STATES-1, T, B, D, H] float32, or None
    saved_ptr,  # [T, B, D, H, SAVED], or None
    dy_ptr,  # [T, B, D*H]
    dgx_ptr,  # [T, B, D, G*H] gradients of the input gates
    dr_ptr,  # [T, B, D, G*H] gradients of the recurrent gates: dgx itself unless SEPARATE
    dstate_ptr,  # [STATES, D, B, H] float32: gradients of the final, then of the initial state
    dinitial_ptr,  # [STATES, D, B, H] float32: what resets pass to the initial state, or None
    partial_ptr,  # [SPLIT, D, B, H] float32: parts of R^T dr, or all of it by a GEMM, or None
    counters_ptr,  # [(1 + blocks) * groups * tiles, COUNTER_STRIDE] int32, zeroed
    error_ptr,  # [1] int64: where a failure leaves its code
    T,
    B,
    begin,  # the items of this launch: item n is step T-1-n; item T reaches the initial state
    end,
    tiles,
    batch_groups,
    reverse,
    first_program,
    max_polls,
    STEP_GRADIENT: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    SEPARATE: tl.constexpr,
    BLOCK_M: tl.constexpr,  # units whose product one program computes
    SPLIT: tl.constexpr,  # programs that share those units, each with its part of K = G*H
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    AHEAD: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    PERSISTENT: tl.constexpr,
    PHASE: tl.constexpr,  # BOTH, or PRODUCT and POINTWISE in launches of their own
    PRECISION: tl.constexpr,
):
    """Back through the steps: the state's gradients, and the gates', which GEMMs outside take.

    R^T is short and wide (K = G*H), so SPLIT programs each multiply BLOCK_M units by a part of K,
    leave the partial sums in memory, and meet at a barrier of their own; each then finishes its
    own units.
    """
    UNITS: tl.constexpr = BLOCK_M // SPLIT
    BLOCKS: tl.constexpr = (H + BLOCK_M - 1) // BLOCK_M
    GROUP: tl.constexpr = BLOCKS * SPLIT
    ALONE: tl.constexpr = GROUP == 1
    # A lone program keeps the gates' gradients of the last step, so it serves one batch tile.
    tl.static_assert(not (ALONE and INTERLEAVED))
    K: tl.constexpr = GATES * H
    # A lone program takes one gate for each chunk; else a part of K is a whole number of chunks.
    CHUNKS: tl.constexpr = GATES if ALONE else (K + SPLIT * BLOCK_K - 1) // (SPLIT * BLOCK_K)
    LIMIT: tl.constexpr = None if K % (SPLIT * BLOCK_K) == 0 else K
    IO: tl.constexpr = dgx_ptr.dtype.element_ty

    program = tl.program_id(0) + first_program
    member = program % GROUP
    block = member // SPLIT
    part = member % SPLIT
    direction = (program // GROUP) % D
    batch_group = program // (GROUP * D)
    mirrored = (direction ^ reverse) != 0  # this direction runs back in time
    groups = batch_groups * tiles * D

    outputs = block * BLOCK_M + tl.arange(0, BLOCK_M)
    units = block * BLOCK_M + part * UNITS + tl.arange(0, UNITS)
    w_rows = w_ptr + direction * K * H + outputs
    first = part * (CHUNKS * BLOCK_K)
    weights = ()
    if PHASE != POINTWISE:
        for k in tl.static_range(RESIDENT):
            if ALONE:
                chunk = load_weights(w_rows + k * H * H, outputs < H, 0, H, H, BLOCK_K)
            else:
                chunk = load_weights(w_rows, outputs < H, first + k * BLOCK_K, LIMIT, H, BLOCK_K)
            weights = weights + (chunk,)

    plane = D * B.to(tl.int64) * H
    if not INTERLEAVED:
        batch, unit_mask, state_offset = sequences(batch_group, units, direction, B, H, BLOCK_B)
        dstate = load_state(dstate_ptr, state_offset, plane, unit_mask, STATES)
        if ALONE and PHASE == BOTH:
            # The recurrent gates' gradients of the step done last, if an earlier launch did one.
            length = T
            if lengths_ptr is not None:
                length = tl.load(lengths_ptr + batch, mask=batch < B, other=0)
            done = (batch < B) & (begin > 0) & (T - begin < length)
            row = time_of(T - begin, length, mirrored) * B + batch
            at = (row * D + direction).to(tl.int64)[None, :] * K + units[:, None]
            dr = load_gates(dr_ptr, at, unit_mask & done[None, :], GATES, H)

    failed = False
    for item in tl.range(begin * tiles, end * tiles, num_stages=1, disable_licm=True):
        n = item
        tile = batch_group
        if INTERLEAVED:
            n, tile = item // tiles, batch_group + (item % tiles) * batch_groups
            batch, unit_mask, state_offset = sequences(tile, units, direction, B, H, BLOCK_B)
            if PHASE != PRODUCT:
                dstate = load_state(dstate_ptr, state_offset, plane, unit_mask, STATES)
        step = T - 1 - n
        group = tile * D + direction

        length, active = T, (batch < B) & (step >= 0)
        if lengths_ptr is not None:
            length = tl.load(lengths_ptr + batch, mask=batch < B, other=0)
            active = (step < length) & (step >= 0)
        mask = unit_mask & active[None, :]
        time = time_of(step, length, active & mirrored)
        row = time * B + batch
        at = (row * D + direction).to(tl.int64)[None, :] * H + units[:, None]
        # The step done last gave its gates' gradients; here they go through R^T.
        later_active = (batch < B) & (step + 1 < length) & (n > 0)
        later_row = time_of(step + 1, length, mirrored) * B + batch

        # All that does not depend on other programs is on its way before the wait.
        if PHASE != PRODUCT:
            dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
            saved = load_saved(saved_ptr, at, mask, SAVED)
            from_initial = active & (step == 0)
            if resets_ptr is not None:
                from_initial = from_initial | is_reset(resets_ptr, row, active)
            earlier_row = time_of(step - 1, length, mirrored) * B + batch
            earlier_at = (earlier_row * D + direction).to(tl.int64)[None, :] * H + units[:, None]
            first_mask = mask & from_initial[None, :]
            earlier_mask = mask & (from_initial == 0)[None, :]
            state = (tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32),)
            earlier = tl.load(y_ptr + earlier_at, mask=earlier_mask, other=0.0).to(tl.float32)
            initial = load_state(initial_ptr, state_offset, plane, first_mask, STATES)
            previous = (tl.where(from_initial[None, :], initial[0], earlier),)
            for k in tl.static_range(1, STATES):
                history = history_ptr + (k - 1) * T * plane
                state = state + (tl.load(history + at, mask=mask, other=0.0),)
                earlier = tl.load(history + earlier_at, mask=earlier_mask, other=0.0)
                previous = previous + (tl.where(from_initial[None, :], initial[k], earlier),)

        if PERSISTENT and not ALONE:
            code = ((step + 2).to(tl.int64) << 32) | (group << 1) | 1
            failed = wait(counters_ptr, group, n * GROUP, max_polls, failed, error_ptr, code)

        if PHASE != POINTWISE:
            product = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
            if ALONE:
                for g in tl.static_range(GATES):
                    product = dot(weights[g], dr[g].to(IO), product, PRECISION)
            else:
                # An idle column reads some weights instead: no load needs a mask.
                later_rows = dr_ptr + (later_row * D + direction).to(tl.int64) * K
                rows = tl.where(later_active, later_rows, w_ptr)
                product = multiply(
                    product,
                    weights,
                    w_rows,
                    outputs < H,
                    rows,
                    first,
                    LIMIT,
                    H,
                    BLOCK_K,
                    RESIDENT,
                    CHUNKS,
                    AHEAD,
                    PRECISION,
                )
            if SPLIT > 1:
                output_at = (direction * B + batch).to(tl.int64)[None, :] * H + outputs[:, None]
                output_mask = (outputs < H)[:, None] & (batch < B)[None, :]
                tl.store(partial_ptr + part * plane + output_at, product, mask=output_mask)
                if PERSISTENT:
                    meeting = groups + group * BLOCKS + block
                    arrive(counters_ptr, meeting, failed)
                    failed = wait(
                        counters_ptr, meeting, (n + 1) * SPLIT, max_polls, failed, error_ptr, code
                    )

        if PHASE != PRODUCT:
            if SPLIT > 1 or PHASE == POINTWISE:
                product = tl.zeros((UNITS, BLOCK_B), tl.float32)
                for p in tl.static_range(SPLIT):
                    sums = partial_ptr + p * plane + state_offset
                    summed = unit_mask & later_active[None, :]
                    product += tl.load(sums, mask=summed, other=0.0, cache_modifier=".cg")
            dh = dstate[0] + tl.where(later_active[None, :], product, 0.0)
            dstate = replace_first(dstate, dh, STATES)
            if resets_ptr is not None:
                was_reset = (is_reset(resets_ptr, later_row, later_active))[None, :]
                for k in tl.static_range(STATES):
                    slot = dinitial_ptr + k * plane + state_offset
                    total = tl.load(slot, mask=unit_mask & was_reset, other=0.0) + dstate[k]
                    tl.store(slot, total, mask=unit_mask & was_reset)
                dstate = keep(was_reset == 0, dstate, STATES)

            gradients = STEP_GRADIENT(
                replace_first(dstate, dstate[0] + dy, STATES), state, previous, saved
            )
            dstate = select(active[None, :], gradients[2], dstate, STATES)
            kept = active[None, :]
            if ALONE:  # units past H go into the product too, where NaN times a weight of 0 is NaN
                kept = mask
            dgx = keep(kept, gradients[0], GATES)
            if PERSISTENT and not ALONE:
                dgx = poison(dgx, failed, GATES)
            dr = dgx
            if SEPARATE:
                dr = keep(kept, gradients[1], GATES)
                if PERSISTENT and not ALONE:
                    dr = poison(dr, failed, GATES)
            gate_at = (row * D + direction).to(tl.int64)[None, :] * K + units[:, None]
            gate_mask = unit_mask & (step >= 0)
            store_gates(dr_ptr, gate_at, gate_mask, dr, GATES, H)
            if PERSISTENT and not ALONE:
                arrive(counters_ptr, group, failed)
            if SEPARATE:
                store_gates(dgx_ptr, gate_at, gate_mask, dgx, GATES, H)
            if INTERLEAVED:
                if PERSISTENT and not ALONE:
                    dstate = poison(dstate, failed, STATES)
                store_state(dstate_ptr, state_offset, plane, unit_mask, dstate, STATES)

    if not INTERLEAVED and PHASE != PRODUCT:
        if PERSISTENT and not ALONE:
            dstate = poison(dstate, failed, STATES)
        store_state(dstate_ptr, state_offset, plane, unit_mask, dstate, STATES)
