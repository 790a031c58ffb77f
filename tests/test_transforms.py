"""torch.func, forward-mode and second derivatives of layers, by every route and at lengths that change it."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

import qkv
from qkv.kernel import RFA, Elu, Favor, native
from qkv.layer import Attention
from qkv.scope import Predictive, Window
from qkv.score import Additive, Cosine
from qkv.select import Entmax, Sparsemax, TopK

WIDTH, HEADS = 8, 2
EXACT: dict[str, dict[str, Any]] = {
    "softmax": {},
    "softmax causal": {"causal": True},
    "grouped": {"kv_heads": 1},
    "cosine": {"score": Cosine()},
    "additive": {"score": Additive(3)},
    "window": {"scope": Window(2)},
    "window causal": {"scope": Window(2), "causal": True},
    "predictive": {"scope": Predictive(2)},
    "sparsemax": {"select": Sparsemax()},
    "entmax": {"select": Entmax(1.3)},
    "topk": {"select": TopK(3)},
}
MAPPED: dict[str, dict[str, Any]] = {
    "rfa": {"kernel": RFA(5)},
    "rfa causal": {"kernel": RFA(5), "causal": True},
    "rfa gate": {"kernel": RFA(5, gate=True), "causal": True},
    "rfa lengths": {"kernel": RFA(5, normalise=False)},
    "arccos": {"kernel": RFA(5, kernel="arccos", normalise=False), "causal": True},
    "favor": {"kernel": Favor(5)},
    "favor causal": {"kernel": Favor(5), "causal": True},
    "elu": {"kernel": Elu()},
    "elu causal": {"kernel": Elu(), "causal": True},
}
EVERY = EXACT | MAPPED
every_kind = pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
# Forward-mode derivatives load torch's decompositions, which torch warns about.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def layer_of(options: dict[str, Any], dtype: torch.dtype = torch.float64) -> Attention:
    return Attention(WIDTH, HEADS, **options).eval().to(dtype)


def slopes(layer: Attention, x: Tensor, **masks: Tensor) -> dict[str, Tensor]:
    named = dict(layer.named_parameters())
    loss = layer(x, **masks).square().sum()
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


@every_kind
def test_gradients_of_every_sample_by_vmap(options: dict[str, Any]) -> None:
    layer, x, keep = layer_of(options), torch.randn(3, 6, WIDTH).double(), torch.rand(3, 6) < 0.7
    weights = {name: weight.detach() for name, weight in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, keep: Tensor) -> Tensor:
        return functional_call(layer, weights, (x[None],), {"keep": keep[None]}).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, keep)
    for row in range(3):
        expected = slopes(layer, x[row : row + 1], keep=keep[row : row + 1])
        close({name: of_rows[row] for name, of_rows in found.items()}, expected)


@pytest.mark.parametrize("options", EXACT.values(), ids=EXACT)
def test_vmap_over_masks_of_pairs(options: dict[str, Any]) -> None:
    layer, x = layer_of(options), torch.randn(1, 6, WIDTH).double()
    allow, bias = torch.rand(3, 6, 6) < 0.7, torch.randn(3, 6, 6).double()
    for name, mask in (("allow", allow), ("bias", bias)):
        found = vmap(lambda mask, name=name: layer(x, **{name: mask})[0])(mask)
        close(found, layer(x.expand(3, -1, -1), **{name: mask}))


@pytest.mark.parametrize("name", ["softmax", "window", "additive", "rfa causal", "favor", "elu"])
@pytest.mark.parametrize("length", [600, 1100])
def test_gradients_at_lengths_that_are_taken_in_parts(name: str, length: int) -> None:
    layer, x = layer_of(EVERY[name], torch.float32), torch.randn(1, length, WIDTH)
    leaf = x.clone().requires_grad_()
    for call in (layer, lambda x: layer.attend(x).out)[: 1 if name in MAPPED or length > 600 else 2]:
        found = grad(lambda x, call=call: call(x).square().sum())(x)
        (expected,) = torch.autograd.grad(call(leaf).square().sum(), leaf)
        close(found, expected, 1e-4)


@every_kind
def test_forward_derivatives_are_differences(options: dict[str, Any]) -> None:
    layer, keep = layer_of(options), torch.tensor([[True] * 5 + [False]])
    x, along = torch.randn(2, 1, 6, WIDTH, dtype=torch.float64).unbind()
    if "topk" in str(options).lower():
        x = x * 3
    for call in (lambda x: layer(x, keep=keep), lambda x: layer.attend(x).out):
        tangent = jvp(call, (x,), (along,))[1]
        differences = (call(x + 1e-6 * along) - call(x - 1e-6 * along)) / 2e-6
        close(tangent, differences, 1e-6)


@every_kind
def test_second_derivatives_by_every_nesting(options: dict[str, Any]) -> None:
    layer, x = layer_of(options), torch.randn(3, WIDTH).double()

    def loss(x: Tensor) -> Tensor:
        return layer(x[None]).pow(3).sum()

    nestings = [outer(inner(loss))(x) for outer, inner in itertools.product((jacrev, jacfwd), repeat=2)]
    wanted = torch.func.hessian(lambda x: layer.attend(x[None]).out.pow(3).sum())(x)
    assert wanted.abs().max() > 1e-3
    for found in nestings:
        close(found, wanted, 1e-8)


def product_with_hessian(layer: Attention, x: Tensor, keep: Tensor) -> list[Tensor]:
    """The derivatives of |∇ loss|² in x and in all parameters."""
    leaves = [x.clone().requires_grad_(), *layer.parameters()]
    loss = layer(leaves[0], keep=keep).square().sum()
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    length = torch.stack([slope.square().sum() for slope in first]).sum()
    return list(torch.autograd.grad(length, leaves, allow_unused=True, materialize_grads=True))


@pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")
@pytest.mark.parametrize("options", [EXACT["additive"], *MAPPED.values()], ids=["additive", *MAPPED])
@pytest.mark.parametrize("length", [7, 130])
def test_float32_routes_can_be_differentiated_twice(options: dict[str, Any], length: int) -> None:
    layer = layer_of(options, torch.float32)
    x, keep = torch.randn(2, length, WIDTH), torch.rand(2, length) < 0.8
    wide = copy.deepcopy(layer).double()
    for actual, expected in zip(
        product_with_hessian(layer, x, keep), product_with_hessian(wide, x.double(), keep), strict=True
    ):
        largest = max(float(expected.abs().max()), 1e-2)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-4 * largest)


@pytest.mark.skipif(not native.is_available(), reason="the native engine is not built here")
@pytest.mark.parametrize("name", ["additive", "elu causal"])
def test_jacobians_of_float32_routes_in_one_batched_backward(name: str) -> None:
    layer, x = layer_of(EVERY[name], torch.float32), torch.randn(1, 4, WIDTH)
    one_by_one = torch.autograd.functional.jacobian(layer, x)
    close(torch.autograd.functional.jacobian(layer, x, vectorize=True), one_by_one, 1e-5)


@pytest.mark.parametrize("options", [{}, {"scope": Window(2)}, MAPPED["rfa gate"]], ids=str)
def test_steps_are_transformed_as_the_whole(options: dict[str, Any]) -> None:
    layer = Attention(WIDTH, HEADS, **{"causal": True, **options}).eval().double().requires_grad_(False)
    x, along = torch.randn(2, 3, 5, WIDTH, dtype=torch.float64)

    def stepwise(x: Tensor) -> Tensor:
        state, outs = layer.start(), []
        for part in x[None].split(1, 1):
            out, state = layer.step(part, state)
            outs.append(out)
        return torch.cat(outs, 1)[0]

    with torch.no_grad():
        close(vmap(stepwise)(x), layer(x))
        close(
            jvp(stepwise, (x[0],), (along[0],))[1], jvp(lambda x: layer(x[None])[0], (x[0],), (along[0],))[1]
        )


def test_the_drop_in_layer_beside_torch() -> None:
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    ours, x = qkv.MultiheadAttention.from_torch(theirs), torch.randn(1, 4, WIDTH).double()
    for transform in (jacrev, jacfwd, torch.func.hessian):
        found, expected = (
            transform(lambda x, layer=layer: layer(x, x, x)[0].square().sum())(x) for layer in (ours, theirs)
        )
        close(found, expected)
