"""What `peers.py` times: attention of qkv, of torch and of published libraries, on the same inputs."""

import contextlib
import importlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qkv
from qkv.kernel import backends
from qkv.kernel.masking import Masking
from qkv.rules import Choice
from qkv.shapes import Dims

MISSING = "not installed: pip install '.[bench]'"
HEADS, WIDTH, FEATURES, NEAR = 8, 64, 64, 128
USUAL = Dims(HEADS, WIDTH, WIDTH, WIDTH)
Route = Callable[[], Any] | str  # what to time, or why not


def feature_routes(length: int, backward: bool) -> dict[str, Route]:
    q, k, v = inputs = [torch.randn(1, HEADS, length, WIDTH, requires_grad=backward) for _ in range(3)]
    gate = torch.randn(1, HEADS, length) + 3

    def ours(part: Any, causal: bool = True, gated: bool = False) -> Route:
        core = core_of(part, causal)
        return lambda: core(*inputs, Masking(gate=gate if gated else None))

    def performer(module: Any, features: int | None = FEATURES) -> Route:
        attention = module.FastAttention(WIDTH, nb_features=features, causal=True).eval()
        return lambda: attention(*inputs)

    def blocks(module: Any) -> Route:
        return lambda: module.causal_linear_attn(*inputs)

    routes: dict[str, Route] = {
        "SDPA causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "SDPA both ways": lambda: F.scaled_dot_product_attention(q, k, v),
        "RFA causal": ours(qkv.RFA(FEATURES)),
        "RFA causal, torch route": by_torch(ours(qkv.RFA(FEATURES))),
        "RFA gated": ours(qkv.RFA(FEATURES, gate=True), gated=True),
        "RFA arccos": ours(qkv.RFA(FEATURES, "arccos")),
        "RFA both ways": ours(qkv.RFA(FEATURES), causal=False),
        "Favor causal": ours(qkv.Favor(FEATURES)),
        "performer causal": peer("performer_pytorch", performer),
        "performer causal, its own 266": peer("performer_pytorch", partial(performer, features=None)),
        "linear-attention-transformer": peer(
            "linear_attention_transformer.linear_attention_transformer", blocks
        ),
    }
    return {name: with_backward(route, inputs) if backward else route for name, route in routes.items()}


def by_torch(route: Any) -> Route:
    """The same without the engines."""

    def call() -> Tensor:
        engines, backends.BACKENDS = backends.BACKENDS, ()
        try:
            return route()
        finally:
            backends.BACKENDS = engines

    return call


def window_routes(length: int) -> dict[str, Route]:
    q, k, v = (torch.randn(1, HEADS, length, WIDTH) for _ in range(3))
    core = core_of(qkv.Softmax(), True, qkv.Window(NEAR))

    def local(module: Any) -> Route:
        near = {"look_backward": 1, "causal": True, "exact_windowsize": True}
        attention = module.LocalAttention(NEAR, use_rotary_pos_emb=False, autopad=True, **near)
        return lambda: attention(q, k, v)

    return {
        "SDPA causal, all keys": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "Window": lambda: core(q, k, v, Masking(is_self=True)),
        "local-attention": peer("local_attention", local),
    }


def layers() -> dict[str, nn.Module]:
    width = HEADS * WIDTH
    return {
        "nn.MultiheadAttention": nn.MultiheadAttention(width, HEADS, batch_first=True),
        "qkv.MultiheadAttention": qkv.MultiheadAttention(width, HEADS, batch_first=True),
        "qkv.Attention": qkv.Attention(width, HEADS),
    }


def layer_routes(length: int, made: dict[str, nn.Module], backward: bool) -> dict[str, Route]:
    """Each layer over one sequence of itself."""
    x = torch.randn(1, length, HEADS * WIDTH, requires_grad=backward)

    def route_of(layer: nn.Module) -> Route:
        layer.train(backward)
        if isinstance(layer, qkv.Attention):
            return lambda: layer(x)
        return lambda: layer(x, x, x, need_weights=False)[0]

    routes = {name: route_of(layer) for name, layer in made.items()}
    if not backward:
        return routes
    return {name: with_backward(route, [x, *made[name].parameters()]) for name, route in routes.items()}


def additive_routes(sizes: tuple[int, int, int]) -> dict[str, Callable[[], Tensor]]:
    """Naive: the [B,T,S,hidden] tensor that the formula names, as tutorials write it."""
    batch, length, hidden = sizes
    q, k, v = (torch.randn(batch, 1, length, hidden) for _ in range(3))
    w_q, w_k, u = (nn.Linear(hidden, out, bias=False) for out in (hidden, hidden, 1))
    core = core_of(None, False, score=qkv.Additive(hidden), dims=Dims(1, hidden, hidden, hidden))

    def naive() -> Tensor:
        scores = u(torch.tanh(w_q(q)[:, :, :, None] + w_k(k)[:, :, None]))
        return scores[..., 0].softmax(-1) @ v

    return {"naive": naive, "qkv": lambda: core(q, k, v, Masking())}


def core_of(
    kernel: Any,
    causal: bool,
    scope: Any = None,
    score: Any = None,
    dims: Dims = USUAL,
) -> nn.Module:
    kernel = kernel or qkv.Softmax()
    score = score or (qkv.ScaledDot() if kernel.forms_weights else None)
    choice = Choice(score, scope or qkv.Global(), qkv.Soft(), kernel, causal)
    return kernel.build_core(dims, choice, torch.Generator().manual_seed(0)).eval()


def peer(module: str, make: Callable[[Any], Route]) -> Route:
    """The route of another library, which may print while it is set up; or that it is not here."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return make(importlib.import_module(module))
    except ImportError:
        return MISSING


def with_backward(route: Route, leaves: Sequence[Tensor]) -> Route:
    if isinstance(route, str):
        return route

    @torch.enable_grad()
    def call() -> None:
        out = route()
        torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)

    return call
