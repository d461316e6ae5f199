"""Transforms of the layers: forward-mode derivatives, `torch.func`, ensembles, captured graphs."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import kernels
import reference
from kernels import launch
from tests.helpers import paired_modules, tolerances
from tests.helpers.paired_modules import KINDS, B, H, I, T, assert_close, pair
from tests.helpers.pairwise import label, pairwise
from tests.helpers.tolerances import REORDERED

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru", "slstm")
STEPWISE = "ignore:forward-mode derivatives:UserWarning"


def weights(cell: str, *stack: int, directions: int = 1) -> list[tuple[Tensor, ...]]:
    """The weights of one layer, with leading dimensions for an ensemble."""
    K = kernels.CELLS[cell].gates * H
    shapes = ((K, I), (K, H), (K,), (K,))
    return [tuple(torch.randn(*stack, *s) / 2 for s in shapes) for _ in range(directions)]


def output(result: Any) -> Tensor:
    """All of a layer's results in one tensor."""
    return torch.cat([tensor.flatten() for tensor in paired_modules.flat(result)])


# Forward mode


def dual(grad: bool) -> Callable[..., Tensor | None]:
    def tangent(f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor | None:
        with torch.set_grad_enabled(grad), forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, direction))).tangent

    return tangent


def product(jacobian: Tensor, direction: Tensor) -> Tensor:
    return jacobian.reshape(-1, direction.numel()) @ direction.flatten()


FORWARD_MODES: dict[str, Callable[..., Tensor | None]] = {
    "dual tensors": dual(True),
    "dual tensors without grad": dual(False),
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,))[1],
    "jacfwd": lambda f, x, v: product(torch.func.jacfwd(f)(x), v),
    "linearize": lambda f, x, v: torch.func.linearize(f, x)[1](v),
    "jacobian": lambda f, x, v: product(
        torch.autograd.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"), v
    ),
    "within a gradient": lambda f, x, v: torch.func.jacrev(
        lambda scale: torch.func.jvp(f, (x,), (scale * v,))[1]
    )(torch.tensor(1.0)),
}


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", FORWARD_MODES)
def test_forward_mode_equals_torchs(how, frozen):
    """A tangent that is dropped is zero, or None. (torch.nn has not all of the ways.)"""
    module, twin = (each.requires_grad_(not frozen) for each in pair("gru", bidirectional=True))
    x, v = torch.randn(T, B, I), torch.randn(T, B, I)
    ours = FORWARD_MODES[how](lambda x: output(module(x)), x, v)
    assert ours is not None
    assert_close(ours, torch.func.jvp(lambda x: output(twin(x)), (x,), (v,))[1], how)


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_mode_of_each_cell_and_argument(cell, recompute):
    """With respect to all tensors at once, with ends and resets, against the float64 reference."""
    own, x = weights(cell, directions=2), torch.randn(T, B, I)
    states = torch.rand(kernels.CELLS[cell].states, 2, B, H)
    masks = {"lengths": torch.tensor([T, 1, 2]), "resets": torch.rand(T, B) < 0.5}
    primals = (x, states, *(w for one in own for w in one))

    def run(package: Any, dtype: torch.dtype, **more: Any) -> Tensor:
        def f(x: Tensor, states: Tensor, *flat: Tensor) -> Tensor:
            hx = states[0] if len(states) == 1 else tuple(states)
            both = [flat[:4], flat[4:]]
            return output(package.layers(cell, x, both, hx, direction="both", **masks, **more))

        given = tuple(p.to(dtype) for p in primals)
        return torch.func.jvp(f, given, tuple(p.cos() for p in given))[1]

    exact = run(reference, torch.float64)
    ours = run(kernels, torch.float32, recompute=recompute)
    tolerances.assert_close(ours.double(), exact, REORDERED[torch.float32], "tangent")


@pytest.mark.filterwarnings(STEPWISE)
def test_forward_mode_in_16_bit_is_of_float32_sums():
    own, x = weights("gru"), torch.randn(8, B, I)
    run = lambda dtype: torch.func.jvp(  # noqa: E731
        lambda x: kernels.gru(x, [tuple(w.to(dtype) for w in own[0])])[0],
        (x.to(dtype),),
        (torch.ones_like(x, dtype=dtype),),
    )[1]
    rounded = tolerances.rounded_loop(torch.bfloat16, 8, I + H)
    tolerances.assert_close(run(torch.bfloat16).float(), run(torch.float32), rounded, "tangent")


