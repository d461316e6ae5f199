"""One to one: a single step, as for a recurrent policy that sees one observation at a time.

python -m tests.examples.one_to_one  # without a GPU with TRITON_INTERPRET=1
"""

import torch
from torch import nn

import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
policy = kernels.GRU(input_size=4, hidden_size=8, device=DEVICE)
head = nn.Linear(8, 2, device=DEVICE)


def act(observation: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations [B, 4] and the state so far to the next actions [B] and state [1, B, 8]."""
    output, state = policy(observation.unsqueeze(0), state)  # a sequence of one step
    return head(output[0]).argmax(-1), state


if __name__ == "__main__":
    state = None
    with torch.no_grad():
        for step in range(3):
            action, state = act(torch.randn(5, 4, device=DEVICE), state)
            print(f"step {step}: actions {action.tolist()}")
