"""Settings of torch and of the process that change what others compute, or how fast."""

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch.utils import _python_dispatch

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]  # how it is read and set


def _attribute(name: str) -> Setting:
    owner, attribute = name.rsplit(".", 1)

    def read() -> Any:
        try:
            return attrgetter(name)(torch)
        except RuntimeError as fault:  # torch's older settings of precision contradict its newer
            return str(fault)

    return read, lambda value: setattr(attrgetter(owner)(torch), attribute, value)


def _popper(length: Callable[[], int], pop: Callable[[], Any]) -> Callable[[int], None]:
    def restore(wanted: int) -> None:
        while length() > wanted:
            pop()

    return restore


ATTRIBUTES = (
    "backends.fp32_precision",  # first: the others follow it
    "backends.cuda.matmul.allow_tf32",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_fp16_accumulation",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cudnn.allow_tf32",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.cudnn.enabled",
    "backends.mkldnn.deterministic",
    "backends.mkldnn.enabled",
    "backends.mkldnn.matmul.fp32_precision",
    "backends.mkldnn.rnn.fp32_precision",
    "utils.deterministic.fill_uninitialized_memory",
)
SETTINGS: dict[str, Setting] = {f"torch.{name}": _attribute(name) for name in ATTRIBUTES} | {
    "torch.get_num_threads()": (torch.get_num_threads, torch.set_num_threads),
    "torch.get_default_dtype()": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_default_device()": (
        torch.get_default_device,
        # Without one torch reports the CPU, and takes less time per call than with it set.
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    "torch.is_grad_enabled()": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.is_anomaly_enabled()": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch.are_deterministic_algorithms_enabled()": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "sys.getprofile()": (sys.getprofile, sys.setprofile),
    "sys.gettrace()": (sys.gettrace, sys.settrace),
    "sys.getswitchinterval()": (sys.getswitchinterval, sys.setswitchinterval),
    "gc.get_threshold()": (gc.get_threshold, lambda values: gc.set_threshold(*values)),
    "gc.isenabled()": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
}
for _device in ("cpu", "cuda"):
    SETTINGS[f"torch.is_autocast_enabled({_device!r})"] = (
        functools.partial(torch.is_autocast_enabled, _device),
        functools.partial(torch.set_autocast_enabled, _device),
    )
for _kind, _length, _pop in (
    ("function", torch._C._len_torch_function_stack, torch._C._pop_torch_function_stack),
    ("dispatch", torch._C._len_torch_dispatch_stack, _python_dispatch._pop_mode),
):
    SETTINGS[f"the number of torch's {_kind} modes"] = _length, _popper(_length, _pop)
if hasattr(os, "sched_getaffinity"):
    SETTINGS["os.sched_getaffinity(0)"] = (
        lambda: os.sched_getaffinity(0),
        lambda cores: os.sched_setaffinity(0, cores),
    )


@contextlib.contextmanager
def unchanged_settings(what: str = "a provider") -> Iterator[None]:
    """Give all settings their values again at the end.

    Args:
        what: runs meanwhile, for the message.

    Raises:
        RuntimeError: at the end, naming the first setting that was changed.
    """
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    try:
        yield
    finally:
        changed = {}
        for name, (read, write) in SETTINGS.items():
            found = read()
            if found != before[name]:
                changed[name] = found
                write(before[name])
    for name, found in changed.items():
        raise RuntimeError(
            f"{name} is {found} after {what} ran and was {before[name]} before; accepted: code "
            "that leaves the settings with which other providers run"
        )
