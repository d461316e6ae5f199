"""Invented records for tests of the report; the device's name marks them as no results."""

import itertools
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.cases.cases import DEFAULTS, Case, make_case
from bench.cases.numbers import ROUNDOFF, product_format, product_roundoff
from bench.records import schema, store
from bench.report.device.compiler import COUNTS

DEVICE = "Synthetic test device"
# Invented speed of each provider: (microseconds per step, share of the peak).
SPEED = {
    "torch.nn": (4.0, 0.5),
    "torch.nn-graph": (3.5, 0.5),
    "ours": (2.5, 0.6),
    "ours-graph": (2.2, 0.6),
    "ours-stepwise": (9.0, 0.55),
    "ours-stepwise-graph": (5.0, 0.55),
    "ours-gemm": (11.0, 0.7),
    "flashrnn-fused": (4.5, 0.4),
    "torchrl-triton": (15.0, 0.15),
    "reference": (120.0, 0.3),
}
# Invented operations per second of products, by their operands' format.
PEAK = {"ieee": 5e13, "tf32x3": 8e13, "tf32": 2e14, "fp16": 4e14, "bf16": 4e14}


def facts() -> dict[str, Any]:
    """The invented device's and software's facts."""
    device = {
        "name": DEVICE, "kind": "cuda", "capability": "9.0", "driver": "000.00", "cuda": "0.0",
        "cudnn": 92000, "clocks": None, "temperature_c": None, "power_w": None, "throttle": None,
    }  # fmt: skip
    software = {
        "python": "3.11.0", "torch": "2.13.0", "triton": "3.7.1", "numpy": "2.4.6",
        "platform": "synthetic",
    }  # fmt: skip
    return {
        "run_id": "synthetic-000000000000", "device": device, "software": software,
        "code": "000000000000", "commit": "0" * 40, "dirty": False,
        "time": "2026-01-01T00:00:00+00:00", "interpreted": False, "seed": 0,
    }  # fmt: skip


def save(folder: Path, records: Iterable[store.Record], name: str = "records/run.jsonl") -> Path:
    """Write records into a device's folder; return the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.Writer(path) as writer:
        for record in records:
            writer.append(record)
    return folder


def data(folder: Path, name: str) -> pd.DataFrame:
    """The rows of a report's figure or table, read from its data.zip."""
    with zipfile.ZipFile(folder / "data.zip").open(f"{name}.csv") as file:
        return pd.read_csv(file)


def _noise(*words: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(words).encode()))


