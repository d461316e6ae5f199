"""Training from the same seed: our modules and torch.nn's give the same curve of the loss."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.twins import (
    KINDS,
    where_the_kernels_run,  # noqa: F401 - a fixture of every test here
)

TEXT = (Path(__file__).parents[1] / "LICENSE").read_text().split("TERMS AND CONDITIONS")[1][:4000]
LETTERS = sorted(set(TEXT))
T, B, H, STEPS = 8, 4, 16, 50
# The gradients of both sides differ by some 1e-6 of their size (float32, sums in another order).
# RMSprop divides by that size, so a step of 0.01 ends 1e-8 away. Over 50 steps of 2,000 weights
# this adds up, at random, to 1e-8 * sqrt(50 * 2000) = 3e-6 in the loss, and steps that feed the
# difference back may multiply it; the loss itself falls by 1 in the meantime.
BOUND = 1e-4


class Letters(nn.Module):
    """A character model: which letter comes next."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(LETTERS), 8)
        self.recurrent = recurrent
        self.head = nn.Linear(H, len(LETTERS))

    def forward(self, letters: Tensor) -> Tensor:
        output, _ = self.recurrent(self.embed(letters))
        return self.head(output)


def losses(kind: type[nn.Module], seed: int, **options: str) -> list[float]:
    """The loss in each of STEPS training steps, each with B pieces [T] of the text."""
    torch.manual_seed(seed)
    model = Letters(kind(8, H, **options))
    codes = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    optimiser = torch.optim.RMSprop(model.parameters(), lr=0.01)
    curve = []
    for _ in range(STEPS):
        starts = torch.randint(len(TEXT) - T, (B,))
        pieces = codes[starts + torch.arange(T + 1)[:, None]]  # [T + 1, B]
        scores = model(pieces[:-1])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), pieces[1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(loss.item())
    return curve


@pytest.mark.slow
@pytest.mark.parametrize("cell", KINDS)
def test_the_loss_curve_is_torchs(cell, seed):
    ours, theirs, options = KINDS[cell]
    curve, expected = losses(ours, seed, **options), losses(theirs, seed, **options)
    assert expected[-1] < expected[0] - 0.5, "nothing was learned"
    worst = max(abs(a - b) for a, b in zip(curve, expected, strict=True))
    assert worst <= BOUND, f"the losses differ by up to {worst:.1e}"
