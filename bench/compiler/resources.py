"""What the compiler makes of every planned kernel, with no GPU.

Compiles each distinct kernel that the plan chooses over a grid of cases, for a GPU that need not be
there, and records registers, stack, shared memory and the instructions of the loop over time. A
variant already recorded with the same kernels, plan and compiler is not compiled again.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.cases.arguments import check_choice
from bench.cases.cases import CELLS, make_case
from bench.cases.numbers import TORCH_NAMES, number_type
from bench.compiler import compile_kernel
from bench.compiler.compile_kernel import Variant
from bench.records import provenance, schema, store
from kernels.plan import Problem, backward_plan, forward_plan
from kernels.plan.devices import DEVICES, Device

NUMBERS = ("bf16", "fp32:tf32", "fp32:ieee", "fp16")
LOOPS = ("fwd", "bwd")
CELL_NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")
# By device: hidden sizes and batches. The first one's grid is the full one.
GRIDS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "h100": (
        (16, 64, 128, 256, 384, 512, 768, 1000, 1024, 1536, 1760, 2048),
        (1, 8, 16, 64, 128, 256),
    ),
    "a100": ((128, 512, 1024), (1, 16, 64)),
    "b200": ((128, 512, 1024), (1, 16, 64)),
    "mi300x": ((128, 512, 1024), (1, 16, 64)),
}
QUICK_DEVICES = ("h100", "a100", "b200", "mi300x")  # one of each architecture
QUICK = ((128, 1024), (16, 64), ("lstm", "gru"), ("bf16",))
# Whose change makes a compiled kernel stale, besides its arguments and options.
DEVICE_CODE = (
    "recurrence",
    "blocks",
    "barrier",
    "math",
    *(f"cells/{cell}" for cell in ("lstm", "gru", "rnn", "slstm")),
)
# Whose change may also choose other kernels.
PLAN_CODE = ("plan/__init__", "plan/tiles", "plan/cost", "plan/devices")


def chosen(name: str, words: str, accepted: Collection[str]) -> tuple[str, ...]:
    """Comma-separated words, each of which must be accepted."""
    found = tuple(words.split(","))
    for word in found:
        check_choice(name, word, accepted)
    return found


@dataclass(frozen=True)
class Job:
    """A variant, and the batches whose plan it is."""

    variant: Variant
    batches: tuple[int, ...]
    device: str


def jobs(
    device: str,
    hidden: tuple[int, ...],
    batches: tuple[int, ...],
    cells: tuple[str, ...] = CELL_NAMES,
    numbers: tuple[str, ...] = NUMBERS,
) -> list[Job]:
    """The distinct kernels that the plan chooses over a grid, the most used cases first."""
    found: dict[str, tuple[Variant, list[int]]] = {}
    for number in numbers:
        for H in sorted(hidden, key=lambda h: abs(h - 1024)):
            for cell in cells:
                for loop in LOOPS:
                    for B in batches:
                        variant = planned(device, cell, loop, H, B, number)
                        key = words_of(variant, device)
                        found.setdefault(key, (variant, []))[1].append(B)
    return [Job(variant, tuple(served), device) for variant, served in found.values()]


def planned(device: str, cell: str, loop: str, H: int, B: int, number: str) -> Variant:
    """The kernel that a call of this case launches on a device."""
    dtype, _, precision = number.partition(":")
    problem = Problem(CELLS[cell].gates, B, H, 1, TORCH_NAMES[dtype], precision or "ieee")
    plan = (forward_plan if loop == "fwd" else backward_plan)(problem, DEVICES[device])
    return Variant(cell, loop, H, 1, dtype, precision or "ieee", plan)


def code_hash(names: tuple[str, ...] = DEVICE_CODE) -> str:
    """A hash of some of the kernels' files, by default of the device code.

    Comments, docstrings and imports are left out: where a file lies is no part of what it does.
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
        digest.update(dumped(tree).encode())
    return digest.hexdigest()[:12]


def dumped(tree: ast.AST) -> str:
    """A tree in words that are the same in every version of Python.

    3.12 gave functions a field for type parameters, and 3.13 leaves out what is empty.
    """
    whole: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **whole).replace(", type_params=[]", "")


def words_of(variant: Variant, device: str) -> str:
    """What but the source decides the compiled kernel."""
    hip = DEVICES[device].architecture.startswith("gfx")
    return json.dumps(compile_kernel.identity(variant, hip), sort_keys=True)


def key_of(job: Job, code: str, triton: str | None) -> str:
    """What must be equal for a recorded result to stand."""
    text = [words_of(job.variant, job.device), DEVICES[job.device].architecture, code, triton]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


def work(job: Job, dump: Path | None) -> dict[str, Any]:
    """Compile one variant (in a process of its own pool) and tell what came of it."""
    device = DEVICES[job.device]
    started = time.monotonic()
    try:
        kernel = compile_kernel.compile_variant(job.variant, device)
        found = asdict(compile_kernel.inspect(kernel, job.variant, device))
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        return {"status": "error", "reason": words, "compile_s": time.monotonic() - started}
    if dump is not None:
        kind, data = compile_kernel.binary(kernel)
        (dump / f"{name_of(job.variant)}.{kind}").write_bytes(data)
    seconds = time.monotonic() - started
    return {"status": "ok", "reason": None, "compile_s": seconds, "resources": found}


