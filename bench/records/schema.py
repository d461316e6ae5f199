"""What a record is: its fields, their types and meanings, and the check on write and on read.

``FIELDS`` is the one description of a record. Imports no torch.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cases.arguments import check_name
from bench.cases.cases import PASSES, TRACKS
from bench.cases.numbers import DTYPES, PRECISIONS

Record = dict[str, Any]

KINDS = ("time", "error", "energy", "resources")
STATUSES = ("ok", "oom", "unsupported", "error", "timeout", "incorrect")
MODES = ("event", "graph", "host")


class BadRecord(ValueError):
    """A record whose fields are not those of ``FIELDS``."""


@dataclass(frozen=True)
class Field:
    """A field's JSON type, its meaning, its accepted values, and whether null is allowed."""

    type: str  # "string", "integer", "number", "boolean", "object", "array"
    meaning: str
    choices: tuple[Any, ...] = ()
    null: bool = True


_required = functools.partial(Field, null=False)

FIELDS: dict[str, Field] = {
    "run_id": _required("string", "names the run: preset, hash of the measured code, of plugins"),
    "case_id": _required("string", "the case in words; equal cases share it"),
    "kind": _required("string", "what was measured", KINDS),
    "status": _required("string", "how the measurement ended", STATUSES),
    "reason": Field("string", "why, unless ok"),
    "cell": _required("string", "rnn_tanh, rnn_relu, lstm, gru, or a plugin's"),
    "provider": _required("string", "the implementation that was measured"),
    "provider_version": Field("string", "of the package that computed; of a plugin file its hash"),
    "pass": _required("string", "forward, or forward and backward", PASSES),
    "track": _required("string", "only the loop, or also the input projection", TRACKS),
    "directions": _required("integer", "1, or 2 for both time directions", (1, 2)),
    "dtype": _required("string", "type of inputs, weights and outputs", DTYPES),
    "precision": _required("string", "of fp32 products; none for 16-bit types", PRECISIONS),
    "layers": _required("integer", "stacked layers"),
    "B": _required("integer", "batch"),
    "T": _required("integer", "time steps"),
    "I": Field("integer", "input features; null in the recurrence track"),
    "H": _required("integer", "hidden units"),
    "resets": _required("number", "fraction of steps at which a sequence starts anew"),
    "mode": Field("string", "the clock: device events, a CUDA graph, or the host", choices=MODES),
    "n": Field("integer", "samples"),
    "median_ms": Field("number", "median time of one call, ms"),
    "p20_ms": Field("number", "20th percentile, ms"),
    "p80_ms": Field("number", "80th percentile, ms"),
    "ci_low_ms": Field("number", "lower end of the median's 95 % interval within one run, ms"),
    "ci_high_ms": Field("number", "upper end of the median's 95 % interval within one run, ms"),
    "converged": Field("boolean", "whether the interval met the target before the budget ended"),
    "host_ms": Field("number", "median time until a call returns to the host, ms; on GPUs"),
    "warm_ms": Field("number", "median time with the call's data in the L2 cache, ms; on GPUs"),
    "warmup_calls": Field("integer", "calls before the first sample"),
    "settled": Field("boolean", "whether the times of these calls had stopped falling"),
    "checked_calls": Field("integer", "timed calls whose results were compared with float64"),
    "check_seed": Field("integer", "of which calls are checked and with what inputs; drawn anew"),
    "start": Field("integer", "which start of the measuring process, from 0"),
    "us_per_step": Field("number", "median_ms * 1000 / T"),
    "tokens_per_s": Field("number", "B * T / median"),
    "tflops": Field("number", "written formula's operations / median, 1e12 per second"),
    "gbps": Field("number", "written formula's bytes of device memory / median, 1e9 per second"),
    "floor_share": Field("number", "time by a model of this design / median (bench/README.md)"),
    "peak_bytes": Field("integer", "peak device memory of one call beyond what it was given"),
    "compile_s": Field(
        "number", "seconds of building the call and of its first run beyond a later"
    ),
    "errors": Field("object", "tensor -> max_abs, mean_abs, rel_l2, rel_max, rel_l2_slice"),
    "by_step": Field("object", "y, dx or dgx -> [step from the start, or the end; rel_l2]"),
    "plan": Field("object", "how ours ran: mode, reason, tiles"),
    "resources": Field("object", "counts of the compiled kernel: registers, stack, loop"),
    "algorithm": Field("string", "cuDNN's algorithm as torch's rule predicts it"),
    "device": _required("object", "name, kind, capability, driver, clocks before and after"),
    "software": _required("object", "python, torch, triton, numpy, platform"),
    "code": _required("string", "hash of kernels/, reference/ and the measuring half of bench/"),
    "commit": Field("string", "git commit of the checkout"),
    "dirty": Field("boolean", "whether the checkout had uncommitted changes"),
    "seed": _required("integer", "of the inputs and of the order of providers"),
    "time": _required("string", "when the case ended, ISO 8601, UTC"),
    "samples_ms": Field("array", "every sample in the order taken, ms"),
    "warm_samples_ms": Field("array", "a sample of each visit for warm_ms"),
    "blocks": Field("array", "samples per visit; providers take turns by visits"),
    "versus": Field(
        "object", "time or energy over the baseline's by visits: provider, ratio, low, high"
    ),
    "energy": Field(
        "object",
        "J per call, in all and above idle, with intervals; of each window J, calls, s, W idle",
    ),
    "regime": Field("string", "weights and inputs of an error case"),
    "interpreted": Field("boolean", "whether ours ran in Triton's interpreter on the CPU"),
}

