"""Ensembles: torch.vmap over weights, inputs, states and masks, against the models one by one."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import kernels
from kernels import launch
from tests.helpers.paired_modules import B, H, I, T, assert_close, output, pair, weights
from tests.helpers.pairwise import label, pairwise

MODELS = 2  # which divides neither T nor B: a dimension taken for another shows
MAPPED = {  # which arguments differ from model to model
    "weights": ("weights",),
    "x": ("x",),
    "weights and x": ("weights", "x"),
    "states": ("states",),
    "lengths": ("lengths",),
    "weights and resets": ("weights", "resets"),
    "lengths and resets": ("lengths", "resets"),
    "all": ("weights", "x", "states", "lengths", "resets"),
}


def ensemble(cell: str, mapped: tuple[str, ...], directions: int) -> dict[str, Any]:
    """The arguments of `layers`, those in `mapped` with a leading dimension."""
    stack = {name: (MODELS,) if name in mapped else () for name in sum(MAPPED.values(), ())}
    states = kernels.CELLS[cell].states
    lengths = torch.randint(1, T + 1, (*stack["lengths"], B))
    return {
        "weights": weights(cell, *stack["weights"], directions=directions),
        "x": torch.randn(*stack["x"], T, B, I),
        "states": tuple(torch.rand(*stack["states"], directions, B, H) for _ in range(states)),
        "lengths": lengths if mapped == ("lengths",) or len(mapped) > 1 else None,
        "resets": torch.rand(*stack["resets"], T, B) < 0.4 if "resets" in mapped else None,
    }


def differentiated(given: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of `ensemble` that have a gradient, by a name each."""
    found = {"x": given["x"], **{f"h{k}": t for k, t in enumerate(given["states"])}}
    for d, one in enumerate(given["weights"]):
        found |= {f"w{d}{k}": w for k, w in enumerate(one)}
    return found


def call(cell: str, given: dict[str, Any], tensors: dict[str, Tensor], **options: Any) -> Tensor:
    own = [tuple(tensors[f"w{d}{k}"] for k in range(4)) for d in range(len(given["weights"]))]
    states = tuple(tensors[f"h{k}"] for k in range(len(given["states"])))
    return output(
        kernels.layers(
            cell, tensors["x"], own, states if len(states) > 1 else states[0],
            lengths=given["lengths"], resets=given["resets"], **options,
        )
    )  # fmt: skip


def one_model(given: Any, mapped: tuple[str, ...], model: int) -> dict[str, Any]:
    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[model]
        return None if value is None else type(value)(pick(part) for part in value)

    return {name: pick(value) if name in mapped else value for name, value in given.items()}


CONFIGURATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("gru", "both", {}),
    ("lstm", "reverse", {"recompute": True}),
    ("slstm", "forward", {"mode": "gemm"}),
    ("rnn_tanh", "both", {"recompute": True, "mode": "gemm"}),
    ("gru", "reverse", {"mode": "gemm"}),
]
# Every way to get gradients with every set of mapped arguments, each with another configuration.
ENSEMBLES = [
    (mapped, how, *CONFIGURATIONS[(k + 2 * n) % len(CONFIGURATIONS)])
    for n, how in enumerate(("backward", "torch.func"))
    for k, mapped in enumerate(MAPPED)
]
# Each model's own gradient of an x that they share, where the backward pass computes x's products.
ENSEMBLES.append(("weights", "torch.func", "lstm", "reverse", {"recompute": True}))
# A history of states, within a batch of all models.
ENSEMBLES.append(("x", "backward", "slstm", "both", {}))


@pytest.mark.parametrize(("mapped", "gradient", "cell", "direction", "options"), ENSEMBLES)
def test_an_ensemble_equals_its_models_one_by_one(mapped, gradient, cell, direction, options):
    names = MAPPED[mapped]
    options = {"direction": direction, **options}
    given = ensemble(cell, names, 2 if direction == "both" else 1)
    tensors = differentiated(given)
    dims = {
        name: 0 if {"x": "x", "h": "states", "w": "weights"}[name[0]] in names else None
        for name in tensors
    }
    masks = {name: given[name] for name in ("lengths", "resets")}
    mask_dims = {name: 0 if name in names else None for name in masks}
    if gradient == "torch.func":
        # Each model's own gradient, also of what the models share.
        def loss(tensors: Any, masks: Any) -> tuple[Tensor, Tensor]:
            y = call(cell, given | masks, tensors, **options)
            return y.square().sum(), y

        found, y = torch.vmap(torch.func.grad(loss, has_aux=True), (dims, mask_dims))(
            tensors, masks
        )
    else:
        leaves = {name: t.requires_grad_() for name, t in tensors.items()}
        y = torch.vmap(lambda t, m: call(cell, given | m, t, **options), (dims, mask_dims))(
            leaves, masks
        )
        y.square().sum().backward()
        found = {name: torch.as_tensor(t.grad) for name, t in leaves.items()}

    total: dict[str, Any] = {}
    for model in range(MODELS):
        single = one_model(given, names, model)
        own = {n: t.detach().clone().requires_grad_() for n, t in differentiated(single).items()}
        expected = call(cell, single, own, **options)
        expected.square().sum().backward()
        assert_close(y[model], expected, "outputs")
        for name, tensor in own.items():
            if gradient == "torch.func" or dims[name] == 0:
                assert_close(found[name][model], torch.as_tensor(tensor.grad), name)
            else:
                total[name] = total.get(name, 0) + torch.as_tensor(tensor.grad)
    for name, expected in total.items():  # what models share gets the sum of their gradients
        assert_close(found[name], expected, name)


