"""The tensors of one case: inputs, upstream gradients, and the float64 truth."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.cases.cases import Case
from bench.cases.numbers import TORCH_NAMES

DTYPE: dict[str, torch.dtype] = {dtype: getattr(torch, name) for dtype, name in TORCH_NAMES.items()}
# Tensors up to this size are drawn on the CPU and are the same on every machine; larger ones are
# drawn on the device, because copying them would take longer than measuring.
SAME_EVERYWHERE = 1 << 22
# Memory, roughly, that the float64 truth may keep for its backward pass; at least, or as a share of
# the card's.
TRUTH_BYTES, TRUTH_SHARE = 4 << 30, 1 / 8
INITIAL = re.compile("[a-z]0")  # h0, c0, ...
# Last states whose upstream gradient is zero. The sLSTM scales its states by exp(-m), m a maximum:
# their derivatives jump where its two terms tie, and rounding then changes a gradient by as much as
# the gradient is large. All other outputs do not depend on m.
SLSTM_SCALED = ("c_n", "n_n", "m_n")


@dataclass
class Problem:
    """Inputs of one case, named as torch names them.

    ``inputs`` of the layer track: x [T,B,I], the states h0 [L*D,B,H], c0 and so on, and, per
    layer and direction, w_ih_l0 [G*H,I], w_hh_l0 [G*H,H], b_ih_l0, b_hh_l0 [G*H] (``_reverse``
    appended for the reverse direction). Of the recurrence track: gx [T,B,D,G*H], w_hh [D,G*H,H],
    b_hh [D,G*H], h0 [D,B,H], c0 and so on. ``parts`` are parts of gradients whose error is
    measured too: by their names, the gradient's name and the entries of its last dimension.
    """

    case: Case
    device: torch.device
    inputs: dict[str, Tensor]
    upstream: dict[str, Tensor]
    resets: Tensor | None = None
    lengths: Tensor | None = None
    regime: str = "default"
    seed: int = 0
    shift: int = 0  # of the rows whose truth is kept, where not all are
    parts: dict[str, tuple[str, slice]] = field(default_factory=dict)
    _truths: dict[object, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def forget_truth(self) -> None:
        """Free the truth's memory."""
        self._truths.clear()

    def copy(self) -> Problem:
        """The same problem in memory of its own."""
        inputs = {name: value.clone() for name, value in self.inputs.items()}
        upstream = {name: value.clone() for name, value in self.upstream.items()}
        resets, lengths = (
            None if value is None else value.clone() for value in (self.resets, self.lengths)
        )
        return replace(
            self, inputs=inputs, upstream=upstream, resets=resets, lengths=lengths,
            parts=dict(self.parts), _truths={},
        )  # fmt: skip


def weight_names(case: Case) -> list[tuple[str, str, str, str]]:
    """torch's weight names, one tuple per layer and direction, in torch's order."""
    ends = ("", "_reverse")[: case.directions]
    tails = [f"l{layer}{end}" for layer in range(case.layers) for end in ends]
    return [(f"w_ih_{tail}", f"w_hh_{tail}", f"b_ih_{tail}", f"b_hh_{tail}") for tail in tails]


