"""The recurrent loop: a kernel forward in time and one back through it, for every cell.

A *group* of programs shares one direction and one batch tile. Each program of a group owns UNITS
hidden units: it keeps their rows of the recurrent weights on chip for all time steps, reads the
previous hidden state of all units, and writes the next one of its own. A barrier among the group
ends each step; a program that is a group by itself needs none. Blocks are unit-major,
`[units, batch]`: the weights are the left operand of the product, which stays in shared memory, and
wgmma reads it there without a layout conversion.

A kernel runs the steps `begin` to `end`. A persistent launch runs all steps; in stepwise mode each
step is a separate launch, and `state_ptr` holds the state between launches (`launch.py`).

Comments give the shapes of pointers: T time, B batch, D directions, G gates, H hidden units. D
counts the directions of all models that run side by side, DIRECTIONS of each; N is the number of
models, or 1 where they share lengths and resets.

The loops over time disable loop-invariant code motion, which would hold the addresses of all
resident chunks in registers, three times as many as the kernels need. They have one pipeline
stage: with more, in a loop without a barrier, the compiler reserves shared memory to prefetch the
next step's operand, which a launch for one step does not have.
"""

import triton
import triton.language as tl

from .barrier import arrive, wait
from .blocks import (
    Matrix,
    add_where,
    batch_tile,
    convert_layout,
    dot,
    is_reset,
    load_blocks,
    load_weights,
    multiply,
    poison,
    reload_state,
    replace_first,
    row_of,
    select,
    sequence_steps,
    split_gates,
    starts_anew,
    store_blocks,
    unit_offsets,
    widen,
    zero_unless,
)

# Phases of a backward launch: with SPLIT > 1, stepwise launches run the two parts apart.
BOTH = tl.constexpr(0)
PRODUCT = tl.constexpr(1)
POINTWISE = tl.constexpr(2)

