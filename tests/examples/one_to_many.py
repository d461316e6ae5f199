"""One to many: a sequence from one start, each output the next input, one launch per step.

python -m tests.examples.one_to_many  # without a GPU with TRITON_INTERPRET=1
"""

import torch
from torch import nn

import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LETTERS = "abcdefgh "
embed = nn.Embedding(len(LETTERS), 8, device=DEVICE)
decoder = kernels.LSTM(input_size=8, hidden_size=16, device=DEVICE)
head = nn.Linear(16, len(LETTERS), device=DEVICE)


@torch.no_grad()
def generate(first: str, length: int, seed: int = 0) -> str:
    """`length` letters after `first`, drawn from the model's probabilities."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    letter = torch.tensor([[LETTERS.index(first)]], device=DEVICE)  # one step of one sequence
    state, text = None, first
    for _ in range(length):
        output, state = decoder(embed(letter), state)
        probabilities = head(output[0]).softmax(-1)
        letter = torch.multinomial(probabilities, 1, generator=generator)
        text += LETTERS[int(letter)]
    return text


if __name__ == "__main__":
    text = generate("a", 12)
    print(text)