def layer_weights(case: Case, inputs: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
    return [tuple(inputs[name] for name in names) for names in weight_names(case)]


def initial_state(inputs: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
    """The initial state as a layer takes it: one tensor, or a tuple of all."""
    states = tuple(value for name, value in inputs.items() if INITIAL.fullmatch(name))
    return states if len(states) > 1 else states[0]


def loop_state(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | tuple[Tensor, ...] | None]:
    """The initial state as ``recurrence`` takes it: h0, and c0 or a tuple of all that follow."""
    states = initial_state(inputs)
    if isinstance(states, Tensor):
        return states, None
    h0, *rest = states
    return h0, rest[0] if len(rest) == 1 else tuple(rest)


def output_names(case: Case) -> tuple[str, ...]:
    return ("y", *(f"{name}_n" for name in case.cell_info.states))


class Source:
    """Random float32 tensors, each from a generator seeded by the seed and the tensor's name."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device

    def _draw(self, draw: Any, name: str, shape: tuple[int, ...]) -> Tensor:
        local = math.prod(shape) > SAME_EVERYWHERE
        generator = torch.Generator(self.device if local else "cpu")
        # The CPU's generator uses 32 bits of a seed, so seed and name are hashed to 32 bits.
        generator.manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return draw(shape, generator=generator, device=generator.device).to(self.device)

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._draw(torch.randn, name, shape)

    def uniform(self, name: str, bound: float, *shape: int) -> Tensor:
        return self._draw(torch.rand, name, shape).mul_(2 * bound).sub_(bound)

    def mask(self, name: str, share: float, *shape: int) -> Tensor:
        return self._draw(torch.rand, name, shape) < share


def make_problem(case: Case, seed: int = 0, device: torch.device | str = "cpu") -> Problem:
    """Draw a case's tensors: x, states and gradients normal, weights uniform as torch's default.

    All are drawn in fp32 and rounded to the case's dtype. The truth is computed from the rounded
    tensors, so that this rounding counts as no provider's error.
    """
    device = torch.device(device)
    source = Source(seed, device)
    dtype = DTYPE[case.dtype]
    T, B, H, D = case.T, case.B, case.H, case.directions
    rows = case.cell_info.gates * H
    bound = 1 / math.sqrt(H)
    drawn: dict[str, Tensor] = {}
    if case.track == "layer":
        drawn["x"] = source.normal("x", T, B, case.I)
        for index, (w_ih, w_hh, b_ih, b_hh) in enumerate(weight_names(case)):
            features = case.I if index < D else D * H
            drawn[w_ih] = source.uniform(w_ih, bound, rows, features)
            drawn[w_hh] = source.uniform(w_hh, bound, rows, H)
            drawn[b_ih] = source.uniform(b_ih, bound, rows)
            drawn[b_hh] = source.uniform(b_hh, bound, rows)
    else:
        # The standard deviation of a projection of normal inputs by torch's initial weights.
        drawn["gx"] = source.normal("gx", T, B, D, rows).mul_(math.sqrt(1 / 3))
        drawn["w_hh"] = source.uniform("w_hh", bound, D, rows, H)
        drawn["b_hh"] = source.uniform("b_hh", bound, D, rows)
    for name in case.cell_info.states:
        state = source.normal(f"{name}0", case.layers * D, B, H).mul_(0.5)
        drawn[f"{name}0"] = 1 + state.abs() if name == "n" else state
    upstream = {"y": source.normal("dy", T, B, D * H)}
    for name in output_names(case)[1:]:
        upstream[name] = source.normal(f"d{name}", case.layers * D, B, H)
        if case.cell == "slstm" and name in SLSTM_SCALED:
            upstream[name].zero_()
    return Problem(
        case=case,
        device=device,
        inputs={name: value.to(dtype) for name, value in drawn.items()},
        upstream={name: value.to(dtype) for name, value in upstream.items()},
        resets=source.mask("resets", case.resets, T, B) if case.resets else None,
        seed=seed,
    )


def bind(
    library: Any, case: Case, inputs: dict[str, Tensor], **options: Any
) -> Callable[[], dict[str, Tensor]]:
    """A call of the reference or the kernels on given tensors, in the tensors' dtype.

    Args:
        library: the package ``reference`` or ``kernels``.
        options: of its functions.
    """
    if case.track == "recurrence":
        call = functools.partial(
            library.recurrence, case.cell, inputs["gx"], inputs["w_hh"], inputs["b_hh"],
            *loop_state(inputs), **options,
        )  # fmt: skip
    else:
        direction = "both" if case.directions == 2 else "forward"
        call = functools.partial(
            library.layers, case.cell, inputs["x"], layer_weights(case, inputs),
            initial_state(inputs), direction=direction, **options,
        )  # fmt: skip

    def forward() -> dict[str, Tensor]:
        y, *last = call()
        return named_outputs(case, y, last)

    return forward


def run_reference(
    case: Case,
    inputs: dict[str, Tensor],
    resets: Tensor | None = None,
    lengths: Tensor | None = None,
) -> dict[str, Tensor]:
    """The reference's outputs for given tensors."""
    import reference

    return bind(reference, case, inputs, lengths=lengths, resets=resets)()


def named_outputs(case: Case, y: Tensor, last: Any) -> dict[str, Tensor]:
    """The output y and the last state (a tensor, nested tuples or None), by ``output_names``."""
    return dict(zip(output_names(case), (y, *_tensors(last)), strict=True))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [tensor for one in value for tensor in _tensors(one)]


def rows_at_once(problem: Problem) -> int:
    """The batch rows whose float64 results fit into memory together."""
    case, memory = problem.case, float(TRUTH_BYTES)
    if problem.device.type == "cuda":
        total = torch.cuda.get_device_properties(problem.device).total_memory
        memory = max(memory, TRUTH_SHARE * total)
    kept = 8 * (2 * case.cell_info.gates + 4) * case.H * case.directions * case.T * case.layers
    return max(1, min(case.B, int(memory // kept)))


def checked_rows(problem: Problem) -> Tensor:
    """The batch rows whose truth is kept: all, or as many evenly spaced ones as memory allows."""
    B, rows = problem.case.B, rows_at_once(problem)
    spaced = torch.linspace(0, B - 1, rows, device=problem.device).round().long()
    return torch.unique((spaced + problem.shift) % B)


def with_truth(problem: Problem, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as far as `truth` has them: of those with a batch, only the checked rows."""
    rows = checked_rows(problem)
    return tensors if len(rows) == problem.case.B else take_rows(tensors, rows)


# The tensors, and gradients ("d" before the name), whose second dimension is the batch.
BATCHED = re.compile(r"d?(x|gx|y|[a-z]0|[a-z]_n)")


def take_rows(tensors: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The tensors; of those with a batch dimension only these rows."""
    return {
        name: value.index_select(1, rows) if BATCHED.fullmatch(name) else value
        for name, value in tensors.items()
    }


def select_rows(problem: Problem, rows: Tensor) -> Problem:
    """The same problem for some of its batch rows, in that order."""
    return Problem(
        replace(problem.case, B=len(rows)),
        problem.device,
        take_rows(problem.inputs, rows),
        take_rows(problem.upstream, rows),
        None if problem.resets is None else problem.resets[:, rows],
        None if problem.lengths is None else problem.lengths[rows.to(problem.lengths.device)],
        seed=problem.seed,
    )


def truth(problem: Problem, backward: bool) -> dict[str, Tensor]:
    """Outputs and, with ``backward``, gradients ("d" + input name) in float64, as `with_truth`.

    Those of weights are sums over all batch rows. Stored with the problem, because all providers of
    a case are compared with the same truth.
    """
    if backward not in problem._truths:
        problem._truths[backward] = _float64(problem, backward)
    return problem._truths[backward]


def _float64(
    problem: Problem, backward: bool, signs: Callable[[Tensor], Any] = contextlib.nullcontext
) -> dict[str, Tensor]:
    """The truth, computed for some batch rows after others.

    Args:
        signs: a context for the computation of these rows.
    """
    wanted = checked_rows(problem)
    pieces: list[dict[str, Tensor]] = []
    every = torch.arange(problem.case.B, device=problem.device)
    for rows in every.split(rows_at_once(problem)):
        with signs(rows):
            found = _float64_of_rows(problem, rows, backward)
        kept = torch.isin(rows, wanted).nonzero()[:, 0]
        pieces.append(take_rows(found, kept) if len(kept) < len(rows) else found)
    if len(pieces) == 1:
        return pieces[0]
    return {
        name: torch.cat([piece[name] for piece in pieces], 1)
        if BATCHED.fullmatch(name)
        else sum((piece[name] for piece in pieces[1:]), pieces[0][name])
        for name in pieces[0]
    }


def _float64_of_rows(problem: Problem, rows: Tensor, backward: bool) -> dict[str, Tensor]:
    some = select_rows(problem, rows)
    inputs = {name: value.double() for name, value in some.inputs.items()}
    with torch.set_grad_enabled(backward):
        for value in inputs.values():
            value.requires_grad_(backward)
        outputs = run_reference(problem.case, inputs, some.resets, some.lengths)
        found = {name: value.detach() for name, value in outputs.items()}
        if backward:
            gradients = torch.autograd.grad(
                list(outputs.values()),
                list(inputs.values()),
                [some.upstream[name].double() for name in outputs],
            )
            found |= {f"d{name}": g for name, g in zip(inputs, gradients, strict=True)}
    return found


def has_signs(case: Case) -> bool:
    """Whether the outputs of a case show which of its rectifiers are open."""
    return case.cell_info.nonlinearity == "relu" and case.layers == 1


class GivenSigns(TorchFunctionMode):
    """In its context the reference's rectifiers are open where an output is positive.

    Args:
        y: of one layer, [T,B,D*H].
        reverse: whether the first direction runs in reverse.
    """

    def __init__(self, y: Tensor, directions: int, reverse: bool = False) -> None:
        super().__init__()
        each = (y > 0).chunk(directions, dim=-1)
        orders = [part.flip(0) if reverse or d else part for d, part in enumerate(each)]
        self.open = iter(torch.cat(orders))  # [B,H], in the order of the reference's steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.relu:
            return torch.where(next(self.open), args[0], 0)
        return func(*args, **(kwargs or {}))


def truth_at_signs(problem: Problem, y: Tensor) -> dict[str, Tensor]:
    """`truth` with ``backward``, but with the rectifiers open where ``y`` [T,B,D*H] is positive.

    Only of a case for which `has_signs` holds. Not stored.
    """
    return _float64(
        problem,
        backward=True,
        signs=lambda rows: GivenSigns(y.index_select(1, rows), problem.case.directions),
    )


@contextlib.contextmanager
def torch_precision(precision: str) -> Iterator[None]:
    """Set the precision of fp32 products in torch, cuBLAS and cuDNN, and restore it.

    Only our kernels have "tf32x3"; for it torch's own products are ieee.
    """
    tf32 = precision == "tf32"
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
