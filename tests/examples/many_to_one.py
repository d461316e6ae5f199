"""Many to one: classify whole sequences of different lengths by their last states.

python -m tests.examples.many_to_one  # without a GPU with TRITON_INTERPRET=1
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
encoder = kernels.LSTM(input_size=3, hidden_size=8, bidirectional=True, device=DEVICE)
head = nn.Linear(2 * 8, 2, device=DEVICE)


def classify(sequences: list[torch.Tensor]) -> torch.Tensor:
    """Sequences [T_b, 3], of any lengths and in any order, to scores [B, 2]."""
    _, (h_n, _) = encoder(pack_sequence(sequences, enforce_sorted=False))
    return head(torch.cat([h_n[0], h_n[1]], dim=-1))  # the end of either direction


if __name__ == "__main__":
    sequences = [torch.randn(length, 3, device=DEVICE) for length in (2, 5, 3)]
    loss = nn.functional.cross_entropy(classify(sequences), torch.tensor([0, 1, 0], device=DEVICE))
    loss.backward()
    print(f"loss {loss.item():.3f}")