@pytest.mark.slow
@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", ["dual tensors", "jvp", "jacfwd"])
def test_compiled_forward_mode_equals_torchs(how, recompute):
    module, twin = pair("gru")
    module.recompute = recompute
    x, v = torch.randn(2, B, I), torch.randn(2, B, I)
    for each in (module, twin):
        each.requires_grad_(False)

    def run(x: Tensor, v: Tensor) -> Tensor | None:
        return FORWARD_MODES[how](lambda x: output(module(x)), x, v)

    theirs = torch.func.jvp(lambda x: output(twin(x)), (x,), (v,))[1]
    ours = torch.compile(run, backend="aot_eager")(x, v)
    assert ours is not None
    assert_close(ours, theirs, how)


def test_forward_mode_says_that_the_loop_runs_in_pytorch():
    module, _ = pair("lstm")
    x = torch.randn(T, B, I)
    with pytest.warns(UserWarning, match="run the loop in PyTorch, step by step"):
        torch.func.jvp(lambda x: module(x)[0], (x,), (x,))


def test_a_layer_of_constants_runs_in_the_kernels():
    """Below a tangent, in each of the ways to ask for one; with gradients of its own."""
    module, _ = pair("lstm")
    x, scale = torch.randn(T, B, I), torch.tensor(2.0)
    expected = output(module(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="forward-mode")
        for how in ("dual tensors", "dual tensors without grad", "jvp", "jacfwd"):
            found = FORWARD_MODES[how](lambda s: output(module(x)) * s, scale, torch.tensor(1.0))
            assert found is not None, how
            assert torch.equal(found.detach().flatten(), expected.detach()), how
        x.requires_grad_()
        tangent = torch.func.jvp(lambda s: output(module(x)) * s, (scale,), (scale,))[1]
        gradient = torch.autograd.grad(tangent.sum(), x)[0]
    assert torch.equal(gradient, 2 * torch.autograd.grad(output(module(x)).sum(), x)[0])


def test_a_cell_without_a_reference_has_no_forward_mode(monkeypatch):
    monkeypatch.delitem(reference.CELLS, "gru")
    module, _ = pair("gru")
    x = torch.randn(T, B, I)
    with pytest.raises(
        NotImplementedError,
        match=r"^cell is 'gru' in forward-mode differentiation; accepted: rnn_tanh",
    ):
        torch.func.jvp(lambda x: module(x)[0], (x,), (x,))


# Gradients of torch.func


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", KINDS)
def test_gradients_of_torch_func_equal_backwards(cell, recompute):
    module, _ = pair(cell)
    module.recompute = recompute
    x = torch.randn(T, B, I)
    own = dict(module.named_parameters())

    def loss(parameters: Any) -> Tensor:
        return output(functional_call(module, parameters, (x,))).square().sum()

    loss(own).backward()
    given = {name: p.detach() for name, p in own.items()}
    found = {
        "grad": torch.func.grad(loss)(given),
        "vjp": torch.func.vjp(loss, given)[1](torch.tensor(1.0))[0],
        "jacrev": torch.func.jacrev(loss)(given),
    }
    for how, gradients in found.items():
        for name, p in own.items():
            assert_close(gradients[name], p.grad, f"{how} of {name}")


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "second",
    [
        lambda loss, x: torch.func.jacrev(torch.func.grad(loss))(x),
        lambda loss, x: torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())(x),
        lambda loss, x: torch.func.jvp(torch.func.grad(loss), (x,), (x,)),
        lambda loss, x: torch.func.hessian(loss)(x),
    ],
    ids=["jacrev of grad", "grad of grad", "jvp of grad", "hessian"],
)
def test_second_derivatives_of_torch_func_are_refused(second, recompute):
    module, _ = pair("gru")
    module.recompute = recompute
    with pytest.raises(RuntimeError, match="no second derivative"):
        second(lambda x: module(x)[0].square().sum(), torch.randn(T, B, I))


@pytest.mark.filterwarnings(STEPWISE)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("how", ["grad", "vjp", "jvp", "vmap of grad"])
def test_no_grad_within_a_transform_stops_all_gradients(how, recompute):
    """Also those of the weights, which the transform does not differentiate."""
    module, _ = pair("gru")
    module.recompute = recompute
    x, scale = torch.randn(T, B, I), torch.tensor(0.5)

    def f(scale: Tensor, stopped: bool) -> Tensor:
        with torch.set_grad_enabled(not stopped):
            target = module(x)[0]
        return (scale * target).sum()

    for stopped in (False, True):
        one = lambda s, stopped=stopped: f(s, stopped)  # noqa: E731
        found = {
            "grad": lambda: torch.func.grad(one)(scale),  # noqa: B023
            "vjp": lambda: torch.func.vjp(one, scale)[1](scale)[0],  # noqa: B023
            "jvp": lambda: torch.func.jvp(one, (scale,), (scale,))[1],  # noqa: B023
            "vmap of grad": lambda: torch.vmap(torch.func.grad(one))(scale.expand(2)),  # noqa: B023
        }[how]()
        assert found.requires_grad is not stopped


