"""The floor: what bounds a recurrent loop on this card, each bound by a microbenchmark.

Every kernel's answer is checked before it is timed; without a GPU it is only checked, in Triton's
interpreter. All samples go to ``floor.json`` after each microbenchmark, and the bounds that models
read to ``limits.json``, once the floor of a time can be made of them.

The microbenchmarks run in a process of their own: one that ends it, or leaves its GPU unusable,
costs no other. What failed or was left out for want of time is in ``floor.json`` with its reason;
the next call of the same code measures that, and nothing twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import environment, files, limits, provenance, schema, store
from bench.sweep import process

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

MAX_SECONDS = 60.0
END_SECONDS = 15.0  # after its time, for the kernel in flight and to let go of the GPU
# The files whose change makes a floor.json stale.
SOURCES = ("microbenchmark_kernels", "microbenchmark_launches", "microbenchmarks")


def identity(card: dict[str, Any]) -> str:
    """A hash of what is measured, on which card and with which software."""
    software = provenance.software_facts()
    words = [json.dumps(card, sort_keys=True), provenance.code_hash()]
    words += [str(software[name]) for name in ("torch", "triton")]
    words += [(provenance.ROOT / f"bench/gpu/{name}.py").read_text("utf-8") for name in SOURCES]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def card_facts(device: torch.device) -> dict[str, Any]:
    """The fields of ``roofline.Limits`` that describe a card, and are not measured."""
    from kernels.autograd import device_limits

    here = device_limits(device)
    names = ("architecture", "multiprocessors", "shared_bytes", "shared_total")
    return {"name": environment.machine().name} | {name: getattr(here, name) for name in names}


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write all that was measured, and the bounds once they are all there."""
    measured = limits.of_floor(schema.to_json(found))
    store.write_state(folder / files.FLOOR, found)
    if measured.complete and not limits.faults(measured):
        store.write_state(folder / files.LIMITS, dataclasses.asdict(measured))


def measure(folder: Path, device: torch.device, deadline: float, skip: Collection[str]) -> bool:
    """Measure what ``folder`` lacks, as far as the time goes.

    Args:
        deadline: of ``time.monotonic``.
        skip: microbenchmarks that failed in this call.

    Returns:
        Whether the GPU is usable afterwards.
    """
    from bench.gpu.microbenchmarks import MICROBENCHMARKS

    card = card_facts(device)
    made = identity(card)
    found = store.read_state(folder / files.FLOOR)
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
            if not is_usable(device):
                save(each.name)
                return False
    save(None)
    return True


def is_usable(device: torch.device) -> bool:
    """Whether this process can still use the GPU, which an illegal access ends."""
    import torch

    try:
        torch.zeros(1, device=device).item()  # which waits for the device
    except RuntimeError:
        return False
    return True


def measure_here(folder: Path, deadline: float, skip: Collection[str]) -> bool | None:
    """:func:`measure` on this process's GPU; None without one, where kernels are only checked."""
    import torch

    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        return measure(folder, device, deadline, skip)
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
    from bench.gpu.microbenchmarks import MICROBENCHMARKS

    for each in MICROBENCHMARKS:
        each.check(torch.device("cpu"))
    print("every kernel of the floor computes what it should; without a GPU nothing is timed")
    return None


def run(folder: Path, seconds: float) -> dict[str, str] | None:
    """Measure in processes of their own, a new one whenever one dies.

    Returns:
        Why something is missing, by microbenchmark; None without a GPU, where nothing is timed.

    Raises:
        RuntimeError: if the process dies before it measures anything.
    """
    deadline = time.monotonic() + seconds
    found = store.read_state(folder / files.FLOOR)
    if found.get("running"):  # blame nothing that an earlier process was measuring when it died
        store.write_state(folder / files.FLOOR, found | {"running": None})
    failed: set[str] = set()
    while True:
        call = partial(measure_here, folder, deadline, sorted(failed))
        left = max(1.0, deadline - time.monotonic())
        death = None
        try:
            usable = process.run_call(call, left + END_SECONDS)
        except process.Died as fault:
            usable, death = False, str(fault)
        if usable is None:
            return None
        found = store.read_state(folder / files.FLOOR)
        if usable:
            return found["problems"]
        running = found.get("running")
        if not running or running in failed:
            raise RuntimeError(f"the floor was not measured: {death}")
        if death is not None:  # else what failed is written already
            found["problems"][running] = f"failed: {death}"
        write(folder, found | {"running": None})
        failed.add(running)


def failures(problems: dict[str, str]) -> list[str]:
    """The problems that are no want of time, a line each."""
    return [f"{name}: {why}" for name, why in problems.items() if why.startswith("failed")]


def is_complete(folder: Path) -> bool:
    """Whether this code has measured all bounds; a process that was killed names what it was at."""
    found = store.read_state(folder / files.FLOOR)
    ended = "running" in found and found["running"] is None
    return ended and found["problems"] == {} and found["code"] == provenance.code_hash()
