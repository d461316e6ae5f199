"""Many to many: a label for every element, in a padded batch, seen from both sides.

python -m tests.examples.many_to_many  # without a GPU with TRITON_INTERPRET=1
"""

import torch
from torch import nn

import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
tagger = kernels.GRU(
    input_size=3, hidden_size=8, num_layers=2, dropout=0.1, bidirectional=True, device=DEVICE
)
head = nn.Linear(2 * 8, 4, device=DEVICE)


def tag(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """A padded batch [T, B, 3] to scores [T, B, 4]; after a sequence's end they mean nothing."""
    output, _ = kernels.gru(
        x,
        tagger.all_weights,
        direction="both",
        lengths=lengths,
        dropout=tagger.dropout,
        training=tagger.training,
    )
    return head(output)


if __name__ == "__main__":
    x = torch.randn(4, 2, 3, device=DEVICE)
    lengths = torch.tensor([4, 2], device=DEVICE)
    labels = torch.randint(4, (4, 2), device=DEVICE)
    labels[torch.arange(4, device=DEVICE)[:, None] >= lengths] = -100  # cross_entropy ignores these
    loss = nn.functional.cross_entropy(tag(x, lengths).flatten(0, 1), labels.flatten())
    loss.backward()
    print(f"loss {loss.item():.3f}")
