"""Persistent Triton kernels of recurrent layers.

`rnn`, `lstm`, `gru` and `slstm` are whole networks and `recurrence` is the loop over time alone, as
in `reference`; `RNN`, `LSTM` and `GRU` are torch.nn's modules computed by the kernels.
"""

from .cells import CELLS
from .failures import BarrierError, check
from .functional import gru, layers, lstm, recurrence, rnn, slstm
from .modules import GRU, LSTM, RNN

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "RNN",
    "BarrierError",
    "check",
    "gru",
    "layers",
    "lstm",
    "recurrence",
    "rnn",
    "slstm",
]