def test_an_ensemble_of_modules_trains_in_one_loop_per_layer(monkeypatch):
    modules = [kernels.GRU(I, H, 2) for _ in range(MODELS)]
    parameters, buffers = stack_module_state(modules)
    x = torch.randn(T, B, I)
    launches = {"forward": 0, "backward": 0}

    def counting(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            launches[name] += 1
            return run(*arguments)

        return counted

    for name in launches:
        monkeypatch.setattr(launch, name, counting(name, getattr(launch, name)))
    y = torch.vmap(lambda p, b: functional_call(modules[0], (p, b), (x,))[0])(parameters, buffers)
    y.square().sum().backward()
    assert launches == {"forward": 2, "backward": 2}
    for model, module in enumerate(modules):
        module(x)[0].square().sum().backward()
        for name, p in module.named_parameters():
            assert_close(parameters[name].grad[model], torch.as_tensor(p.grad), name)


def test_an_ensemble_with_the_batch_first():
    """In whose x the time steps are not adjacent."""
    own, x = weights("gru", MODELS), torch.randn(MODELS, B, T, I)
    run = lambda w, x: kernels.gru(x, w, batch_first=True, recompute=True)[0]  # noqa: E731
    found = torch.vmap(run)(own, x)
    sums = lambda w, x: run(w, x).sum((0, 1))[:2]  # noqa: E731
    jacobians = torch.vmap(torch.func.jacrev(sums, argnums=1))(own, x)
    for model in range(MODELS):
        given = [tuple(w[model] for w in own[0])], x[model]
        assert_close(found[model], run(*given), "outputs")
        assert_close(jacobians[model], torch.func.jacrev(sums, argnums=1)(*given), "Jacobian")


LEVELS = ("inner", "outer", "both")  # of the models that differ in an argument
NESTED = pairwise(
    weights=LEVELS, x=LEVELS, lengths=LEVELS, resets=LEVELS, mode=("auto", "gemm"),
    recompute=(False, True),
)  # fmt: skip


@pytest.mark.parametrize("setting", NESTED, ids=label)
def test_ensembles_of_ensembles(setting):
    """Each model's outputs and gradients, of two times two models."""
    options = {name: setting[name] for name in ("mode", "recompute")}
    names = ("x", *("weights",) * 4, "lengths", "resets")
    drawn = [
        torch.randn(2, 2, T, B, I),
        *weights("rnn_tanh", 2, 2)[0],
        torch.randint(1, T + 1, (2, 2, B)),
        torch.rand(2, 2, T, B) < 0.4,
    ]
    mapped, every = [], []  # as the transforms take them, and of every model
    for name, tensor in zip(names, drawn, strict=True):
        level = setting[name]
        mapped.append({"inner": tensor[0], "outer": tensor[:, 0]}.get(level, tensor))
        shared = {"inner": tensor[:1], "outer": tensor[:, :1]}.get(level, tensor)
        every.append(shared.expand_as(tensor).contiguous())
    h0 = torch.randn(2, 2, 1, B, H)  # each model's own, as each level needs one

    def loss(tensors: list[Tensor], masks: list[Tensor], h0: Tensor) -> tuple[Tensor, Tensor]:
        x, *own = tensors
        masking: dict[str, Any] = dict(zip(("lengths", "resets"), masks, strict=True))
        results = kernels.rnn(x, [own], h0, direction="reverse", **masking, **options)
        y = output(results)
        return y.square().sum(), y

    run = torch.func.grad(loss, has_aux=True)
    for level in ("inner", "outer"):
        dims = [0 if setting[name] in (level, "both") else None for name in names]
        run = torch.vmap(run, (dims[:5], dims[5:], 0))
    found, y = run(mapped[:5], mapped[5:], h0)

    leaves, masks = [t.requires_grad_() for t in every[:5]], every[5:]
    total: Any = 0
    for i, j in product(range(2), repeat=2):
        one, expected = loss([t[i, j] for t in leaves], [t[i, j] for t in masks], h0[i, j])
        assert_close(y[i, j], expected, "outputs")
        total = total + one
    for k, (ours, theirs) in enumerate(zip(found, torch.autograd.grad(total, leaves), strict=True)):
        assert_close(ours, theirs, f"gradient {k}")


def test_the_lengths_of_an_ensemble_are_checked():
    own, x = weights("gru"), torch.randn(T, B, I)
    with pytest.raises(ValueError, match=r"^lengths is .*; accepted: integers in 1\.\.T"):
        torch.vmap(lambda n: kernels.gru(x, own, lengths=n)[0])(
            torch.tensor([[1, 2, 3], [0, 1, 1]])
        )


@pytest.mark.slow
def test_a_compiled_ensemble_trains():
    own, x = weights("gru", MODELS), torch.randn(2, B, I)
    run = torch.vmap(lambda w: kernels.gru(x, [w])[0])
    results = []
    for each in (run, torch.compile(run, backend="aot_eager", fullgraph=True)):
        leaves = tuple(w.clone().requires_grad_() for w in own[0])
        y = each(leaves)
        y.square().sum().backward()
        results.append([y, *(w.grad for w in leaves)])
    for eager, compiled in zip(*results, strict=True):
        assert_close(compiled, eager, "compiled")


# Packed sequences and dropout

PACKED = pack_padded_sequence(torch.zeros(T, B, I), torch.tensor([2, T, 1]), enforce_sorted=False)


PACKINGS = pairwise(
    mapped=("data", "weights", "both"), cell=("gru", "lstm"), recompute=(False, True)
)


@pytest.mark.parametrize("setting", PACKINGS, ids=label)
def test_an_ensemble_takes_packed_sequences(setting):
    """Against torch.nn's models one by one, with the gradients of all that differs."""
    mapped, cell, recompute = setting.values()
    module, twin = pair(cell, bidirectional=True)
    module.recompute = recompute
    given = {name: p.detach() for name, p in module.named_parameters()}
    given["data"] = torch.randn_like(PACKED.data)
    varied = {
        name: torch.stack([t, t / 2, -t]).requires_grad_()
        for name, t in given.items()
        if mapped == "both" or (name == "data") == (mapped == "data")
    }

    def run(layer: Any, own: dict[str, Tensor]) -> Tensor:
        parameters = given | own
        packed = PACKED._replace(data=parameters.pop("data"))
        return output(functional_call(layer, parameters, (packed,)))

    found = torch.vmap(lambda own: run(module, own))(varied)
    models = [{name: t[k] for name, t in varied.items()} for k in range(3)]
    expected = torch.stack([run(twin, own) for own in models])
    assert_close(found, expected, "outputs")
    gradients = (
        torch.autograd.grad(y.square().sum(), list(varied.values())) for y in (found, expected)
    )
    for name, ours, theirs in zip(varied, *gradients, strict=True):
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("transform", [torch.vmap, torch.func.grad])
def test_a_sequence_that_is_packed_within_a_transform_is_refused(transform):
    """What is packed there has batch_sizes that cannot be read."""
    module, _ = pair("gru")

    def run(x: Tensor) -> Tensor:
        return module(pack_padded_sequence(x, torch.tensor([3, 2, 1])))[0].data.sum()

    x = torch.randn(1, T, B, I)
    with pytest.raises(
        ValueError, match=r"^batch_sizes is made within torch\.vmap or .*; accepted: "
    ):
        transform(run)(x if transform is torch.vmap else x[0])


def test_an_ensemble_of_no_models_is_refused():
    module, _ = pair("gru")
    with pytest.raises(ValueError, match=r"^vmap maps 0 models; accepted: at least 1$"):
        torch.vmap(module)(torch.zeros(0, T, B, I))


@pytest.mark.parametrize("part", ["batch_sizes", "sorted_indices", "unsorted_indices"])
def test_what_orders_a_packed_sequence_is_not_mapped(part):
    module, _ = pair("gru")
    value, h0 = getattr(PACKED, part), torch.zeros(1, B, H)

    def run(value: Tensor) -> Tensor:
        return module(PackedSequence(**PACKED._asdict() | {part: value}), h0)[0].data

    with pytest.raises(ValueError, match=rf"^{part} is made within torch\.vmap or .*; accepted: "):
        torch.vmap(run)(value.expand(2, -1))


@pytest.mark.parametrize("mapped", ["x", "weights"])
@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_dropout_between_layers_of_an_ensemble(randomness, mapped):
    """Models that are alike differ in their outputs and gradients as their dropout masks do."""
    module = kernels.GRU(I, H, 2, dropout=0.5)
    given = {name: p.detach() for name, p in module.named_parameters()}
    given["x"] = torch.randn(T, B, I)
    varied = {
        name: torch.stack([t] * MODELS)
        for name, t in given.items()
        if (name == "x") == (mapped == "x")
    }

    def run(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        parameters = given | own
        y, _ = functional_call(module, parameters, (parameters.pop("x"),))
        return y.square().sum(), y

    gradients = torch.vmap(torch.func.grad(run, has_aux=True), randomness=randomness)
    if randomness == "error":
        with pytest.raises(RuntimeError, match="randomness error mode"):
            gradients(varied)
        return
    found, y = gradients(varied)
    for name, each in {**found, "y": y}.items():
        if name.endswith("_l0") or name in ("x", "y"):  # the masks lie above the first layer
            assert torch.allclose(each[0], each[1]) == (randomness == "same"), name
