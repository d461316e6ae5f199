"""What differs between cells: the pointwise time step and its gradient, as device functions.

Import `CELLS`, the cells by name. A new cell is one file in this folder and its name below.
"""

from .cell import Cell
from .gru import GRU
from .lstm import LSTM
from .rnn import RNN_RELU, RNN_TANH
from .slstm import SLSTM

CELLS: dict[str, Cell] = {cell.name: cell for cell in (RNN_TANH, RNN_RELU, LSTM, GRU, SLSTM)}
