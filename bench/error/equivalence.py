"""Does training in bf16 end at the loss that training in fp32 ends at? Several seeds, paired.

The character model of ``bench.error.training``, with the recurrent layer in bf16 (ours and
torch.nn's) and in fp32 (torch.nn's). Of one seed all runs have the same initial weights and the
same text, so that a seed's difference of last losses is due to rounding alone; over the seeds these
differences give Student's t interval. Two runs are equivalent if its 90 % interval is within the
bound: two one-sided tests of level 5 % (Schuirmann, *A comparison of the two one-sided tests
procedure and the power approach*, 1987).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.cases.problem import torch_precision
from bench.error.training import CELLS, losses
from bench.records import environment

SEEDS = 5
LAST = 10  # training steps whose mean is the last loss
# Stated before any run of ours: 1 % of a last loss of some 2 nats, or 2 % of the perplexity, and
# less than what another seed makes (a standard deviation of 0.035 in the GRU to 0.074 in rnn_relu
# with torch.nn in fp32, seeds 100 to 104 on a CPU, which are not used here).
BOUND = 0.02
LEARNING_RATE = 0.005
# Interpreted, a training step takes 0.3 to 0.7 s of CPU time at a batch of up to 16.
SIZES = {
    "cpu": {"T": 8, "B": 16, "I": 16, "H": 32},
    "cuda": {"T": 32, "B": 32, "I": 32, "H": 64},
}
STEPS = {"cpu": 60, "cuda": 120}


def curves(
    cell: str, seed: int, device: str, steps: int, sizes: Mapping[str, int]
) -> dict[str, list[float]]:
    """The loss in each step: ``ours`` and ``torch.nn`` in bf16, and torch.nn in ``fp32``."""
    ours, theirs, options = CELLS[cell]
    runs = {
        "ours": (ours, torch.bfloat16),
        "torch.nn": (theirs, torch.bfloat16),
        "fp32": (theirs, torch.float32),
    }

    def train(kind: Any, dtype: torch.dtype) -> list[float]:
        recurrent = functools.partial(kind, **options)
        return losses(recurrent, seed, device, steps, sizes, dtype, LEARNING_RATE)

    return {name: train(*run) for name, run in runs.items()}


def measure(
    cells: Sequence[str] = tuple(CELLS),
    seeds: int = SEEDS,
    steps: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The curves of each cell, run and seed, and what is to be concluded from them how."""
    device = "cuda" if environment.probe().is_cuda else "cpu"
    steps, sizes = steps or STEPS[device], sizes or SIZES[device]
    with torch_precision("ieee"):
        found = {
            cell: [curves(cell, seed, device, steps, sizes) for seed in range(seeds)]
            for cell in cells
        }
    return {
        "curves": found,
        "sizes": dict(sizes),
        "steps": steps,
        "last": min(LAST, steps),
        "bound": BOUND,
        "learning_rate": LEARNING_RATE,
        "seeds": list(range(seeds)),
    }
