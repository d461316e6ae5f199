"""Persistent Triton kernels of recurrent layers."""

from .cells import CELLS as CELLS
from .failures import BarrierError as BarrierError
from .failures import check as check
