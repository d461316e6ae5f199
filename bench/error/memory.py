"""Training in bf16 on a task that needs memory: a GRU, initialised to remember, learns to add.

The adding problem (Hochreiter and Schmidhuber, *Long short-term memory*, 1997): of T numbers,
uniform in [0, 1], one in each half is marked, and after the last step the layer states the sum of
the two. Who always answers 1 has a mean square error of 2/12 = 0.167.

A gate of bias b keeps a state for e^b steps, so b is to be the logarithm of the longest memory
needed (Tallec and Ollivier, *Can recurrent neural networks warp time?*, 2018): 7 for a thousand
steps. Such a GRU writes nothing at first. It learns to open the update gate z where a number is
marked, by a gradient that has the factor z (1 - z): 0 if z is a bf16 number, which rounds to 1.

Weights and head are in fp32 and rounded for each step, so that what differs between the runs is
the layer's own arithmetic, forward and backward.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases.cases import KEEPING_GATE
from bench.cases.problem import torch_precision
from bench.error.master_weights import MasterWeights
from bench.error.training import CELLS
from bench.records import environment

CELL = "gru"
BIAS = 7.0
LEARNING_RATE = 0.03  # Adam's
BASELINE = 2 / 12
EVERY = 10  # training steps of which the mean loss is recorded
# Interpreted, a time step of up to 8 sequences takes some 0.1 s of CPU time, both passes.
SIZES = {"cpu": {"T": 12, "B": 8, "H": 16}, "cuda": {"T": 128, "B": 32, "H": 32}}
STEPS = {"cpu": 240, "cuda": 1000}


def adding(T: int, B: int) -> tuple[Tensor, Tensor]:
    """A batch on the CPU: the numbers and their marks [T, B, 2], and the sums [B]."""
    numbers, marks = torch.rand(T, B), torch.zeros(T, B)
    for first, last in ((0, T // 2), (T // 2, T)):
        marks[torch.randint(first, last, (B,)), torch.arange(B)] = 1.0
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(0)


def train(
    recurrent: Callable[[int, int], nn.Module],
    dtype: torch.dtype,
    seed: int,
    device: str,
    sizes: dict[str, int],
    steps: int,
) -> dict[str, list[float]]:
    """The loss and the mean distance that the update gate's biases have moved, every few steps."""
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer, head = recurrent(2, H), nn.Linear(H, 1).to(device)
        batches = [adding(T, B) for _ in range(steps)]
    gate = slice(KEEPING_GATE[CELL] * H, (KEEPING_GATE[CELL] + 1) * H)
    with torch.no_grad():
        layer.get_parameter("bias_ih_l0")[gate] = BIAS
        layer.get_parameter("bias_hh_l0")[gate] = 0.0
    layer.to(device)
    weights = MasterWeights(layer, dtype)
    trained = [*weights.exact.values(), *head.parameters()]
    optimiser = torch.optim.Adam(trained, LEARNING_RATE)
    found: dict[str, list[float]] = {"loss": [], "moved": []}
    losses = []
    for x, sums in batches:
        weights.round()
        y, _ = layer(x.to(device, dtype))
        loss = nn.functional.mse_loss(head(y[-1].float())[:, 0], sums.to(device))
        optimiser.zero_grad()
        loss.backward()
        weights.take_gradients()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        losses.append(loss.item())
        if len(losses) == EVERY:
            moved = weights.exact["bias_ih_l0"][gate] - BIAS
            found["loss"].append(sum(losses) / EVERY)
            found["moved"].append(moved.abs().mean().item())
            losses = []
    return found


def measure(
    seeds: Sequence[int] = range(5), steps: int | None = None, sizes: dict[str, int] | None = None
) -> dict[str, Any]:
    """The curves of each run and seed: ours and torch.nn's in bf16, and torch.nn's in fp32."""
    device = "cuda" if environment.probe().is_cuda else "cpu"
    sizes, steps = sizes or SIZES[device], steps or STEPS[device]
    ours, theirs, _ = CELLS[CELL]
    runs = {
        "torch.nn": (theirs, torch.bfloat16),
        "ours": (ours, torch.bfloat16),
        "fp32": (theirs, torch.float32),
    }
    with torch_precision("ieee"):
        curves = {
            name: [train(*run, seed, device, sizes, steps) for seed in seeds]
            for name, run in runs.items()
        }
    return {
        "curves": curves,
        "task": "adding problem",
        "cell": CELL,
        "bias": BIAS,
        "sizes": sizes,
        "steps": steps,
        "every": EVERY,
        "learning_rate": LEARNING_RATE,
        "baseline": BASELINE,
        "seeds": list(seeds),
    }
