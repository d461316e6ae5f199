"""The names and the order of cells, passes, number formats, providers and settings in a report."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench import providers
from bench.cases.numbers import product_roundoff, split_number_type

# The baseline of a speed-up, by the clock that both are timed with.
BASELINES = providers.baselines()
CELL_NAMES = {
    "rnn_tanh": "RNN (tanh)", "rnn_relu": "RNN (relu)", "gru": "GRU", "lstm": "LSTM",
    "slstm": "sLSTM",
}  # fmt: skip
PASS_NAMES = {"fwd": "forward", "fwd+bwd": "forward + backward"}
PASS_TITLES = {"fwd": "forward", "fwd+bwd": "fwd+bwd"}  # shorter names for panel titles
PART_NAMES = {
    "output": "output", "gradient-state": "gradient of input, state",
    "gradient-weight": "gradient of weights", "input": "gradient of input",
    "gate": "gradient of gate bias",
}  # fmt: skip
# Shorter names for panel titles.
PART_TITLES = PART_NAMES | {
    "gradient-state": "gradient: x, states", "gradient-weight": "gradient: weights",
}  # fmt: skip
GRADIENT = "gradient-"  # begins the parts that are whole gradients
LOOP_NAMES = {"fwd": "forward", "bwd": "backward"}
AXIS_NAMES = {"H": "hidden units H", "B": "batch B", "T": "time steps T"}
CELL_ORDER, PASS_ORDER = tuple(CELL_NAMES), tuple(PASS_NAMES)
PART_ORDER, LOOP_ORDER = tuple(PART_NAMES), tuple(LOOP_NAMES)
NUMBER_ORDER = ("fp32", "fp32:tf32x3", "fp32:tf32", "fp16", "bf16")
PROVIDER_ORDER = (
    *("ours", "ours-persistent", "ours-stepwise", "ours-stepwise-graph", "ours-gemm"),
    *("ours-graph", "torch.nn", "torch.nn-graph", "reference", "reference-compiled"),
    *("flashrnn-fused", "flashrnn-alternating", "flashrnn-triton", "torchrl-triton", "emulated"),
)
EFFECT = "effect-"  # begins a provider that rounds in one place only
EMULATED = "emulated-"  # and one that emulates the products of a format, whose name follows
MODELS = (EFFECT, EMULATED)  # begin the providers that are models, no implementations
PRODUCT_ORDER = ("ieee", "tf32x3", "bf16x3", "tf32", "tf32-truncated")
EFFECT_ORDER = (
    *("effect-inputs", "effect-projection", "effect-product", "effect-sum"),
    *("effect-activation", "effect-carry-fp32", "effect-carry-io", "effect-output"),
    *("effect-all", "effect-all-carry-io"),
)
REGIME_ORDER = (
    *("default", "orthogonal-0.9", "orthogonal-1.0", "orthogonal-1.1"),
    *("constant", "large", "tiny", "lengths", "memory-3", "memory-5", "memory-7"),
)
# Everything that must be equal for two times to share a plot, sizes aside.
SETTING = ("track", "directions", "layers", "number", "inputs", "resets", "mode")
SIZES = ("B", "T", "H")
CLOCKS = {
    "event": "CUDA events around each call, the L2 cache emptied before it",
    "graph": "CUDA events around each replay of a captured CUDA graph",
    "host": "the host's clock around each call",
}


def in_order(values: Iterable[Any], order: Sequence[str]) -> list[str]:
    """The distinct values, those of ``order`` first and in its order."""
    seen = {str(value) for value in values if value is not None}
    return [value for value in order if value in seen] + sorted(seen - set(order))


# The distinct values of one kind, in the order of panels, rows and legends.
ordered_cells = functools.partial(in_order, order=CELL_ORDER)
ordered_passes = functools.partial(in_order, order=PASS_ORDER)
ordered_parts = functools.partial(in_order, order=PART_ORDER)
ordered_numbers = functools.partial(in_order, order=NUMBER_ORDER)
ordered_providers = functools.partial(in_order, order=PROVIDER_ORDER)


def roundoff(number: str) -> float:
    """The unit roundoff u of a number format; with tf32 products that of their operands.

    >>> roundoff("fp32:tf32") == roundoff("fp16") == 2**-11
    True
    """
    return product_roundoff(*split_number_type(number))


def distinct(values: Iterable[Any]) -> list[str]:
    """The different values as text, in order of first appearance."""
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def cell_name(cell: Any) -> str:
    """A cell as a reader writes it; one that a plugin added keeps its name."""
    return CELL_NAMES.get(str(cell), str(cell))


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 seed", "3 seeds"."""
    return f"{count} {noun}{'s' * (count > 1)}"


def setting_words(setting: Mapping[Any, Any]) -> str:
    """A setting as a reader says it: "layer, 1 direction, bf16"."""
    directions = plural(setting["directions"], "direction").replace(" ", "\u00a0")
    words = ["loop only" if setting["track"] == "recurrence" else "layer", directions]
    if "number" in setting:
        words.append(setting["number"])
    if setting["layers"] > 1:
        words.append(f"{setting['layers']} layers")
    if setting["inputs"] != "H":
        words.append(f"I={setting['inputs']}")
    if setting["resets"]:
        words.append(f"{setting['resets']:.3g} resets")
    return ", ".join(words)


def setting_slug(setting: Mapping[Any, Any]) -> str:
    """A setting as a part of a file's name."""
    words = [setting["track"], f"{setting['directions']}dir"]
    if "number" in setting:
        words.append(setting["number"].replace(":", "-"))
    if setting["layers"] > 1:
        words.append(f"{setting['layers']}layers")
    if setting["inputs"] != "H":
        words.append(f"I{setting['inputs']}")
    if setting["resets"]:
        words.append(f"r{setting['resets']:g}")
    if setting.get("mode"):
        words.append(setting["mode"])
    return "-".join(words)


def sizes_words(sizes: Mapping[str, Any]) -> str:
    """Sizes as a reader writes them: "B=16, T=256"."""
    return ", ".join(f"{name}={value}" for name, value in sizes.items())


def where(setting: Mapping[Any, Any], sizes: Mapping[str, Any] | None = None) -> str:
    """A title's end: the setting, its sizes, and weights and inputs that are not the default."""
    words = [setting_words(setting)] + ([sizes_words(sizes)] if sizes else [])
    regime = setting.get("regime")
    return ", ".join(words) + (f"; weights and inputs: {regime}" if regime else "")


def cudnn_version(version: int | None) -> str | None:
    """cuDNN's version number in words: 92000 is 9.20.0, 8907 is 8.9.7.

    >>> cudnn_version(92000), cudnn_version(8907)
    ('9.20.0', '8.9.7')
    """
    if version is None:
        return None
    unit = 10000 if version >= 90000 else 1000
    return f"{version // unit}.{version % unit // 100}.{version % 100}"
