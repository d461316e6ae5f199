"""Compile every planned kernel, for GPUs that need not be present.

Compiles each distinct kernel that the plan chooses over a grid of cases, and records registers,
stack, shared memory and the instructions of the loop over time. A variant already recorded with the
same kernels, plan and compiler is not compiled again.
"""

import ast
import functools
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.cases.cases import CELLS, make_case
from bench.cases.numbers import kernel_format, number_type, split_number_type
from bench.compiler import compile_kernel
from bench.compiler.compile_kernel import Variant
from bench.records import provenance, schema, store
from bench.records.failed_checks import NOT_DONE, PASS
from bench.sweep.pool import Pool, Unit
from kernels.plan import Problem, backward_plan, forward_plan
from kernels.plan.devices import DEVICES, Device

NUMBERS = ("bf16", "fp32:tf32", "fp32:ieee", "fp16")
LOOPS = ("fwd", "bwd")
CELL_NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@dataclass(frozen=True)
class Grid:
    """The cases whose kernels are compiled."""

    hidden: tuple[int, ...]
    batches: tuple[int, ...]
    cells: tuple[str, ...] = CELL_NAMES
    numbers: tuple[str, ...] = NUMBERS


# One device of each architecture.
BRIEF = Grid((128, 512, 1024), (1, 16, 64))
GRIDS = {
    "h100": Grid(
        (16, 64, 128, 256, 384, 512, 768, 1000, 1024, 1536, 1760, 2048), (1, 8, 16, 64, 128, 256)
    )
} | dict.fromkeys(("a100", "b200", "mi300x"), BRIEF)
QUICK = Grid((128, 1024), (16, 64), ("lstm", "gru"), ("bf16",))
# Files in kernels/ whose change makes a compiled kernel stale.
CELL_CODE = ("cells/lstm", "cells/gru", "cells/rnn", "cells/slstm")
DEVICE_CODE = ("recurrence", "blocks", "barrier", "math", *CELL_CODE)
# Files in kernels/ whose change may also choose other kernels.
PLAN_CODE = ("plan/__init__", "plan/tiles", "plan/cost", "plan/devices")


# Opens a progress bar, given a title and a total; yields what is called with each finished name.
Progress = Callable[[str, int], AbstractContextManager[Callable[[str], None]]]


@dataclass(frozen=True)
class Job:
    """A kernel to compile, and the batch sizes for which the plan chooses it."""

    variant: Variant
    batches: tuple[int, ...]
    device: Device


def plan_jobs(device: Device, grid: Grid) -> list[Job]:
    """The distinct kernels that the plan chooses over a grid, those of H near 1024 first."""
    found: dict[str, tuple[Variant, list[int]]] = {}
    hidden = sorted(grid.hidden, key=lambda h: abs(h - 1024))
    cases = itertools.product(grid.numbers, hidden, grid.cells, LOOPS, grid.batches)
    hip = device.architecture.startswith("gfx")
    for number, H, cell, loop, B in cases:
        variant = plan_variant(device, cell, loop, H, B, number)
        found.setdefault(compile_kernel.identity(variant, hip), (variant, []))[1].append(B)
    return [Job(variant, tuple(served), device) for variant, served in found.values()]


def plan_variant(
    device: Device,
    cell: str,
    loop: str,
    H: int,
    B: int,
    number: str,
    mode: str = "auto",
    directions: int = 1,
) -> Variant:
    """The kernel that a call of this case launches on a device."""
    dtype, precision = split_number_type(number)
    name, precision = kernel_format(dtype, precision)
    problem = Problem(CELLS[cell].gates, B, H, directions, name, precision)
    plan = (forward_plan if loop == "fwd" else backward_plan)(problem, device, mode)
    return Variant(cell, loop, H, directions, dtype, precision, plan)


def code_hash(names: tuple[str, ...] = DEVICE_CODE) -> str:
    """A hash of some files of kernels/, by default those of the device code.

    Comments, docstrings and imports are left out, since they do not change what is compiled.
    """
    digest = hashlib.sha256()
    for name in names:
        tree = ast.parse((provenance.ROOT / "kernels" / f"{name}.py").read_text(encoding="utf-8"))
        tree.body = [
            node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)
        ]
        for node in ast.walk(tree):
            match node:
                case ast.Module(body=body) | ast.FunctionDef(body=body) | ast.ClassDef(body=body):
                    if ast.get_docstring(node) is not None:
                        del body[0]
        digest.update(dump_tree(tree).encode())
    return digest.hexdigest()[:12]


