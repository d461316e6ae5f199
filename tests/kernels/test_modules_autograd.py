"""The modules and operators under autograd and torch.compile."""

import gc
import inspect
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import kernels
from kernels import operators
from tests.helpers import paired_modules
from tests.helpers.paired_modules import DEVICE, KINDS, B, H, I, T, assert_close, flat, pair, state

pytestmark = pytest.mark.usefixtures("on_the_kernels_device")


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    """Dynamo compiles a function a limited number of times."""
    torch._dynamo.reset()


def memory(run: Callable[[], Any]) -> tuple[int, int]:
    """The bytes still allocated while the result of `run` is alive, and the most at any time."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = run()
        gc.collect()
    assert result is not None
    events = recorded.profiler.kineto_results.events()
    changes = [e for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"]
    live = list(accumulate(e.nbytes() for e in changes))
    return live[-1], max(live)


def activations(cell: str, T: int, H: int) -> int:
    """Bytes of activations that a layer saves: four per unit and step, and LSTM's cell state."""
    return 4 * T * B * H * {"lstm": 5, "gru": 4}.get(cell, 0)


on_the_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="measured by the CPU's profiler")


@pytest.mark.slow
@on_the_cpu
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_without_a_gradient_no_activations_are_kept(cell):
    module, _ = pair(cell, 8, 8)
    x = torch.randn(4, B, 8)
    results = 4 * B * 8 * (4 + (2 if cell == "lstm" else 1))
    _, most = memory(lambda: module(x))
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        module.requires_grad_(context is not torch.enable_grad)
        with context():
            kept, least = memory(lambda: module(x))
        assert kept == results
        assert least <= most - activations(cell, 4, 8)


@pytest.mark.slow
@on_the_cpu
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_recompute_keeps_no_activations(cell):
    ours, _, more = KINDS[cell]
    x = torch.randn(4, B, 8)
    kept, gradients = {}, []
    for recompute in (False, True):
        torch.manual_seed(0)
        module = ours(8, 8, 2, recompute=recompute, **more)
        kept[recompute], _ = memory(lambda: module(x))  # noqa: B023
        module(x)[0].sum().backward()
        gradients.append([p.grad for p in module.parameters()])
    # The sums of the two biases, kept where a cell's loop needs no bias of its own.
    sums = 0 if cell == "gru" else 2 * module.bias_ih_l0.nbytes
    assert kept[True] <= kept[False] - 2 * activations(cell, 4, 8) + sums
    # Kept are each layer's output, which is the next one's input, and the first and last states.
    states = (2 if cell == "lstm" else 1) * 4 * B * 8
    assert kept[True] <= 2 * x.nbytes + 6 * states + sums
    assert all(map(torch.equal, *gradients))


@pytest.mark.slow
@pytest.mark.parametrize("option", [None, "bidirectional", "recompute"])
@pytest.mark.parametrize("cell", KINDS)
def test_no_two_gradients_share_memory(cell, option):
    """Else a change in place, as by accumulation or clipping, would change two at once."""
    module, twin = pair(cell, bidirectional=option == "bidirectional")
    module.recompute = option == "recompute"
    x = torch.randn(T, B, I)
    for each in (module, twin):
        for _ in range(2):
            each(x)[0].square().sum().backward()
        nn.utils.clip_grad_norm_(each.parameters(), 0.1)
    gradients = [p.grad for p in module.parameters()]
    spans = sorted((g.data_ptr(), g.data_ptr() + g.nbytes) for g in gradients)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    for ours, theirs in zip(gradients, twin.parameters(), strict=True):
        assert_close(ours, theirs.grad, "accumulated and clipped gradient")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])  # the biases as a sum, and each by itself
@pytest.mark.parametrize(
    "names", [["weight_hh_l0"], ["bias_hh_l0"], ["weight_ih_l0", "bias_ih_l0"], []], ids=str
)
def test_only_what_requires_a_gradient_gets_one(cell, names, recompute):
    def gradients(each: Any) -> list[Tensor | None]:
        each.requires_grad_(False)
        for name in names:
            getattr(each, name).requires_grad_()
        x = torch.randn(T, B, I, requires_grad=not names)
        y, _ = each(x, state(cell, 1, B, H))
        y.square().sum().backward()
        return [t.grad for t in (x, *each.parameters())]

    module, twin = pair(cell)
    module.recompute = recompute
    paired_modules.assert_alike(gradients, module, twin)


