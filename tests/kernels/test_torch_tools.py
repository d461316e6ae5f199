"""Tools of torch that know its layers by module or type: torch.fx and torch.ao.quantization."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.nn.utils.rnn import pack_sequence

import kernels
from tests.helpers.paired_modules import KINDS, B, H, I, T, assert_alike, flat, pair, state

pytestmark = [
    pytest.mark.usefixtures("on_the_kernels_device"),
    # torch.ao's own: all of it, its quantized tensors and a keyword of its observers.
    pytest.mark.filterwarnings("ignore:.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*reduce_range"),
    pytest.mark.filterwarnings("ignore:To copy construct"),
]
RESETS = torch.tensor([[False, True, False]] * T)


class Plain(nn.Module):
    """A layer and a projection of its output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(H, 2)
        self.register_buffer("constant", torch.linspace(-1, 1, T * B * I).view(T, B, I))

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x * 2)[0])


class Stateful(Plain):
    """The layer twice, the second time from the state in which the first ended."""

    def forward(self, x: Any) -> Any:
        _, hx = self.layer(x)
        y, last = self.layer(x, hx=hx)
        return self.head(y), last


class Packed(Plain):
    """The layer on a PackedSequence."""

    def forward(self, x: Any) -> Any:
        y, last = self.layer(x)
        return self.head(y.data), last


class Constant(Plain):
    """The layer's input is no input of the model."""

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(self.constant)[0]) + x.sum()


class Nested(Plain):
    """The layer within modules that are traced through."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.layer = nn.Sequential(nn.Sequential(layer))


def input_of(model: type[Plain]) -> Any:
    return (
        pack_sequence([torch.randn(n, I) for n in (3, 1)])
        if model is Packed
        else torch.randn(T, B, I)
    )


def assert_same_training(ours: nn.Module, theirs: nn.Module, x: Any) -> None:
    """The same results, and gradients of the parameters."""

    def results_and_gradients(each: nn.Module) -> list[Tensor | None]:
        results = flat(each(x))
        torch.cat([r.flatten() for r in results]).square().sum().backward()
        return [*results, *(p.grad for p in each.parameters())]

    assert_alike(results_and_gradients, ours, theirs)


def layers_of(graph: fx.Graph) -> list[str]:
    """The targets of the graph's calls of modules."""
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize("model", [Plain, Stateful, Packed, Constant, Nested])
@pytest.mark.parametrize("cell", KINDS)
def test_fx_takes_a_layer_as_one_node(cell, model):
    module, twin = pair(cell, bidirectional=False)
    ours, theirs = model(module), model(twin)
    theirs.load_state_dict(ours.state_dict())
    traced, expected = fx.symbolic_trace(ours), fx.symbolic_trace(theirs)
    traced.graph.lint()
    assert layers_of(traced.graph) == layers_of(expected.graph)
    assert_same_training(traced, theirs, input_of(model))


@pytest.mark.parametrize(
    "change",
    [
        fx.symbolic_trace, copy.deepcopy, lambda traced: pickle.loads(pickle.dumps(traced)),
        lambda traced: fx.Transformer(traced).transform(),
    ],
    ids=["traced again", "copied", "pickled", "transformed"],
)  # fmt: skip
def test_fx_graphs_are_changed_as_torchs_are(change):
    module, twin = pair("lstm")
    ours, theirs = Stateful(module), Stateful(twin)
    theirs.load_state_dict(ours.state_dict())
    assert_same_training(change(fx.symbolic_trace(ours)), theirs, input_of(Stateful))