def timed(case: Case, provider: str, **changes: Any) -> store.Record:
    """One invented timing; its interval is about its median, and its counts are of its samples."""
    latency, share = SPEED[provider]
    gates = case.cell_info.gates
    passes = 1 if case.pass_ == "fwd" else 3
    rate = PEAK[product_format(case.dtype, case.precision)] * share
    step = latency * 1e-3 + passes * 4 * gates * case.H**2 * case.B / rate * 1e3
    noise = _noise(case.case_id, provider)
    drawn = step * case.T * (1 + 0.02 * np.abs(noise.standard_normal(16)))
    samples = changes.get("samples_ms") or [float(f"{value:.6g}") for value in drawn]
    median = changes.get("median_ms") or float(np.median(drawn))
    algorithm = None
    if provider.startswith("torch.nn"):
        small = case.H <= 128
        one = "small-h" if small else "persist" if case.dtype == "fp16" else "standard"
        algorithm = one if case.pass_ == "fwd" else f"{one}/{one}"
    return schema.new_record(
        **facts()
        | case.fields()
        | {
            "kind": "time", "status": "ok", "provider": provider, "provider_version": "0.0",
            "mode": "graph" if provider.endswith("-graph") else "event",
            "n": len(samples), "median_ms": median,
            "p20_ms": float(np.percentile(samples, 20)),
            "p80_ms": float(np.percentile(samples, 80)),
            "ci_low_ms": median * 0.985, "ci_high_ms": median * 1.015, "converged": True,
            "us_per_step": median * 1e3 / case.T,
            "tokens_per_s": 1e3 * case.B * case.T / median,
            "tflops": 1.0, "gbps": 1.0,
            "floor_share": min(1.0, 1.4 * case.T * 1e-3 / median + 0.1),
            "peak_bytes": case.T * case.B * case.H * 8 * passes + 2**20,
            "compile_s": 1.0, "algorithm": algorithm, "warm_ms": median * 0.95,
            "host_ms": min(0.65, 0.95 * median) if not provider.endswith("-graph") else 0.01,
            "warmup_calls": 12, "settled": True, "checked_calls": 3,
            "samples_ms": samples, "blocks": [2] * (len(samples) // 2) + [1] * (len(samples) % 2),
        }
        | changes
    )  # fmt: skip


def energetic(case: Case, provider: str, **changes: Any) -> store.Record:
    """One invented energy record: a board that takes 90 W idle, and 250 to 450 W else."""
    seconds = timed(case, provider)["median_ms"] / 1e3
    watts = 250 + 200 * SPEED[provider][1]
    noise = _noise(case.case_id, provider, "energy")
    windows = [float(f"{w:.6g}") for w in watts * seconds * (1 + noise.normal(0, 0.005, 9))]
    middle, count = float(np.median(windows)), int(0.3 / seconds) + 1
    rest, base = 90.0 * seconds, f"torch.nn{'-graph' * provider.endswith('-graph')}"
    theirs = SPEED[base][0] / SPEED[provider][0]
    versus = {"provider": base, "ratio": 1 / theirs, "low": 0.98 / theirs, "high": 1.02 / theirs}
    fields = {
        "kind": "energy", "status": "ok", "provider": provider, "provider_version": "0.0",
        "mode": "graph" if provider.endswith("-graph") else "event",
        "versus": None if provider == base else versus,
        "energy": {
            "joules": middle, "low": 0.99 * middle, "high": 1.01 * middle, "idle_watts": 90.0,
            "above_idle": middle - rest, "above_low": 0.98 * middle - rest,
            "above_high": 1.02 * middle - rest, "windows": windows, "calls": [count] * 9,
            "seconds": [count * seconds] * 9, "idle": [90.0] * 9,
        },
    }  # fmt: skip
    return schema.new_record(**facts() | case.fields() | fields | changes)


def failed(case: Case, provider: str, status: str, reason: str, **changes: Any) -> store.Record:
    """One invented failure."""
    fields = {"kind": "time", "status": status, "reason": reason, "provider": provider}
    return schema.new_record(**facts() | case.fields() | fields | changes)


def erroneous(case: Case, provider: str, seed: int = 0, **changes: Any) -> store.Record:
    """One invented error record."""
    noise = _noise(case.case_id, provider, seed, changes.get("regime"))
    u = (
        4 * ROUNDOFF["fp32"]
        if case.precision == "tf32x3"
        else product_roundoff(case.dtype, case.precision)
    )
    base = u * {"ours": 0.9, "torch.nn": 1.1}.get(provider, 1.4)
    tensors = ["y", "h_n"] + (["dx", "dw_hh_l0"] if case.pass_ != "fwd" else [])
    if (changes.get("regime") or "").startswith("memory"):
        tensors.append("db_ih_l0.gate")
    errors = {}
    for tensor in tensors:
        grown = base * (3 if tensor.startswith("d") else 1) * case.T**0.1 * case.H**0.05
        value = float(grown * noise.uniform(0.7, 1.4))
        errors[tensor] = {
            "max_abs": 4 * value, "mean_abs": value / 2, "rel_l2": value, "rel_max": 2 * value,
            "rel_l2_slice": 1.5 * value,
        }  # fmt: skip
    by_step = None
    if case.T >= 48 and case.pass_ != "fwd" and seed == 0:
        steps = [step for step in (1, 2, 4, 8, 16, 32, 48, 64, 256) if step <= case.T]
        by_step = {name: [[step, base * step**0.1] for step in steps] for name in ("y", "dx")}
    fields = {
        "kind": "error", "status": "ok", "provider": provider, "errors": errors, "seed": seed,
        "by_step": by_step,
        "interpreted": provider == "ours",
    }  # fmt: skip
    return schema.new_record(**facts() | case.fields() | fields | changes)


def cases(**axes: Any) -> Iterator[Case]:
    """A case for each combination of the axes' values; other fields have their defaults."""
    lists = {k: v if isinstance(v, list) else [v] for k, v in {**DEFAULTS, **axes}.items()}
    for values in itertools.product(*lists.values()):
        yield make_case(**dict(zip(lists, values, strict=True)))


def small() -> list[store.Record]:
    """A little of everything: times, failures, errors with seeds, formats, regimes and effects."""
    found: list[store.Record] = []
    both = {"cell": ["lstm", "gru"], "pass": ["fwd", "fwd+bwd"]}
    providers = ("torch.nn", "ours", "ours-stepwise", "ours-gemm", "flashrnn-fused", "reference")
    grids = [
        {"B": [1, 16, 64], "T": 256, "H": [64, 128, 512, 1000, 1024]},
        {"B": 16, "T": [64, 128, 256, 512], "H": 512},
    ]
    for case in dict.fromkeys(c for grid in grids for c in cases(**both, **grid)):
        for provider in providers:
            if provider == "flashrnn-fused" and case.cell == "gru":
                reason = "FlashRNN's fused backend has no GRU"
                found.append(failed(case, provider, "unsupported", reason))
            elif provider == "reference" and case.H >= 1000 and case.B == 64:
                found.append(failed(case, provider, "oom", "out of memory: 1.00 GiB asked for"))
            elif provider == "ours-stepwise" and case.H == 1024 and case.B == 16:
                found.append(failed(case, provider, "timeout", "no answer in 180 s"))
            else:
                found.append(timed(case, provider))
    return [*found, *energy_records(), *error_records(), *compiled()]


def energy_records() -> Iterator[store.Record]:
    """Energy of eager calls and graphs along H, with one case that failed."""
    for case in cases(
        cell=["lstm", "gru"], T=512, H=[256, 512, 1024], **{"pass": ["fwd", "fwd+bwd"]}
    ):
        for provider in ("torch.nn", "ours", "torch.nn-graph", "ours-graph"):
            if case.cell == "gru" and case.H == 1024 and provider == "ours-graph":
                reason = "CounterFault: the energy counter was 7.000 J for 2.0 s"
                yield failed(case, provider, "error", reason, kind="energy")
            else:
                yield energetic(case, provider)


def number_types() -> list[store.Record]:
    """Times with errors in every number type, at one shape in fewer types than at another."""
    rows = []
    axes = {"cell": ["lstm", "gru"], "pass": ["fwd", "fwd+bwd"], "B": 16, "T": 256}
    names = ("torch.nn-graph", "ours-graph", "ours-stepwise-graph", "ours-gemm", "torch.nn", "ours")
    wide = cases(**axes, H=512, dtype=["fp32", "fp32:tf32x3", "fp32:tf32", "fp16", "bf16"])
    for case in (*wide, *cases(**axes, H=[256, 1024], dtype=["fp16", "bf16"])):
        for name in names:
            if name.startswith("torch.nn") and case.precision == "tf32x3":
                rows.append(failed(case, name, "unsupported", "torch has no tf32x3 products"))
            else:
                rows.append(timed(case, name, errors=erroneous(case, name)["errors"]))
    return rows


def error_records() -> Iterator[store.Record]:
    """Errors over T with seeds, over formats, regimes, and one rounding at a time."""
    cells = ["lstm", "gru"]
    names = ("ours", "torch.nn", "reference")
    for case in cases(cell=cells, dtype=["fp32", "fp16", "bf16"], B=4, T=[1, 4, 16, 64], H=32,
                      **{"pass": "fwd+bwd"}):  # fmt: skip
        for provider, seed in itertools.product(names, range(3)):
            yield erroneous(case, provider, seed)
    for case in cases(cell=cells, dtype="fp32", B=4, T=16, H=32, **{"pass": "fwd+bwd"}):
        for regime, provider in itertools.product(("orthogonal-1.1", "large", "tiny"), names):
            yield erroneous(case, provider, regime=regime)
    for case in cases(cell=cells, dtype=["fp32", "bf16"], B=4, T=48, H=32, **{"pass": "fwd+bwd"}):
        for bias, provider in itertools.product((3, 5, 7), names):
            yield erroneous(case, provider, regime=f"memory-{bias}")
    for case in cases(cell=cells, dtype="fp32", B=4, T=[16, 64], H=32, **{"pass": "fwd+bwd"}):
        for product, seed in itertools.product(("tf32", "tf32x3", "bf16x3"), range(3)):
            yield erroneous(case, f"emulated-{product}", seed)
    for case in cases(cell=cells, dtype="bf16", B=4, T=[16, 64], H=64):
        for effect in ("inputs", "product", "carry-fp32", "carry-io", "all"):
            yield erroneous(case, f"effect-{effect}")


def compiled() -> Iterator[store.Record]:
    """Invented resources of kernels, one of them with a fault and one that failed."""
    for case in cases(cell=["lstm", "gru"], track="recurrence", T=1, B=[1, 64], H=[128, 512, 1024],
                      I=0, **{"pass": ["fwd", "fwd+bwd"]}):  # fmt: skip
        wrong = case.cell == "gru" and case.H == 1024
        died = case.cell == "lstm" and case.H == 1024 and case.B == 64
        counts = dict.fromkeys(COUNTS, 4) | {
            "registers": 100 + case.H // 8, "stack_bytes": 0, "spills": 0,
            "shared_bytes": 139_264, "shared_limit": 232_448,
            "loop_instructions": 500 + case.H // 4,
            "loop": "fwd" if case.pass_ == "fwd" else "bwd", "batches": [case.B, 2 * case.B],
            "faults": ["uses 8 bytes of stack"] if wrong else [],
        }  # fmt: skip
        fields = {
            "kind": "resources", "status": "error" if died else "ok", "compile_s": 1.0,
            "reason": "the compiler's process died" if died else None,
            "provider": "triton-3.7.1", "provider_version": "3.7.1",
            "plan": {"mode": "gemm" if case.B == 64 else "persistent", "units": 16},
            "resources": None if died else counts,
        }  # fmt: skip
        yield schema.new_record(**facts() | case.fields() | fields)


def file_origin() -> dict[str, Any]:
    """The origin fields of a study's file."""
    return {name: facts()[name] for name in ("device", "software", "code", "commit", "dirty")}


def floor() -> dict[str, Any]:
    """Invented limits of a card, as ``bench.gpu.floor`` writes them."""

    def entry(ms: float, **words: Any) -> dict[str, Any]:
        return words | {"ms": ms, "ms_low": 0.98 * ms, "ms_high": 1.02 * ms, "samples_ms": [ms]}

    def clocks(count: float, **words: Any) -> dict[str, Any]:
        taken = {"clocks": count, "clocks_low": count - 1, "clocks_high": count + 1}
        return words | taken | {"samples_clocks": [count]}

    reads = {"words": 4096, "warps": 8}
    gather = reads | {"bytes": 1 << 16, "programs": 4}
    return file_origin() | {
        "card": {
            "name": "NVIDIA H100 80GB HBM3", "architecture": "sm_90", "multiprocessors": 132,
            "shared_bytes": 232448, "shared_total": 233472,
        },
        "problems": {"multiply": "failed: RuntimeError: no cuBLAS | here\nat all"},
        "barrier": [
            entry(
                1e-3 * (k + 1) + stored * 1e-7, programs=8**k, groups=128 // 8**k,
                stored_bytes=stored,
            )
            for stored in (3584, 0)
            for k in range(3)
        ],
        "flag": [entry(1.4e-3, pairs=1)],
        "release": [clocks(650, programs=132, stored_bytes=512)],
        "chain": [clocks(24, n=16, warps=4, ghz=1.7), clocks(26, n=32, warps=4, ghz=1.69)],
        "launch": [entry(1e-3, how="graph"), entry(3e-3, how="stream")],
        "latency": [entry(1.6e-4, bytes=1 << 20)],
        "gather": [
            entry(1e-3, gbps=rate, readers=readers, **gather)
            for rate, readers in ((70.0, 132), (90.0, 132), (95.0, 1))
        ],
        "copy": [entry(1.0, bytes=1 << 30, gbps=rate, **reads) for rate in (2900.0, 2800.0)],
        "multiply": [
            entry(1.6, number=number, n=8192, tflops=rate)
            for number, rate in (("bf16", 687.0), ("fp16", 690.0), ("tf32", 390.0), ("ieee", 50.0))
        ],
        "time": facts()["time"],
    }  # fmt: skip


def activations() -> dict[str, Any]:
    """An invented file of activation errors."""
    exponents = range(-30, 10)
    rows = {}
    for k, name in enumerate(("sigmoid", "tanh", "sigmoid_gradient", "tanh_gradient")):
        units = 1 + np.abs(np.sin(np.add(exponents, k)))
        rows[name] = {
            "exponents": list(exponents), "max_ulp_per_exponent": list(units), "max_ulp": 2.0,
            "worst_at": 0.5, "n": 1 << 22, "p99_ulp": 1.0, "enumerated": [-2, -1, 0, 2],
            "elsewhere_ulp": 1.5, "torch_max_ulp": None, "special": {"inf": "1.0"},
        }  # fmt: skip
    return {
        "functions": rows, "points": 1 << 22, "exponential": "exp2 and sqrt of a synthetic card",
        "interpreted": True, **file_origin(),
    }  # fmt: skip


def training() -> dict[str, Any]:
    """An invented file of training runs."""
    falling = [4 - 0.03 * step for step in range(50)]
    curves = {
        cell: {"torch.nn": falling, "ours": [x + 1e-8 * k * k for k, x in enumerate(falling)]}
        for cell in ("gru", "lstm")
    }
    sizes = {"T": 8, "B": 4, "I": 8, "H": 16}
    fp32 = {"losses": curves, "bound": 1e-4, "sizes": sizes, "seed": 0}
    return activations() | fp32 | {"bf16": training_in_bf16()}


def training_in_bf16() -> dict[str, Any]:
    """Invented training runs in bf16: torch.nn's GRU ends 0.1 above fp32's, all else at it."""

    def curve(cell: str, seed: int, run: str) -> list[float]:
        off = 0.1 if (cell, run) == ("gru", "torch.nn") else 0.0
        noise = 0 if run == "fp32" else 1e-3 * _noise(cell, seed, run).standard_normal()
        return [
            4 - 0.1 * step * (1 + 0.01 * seed) + (off + noise) * step / 19 for step in range(20)
        ]

    runs = {
        cell: [
            {run: curve(cell, seed, run) for run in ("ours", "torch.nn", "fp32")}
            for seed in range(5)
        ]
        for cell in ("gru", "lstm")
    }
    sizes = {"T": 8, "B": 16, "I": 16, "H": 32}
    return {
        "curves": runs, "sizes": sizes, "steps": 20, "last": 4, "bound": 0.02,
        "learning_rate": 0.005, "seeds": [0, 1, 2, 3, 4],
    }  # fmt: skip


def memory() -> dict[str, Any]:
    """An invented file of training on a task that needs memory."""
    curves = {
        run: [{"loss": [0.2, 0.17, last * (1 + s)], "moved": [0, 0, 0.1 * s]} for s in range(5)]
        for run, last in {"torch.nn": 0.16, "ours": 0.003, "fp32": 0.003}.items()
    }
    return activations() | {
        "curves": curves, "task": "adding problem", "cell": "gru", "bias": 7.0, "steps": 30,
        "sizes": {"T": 12, "B": 8, "H": 16}, "every": 10, "learning_rate": 0.03,
        "baseline": 1 / 6, "seeds": [0, 1, 2, 3, 4],
    }  # fmt: skip
