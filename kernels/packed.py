"""PackedSequence to and from a padded batch with lengths, and the checks of its four parts."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .checks import ArgumentError, check_device, check_readable, check_strided, kind


def check_packed(packed: PackedSequence) -> None:
    """Require data that is a tensor, and batch_sizes that count its rows.

    Raises:
        TypeError or ArgumentError: naming input.data or batch_sizes, where torch.nn fails, ignores
            rows or misreads batch_sizes of a wrong shape.
    """
    data, batch_sizes = packed[:2]
    if not isinstance(data, Tensor):
        raise TypeError(f"input.data is {kind(data)}; accepted: a tensor [rows, I]")
    check_strided("input.data", data)
    if data.dim() != 2:
        raise ArgumentError(f"input.data is {kind(data)}; accepted: [rows, I]")
    accepted = "a tensor [T] of torch.int64 on the CPU"
    if not isinstance(batch_sizes, Tensor) or batch_sizes.dtype != torch.int64:
        raise TypeError(f"batch_sizes is {kind(batch_sizes)}; accepted: {accepted}")
    check_readable("batch_sizes", batch_sizes)
    if batch_sizes.dim() != 1 or not len(batch_sizes):
        raise ArgumentError(
            f"batch_sizes is {kind(batch_sizes)}; accepted: {accepted}, of at least one step"
        )
    if batch_sizes.device.type != "cpu":
        raise ArgumentError(f"batch_sizes is on {batch_sizes.device}; accepted: {accepted}")
    sizes, rows = batch_sizes.tolist(), len(data)
    if sizes[-1] < 0 or sizes != sorted(sizes, reverse=True):
        k = next(k for k, n in enumerate(sizes) if n < 0 or (k and n > sizes[k - 1]))
        most = f"at most batch_sizes[{k - 1}] = {sizes[k - 1]} and " if k else ""
        raise ArgumentError(f"batch_sizes[{k}] is {sizes[k]}; accepted: {most}at least 0")
    if sum(sizes) != rows:
        raise ArgumentError(
            f"batch_sizes is of sum {sum(sizes)}; accepted: {rows}, the rows of input.data"
        )


def check_order(name: str, order: Any, B: int, like: Tensor) -> None:
    """Require None or integers [B] in 0..B-1 on `like`'s device; on a GPU values are not read."""
    if order is None:
        return
    if not isinstance(order, Tensor) or order.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} is {kind(order)}; accepted: None or an int64 tensor [B] = {[B]}")
    check_readable(name, order)
    if order.dim() > 1:
        raise ArgumentError(f"{name} is {kind(order)}; accepted: [B] = {[B]}")
    check_device(name, order, like)
    if order.device.type == "cpu":
        wrong = [n for n in order.flatten().tolist() if not 0 <= n < B]
        if wrong:
            raise ArgumentError(f"{name} has the entry {wrong[0]}; accepted: 0..B-1 = 0..{B - 1}")


def pad(packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, B, I], padded by zeros; its lengths [B], on the CPU; and the index in x.flatten(0, 1)
    of each row of `packed.data`.
    """
    data, batch_sizes = packed[:2]
    # In torch.jit.trace both are tensors, or its graph would run with these numbers only.
    T, B = batch_sizes.shape[0], int(batch_sizes[0])
    if torch.jit.is_tracing():
        B = cast(Any, batch_sizes[0])
    # The packed rows are the running entries of [T, B], one after another.
    running = torch.arange(B, device="cpu") < batch_sizes[:, None]
    rows = running.flatten().nonzero().squeeze(1).to(data.device)
    x = data.new_zeros(T * B, data.shape[1]).index_copy(0, rows, data)
    return x.view(T, B, data.shape[1]), running.sum(0), rows
