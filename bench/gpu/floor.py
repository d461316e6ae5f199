"""Measure by microbenchmarks the rates that bound the time of a recurrent loop on this card.

Each kernel's result is checked before it is timed; without a GPU it is only checked, in Triton's
interpreter. After each microbenchmark all samples are written to ``floor.json``; the rates are
written to ``limits.json`` once there are enough to compute a floor (``roofline.floor_ms``).

The microbenchmarks run in a separate process, which is replaced when one fails, so that a crash
loses only one. ``floor.json`` says under ``problems`` why one is missing or incomplete; the next
call of the same code measures only those.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import environment, files, limits, provenance, schema, store
from bench.records.failed_checks import PASS
from bench.sweep.pool import Failed, Outcome, Pool, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

MAX_SECONDS = 60.0
END_SECONDS = 15.0  # after the deadline, for the kernel in flight
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
    from kernels.planning import device_limits

    here = device_limits(device)
    names = ("architecture", "multiprocessors", "shared_bytes", "shared_total")
    return {"name": environment.machine().name} | {name: getattr(here, name) for name in names}


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write ``floor.json``, and ``limits.json`` if the rates are complete and possible."""
    measured = limits.of_floor(schema.to_json(found))
    if measured.complete and not limits.invalid_fields(measured):
        store.write_state(folder / files.LIMITS, dataclasses.asdict(measured))
    store.write_state(folder / files.FLOOR, found)


def describe_card() -> dict[str, Any] | None:
    """The card of this process, and the seconds that each microbenchmark may take.

    Without a GPU, only check what the kernels compute, and return None.
    """
    import torch

    is_cuda = torch.cuda.is_available()
    if not is_cuda:
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
    from bench.gpu.microbenchmarks import MICROBENCHMARKS

    if not is_cuda:
        for each in MICROBENCHMARKS:
            each.check(torch.device("cpu"))
        print("every kernel of the floor computes what it should; without a GPU nothing is timed")
        return None
    return {
        "card": card_facts(torch.device("cuda", torch.cuda.current_device())),
        "device": environment.device_facts(),
        "seconds": {each.name: each.seconds for each in MICROBENCHMARKS},
    }


def measure(name: str, multiprocessors: int, deadline: float) -> tuple[list[dict[str, Any]], str]:
    """Measure one microbenchmark on the GPU of this process.

    Args:
        deadline: of ``time.monotonic``; the variant during which it passes is the last.

    Returns:
        An entry for each variant, and why others are missing, or "".

    Raises:
        Failed: with the entries so far.
    """
    import torch

    from bench.gpu.microbenchmarks import MICROBENCHMARKS

    (chosen,) = (each for each in MICROBENCHMARKS if each.name == name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    entries = []
    try:
        chosen.check(device)
        for entry in chosen.measure(device, multiprocessors):
            entries.append(entry)
            if time.monotonic() > deadline:
                return entries, f"ended after {len(entries)} variants: the time was up"
    except Exception as fault:
        text = f"{type(fault).__name__}: {fault}"
        raise Failed(text, traceback.format_exc(), (entries, "")) from None
    return entries, ""


def run(folder: Path, seconds: float) -> dict[str, str] | None:
    """Measure what ``folder`` lacks, in another process.

    Returns:
        Why something is missing, by microbenchmark; None without a GPU, where nothing is timed.

    Raises:
        RuntimeError: if the process fails before it measures anything.
    """
    deadline = time.monotonic() + seconds
    with Pool(1) as pool:

        def call(name: str, function: Callable[..., Any], *arguments: Any) -> Outcome:
            unit = Unit(name, partial(function, *arguments))
            ((_, outcome),) = pool.run([unit], deadline + END_SECONDS)
            return outcome

        begun = call("card", describe_card)
        if begun.state != PASS:
            raise RuntimeError(f"the floor was not measured: {begun.detail}")
        if begun.found is None:
            return None
        card, planned = begun.found["card"], begun.found["seconds"]
        before = environment.sensors()
        found = store.read_state(folder / files.FLOOR)
        if found.get("identity") != identity(card):
            found = {"identity": identity(card), "card": card, "problems": {}}
        problems = found["problems"]
        for name in planned:  # so that a killed process leaves them
            if not found.get(name):
                problems.setdefault(name, "left out: not begun")
        if not problems:
            write(folder, found)  # in case limits.json was deleted
        for name in list(problems):
            left = max(0.0, deadline - time.monotonic())
            if left < planned[name]:
                why = f"left out: it may take {planned[name]:g} s, and {left:.0f} s were left"
            else:
                outcome = call(name, measure, name, card["multiprocessors"], deadline)
                found[name], why = outcome.found or ([], "")
                if outcome.state != PASS:
                    why = f"failed: {outcome.detail}"
            problems[name] = why
            if not why:
                del problems[name]
            device = environment.with_sensors(begun.found["device"], before, environment.sensors())
            write(folder, found | provenance.provenance(device))
    return problems


def failures(problems: dict[str, str]) -> list[str]:
    """The problems other than a lack of time, each as one line."""
    return [f"{name}: {why}" for name, why in problems.items() if why.startswith("failed")]


def is_complete(folder: Path) -> bool:
    """Whether this code has completed all microbenchmarks."""
    found = store.read_state(folder / files.FLOOR)
    return found.get("problems") == {} and found["code"] == provenance.code_hash()