def dump_tree(tree: ast.AST) -> str:
    """A tree as text that is the same in every version of Python.

    3.12 gave functions a field for type parameters, and 3.13 leaves out what is empty.
    """
    whole: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **whole).replace(", type_params=[]", "")


def result_key(job: Job, code: str, triton: str | None) -> str:
    """What must be equal for a recorded result to be reused."""
    architecture = job.device.architecture
    inputs = compile_kernel.identity(job.variant, architecture.startswith("gfx"))
    text = [inputs, architecture, code, triton]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


def compile_job(job: Job, dump: Path | None) -> dict[str, Any]:
    """Compile one kernel in this process, and return the facts of :class:`compile_kernel.Compiled`.

    Args:
        dump: a folder to write the binary into.
    """
    kernel = compile_kernel.compile_variant(job.variant, job.device)
    if dump is not None:
        kind = "cubin" if "cubin" in kernel.asm else "hsaco"
        (dump / f"{file_name(job.variant)}.{kind}").write_bytes(kernel.asm[kind])
    return asdict(compile_kernel.inspect(kernel, job.variant, job.device))


def file_name(variant: Variant) -> str:
    """The name of a variant's binary, without its suffix."""
    plan = variant.plan
    return (
        f"{variant.cell}-{variant.pass_}-H{variant.H}-{variant.dtype}-{variant.precision}-"
        f"{plan.mode}-b{plan.block_b}-u{plan.units}-s{plan.split}-k{plan.block_k}-"
        f"r{plan.resident}-a{plan.ahead}-w{plan.num_warps}-{'x' if plan.tiles > 1 else 'o'}"
    )


