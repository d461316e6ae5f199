"""``python -m bench.gpu.floor FOLDER``: what bounds a recurrent loop on this card.

Each bound by a kernel that does nothing else (``bench.gpu.microbenchmarks``). Every kernel's answer
is checked before it is timed; without a GPU it is only checked, in Triton's interpreter.

All samples go to ``floor.json`` after each microbenchmark, and the bounds to ``limits.json``, which
the models read, once the floor of a time can be made of them. They are measured in a process of
their own: a microbenchmark that ends it, or leaves its GPU unusable, costs no other. What failed or
was left out for time is in ``floor.json`` with its reason; the next call of the same code measures
that, and nothing twice.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import interpreter
from bench.records import environment, files, limits, provenance, schema, store
from bench.sweep import process

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

BEGAN = time.monotonic()
MAX_SECONDS = 60.0
END_SECONDS = 15.0  # after its time, for the kernel under way and to let go of the GPU
# What the kernels and their timing are made of: whose change makes a floor.json stale.
SOURCES = ("microbenchmark_kernels", "microbenchmark_launches", "microbenchmarks")


def identity(card: dict[str, Any]) -> str:
    """A hash of what is measured, on which card and with which software."""
    software = provenance.software_facts()
    words = [json.dumps(card, sort_keys=True), provenance.code_hash()]
    words += [str(software[name]) for name in ("torch", "triton")]
    words += [(provenance.ROOT / f"bench/gpu/{name}.py").read_text("utf-8") for name in SOURCES]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def card_facts(device: torch.device) -> dict[str, Any]:
    """What ``limits.Measured`` says of a card that is not measured."""
    from kernels.autograd import device_limits

    here = device_limits(device)
    names = ("architecture", "multiprocessors", "shared_bytes", "shared_total")
    return {"name": environment.machine().name} | {name: getattr(here, name) for name in names}


def read(folder: Path) -> dict[str, Any]:
    """What a folder's ``floor.json`` holds; empty without one, or where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / files.FLOOR).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def write(folder: Path, found: dict[str, Any]) -> None:
    """Put all that was measured, and the bounds once they are all there."""
    measured = limits.of_floor(schema.to_json(found))
    store.write_state(folder / files.FLOOR, found)
    if limits.limits_of(measured) is not None and not limits.faults(measured):
        store.write_state(folder / files.LIMITS, dataclasses.asdict(measured))


def measure(folder: Path, device: torch.device, deadline: float, skip: Collection[str]) -> bool:
    """Measure what ``folder`` lacks, as far as the time goes; whether the GPU is usable after it.

    Args:
        deadline: of ``time.monotonic``.
        skip: microbenchmarks that failed in this call.
    """
    from bench.gpu.microbenchmarks import MICROBENCHMARKS

    card = card_facts(device)
    made = identity(card)
    found = read(folder)
    if found.get("identity") != made:
        found = {"identity": made, "card": card, "problems": {}}
    before = environment.sensors()

    def save(running: str | None) -> None:
        facts = environment.device_facts()
        device = environment.with_sensors(facts, before, environment.sensors())
        found.update(running=running, **provenance.provenance(device))
        write(folder, found)

    problems = found["problems"]
    for each in MICROBENCHMARKS:
        if each.name in skip or (found.get(each.name) and each.name not in problems):
            continue
        problems.pop(each.name, None)
        left = deadline - time.monotonic()
        if left < each.seconds:
            problems[each.name] = (
                f"left out: it may take {each.seconds:g} s, and {max(0.0, left):.0f} s were left"
            )
            continue
        save(each.name)
        entries = found[each.name] = []
        try:
            each.check(device)
            for entry in each.measure(device, card["multiprocessors"]):
                entries.append(entry)
                if time.monotonic() > deadline:
                    problems[each.name] = f"ended after {len(entries)} variants: the time was up"
                    break
        except Exception as fault:  # whatever it is, the others are measured
            problems[each.name] = f"failed: {type(fault).__name__}: {fault}"
            if not usable(device):
                save(each.name)
                return False
    save(None)
    return True


def usable(device: torch.device) -> bool:
    """Whether the GPU still works for this process, which an illegal access ends."""
    import torch

    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return False
    return True


def check_all(device: torch.device) -> None:
    """Check what every kernel computes; raises RuntimeError naming the one that is wrong."""
    from bench.gpu.microbenchmarks import MICROBENCHMARKS

    for each in MICROBENCHMARKS:
        each.check(device)


def measure_here(folder: Path, seconds: float, skip: Collection[str]) -> bool | None:
    """:func:`measure` on this process's GPU; None without one, where kernels are only checked."""
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
        check_all(torch.device("cpu"))
        print("every kernel of the floor computes what it should; without a GPU nothing is timed")
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    return measure(folder, device, BEGAN + seconds, skip)


def run(folder: Path, seconds: float) -> dict[str, str] | None:
    """Measure in processes of their own, a new one whenever one dies.

    Returns:
        Why something is missing, by microbenchmark; None without a GPU, where nothing is timed.

    Raises:
        RuntimeError: if the process dies before it measures anything.
    """
    deadline = time.monotonic() + seconds
    forget_running(folder)
    failed: set[str] = set()
    while True:
        left = max(1.0, deadline - time.monotonic())
        death = None
        try:
            call = partial(measure_here, folder, left, sorted(failed))
            is_usable = process.run_call(call, left + END_SECONDS)
        except process.Died as fault:
            is_usable, death = False, str(fault)
        if is_usable is None:
            return None
        found = read(folder)
        if is_usable:
            return found["problems"]
        running = found.get("running")
        if not running or running in failed:
            raise RuntimeError(f"the floor was not measured: {death}")
        if death is not None:  # else what failed is written already
            found["problems"][running] = f"failed: {death}"
            write(folder, found)
        failed.add(running)
        forget_running(folder)


def forget_running(folder: Path) -> None:
    """Blame nothing that an earlier process was at."""
    found = read(folder)
    if found.get("running"):
        store.write_state(folder / files.FLOOR, found | {"running": None})


def main(words: list[str] | None = None) -> int:
    """Measure a device's bounds into its results folder."""
    parser = argparse.ArgumentParser("python -m bench.gpu.floor", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="the device's results folder")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, metavar="S")
    given = parser.parse_args(words)
    folder = given.folder.absolute()
    if not limits.positive(given.max_seconds):
        parser.error(f"max-seconds is {given.max_seconds:g}; accepted: a number above 0")
    if not environment.probe().is_cuda:
        interpreter.check()  # which checks what the kernels compute
    problems = run(folder, given.max_seconds)
    if problems is None:
        return 0
    failed = False
    for name, why in problems.items():
        failed = failed or why.startswith("failed")
        print(f"{name}: {why}", file=sys.stderr)
    print(folder / files.FLOOR)
    return int(failed)


if __name__ == "__main__":
    from bench.gpu import floor  # whose functions, unlike this module's, another process can import

    sys.exit(floor.main())