REQUIRED = {name for name, field in FIELDS.items() if not field.null}
VERSUS = ("provider", "ratio", "low", "high")
ENERGY = (
    *("joules", "low", "high", "idle_watts", "above_idle", "above_low", "above_high"),
    *("windows", "calls", "seconds", "idle"),
)
ERROR_FIELDS = ("max_abs", "mean_abs", "rel_l2", "rel_max", "rel_l2_slice")
ALWAYS = ERROR_FIELDS[:3]  # that records of earlier versions have too
_PYTHON: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
    "array": list,
}  # fmt: skip


def new_record(**values: Any) -> Record:
    """A record with every field, null where no value is given; not checked."""
    return dict.fromkeys(FIELDS) | values


def check(record: Mapping[str, Any]) -> None:
    """Check a record against ``FIELDS``, without any library, on write and on read.

    A field that may be null may be absent: it is younger than the record.

    Raises:
        BadRecord: naming the first field that is missing, unknown, or of a wrong type or value.
    """
    for name in sorted(REQUIRED - record.keys()):
        raise BadRecord(f"record lacks {name}")
    for name, value in record.items():
        field = FIELDS.get(name)
        if field is None:
            raise BadRecord(f"record has {name}; accepted: fields in bench/records/schema.py")
        if value is None:
            if not field.null:
                raise BadRecord(f"{name} is null; accepted: {field.type}")
            continue
        is_bool = isinstance(value, bool)
        if not isinstance(value, _PYTHON[field.type]) or is_bool != (field.type == "boolean"):
            raise BadRecord(f"{name} is {value!r}; accepted: {field.type}")
        if field.choices and value not in field.choices:
            raise BadRecord(f"{name} is {value!r}; accepted: {', '.join(map(str, field.choices))}")
    try:
        check_name("provider", record["provider"])
    except ValueError as fault:
        raise BadRecord(str(fault)) from None
    for name, parts in (("versus", VERSUS), ("energy", ENERGY)):
        if record.get(name) is not None and set(parts) - record[name].keys():
            raise BadRecord(f"{name} lacks one of {', '.join(parts)}")
    for name, metrics in (record.get("errors") or {}).items():
        if not isinstance(metrics, dict) or set(ALWAYS) - metrics.keys():
            raise BadRecord(f"errors of {name} lack one of {', '.join(ALWAYS)}")
    for name, pairs in (record.get("by_step") or {}).items():
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise BadRecord(f"by_step of {name} has an item that is no pair; accepted: step, error")
    number = (int, float)
    for name, item in (("samples_ms", number), ("warm_samples_ms", number), ("blocks", int)):
        if not all(isinstance(value, item) for value in record.get(name) or []):
            raise BadRecord(f"{name} has an item that is no number; accepted: numbers")
    _check_possible(record)


def _check_possible(record: Mapping[str, Any]) -> None:
    """Check that the numbers of a record of right fields agree with each other."""
    median = record.get("median_ms")
    timed = record["kind"] == "time" and record["status"] == "ok"
    if (timed or median is not None) and not (median and 0 < median < math.inf):
        raise BadRecord(f"median_ms is {median!r}; accepted: finite and above 0")
    samples, visits = record.get("samples_ms"), record.get("blocks")
    counts = {
        "n": record.get("n"),
        "length of samples_ms": None if samples is None else len(samples),
        "sum of blocks": None if visits is None else sum(visits),
    }
    counts = {name: count for name, count in counts.items() if count is not None}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} is {count}" for name, count in counts.items())
        raise BadRecord(f"{found}; accepted: equal numbers of samples")
    _check_interval(("ci_low_ms", "median_ms", "ci_high_ms"), record)
    if record.get("versus") is not None:
        _check_interval(("low", "ratio", "high"), record["versus"], "versus.")


def _check_interval(
    names: tuple[str, str, str], values: Mapping[str, Any], prefix: str = ""
) -> None:
    """Check an interval's low end, middle and high end, as far as there are any."""
    found = {prefix + name: values[name] for name in names if values.get(name) is not None}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise BadRecord(f"{name} is {value!r}; accepted: above 0")
    if list(found.values()) != sorted(found.values()):
        said = ", ".join(f"{name} is {value!r}" for name, value in found.items())
        raise BadRecord(f"{said}; accepted: in ascending order")


def to_json(value: Any) -> Any:
    """Convert to JSON's types: non-finite floats to null, tuples to lists, numpy scalars too."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a numpy scalar
        return to_json(value.item())
    return value


def encode(record: Record) -> bytes:
    """A record as one line of JSON.

    Raises:
        BadRecord: for a record whose fields are not those of ``FIELDS``.
    """
    record = to_json(record)
    check(record)
    return (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()
