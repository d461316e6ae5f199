"""Compile the floor's kernels for an H100 that need not be present, and check their instructions.

Run as a process by test_microbenchmarks.py, because kernels are interpreted there.
"""

import re
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.compiler import compile_kernel
from bench.gpu import microbenchmark_kernels as k
from bench.gpu import microbenchmarks as m


def sass(
    kernel: Any, constants: dict[str, int], warps: int, **types: str
) -> tuple[list[str], list[str]]:
    """The instructions that an H100 would run: those of the loop over time, and all.

    Pointers are to int32 unless their types are given.
    """
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in constants else types.get(name, "i32")
        if name.endswith("_ptr"):
            signature[name] = types.get(name, "*i32")
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    listing = compile_kernel.cuobjdump(made, "-sass")
    code = compile_kernel.sass(listing)
    span = compile_kernel.time_loop(code)
    assert not re.search("LDL|STL", listing), "spills"
    return [text for at, text in code if at in span], [text for _, text in code]


def count(texts: list[str], what: str) -> int:
    return sum(bool(re.search(what, text)) for text in texts)


def check_order(texts: list[str], *whats: str) -> None:
    """Assert that instructions that match these patterns occur in this order."""
    rest = iter(texts)
    for what in whats:
        assert any(re.search(what, text) for text in rest), (what, texts)


def main() -> None:
    stores = {"BEFORE": k.STATE_WORDS, "AFTER": k.SAVED_WORDS, "RING": k.RING}
    loop, _ = sass(k.barrier_loop, stores, 4, error_ptr="*i64")
    check_order(
        loop, "LDG.E.STRONG.GPU", "STG", "BAR.SYNC", "MEMBAR.ALL.GPU", "RED.*ADD.*STRONG.GPU", "STG"
    )
    assert count(loop, "MEMBAR") == 1, loop
    bare, _ = sass(k.barrier_loop, stores | {"BEFORE": 0, "AFTER": 0}, 4, error_ptr="*i64")
    assert count(bare, "STG") == 1, bare  # the store of the error code
    for words in m.RELEASED_WORDS:
        constants = {"WORDS": words, "RING": k.RING}
        loop, _ = sass(k.release_loop, constants, 4, clocks_ptr="*i64")
        check_order(
            loop, *["STG"] * bool(words), "BAR.SYNC", "CLOCK", "MEMBAR.ALL.GPU", "RED", "CLOCK"
        )
    loop, every = sass(k.flag_loop, {"LINES": k.FLAG_LINES}, 1)
    assert count(every, "LDG.E.STRONG.GPU") == 4 and count(every, "STG.E.STRONG.GPU") == 2, every
    assert not count(every, "MEMBAR|ATOM|RED"), every
    _, every = sass(k.latency_loop, {}, 1)
    assert count(every, "LDG.E.STRONG.GPU") >= 1 and not count(every, r"LDG\.E R"), every
    for n, warps in m.CHAINS:
        constants = {"ROWS": k.CHAIN_ROWS, "N": n, "K": k.CHAIN_COLUMNS}
        types = {"left_ptr": "*bf16", "right_ptr": "*bf16", "total_ptr": "*fp32"}
        loop, every = sass(k.chain_loop, constants, warps, clocks_ptr="*i64", **types)
        # Two groups of four warps share the sequences; the left operand is a descriptor of shared
        # memory, and nothing else is loaded or stored.
        product = rf"HGMMA.64x{n * 4 // warps}x16.F32.BF16 R\d+, gdesc"
        assert count(loop, product) == count(every, "HGMMA") == k.CHAIN_COLUMNS // k.CHAIN_K, loop
        assert not count(loop, "LDG|LDS|STS|CLOCK"), loop
        check_order(every, "CLOCK", product, "CLOCK")
    for words, warps, _ in m.GATHERS:
        loop, _ = sass(k.gather_loop, {"BLOCK": words}, warps)
        reads = count(loop, r"LDG.E.128.STRONG.GPU")  # of one block, or of several if unrolled
        assert reads and reads % (words // (warps * 32 * 4)) == 0, loop
        assert reads == count(loop, "LDG"), loop
    for words, warps in m.COPIES:
        _, every = sass(k.copy_block, {"BLOCK": words}, warps)
        assert count(every, "LDG.E.128") == count(every, "STG.E.128") == words // (warps * 32 * 4)
    sass(k.nothing, {}, 1)


if __name__ == "__main__":
    main()