def name_of(variant: Variant) -> str:
    """A variant in words, for a file's name."""
    plan = variant.plan
    return (
        f"{variant.cell}-{variant.pass_}-H{variant.H}-{variant.dtype}-{variant.precision}-"
        f"{plan.mode}-b{plan.block_b}-u{plan.units}-s{plan.split}-k{plan.block_k}-"
        f"r{plan.resident}-a{plan.ahead}-w{plan.num_warps}-{'x' if plan.tiles > 1 else 'o'}"
    )


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """An environment whose new processes compile for a GPU and leave no cache behind."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="rnnbench-triton-") as cache:
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ["TRITON_CACHE_DIR"] = cache
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def compile_all(
    todo: list[Job], dump: Path | None = None, processes: int | None = None, deadline: float = 1e99
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Compile in parallel, yielding each result as it comes; a compiler that dies costs one job.

    Nothing is begun after ``deadline`` (of ``time.monotonic``).
    """
    waiting = list(reversed(todo))
    processes = processes or max(1, os.cpu_count() or 1)
    alone = False
    with compiling():
        while waiting and time.monotonic() < deadline:
            pool = ProcessPoolExecutor(
                1 if alone else processes, multiprocessing.get_context("spawn")
            )
            running: dict[Future[dict[str, Any]], Job] = {}
            try:
                while (waiting and time.monotonic() < deadline) or running:
                    while waiting and len(running) < (1 if alone else processes):
                        job = waiting.pop()
                        running[pool.submit(work, job, dump)] = job
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        job = running[future]
                        result = future.result()
                        del running[future]
                        yield job, result
            except BrokenProcessPool:
                # Which of the running jobs killed it shows when they run one at a time.
                if alone or len(running) == 1:
                    (job,) = running.values()
                    reason = "the compiler's process died"
                    yield job, {"status": "error", "reason": reason, "compile_s": None}
                    alone = False
                else:
                    waiting += running.values()
                    alone = True
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def faults(job: Job, found: dict[str, Any]) -> list[str]:
    """What a compiled kernel breaks of what the plan promises; empty if nothing."""
    plan, device, broken = job.variant.plan, DEVICES[job.device], []
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


def record_of(job: Job, result: dict[str, Any], run_id: str, code: str, key: str) -> store.Record:
    """The record of one compiled variant; ``B`` is the smallest batch it serves."""
    variant, device = job.variant, DEVICES[job.device]
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
            "faults": faults(job, found),
            "key": key,
        }
    target = {"name": device_name(device), "kind": "compiled", "capability": device.architecture}
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


def device_name(device: Device) -> str:
    return f"compiled for {device.architecture}"


def folder_of(device: Device, results: Path) -> Path:
    return results / f"compiled-{device.architecture}"


def recorded(folder: Path) -> dict[str, store.Record]:
    """Earlier results by key."""
    if not store.record_files(folder):
        return {}
    return {
        record["resources"]["key"]: record
        for record in store.read(folder)
        if record["kind"] == "resources" and record["resources"]
    }


def run(
    device: str,
    todo: list[Job],
    results: Path,
    dump: Path | None = None,
    seconds: float = 1e99,
    fresh: bool = False,
) -> tuple[Path, list[store.Record], int]:
    """Compile what is not recorded yet: the folder, the jobs' records, how many were not begun."""
    from bench.cli.progress import count_bar

    folder = folder_of(DEVICES[device], results)
    triton = provenance.version("triton")
    key = functools.partial(key_of, code=code_hash(), triton=triton)
    code = code_hash(DEVICE_CODE + PLAN_CODE)
    run_id = f"resources-{triton}-{code}"
    known = {} if fresh or dump else recorded(folder)
    found: list[store.Record] = []
    missing = []
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
    with store.Writer(folder / "records" / f"{run_id}.jsonl") as writer:
        for job in todo:
            old = known.get(key(job))
            if old is None:
                missing.append(job)
                continue
            result = {name: old[name] for name in ("status", "reason", "compile_s", "resources")}
            served = set(old["resources"]["batches"])  # more, where the grid was larger
            same = old["code"] == code and served.issuperset(job.batches)
            found.append(old if same else record_of(job, result, run_id, code, key(job)))
            if not same:  # what was compiled for another plan's cases
                writer.append(found[-1])
        if missing:
            deadline = time.monotonic() + seconds
            title = f"compile for {device} ({DEVICES[device].architecture}), Triton {triton}"
            with count_bar(title, len(missing)) as advance:
                for job, result in compile_all(missing, dump, deadline=deadline):
                    found.append(record_of(job, result, run_id, code, key(job)))
                    writer.append(found[-1])
                    advance(name_of(job.variant))
    return folder, found, len(todo) - len(found)


def summary(records: list[store.Record]) -> list[str]:
    """The worst of each kind, and every variant that breaks what the plan promises."""
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


def record(folder: Path, seconds: float = 48.0) -> list[Path]:
    """The quick grid for one device of each architecture, for ``bench quick``: the written folders,
    beside a device's own.
    """
    written = []
    for device in QUICK_DEVICES:
        path, records, left = run(
            device, jobs(device, *QUICK), folder.parent, seconds=seconds / len(QUICK_DEVICES)
        )
        written.append(path)
        print(f"compiled for {DEVICES[device].architecture}:", *summary(records), sep="\n")
        if left:
            print(f"{left} left; `python -m bench resources --quick --device {device}` goes on")
    return written
