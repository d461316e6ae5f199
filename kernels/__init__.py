"""Persistent Triton kernels of recurrent layers.

`rnn`, `lstm` and `gru` are whole networks and `recurrence` is the loop over time alone, as in
`reference`.
"""

from .cells import CELLS
from .failures import BarrierError, check
from .functional import gru, layers, lstm, recurrence, rnn

__all__ = ["CELLS", "BarrierError", "check", "gru", "layers", "lstm", "recurrence", "rnn"]