def test_fx_passes_states_and_resets_on():
    module, _ = pair("lstm")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = module

        def forward(self, x: Any, h: Any, c: Any, resets: Any) -> Any:
            return self.layer(x, (h, c), resets=resets)

    x, hx = torch.randn(T, B, I), state("lstm", 1, B, H)
    traced = fx.symbolic_trace(Model())
    for ours, theirs in zip(
        flat(traced(x, *hx, RESETS)), flat(module(x, hx, resets=RESETS)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_hooks_run_with_the_traced_layer_and_not_while_tracing():
    module, _ = pair("gru")
    calls: list[Any] = []
    module.register_forward_pre_hook(lambda module, given: calls.append(given))
    traced = fx.symbolic_trace(Plain(module))
    assert calls == []
    traced(torch.randn(T, B, I))
    assert len(calls) == 1 and isinstance(calls[0][0], Tensor)


@pytest.mark.parametrize("cell", KINDS)
def test_a_layer_by_itself_is_not_traced(cell):
    module, twin = pair(cell)
    with pytest.raises(TypeError, match="input is a Proxy; accepted: a tensor"):
        fx.symbolic_trace(module)
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(twin)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("cell", KINDS)
def test_prepare_fx_passes_a_layer_by(cell, dynamic):
    module, _ = pair(cell)
    model, x = Plain(module).eval(), torch.randn(T, B, I)
    config = quantization.QConfigMapping().set_global(quantization.default_dynamic_qconfig)
    if not dynamic:
        config = quantization.get_default_qconfig_mapping("fbgemm")
    expected = model(x)
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), config, (x,))
    prepared(x)
    converted = quantize_fx.convert_fx(prepared)
    assert type(converted.layer) is type(module)
    assert type(converted.head) is not nn.Linear
    # Eight bits: each value is off by up to 1/255 of the range, a few times over.
    assert (converted(x) - expected).abs().max() < 0.05 * expected.abs().max()


def ours_among(warned: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in warned if "kernels" in str(w.message)]


@pytest.mark.parametrize("cell", KINDS)
def test_quantize_dynamic_leaves_a_layer_with_a_warning(cell):
    module, _ = pair(cell)
    x = torch.randn(T, B, I)
    expected, _ = module(x)
    specs: list[Any] = [
        {}, {"dtype": torch.float16}, {"qconfig_spec": {type(module)}}, {"inplace": True},
        {"qconfig_spec": {"layer": quantization.default_dynamic_qconfig}},
    ]  # fmt: skip
    for spec in specs:
        with pytest.warns(UserWarning) as warned:
            found = quantization.quantize_dynamic(Plain(module), **spec)
        (message,) = ours_among(list(warned))
        assert message.startswith(f"quantize_dynamic leaves kernels.{module._get_name()} as it is")
        assert type(found.layer) is type(module)
        assert not hasattr(found.layer, "qconfig")
        assert torch.equal(found.layer(x)[0], expected)


def test_no_other_use_of_a_qconfig_warns():
    module: Any = kernels.LSTM(I, H)

    class Mine(nn.Module):
        @classmethod
        def from_float(cls, layer: nn.Module, **options: Any) -> nn.Module:
            return cls()

    spec = {kernels.LSTM: quantization.default_dynamic_qconfig}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert not hasattr(module, "qconfig")
        quantization.quantize_dynamic(Plain(module), {nn.Linear})
        quantization.quantize_dynamic(Plain(module), dtype=torch.quint8)  # only embeddings
        found = quantization.quantize_dynamic(Plain(module), spec, mapping={kernels.LSTM: Mine})
        assert type(found.layer) is Mine
        model: Any = Plain(module)
        model.qconfig = quantization.default_qconfig
        module.qconfig = None
        quantization.prepare(model.eval())
        twin = pickle.loads(pickle.dumps(module))
        assert twin.qconfig is copy.deepcopy(module).qconfig is None
        del module.qconfig
        assert not hasattr(module, "qconfig")
    assert ours_among(warned) == []


@pytest.mark.parametrize("cell", KINDS)
def test_jit_script_is_refused_also_within_a_model(cell):
    for model in (pair(cell)[0], Plain(pair(cell)[0])):
        with pytest.raises(NotImplementedError, match=r"torch.jit.script .* torch.jit.trace does"):
            torch.jit.script(model)
