"""The definition of what is computed: recurrent networks in plain PyTorch that read like equations.

Import `rnn`, `lstm`, `gru` and `slstm` for whole networks, `recurrence` for the loop over time of
one layer, and `rnn_step`, `lstm_step`, `gru_step` and `slstm_step` for the equations. To add a
cell, write its step in a new file and add a line to `cells`; `layers` and `recurrence` then take
it by name.
"""

from reference.cells import CELLS, Cell
from reference.gru import gru_step
from reference.lstm import lstm_step
from reference.networks import gru, layers, lstm, rnn, slstm
from reference.rnn import rnn_step
from reference.slstm import slstm_step
from reference.unroll import recurrence

__all__ = [
    "CELLS",
    "Cell",
    "gru",
    "gru_step",
    "layers",
    "lstm",
    "lstm_step",
    "recurrence",
    "rnn",
    "rnn_step",
    "slstm",
    "slstm_step",
]