@pytest.mark.parametrize("result", range(3))
def test_the_gradient_of_one_result(result):
    def gradients(each: Any) -> list[Tensor | None]:
        x = torch.randn(T, B, I, requires_grad=True)
        flat(each(x, state("lstm", 1, B, H)))[result].sum().backward()
        return [x.grad, each.weight_hh_l0.grad]

    paired_modules.assert_alike(gradients, *pair("lstm"))


@pytest.mark.parametrize("cell", KINDS)
def test_twice_in_one_graph(cell):
    module, twin = pair(cell, H, H)

    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            y, hx = self.inner(x)
            return self.inner(y, hx)

    paired_modules.assert_same(Twice(module), Twice(twin), torch.randn(2, B, H))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    module, _ = pair("gru")
    x = torch.randn(T, B, I, requires_grad=True)
    gradients = []
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        x.grad = module.weight_hh_l0.grad = None
        y, h = run(x)
        (y.sum() + h.sum()).backward()
        gradients.append([x.grad, module.weight_hh_l0.grad])
    assert all(map(torch.equal, *gradients))


def test_the_graph_is_used_twice_only_if_it_is_retained():
    module, _ = pair("lstm")
    y = module(torch.randn(T, B, I))[0].sum()
    first = torch.autograd.grad(y, module.weight_hh_l0, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, module.weight_hh_l0)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, module.weight_hh_l0)


@pytest.mark.parametrize("cell", KINDS)
def test_double_backward_is_refused(cell):
    module, _ = pair(cell)
    x = torch.randn(T, B, I, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not supported"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "what", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "output", "x", "h0"]
)
def test_a_change_in_place_is_detected_or_changes_nothing(what, recompute):
    """What the backward pass reads must be what the forward pass read: its own copy, or a tensor
    whose change torch detects. The bias that only the projection adds is needed by neither pass.
    """
    module, _ = pair("gru")
    module.recompute = recompute
    x, h0 = (torch.randn(*shape, requires_grad=True) for shape in ((T, B, I), (1, B, H)))
    leaves = (x, h0, *module.parameters())
    expected = torch.autograd.grad(module(x, h0)[0].sum(), leaves)
    y, _ = module(x, h0)
    with torch.no_grad():
        dict(module.named_parameters(), output=y, x=x, h0=h0)[what].mul_(2)
    copied = {"h0"} | ({"output"} if recompute else {"bias_ih_l0", "bias_hh_l0"})
    if what not in copied:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), leaves)
        return
    for found, right in zip(torch.autograd.grad(y.sum(), leaves), expected, strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize("cell", KINDS)
def test_last_states_may_be_changed_in_place(cell):
    """At an episode's end, and by truncated backpropagation's `detach_`, which views refuse."""
    module, _ = pair(cell)
    states = flat(module(torch.randn(T, B, I))[1])
    gx, w_hh = torch.randn(T, B, 1, len(module.bias_hh_l0)), module.weight_hh_l0[None]
    _, h_n, others = kernels.recurrence(cell, gx, w_hh)
    for one in (*states, *flat((h_n, () if others is None else others))):
        one[:, 0] = 0
    torch.stack(states).sum().backward()
    assert module.weight_hh_l0.grad.isfinite().all()
    for one in states:
        one.detach_()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "recompute"), [*((cell, False) for cell in KINDS), ("lstm", True)]
)
def test_compiles_without_a_graph_break(cell, recompute):
    ours, _, more = KINDS[cell]
    module = ours(I, H, bidirectional=True, recompute=recompute, **more)
    x, resets = torch.randn(2, B, I), torch.rand(2, B) < 0.3
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for run in (module, compiled):
        module.zero_grad()
        y, last = run(x, resets=resets)
        (y.sum() + sum(s.sum() for s in flat(last))).backward()
        results.append([y, *flat(last), *(p.grad for p in module.parameters())])
    for eager, graph in zip(*results, strict=True):
        assert_close(graph, eager, "compiled")


