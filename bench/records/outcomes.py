"""How a check of the kernels can end, as a device's file of checks has it."""

from __future__ import annotations

PASS, FAIL, LEFT_OUT, NOT_DONE = "pass", "FAIL", "left out", "not done"
