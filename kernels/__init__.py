"""Persistent Triton kernels of recurrent layers: as functions (`rnn`, `lstm`, `gru`, `slstm`,
`layers`, and `recurrence`, the loop over time) and as torch.nn's modules (`RNN`, `LSTM`, `GRU`).

Read in this order: cells, math, blocks, barrier, recurrence, launch, planning, operators, autograd,
ensembles, tangents, autocast, functional, packed, modules. Import the names below from here, and
plans from `plan`; the rest is internal, open to `bench` and `tests`.
"""

from . import autograd, ensembles, flops  # noqa: F401 - imported for what they register
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