# Ensembles

MODELS = 3
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
    sums = lambda w, x: run(w, x).sum((0, 1))  # noqa: E731
    jacobians = torch.vmap(torch.func.jacrev(sums, argnums=1))(own, x)
    for model in range(MODELS):
        given = [tuple(w[model] for w in own[0])], x[model]
        assert_close(found[model], run(*given), "outputs")
        assert_close(jacobians[model], torch.func.jacrev(sums, argnums=1)(*given), "Jacobian")


def test_ensembles_of_ensembles():
    own = weights("lstm", 2, 3, directions=2)
    x, lengths = torch.randn(3, T, B, I), torch.tensor([[1, 2, 3], [3, 1, 2]])

    def run(weights: Any, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = kernels.lstm(x, weights, lengths=lengths, direction="both", recompute=True)
        return y

    inner = torch.vmap(run, (0, 0, None))
    found = torch.vmap(inner, (0, None, 0))(own, x, lengths)
    for i in range(2):
        for j in range(3):
            single = run([tuple(w[i, j] for w in one) for one in own], x[j], lengths[i])
            assert_close(found[i, j], single, "outputs")


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


# Graphs that are captured without a gradient, then trained


def exported(module: nn.Module, x: Tensor) -> Any:
    return torch.export.export(module, (x,)).module()


def exported_and_decomposed(module: nn.Module, x: Tensor) -> Any:
    return torch.export.export(module, (x,)).run_decompositions().module()


def traced(module: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(module, (x,))


def graph(module: nn.Module, x: Tensor) -> Any:
    """make_fx's graph, which goes on to be a function of the parameters."""
    own = dict(module.named_parameters())
    return make_fx(lambda p, x: functional_call(module, p, (x,)))(own, x)


CAPTURING: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "export": exported,
    "decomposed": exported_and_decomposed,
    "jit.trace": traced,
    "make_fx": graph,
}
CAPTURES = pairwise(
    cell=("gru", "lstm"),
    capture=tuple(CAPTURING),
    recompute=(False, True),
    frozen=(False, True),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated")
@pytest.mark.parametrize("setting", CAPTURES, ids=label)
def test_a_graph_that_is_captured_without_a_gradient_trains(setting):
    cell, capture, recompute, frozen = setting.values()
    module, twin = pair(cell)
    module.recompute = recompute
    x = torch.randn(T, B, I)
    module.requires_grad_(not frozen)
    with torch.set_grad_enabled(frozen):
        captured = CAPTURING[capture](module, x)
    module.requires_grad_()
    own = dict((captured if hasattr(captured, "weight_hh_l0") else module).named_parameters())
    for p in own.values():
        p.requires_grad_()
    result = captured(own, x) if capture == "make_fx" else captured(x)
    output(result).square().sum().backward()
    output(twin(x)).square().sum().backward()
    for name, p in twin.named_parameters():
        assert_close(own[name].grad, p.grad, name)


# FLOPs


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru"])  # torch fuses its LSTM on some CPUs
def test_flops_are_counted(cell, needs_x, bidirectional):
    """As torch counts its own, whose backward pass leaves out the first step's product, as nobody
    asks for the initial state's gradient; and with `recompute` the forward pass twice.
    """
    module, twin = pair(cell, bidirectional=bidirectional)
    x = torch.randn(T, B, I, requires_grad=needs_x)
    counts = []
    for each, recompute in ((twin, False), (module, False), (module, True)):
        each.recompute = recompute
        with FlopCounterMode(display=False) as counter:
            y, _ = each(x)
            forward = counter.get_total_flops()
            y.sum().backward()
        counts.append((forward, counter.get_total_flops() - forward))
    theirs, ours, recomputed = counts
    rows, D = kernels.CELLS[cell].gates * H, 1 + bidirectional
    assert ours[0] == theirs[0] == 2 * T * B * rows * (I + H) * D
    assert ours[1] == theirs[1] + 2 * B * rows * H * D
    assert recomputed == (ours[0], ours[1] + ours[0])