def test_compiles_inside_a_model_with_lengths():
    weights = [tuple(kernels.LSTM(I, H).parameters())]

    def model(x: Tensor, lengths: Tensor | None) -> Tensor:
        return kernels.lstm(x * 2, weights, direction="reverse", lengths=lengths)[0].tanh()

    x, lengths = torch.randn(T, B, I), torch.tensor([1, 3, 2])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, lengths), model(x, lengths), "output")
    with pytest.raises(ValueError, match=r"^lengths is \[4, 6, 5\]; accepted: integers in 1\.\."):
        compiled(x, lengths + T)


@pytest.mark.slow
def test_compiles_by_inductor():
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    module, twin = pair("gru", num_layers=2)
    x = torch.randn(T, B, I)
    # Scalar code: with vector instructions disabled in torch, vector code does not compile.
    # A new cache: the key of an old one does not know what shapes our operators return.
    with fresh_cache(), config.patch({"cpp.simdlen": 1}):
        assert_close(torch.compile(module, fullgraph=True)(x)[0], twin(x)[0], "output")


def test_fake_tensors_have_the_right_shapes():
    for ours, _, more in KINDS.values():
        module = ours(I, H, bidirectional=True, **more)
        with FakeTensorMode(allow_non_fake_inputs=True):
            fakes = flat(module(torch.empty(T, B, I)))
        for fake, real in zip(fakes, flat(module(torch.zeros(T, B, I))), strict=True):
            assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
            assert fake.stride() == real.stride()
        assert ours(I, H, device="meta", **more)(torch.empty(T, B, I, device="meta"))[0].is_meta


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "G", "states"), [("rnn_relu", 1, 1), ("lstm", 4, 2), ("gru", 3, 1)]
)
def test_the_operators_pass_opcheck(cell, G, states):
    T, B, H, D, K = 2, 2, 3, 2, 3 * G
    leaf = lambda *shape: torch.randn(shape, requires_grad=True)  # noqa: E731
    how = ("auto", "ieee")
    steps = torch.empty(T, 0)
    lengths = operators.sequence_ends(torch.tensor([1, 2]), steps)[None]
    torch.library.opcheck(operators.sequence_ends, (lengths[0], steps))
    masks = (lengths, torch.ones(1, T, B).to(torch.uint8))
    for b, (ends, resets) in ((leaf(D, K), masks), (None, (None, None))):
        loop = (leaf(D, K, H), b, leaf(states, D, B, H), ends, resets, cell, "both")
        gx, x, w_ih = leaf(T, B, D, K), leaf(1, T, B, 4), leaf(D, K, 4)
        torch.library.opcheck(operators.recurrence, (gx, *loop, False, *how))
        torch.library.opcheck(operators.layer, (x, w_ih, b, *loop, *how))
        with torch.no_grad():
            y, final, history, saved = operators.recurrence(gx, *loop, True, *how)
        w_hh, _, *rest = (t.detach() if torch.is_tensor(t) else t for t in loop)
        kept = (w_hh, *rest[:3], y, history, saved, *rest[3:], True, b is not None, *how)
        torch.library.opcheck(operators.recurrence_backward, (y, final, *kept))
        needs = [True, True, b is not None, True, b is not None]
        given = [t.detach() if torch.is_tensor(t) else t for t in (y, final, x, w_ih, b, *loop)]
        torch.library.opcheck(operators.layer_backward, (*given, needs, *how))


def test_forward_takes_torchs_arguments_and_resets_by_name():
    for ours, theirs, _ in KINDS.values():
        parameters = list(inspect.signature(ours.forward).parameters)
        assert parameters == [*inspect.signature(theirs.forward).parameters, "resets"]


def test_each_class_has_its_own_compilation_limit():
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for ours in (kernels.RNN, kernels.LSTM, kernels.GRU):
            compiled = torch.compile(ours(I, H), fullgraph=True, backend="aot_eager")
            assert compiled(torch.randn(2, 1, I))[0].shape == (2, 1, H)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("cell", KINDS)
def test_compiled_autograd_gives_the_same_gradients(cell, recompute):
    module, twin = pair(cell)
    module.recompute = recompute
    x = torch.randn(T, B, I)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        module(x)[0].square().sum().backward()
    twin(x)[0].square().sum().backward()
    for (name, p), q in zip(module.named_parameters(), twin.parameters(), strict=True):
        assert_close(p.grad, q.grad, name)
