"""Kernels compiled ahead are those that are launched, by Triton's own launch path for an H100."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.gpu import precompile
from bench.gpu.precompile import CLAIMED, COMPILED
from bench.records.failed_checks import FAIL, NOT_DONE, PASS
from bench.sweep.pool import Outcome
from tests.helpers.compiling_process import run_compiling
from tests.helpers.precompile_calls import COMPARISONS, PROVIDERS, REQUESTS


def process(what: str, cache: Path) -> list[str]:
    return run_compiling("-m", "tests.helpers.precompile_calls", what, cache=cache).splitlines()


def kernels(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*.cubin")}


@pytest.mark.slow
def test_what_is_launched_is_what_was_compiled_ahead(tmp_path: Path):
    *outcomes, launches = process("compile", tmp_path)
    assert launches == "0 launches" and set(outcomes) <= {COMPILED, CLAIMED}
    ahead = kernels(tmp_path)
    launches = process("launch", tmp_path)[-1]
    assert launches != "0 launches"
    assert kernels(tmp_path) == ahead
    # A stepwise backward loop has a kernel for each of its two phases; no other use has two.
    phases = sum(use.mode == "stepwise" and use.loop == "bwd" for use in USES)
    assert outcomes.count(COMPILED) <= len(ahead) <= outcomes.count(COMPILED) + phases


KEYS = """
import importlib, sys

loops = importlib.import_module("kernels.recurrence")
for name in sys.argv[1:]:
    print(name, getattr(loops, name).cache_key)
"""


def test_a_kernels_key_does_not_depend_on_which_kernel_a_process_needs_first(tmp_path: Path):
    """Or what one process compiled another would compile again."""
    names = ("forward_kernel", "backward_kernel")
    one, other = (
        run_compiling("-c", KEYS, *order, cache=tmp_path).splitlines()
        for order in (names, names[::-1])
    )
    assert len(one) == 2 and one == other[::-1]


USES = precompile.of_comparisons(COMPARISONS) + precompile.of_requests(REQUESTS, PROVIDERS)


def test_each_kernel_is_a_row_and_failures_are_named():
    uses = [replace(USES[0], save=False), USES[0], USES[1], USES[2], USES[0]]
    outcomes = [
        Outcome(PASS, COMPILED, 4.0), Outcome(PASS, CLAIMED, 0.1),
        Outcome(FAIL, "PTXASError: no"), Outcome(NOT_DONE, "not begun in time"),
    ]  # fmt: skip

    pool = SimpleNamespace(run=lambda units, deadline: zip(units, outcomes, strict=True))
    rows = precompile.run(uses, 1.0, pool)  # type: ignore[arg-type]
    assert [row.outcome for row in rows] == [PASS, FAIL, NOT_DONE]
    assert precompile.summary_line(rows) == (
        "1 kernels compiled, 4 s of compiling in all; 1 failed, first lstm bwd bf16 B=3 H=136 "
        "persistent: PTXASError: no; 1 uses left to be compiled when launched"
    )


def test_only_our_providers_launch_kernels_and_only_those_of_their_requests():
    assert precompile.of_requests(REQUESTS, ("torch.nn", "reference")) == []
    (first, *_) = REQUESTS
    request = replace(first, providers=("ours", "ours-graph"))
    uses = precompile.of_requests([request], ("ours-gemm",))
    assert [(use.loop, use.mode, use.save) for use in uses] == [
        ("fwd", "auto", True), ("bwd", "auto", True),
        ("fwd", "auto-graph", True), ("bwd", "auto-graph", True),
    ]  # fmt: skip