# Arguments that are never specialized: a new length or batch size needs no compilation.
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
    lengths_ptr,  # [N, B] int32, or None
    resets_ptr,  # [N, T, B] uint8, or None
    initial_ptr,  # [STATES, D, B, H] float32, read at resets only, or None
    state_ptr,  # [STATES, D, B, H] float32: the initial state, overwritten by the final one
    y_ptr,  # [T, B, D*H]
    history_ptr,  # [STATES-1, T, B, D, H] float32: the state after each step but for h, or None
    saved_ptr,  # [SAVED, T, B, D, H] activations for the backward pass, or None
    product_ptr,  # [D, B, G*H] float32: R h(t-1) + b if a GEMM outside computes it, else None
    counters_ptr,  # [groups * tiles, COUNTER_STRIDE] int32, zeroed
    error_ptr,  # [1] int64: the code of a failed barrier
    T,
    B,
    begin,  # the steps of this launch
    end,
    tiles,  # batch tiles that each program computes one after another within a step
    batch_groups,
    reverse,  # 1 if the only direction of a model is backward in time
    first_program,
    max_polls,
    STEP: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    OWN_MASKS: tl.constexpr,  # whether N is the number of models
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    SAVED: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,  # chunks of K whose weights stay on chip; the rest stream from L2
    AHEAD: tl.constexpr,  # chunks of the operand in flight
    INTERLEAVED: tl.constexpr,  # tiles > 1: their states are in memory between the steps
    PERSISTENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Steps `begin` to `end` of state(t) = STEP(gx(t), R h(t-1) + b, state(t-1)) for some units."""
    GROUP: tl.constexpr = (H + UNITS - 1) // UNITS
    BARRIER: tl.constexpr = PERSISTENT and GROUP > 1
    CHUNKS: tl.constexpr = (H + BLOCK_K - 1) // BLOCK_K
    LIMIT: tl.constexpr = None if H % BLOCK_K == 0 else H
    PADDED: tl.constexpr = 1 if GATES == 1 else 4
    IO: tl.constexpr = y_ptr.dtype.element_ty

    program = tl.program_id(0) + first_program
    member = program % GROUP
    direction = (program // GROUP) % D
    batch_group = program // (GROUP * D)
    within_model = direction if D == DIRECTIONS else direction % DIRECTIONS
    mirrored = (within_model ^ reverse) != 0  # this direction runs back in time
    if OWN_MASKS:
        model = direction // DIRECTIONS
        if lengths_ptr is not None:
            lengths_ptr += model * B
        if resets_ptr is not None:
            resets_ptr += model.to(tl.int64) * T * B

    units = member * UNITS + tl.arange(0, UNITS)
    rows = tl.arange(0, UNITS * PADDED)
    row_unit = member * UNITS + rows // PADDED
    row_gate = rows % PADDED
    row_mask = (row_unit < H) & (row_gate < GATES)
    w_rows = w_ptr + ((direction * GATES + row_gate) * H + row_unit) * H
    matrix = Matrix(w_rows, row_mask, 0, LIMIT, 1)
    weights = ()
    for k in tl.static_range(RESIDENT):  # none with a GEMM outside
        weights = weights + (load_weights(matrix, k, BLOCK_K),)
    if bias_ptr is not None:
        bias_offset = (direction * GATES + row_gate) * H + row_unit
        bias = tl.load(bias_ptr + bias_offset, mask=row_mask, other=0.0).to(tl.float32)

    plane = D * B.to(tl.int64) * H  # between two tensors of the state
    if not INTERLEAVED:
        batch, unit_mask, state_offset = batch_tile(batch_group, units, direction, B, H, BLOCK_B)
        state = load_blocks(state_ptr, state_offset, plane, unit_mask, STATES)

    failed = False
    for item in tl.range(begin * tiles, end * tiles, num_stages=1, disable_licm=True):
        step = item
        tile = batch_group
        if INTERLEAVED:
            step, tile = item // tiles, batch_group + (item % tiles) * batch_groups
            batch, unit_mask, state_offset = batch_tile(tile, units, direction, B, H, BLOCK_B)
            state = load_blocks(state_ptr, state_offset, plane, unit_mask, STATES)

        length, active = sequence_steps(lengths_ptr, batch, step, T, B)
        row = row_of(step, length, active & mirrored, batch, B)
        mask = unit_mask & active[None, :]
        at = unit_offsets(row * D + direction, units, H)
        x_at = unit_offsets(row * D + direction, units, GATES * H)
        x = load_blocks(gx_ptr, x_at, H, mask, GATES)

        anew = starts_anew(resets_ptr, row, step, active)
        if initial_ptr is not None:
            anew_mask = mask & anew[None, :]
            state = reload_state(initial_ptr, state_offset, plane, anew_mask, state, STATES)

        if BARRIER:
            group = tile * D + direction
            code = ((step + 1).to(tl.int64) << 32) | (group << 1)
            failed = wait(counters_ptr, group, step * GROUP, max_polls, failed, error_ptr, code)

        if product_ptr is not None:
            product_at = unit_offsets(direction * B + batch, units, GATES * H)
            r = load_blocks(product_ptr, product_at, H, mask, GATES)
        else:
            product = tl.zeros((UNITS * PADDED, BLOCK_B), tl.float32)
            if bias_ptr is not None:
                product += bias[:, None]
            if GROUP == 1:  # this program has computed the whole previous state
                product = dot(weights[0], state[0].to(IO), product, PRECISION)
            else:
                # A column without a previous step reads h0 instead: no load needs a mask.
                inside = tl.minimum(batch, B - 1)
                h0 = h0_ptr + (direction * B + inside).to(tl.int64) * H
                previous_row = row_of(step - 1, length, mirrored, batch, B)
                previous_h = y_ptr + (previous_row * D + direction).to(tl.int64) * H
                columns = tl.where(anew | (active == 0), h0, previous_h)
                product = multiply(
                    product, matrix, weights, columns, BLOCK_K, CHUNKS, AHEAD, PRECISION
                )
            r = split_gates(product, GATES, UNITS, BLOCK_B)

        new = STEP(widen(x, GATES), r, state)
        state = select(active[None, :], new[0], state, STATES)
        h = tl.where(active[None, :], state[0], 0.0)
        if BARRIER:
            h = tl.where(failed, float("nan"), h)
        tl.store(y_ptr + at, h.to(IO), mask=unit_mask)
        if BARRIER:
            arrive(counters_ptr, group, failed)
        if history_ptr is not None:
            for k in tl.static_range(1, STATES):
                tl.store(history_ptr + (k - 1) * T * plane + at, state[k], mask=unit_mask)
        if saved_ptr is not None:
            store_blocks(saved_ptr, at, T * plane, unit_mask, new[1], SAVED)
        if INTERLEAVED:
            if BARRIER:
                state = poison(state, failed, STATES)
            store_blocks(state_ptr, state_offset, plane, unit_mask, state, STATES)

    if not INTERLEAVED:
        if BARRIER:
            state = poison(state, failed, STATES)
        store_blocks(state_ptr, state_offset, plane, unit_mask, state, STATES)


@triton.jit(do_not_specialize=RUNTIME)
def backward_kernel(
    w_ptr,  # [D, G*H, H]
    h0_ptr,  # [D, B, H]
    initial_ptr,  # [STATES, D, B, H] float32
    lengths_ptr,  # [N, B] int32, or None
    resets_ptr,  # [N, T, B] uint8, or None
    y_ptr,  # [T, B, D*H]
    history_ptr,  # [STATES-1, T, B, D, H] float32, or None
    saved_ptr,  # [SAVED, T, B, D, H], or None
    dy_ptr,  # [T, B, D*H]
    dgx_ptr,  # [T, B, D, G*H] gradients of the input gates
    dr_ptr,  # [T, B, D, G*H] gradients of the recurrent gates: dgx itself unless SEPARATE
    dstate_ptr,  # [STATES, D, B, H] float32: gradients of the final, then of the initial state
    dinitial_ptr,  # [STATES, D, B, H] float32: gradients that resets pass to it, or None
    partial_ptr,  # [SPLIT, D, B, H] float32: partial sums of R^T dr, or all by a GEMM, or None
    counters_ptr,  # [(1 + blocks) * groups * tiles, COUNTER_STRIDE] int32, zeroed
    error_ptr,  # [1] int64: the code of a failed barrier
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
    DIRECTIONS: tl.constexpr,
    OWN_MASKS: tl.constexpr,
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
    """Back through the steps: gradients of the gates and of the initial state.

    R^T is short and wide (K = G*H), so SPLIT programs (split-K) each multiply BLOCK_M units by a
    part of K, store the partial sums, and wait for each other at the split-K barrier; each then
    finishes its own UNITS units. GEMMs outside compute the gradient of the weights.
    """
    UNITS: tl.constexpr = BLOCK_M // SPLIT
    BLOCKS: tl.constexpr = (H + BLOCK_M - 1) // BLOCK_M
    GROUP: tl.constexpr = BLOCKS * SPLIT
    SINGLE: tl.constexpr = GROUP == 1  # a program is a group by itself
    BARRIER: tl.constexpr = PERSISTENT and not SINGLE
    # A single program keeps the gates' gradients of the previous item, of one batch tile only.
    tl.static_assert(not (SINGLE and INTERLEAVED))
    K: tl.constexpr = GATES * H
    # A chunk of a single program is a gate; else each part of K is a whole number of chunks.
    CHUNKS: tl.constexpr = GATES if SINGLE else (K + SPLIT * BLOCK_K - 1) // (SPLIT * BLOCK_K)
    LIMIT: tl.constexpr = None if K % (SPLIT * BLOCK_K) == 0 else K
    IO: tl.constexpr = dgx_ptr.dtype.element_ty

    program = tl.program_id(0) + first_program
    member = program % GROUP
    block = member // SPLIT
    part = member % SPLIT
    direction = (program // GROUP) % D
    batch_group = program // (GROUP * D)
    within_model = direction if D == DIRECTIONS else direction % DIRECTIONS
    mirrored = (within_model ^ reverse) != 0  # this direction runs back in time
    if OWN_MASKS:
        model = direction // DIRECTIONS
        if lengths_ptr is not None:
            lengths_ptr += model * B
        if resets_ptr is not None:
            resets_ptr += model.to(tl.int64) * T * B
    groups = batch_groups * tiles * D

    outputs = block * BLOCK_M + tl.arange(0, BLOCK_M)
    units = block * BLOCK_M + part * UNITS + tl.arange(0, UNITS)
    w_rows = w_ptr + direction * K * H + outputs
    first = part * (CHUNKS * BLOCK_K)
    matrix = Matrix(w_rows, outputs < H, first, LIMIT, H)
    weights = ()
    if PHASE != POINTWISE:
        for k in tl.static_range(RESIDENT):
            if SINGLE:
                gate = Matrix(w_rows + k * H * H, outputs < H, 0, H, H)
                weights = weights + (load_weights(gate, 0, BLOCK_K),)
            else:
                weights = weights + (load_weights(matrix, k, BLOCK_K),)

    plane = D * B.to(tl.int64) * H
    if not INTERLEAVED:
        batch, unit_mask, state_offset = batch_tile(batch_group, units, direction, B, H, BLOCK_B)
        dstate = load_blocks(dstate_ptr, state_offset, plane, unit_mask, STATES)
        if SINGLE and PHASE == BOTH:
            # Stepwise mode: reload dr from the previous launch.
            length, _ = sequence_steps(lengths_ptr, batch, T - begin, T, B)
            computed = (batch < B) & (begin > 0) & (T - begin < length)
            row = row_of(T - begin, length, mirrored, batch, B)
            gate_at = unit_offsets(row * D + direction, units, K)
            dr = load_blocks(dr_ptr, gate_at, H, unit_mask & computed[None, :], GATES)
            dr = widen(dr, GATES)

    failed = False
    for item in tl.range(begin * tiles, end * tiles, num_stages=1, disable_licm=True):
        n = item
        tile = batch_group
        if INTERLEAVED:
            n, tile = item // tiles, batch_group + (item % tiles) * batch_groups
            batch, unit_mask, state_offset = batch_tile(tile, units, direction, B, H, BLOCK_B)
            if PHASE != PRODUCT:
                dstate = load_blocks(dstate_ptr, state_offset, plane, unit_mask, STATES)
        step = T - 1 - n
        group = tile * D + direction

        length, active = sequence_steps(lengths_ptr, batch, step, T, B)
        active = active & (step >= 0)
        mask = unit_mask & active[None, :]
        row = row_of(step, length, active & mirrored, batch, B)
        at = unit_offsets(row * D + direction, units, H)
        # The previous item computed the gates' gradients of the later step, which R^T multiplies.
        later_active = (batch < B) & (step + 1 < length) & (n > 0)
        later_row = row_of(step + 1, length, mirrored, batch, B)

        # Loads that depend on no other program are issued before the wait.
        if PHASE != PRODUCT:
            dy = tl.load(dy_ptr + at, mask=mask, other=0.0)
            saved = load_blocks(saved_ptr, at, T * plane, mask, SAVED)
            anew = starts_anew(resets_ptr, row, step, active)
            earlier_row = row_of(step - 1, length, mirrored, batch, B)
            earlier_at = unit_offsets(earlier_row * D + direction, units, H)
            anew_mask = mask & anew[None, :]
            earlier_mask = mask & (anew == 0)[None, :]
            initial = load_blocks(initial_ptr, state_offset, plane, anew_mask, STATES)
            # The history has the states after h, which is y.
            state = (tl.load(y_ptr + at, mask=mask, other=0.0),)
            state = state + load_blocks(history_ptr, at, T * plane, mask, STATES - 1)
            earlier = (tl.load(y_ptr + earlier_at, mask=earlier_mask, other=0.0),)
            earlier = earlier + load_blocks(
                history_ptr, earlier_at, T * plane, earlier_mask, STATES - 1
            )

        if BARRIER:
            code = ((step + 2).to(tl.int64) << 32) | (group << 1) | 1
            failed = wait(counters_ptr, group, n * GROUP, max_polls, failed, error_ptr, code)

        if PHASE != POINTWISE:
            product = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
            if SINGLE:
                for g in tl.static_range(GATES):
                    product = dot(weights[g], dr[g].to(IO), product, PRECISION)
            else:
                # A column without a later step reads some weights instead: no load needs a mask.
                later_dr = dr_ptr + (later_row * D + direction).to(tl.int64) * K
                columns = tl.where(later_active, later_dr, w_ptr)
                product = multiply(
                    product, matrix, weights, columns, BLOCK_K, CHUNKS, AHEAD, PRECISION
                )
            if SPLIT > 1:
                output_at = unit_offsets(direction * B + batch, outputs, H)
                output_mask = (outputs < H)[:, None] & (batch < B)[None, :]
                tl.store(partial_ptr + part * plane + output_at, product, mask=output_mask)
                if PERSISTENT:
                    split_barrier = groups + group * BLOCKS + block
                    arrive(counters_ptr, split_barrier, failed)
                    target = (n + 1) * SPLIT
                    failed = wait(
                        counters_ptr, split_barrier, target, max_polls, failed, error_ptr, code
                    )

        if PHASE != PRODUCT:
            if SPLIT > 1 or PHASE == POINTWISE:
                product = tl.zeros((UNITS, BLOCK_B), tl.float32)
                for p in tl.static_range(SPLIT):
                    partial = partial_ptr + p * plane + state_offset
                    partial_mask = unit_mask & later_active[None, :]
                    product += tl.load(partial, mask=partial_mask, other=0.0, cache_modifier=".cg")
            dh = dstate[0] + tl.where(later_active[None, :], product, 0.0)
            dstate = replace_first(dstate, dh, STATES)
            if resets_ptr is not None:
                was_reset = is_reset(resets_ptr, later_row, later_active)[None, :]
                add_where(was_reset, dinitial_ptr, state_offset, plane, unit_mask, dstate, STATES)
                dstate = zero_unless(was_reset == 0, dstate, STATES)

            saved = widen(saved, SAVED)
            if SINGLE:  # the state has the layout of the product
                saved = convert_layout(saved, dstate[0], active[None, :], SAVED)
            previous = select(anew[None, :], initial, widen(earlier, STATES), STATES)
            with_dy = replace_first(dstate, dstate[0] + dy.to(tl.float32), STATES)
            gradients = STEP_GRADIENT(with_dy, widen(state, STATES), previous, saved)
            dstate = select(active[None, :], gradients[2], dstate, STATES)
            valid = active[None, :]
            if SINGLE:  # units past H are multiplied too: NaN there, times a zero weight, is NaN
                valid = mask
            dgx = zero_unless(valid, gradients[0], GATES)
            if BARRIER:
                dgx = poison(dgx, failed, GATES)
            dr = dgx
            if SEPARATE:
                dr = zero_unless(valid, gradients[1], GATES)
                if BARRIER:
                    dr = poison(dr, failed, GATES)
            gate_at = unit_offsets(row * D + direction, units, K)
            gate_mask = unit_mask & (step >= 0)
            store_blocks(dr_ptr, gate_at, H, gate_mask, dr, GATES)
            if BARRIER:
                arrive(counters_ptr, group, failed)
            if SEPARATE:
                store_blocks(dgx_ptr, gate_at, H, gate_mask, dgx, GATES)
            if INTERLEAVED:
                if BARRIER:
                    dstate = poison(dstate, failed, STATES)
                store_blocks(dstate_ptr, state_offset, plane, unit_mask, dstate, STATES)

    if not INTERLEAVED and PHASE != PRODUCT:
        if BARRIER:
            dstate = poison(dstate, failed, STATES)
        store_blocks(dstate_ptr, state_offset, plane, unit_mask, dstate, STATES)
