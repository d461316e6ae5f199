"""What the inputs of a timed call hold: other values in every call, none of them foreseeable.

The values are made from a problem's by operations on single numbers, so that the same are made in
any provider's layout and for the float64 truth.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.cases.problem import DTYPE, Problem

SCALES = 0.9, 1.1  # little enough for the same kernels and the same kind of values
FREQUENCIES = 50.0, 500.0


@dataclass(frozen=True)
class Contents:
    """How the values of a call differ from the problem's.

    Attributes:
        frequency: of ``redrawn``, by which x (or gx) gets other values; None only scales it. By
            other values, not by a factor, since from one the projection of x would follow.
        factor: by which states, weights and biases are multiplied (and x, without a frequency).
        upstream: by which upstream gradients are.
        turn: by how many batch rows the resets move, and those whose truth is kept.
    """

    frequency: float | None
    factor: float
    upstream: float
    turn: int


def draw_contents(draw: random.Random, redraw: bool = True) -> Contents:
    """Contents that no other call has.

    Args:
        redraw: give x new values, which takes some passes over it.
    """
    return Contents(
        draw.uniform(*FREQUENCIES) if redraw else None,
        draw.uniform(*SCALES),
        draw.uniform(*SCALES) * draw.choice((-1, 1)),
        draw.randrange(1 << 30),
    )


def redrawn(values: Tensor, frequency: float, size: float) -> Tensor:
    """Numbers that look random: uniform, with the root mean square ``size``.

    They depend on ``values`` by the fraction of their product with the frequency. Each operation
    is rounded by itself, so that equal values give equal numbers in any order and place.
    """
    found = values * frequency
    found -= found.floor()
    return found.mul_(2 * math.sqrt(3) * size).sub_(math.sqrt(3) * size)


def altered(problem: Problem, contents: Contents) -> Problem:
    """The problem with these contents."""
    dtype = DTYPE[problem.case.dtype]
    inputs = {name: value * contents.factor for name, value in problem.inputs.items()}
    name = input_name(problem)
    if contents.frequency is not None:
        values = problem.inputs[name].float()
        inputs[name] = redrawn(values, contents.frequency, input_size(problem)).to(dtype)
    return replace(
        problem,
        inputs=inputs,
        upstream={name: value * contents.upstream for name, value in problem.upstream.items()},
        resets=None if problem.resets is None else problem.resets.roll(contents.turn, 1),
        shift=contents.turn,
        _truths={},
    )


def input_name(problem: Problem) -> str:
    """The name of the input of all steps."""
    return "x" if problem.case.track == "layer" else "gx"


def input_size(problem: Problem) -> float:
    """Its root mean square."""
    return problem.inputs[input_name(problem)].float().square().mean().sqrt().item()


class Leaves:
    """A provider's leaves, whose values it replaces in place by those of some contents.

    Their methods are the class's: an attribute of a provider's tensor could be code.

    Raises:
        ValueError: if none of them is x (or gx), or it has another number of elements.
    """

    def __init__(self, leaves: Mapping[str, Tensor], problem: Problem) -> None:
        self._input, self._size = input_name(problem), input_size(problem)
        self._leaves, self._dtype = dict(leaves), DTYPE[problem.case.dtype]
        mine, wanted = self._leaves.get(self._input), problem.inputs[self._input].shape
        if mine is None or math.prod(mine.shape) != wanted.numel():
            found = {name: tuple(leaf.shape) for name, leaf in self._leaves.items()}
            raise ValueError(
                f"leaves are {found}; accepted: leaves with {self._input}, of the size of "
                f"{tuple(wanted)} in any order, since its values change between timed calls"
            )
        self._own = {n: torch.clone(torch.detach(leaf)) for n, leaf in self._leaves.items()}
        self._values = self._own[self._input].float()

    @torch.no_grad()
    def write(self, contents: Contents) -> None:
        """Give the leaves these contents; x at last, so that nothing can be computed before.

        The values are rounded to the case's dtype, also in a wider leaf.
        """
        for name in [*(name for name in self._own if name != self._input), self._input]:
            leaf, value = self._leaves[name], self._own[name]
            if name == self._input and contents.frequency is not None:
                values = redrawn(self._values, contents.frequency, self._size)
                Tensor.copy_(leaf, values.to(self._dtype))
            elif leaf.dtype == self._dtype:
                torch.mul(value, contents.factor, out=leaf)
            else:
                Tensor.copy_(leaf, value.to(self._dtype) * contents.factor)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the leaves the contents that they had first."""
        for name, value in self._own.items():
            Tensor.copy_(self._leaves[name], value)