def compile_all(
    jobs: Sequence[Job], dump: Path | None = None, deadline: float = float("inf")
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Compile on all cores, and yield fields of each job's record; a crash costs one job.

    Args:
        dump: a folder to write the binaries into.
        deadline: of ``time.monotonic``, after which nothing is begun.
    """
    units = [
        Unit(str(index), functools.partial(compile_job, job, dump))
        for index, job in enumerate(jobs)
    ]
    with tempfile.TemporaryDirectory(prefix="rnnbench-triton-") as cache:
        environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": cache}
        with Pool(os.cpu_count() or 1, environment) as pool:
            for unit, outcome in pool.run(units, float("inf"), begin_until=deadline):
                if outcome.tried:
                    yield (
                        jobs[int(unit.name)],
                        {
                            "status": {PASS: "ok", NOT_DONE: "oom"}.get(outcome.state, "error"),
                            "reason": outcome.detail or None,
                            "compile_s": outcome.seconds,
                            "resources": outcome.found,
                        },
                    )


def exceeded_limits(job: Job, found: dict[str, Any]) -> list[str]:
    """How a compiled kernel exceeds the device's or the plan's limits, a line each."""
    plan, device, broken = job.variant.plan, job.device, []
    if found["stack_bytes"]:
        broken.append(f"uses {found['stack_bytes']} bytes of stack")
    if found["shared_bytes"] > device.shared_bytes:
        broken.append(
            f"needs {found['shared_bytes']} of {device.shared_bytes} bytes of shared memory"
        )
    elif found["shared_bytes"] > plan.shared_bytes and plan.mode != "gemm":
        broken.append(
            f"needs {found['shared_bytes']} bytes of shared memory, {plan.shared_bytes} are planned"
        )
    return broken


def make_record(job: Job, result: dict[str, Any], run_id: str, code: str, key: str) -> store.Record:
    """The record of one compiled variant; ``B`` is the smallest batch it serves."""
    variant, device = job.variant, job.device
    case = make_case(
        cell=variant.cell, track="recurrence", directions=variant.directions,
        dtype=number_type(variant.dtype, variant.precision),
        layers=1, B=job.batches[0], T=1, I=0, H=variant.H, resets=0.0,
        **{"pass": "fwd" if variant.pass_ == "fwd" else "fwd+bwd"},
    )  # fmt: skip
    found = result.get("resources")
    if found is not None:
        found = found | {
            "loop": variant.pass_,
            "batches": list(job.batches),
            "features": list(variant.features),
            "shared_limit": device.shared_bytes,
            "faults": exceeded_limits(job, found),
            "key": key,
        }
    target = {
        "name": f"compiled for {device.architecture}",
        "kind": "compiled",
        "capability": device.architecture,
    }
    return schema.new_record(
        **case.fields(),
        run_id=run_id,
        kind="resources",
        status=result["status"],
        reason=result["reason"],
        provider=f"triton-{provenance.version('triton')}",
        provider_version=provenance.version("triton"),
        compile_s=result["compile_s"],
        plan=asdict(variant.plan),
        resources=found,
        seed=0,
        **provenance.provenance(target, code),
    )


def compile_missing(
    jobs: Sequence[Job],
    results: Path,
    dump: Path | None = None,
    seconds: float = float("inf"),
    fresh: bool = False,
    progress: Progress = lambda title, total: nullcontext(lambda name: None),
) -> tuple[Path, list[store.Record], int]:
    """Compile those of some jobs for one device that are not recorded yet.

    Args:
        seconds: nothing is begun after this.
        fresh: whether to compile recorded jobs again.

    Returns:
        The device's folder, the jobs' records, and how many were not begun.
    """
    device = jobs[0].device
    folder = results / f"compiled-{device.architecture}"
    triton = provenance.version("triton")
    key = functools.partial(result_key, code=code_hash(), triton=triton)
    code = code_hash(DEVICE_CODE + PLAN_CODE)
    run_id = f"resources-{triton}-{code}"
    earlier = store.read(folder) if folder.exists() and not (fresh or dump) else ()
    current_last = sorted(earlier, key=lambda record: record["code"] == code)
    known = {r["resources"]["key"]: r for r in current_last if r["resources"]}
    found: list[store.Record] = []
    missing = []
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
        dump = dump.resolve()  # compiling processes run in another folder
    with store.Writer(folder / "records" / f"{run_id}.jsonl") as writer:
        for job in jobs:
            old = known.get(key(job))
            if old is None:
                missing.append(job)
                continue
            result = {name: old[name] for name in ("status", "reason", "compile_s", "resources")}
            served = set(old["resources"]["batches"])  # more than these if the grid was larger
            same = old["code"] == code and served.issuperset(job.batches)
            found.append(old if same else make_record(job, result, run_id, code, key(job)))
            if not same:  # it was compiled for other cases
                writer.append(found[-1])
        if missing:
            deadline = time.monotonic() + seconds
            title = f"compile for {device.name} ({device.architecture}), Triton {triton}"
            with progress(title, len(missing)) as advance:
                for job, result in compile_all(missing, dump, deadline):
                    found.append(make_record(job, result, run_id, code, key(job)))
                    writer.append(found[-1])
                    advance(file_name(job.variant))
    return folder, found, len(jobs) - len(found)


def summary_lines(records: list[store.Record]) -> list[str]:
    """The largest of each number, and every variant with a fault."""
    lines = []
    compiled = [record for record in records if record["status"] == "ok"]
    if compiled:
        seen = [record["resources"] for record in compiled]
        lines.append(
            f"{len(compiled)} kernels: at most {max(s['registers'] for s in seen)} registers, "
            f"{max(s['stack_bytes'] for s in seen)} bytes of stack, "
            f"{max(s['shared_bytes'] for s in seen):,} of {seen[0]['shared_limit']:,} bytes of "
            f"shared memory; {sum(bool(s['faults']) for s in seen)} with a fault"
        )
    for record in records:
        broken = [record["reason"]] if record["status"] != "ok" else record["resources"]["faults"]
        if broken:
            lines.append(f"  {record['case_id']} ({record['plan']['mode']}): {'; '.join(broken)}")
    return lines


def compile_quick_grid(results: Path, progress: Progress, seconds: float = 48.0) -> list[Path]:
    """Compile the quick grid for one device of each architecture, and print a summary.

    Returns:
        The written folders.
    """
    written = []
    for name in GRIDS:
        device, share = DEVICES[name], seconds / len(GRIDS)
        jobs = plan_jobs(device, QUICK)
        folder, records, left = compile_missing(jobs, results, seconds=share, progress=progress)
        written.append(folder)
        print(f"compiled for {device.architecture}:", *summary_lines(records), sep="\n")
        if left:
            print(f"{left} left; `python -m bench resources --quick --device {name}` goes on")
    return written
