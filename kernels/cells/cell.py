"""The interface between a cell and the loop over time."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell: two device functions and the sizes that the loop allocates for them.

    All device values are float32 blocks `[units, batch]`; `state[0]` is the hidden state h.

    - `step(x, r, state) -> (new_state, saved)`: `x` holds the input gates and `r` the recurrent
      ones (`R h` and the recurrent bias), each a tuple in torch's gate order. `saved` is rounded to
      the type of x; `math.sigmoid_and_packed` and `tanh_and_packed` give numbers that keep the
      derivative of a saturated gate.
    - `step_gradient(dstate, state, previous, saved) -> (dx, dr, dprevious)`: the gradients of the
      input gates, of the recurrent gates, and of the previous state except through `R`.
    """

    name: str
    gates: int  # 1 to 4
    states: int  # tensors in the state: h, and for LSTM also c
    saved: int  # activations kept for the backward pass per unit and step
    step: Callable
    step_gradient: Callable
    # Whether a recurrent gate's gradient differs from its input gate's, as in the GRU.
    separate: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.gates <= 4:
            raise ValueError(f"gates must be 1 to 4, got {self.gates} for cell {self.name!r}")
