"""The table of cells: the step, the number of gates and the states of each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from reference.gru import gru_step
from reference.lstm import lstm_step
from reference.rnn import rnn_step
from reference.slstm import slstm_step


class Cell(NamedTuple):
    """A recurrent cell.

    step(gx [B, G*H], state, w_hh [G*H, H], b_hh [G*H] or None) returns the next state. A state is a
    tuple of tensors [B, H]; the first is the cell's output.
    """

    step: Callable[..., tuple[Tensor, ...]]
    gates: int  # G: rows of w_ih, w_hh and the biases per hidden unit
    states: tuple[str, ...]  # the names of the state's tensors


CELLS = {
    "rnn_tanh": Cell(partial(rnn_step, nonlinearity=torch.tanh), gates=1, states=("h",)),
    "rnn_relu": Cell(partial(rnn_step, nonlinearity=torch.relu), gates=1, states=("h",)),
    "lstm": Cell(lstm_step, gates=4, states=("h", "c")),
    "gru": Cell(gru_step, gates=3, states=("h",)),
    "slstm": Cell(slstm_step, gates=4, states=("h", "c", "n", "m")),
}
