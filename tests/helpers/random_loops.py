"""Random loops and tilings by hypothesis, whose seed the tests' header names."""

import hypothesis
from hypothesis import strategies as st

from kernels.cells import CELLS
from tests.helpers.loops import DTYPES, Loop, Tiling

SHAPES = hypothesis.settings(
    deadline=None,
    database=None,  # each run draws from the seed in the header, nothing else
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    print_blob=True,
)


@st.composite
def tilings(draw: st.DrawFn, backward: bool) -> Tiling:
    split = draw(st.sampled_from((1, 2, 4))) if backward else 1
    return Tiling(
        members=draw(st.sampled_from((1, 2, 3, 4))) * (1 if split == 1 else 2),
        split=split,
        block_b=draw(st.sampled_from((2, 4, 8))),
        block_k=draw(st.sampled_from((4, 8, 16))),
        resident=draw(st.integers(0, 3)),
        ahead=draw(st.integers(1, 3)),
        batch_groups=draw(st.integers(1, 2)),
    )


@st.composite
def loops(draw: st.DrawFn) -> Loop:
    D = draw(st.sampled_from((1, 2)))
    return Loop(
        cell=draw(st.sampled_from(tuple(CELLS))),
        T=draw(st.integers(1, 3)),
        B=draw(st.integers(1, 6)),
        H=draw(st.integers(1, 20)),
        D=D,
        dtype=draw(st.sampled_from(tuple(DTYPES))),
        reverse=draw(st.booleans()) if D == 1 else False,
        lengths=draw(st.booleans()),
        resets=draw(st.booleans()),
        bias=draw(st.booleans()),
        forward=draw(tilings(False)),
        backward=draw(tilings(True)),
        seed=draw(st.integers(0, 2**31)),
    )
