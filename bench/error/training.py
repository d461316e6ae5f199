"""A small training run from one seed: the losses of our modules and of torch.nn's, step by step.

A character model learns the project's licence. Both modules get the same initial weights, batches
of text and optimiser, all in float32, so that their curves differ by rounding only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import kernels
from bench.cases.problem import torch_precision
from bench.error.master_weights import MasterWeights
from bench.records import environment, provenance

# Each cell's class in kernels, in torch.nn, and its arguments.
CELLS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "rnn_tanh": (kernels.RNN, nn.RNN, {}),
    "rnn_relu": (kernels.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (kernels.LSTM, nn.LSTM, {}),
    "gru": (kernels.GRU, nn.GRU, {}),
}
LICENCE = provenance.ROOT / "LICENSE"
LETTERS = 4000  # of its terms
SIZES = {"T": 8, "B": 4, "I": 8, "H": 16}
STEPS = 50
# The gradients of the two differ by some 1e-6 of their size (float32, sums in another order).
# RMSprop divides by that size, so a step of 0.01 ends 1e-8 away. Over 50 steps of 2,000 weights
# this adds up, at random, to 1e-8 * sqrt(50 * 2000) = 3e-6 in the loss, and steps that feed the
# difference back may multiply it; the loss itself falls by 1 in the meantime.
LEARNING_RATE = 0.01
LOSS_BOUND = 1e-4


Recurrent = Callable[[int, int], nn.Module]  # a layer of I inputs and H units


class Model(nn.Module):
    """Which letter comes next: an embedding, one recurrent layer, and scores [T, B, letters].

    The recurrent layer computes in ``dtype``, all else in fp32.
    """

    def __init__(self, letters: int, recurrent: Recurrent, I: int, H: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, I)
        self.recurrent = recurrent(I, H)
        self.head = nn.Linear(H, letters)

    def forward(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        output, _ = self.recurrent(self.embed(codes).to(dtype))
        return self.head(output.float())


def losses(
    recurrent: Recurrent,
    seed: int,
    device: str,
    steps: int = STEPS,
    sizes: Mapping[str, int] = SIZES,
    dtype: torch.dtype = torch.float32,
    rate: float = LEARNING_RATE,
) -> list[float]:
    """The cross entropy, in nats a letter, in each training step of B pieces [T] of the text.

    Args:
        dtype: of the recurrent layer; its weights are kept in fp32 and rounded for each step.
        rate: RMSprop's learning rate.
    """
    T, B = sizes["T"], sizes["B"]
    words = LICENCE.read_text(encoding="utf-8").split("TERMS AND CONDITIONS")[1][:LETTERS]
    letters = sorted(set(words))
    torch.manual_seed(seed)  # before the weights, which are drawn on the CPU like the pieces
    model = Model(len(letters), recurrent, sizes["I"], sizes["H"]).to(device)
    weights = MasterWeights(model.recurrent, dtype)
    trained = [*weights.exact.values(), *model.embed.parameters(), *model.head.parameters()]
    codes = torch.tensor([letters.index(letter) for letter in words], device="cpu")
    optimiser = torch.optim.RMSprop(trained, rate)
    curve = []
    for _ in range(steps):
        starts = torch.randint(len(words) - T, (B,), device="cpu")
        pieces = codes[starts + torch.arange(T + 1, device="cpu")[:, None]].to(device)  # [T + 1, B]
        weights.round()
        scores = model(pieces[:-1], dtype)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), pieces[1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        weights.take_gradients()
        optimiser.step()
        curve.append(loss.item())
    return curve


def curves(cell: str, seed: int, device: str, steps: int = STEPS) -> dict[str, list[float]]:
    """The losses of ``torch.nn`` and of ``ours`` in each step."""
    ours, theirs, options = CELLS[cell]
    with torch_precision("ieee"):
        return {
            name: losses(lambda i, h: kind(i, h, **options), seed, device, steps)  # noqa: B023
            for name, kind in (("torch.nn", theirs), ("ours", ours))
        }


def measure(
    cells: Sequence[str] = tuple(CELLS), seed: int = 0, steps: int = STEPS
) -> dict[str, Any]:
    """Both curves of each cell, and the bound on their difference."""
    device = "cuda" if environment.probe().is_cuda else "cpu"
    return {
        "losses": {cell: curves(cell, seed, device, steps) for cell in cells},
        "bound": LOSS_BOUND,
        "sizes": SIZES,
        "seed": seed,
    }
