"""The routes that `peers.py` times: attention of qkv, torch and published libraries on the same inputs."""

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
Route = Callable[[], Any] | str  # the call to time, or why there is none


def feature_routes(length: int, backward: bool) -> dict[str, Route]:
    q, k, v = inputs = [torch.randn(1, HEADS, length, WIDTH, requires_grad=backward) for _ in range(3)]
    gate = torch.randn(1, HEADS, length) + 3

    def make_ours(part: Any, causal: bool = True, gated: bool = False) -> Route:
        core = build_core(part, causal)
        return lambda: core(*inputs, Masking(gate=gate if gated else None))

    def make_performer(module: Any, features: int | None = FEATURES) -> Route:
        attention = module.FastAttention(WIDTH, nb_features=features, causal=True).eval()
        return lambda: attention(*inputs)

    def make_blocks(module: Any) -> Route:
        return lambda: module.causal_linear_attn(*inputs)

    routes: dict[str, Route] = {
        "SDPA causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "SDPA both ways": lambda: F.scaled_dot_product_attention(q, k, v),
        "RFA causal": make_ours(qkv.RFA(FEATURES)),
        "RFA causal, torch route": without_backends(make_ours(qkv.RFA(FEATURES))),
        "RFA gated": make_ours(qkv.RFA(FEATURES, gate=True), gated=True),
        "RFA arccos": make_ours(qkv.RFA(FEATURES, "arccos")),
        "RFA both ways": make_ours(qkv.RFA(FEATURES), causal=False),
        "Favor causal": make_ours(qkv.Favor(FEATURES)),
        "performer causal": peer("performer_pytorch", make_performer),
        "performer causal, its own 266": peer("performer_pytorch", partial(make_performer, features=None)),
        "linear-attention-transformer": peer(
            "linear_attention_transformer.linear_attention_transformer", make_blocks
        ),
    }
    return {name: with_backward(route, inputs) if backward else route for name, route in routes.items()}


def without_backends(route: Any) -> Route:
    """The same route on torch operators alone."""

    def call() -> Tensor:
        all_backends, backends.BACKENDS = backends.BACKENDS, ()
        try:
            return route()
        finally:
            backends.BACKENDS = all_backends

    return call


def window_routes(length: int) -> dict[str, Route]:
    q, k, v = (torch.randn(1, HEADS, length, WIDTH) for _ in range(3))
    core = build_core(qkv.Softmax(), True, qkv.Window(NEAR))

    def make_local(module: Any) -> Route:
        options = {"look_backward": 1, "causal": True, "exact_windowsize": True}
        attention = module.LocalAttention(NEAR, use_rotary_pos_emb=False, autopad=True, **options)
        return lambda: attention(q, k, v)

    return {
        "SDPA causal, all keys": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "Window": lambda: core(q, k, v, Masking(is_self=True)),
        "local-attention": peer("local_attention", make_local),
    }


def layers() -> dict[str, nn.Module]:
    width = HEADS * WIDTH
    return {
        "nn.MultiheadAttention": nn.MultiheadAttention(width, HEADS, batch_first=True),
        "qkv.MultiheadAttention": qkv.MultiheadAttention(width, HEADS, batch_first=True),
        "qkv.Attention": qkv.Attention(width, HEADS),
    }


def layer_routes(length: int, modules: dict[str, nn.Module], backward: bool) -> dict[str, Route]:
    """Self-attention of each layer over one sequence."""
    x = torch.randn(1, length, HEADS * WIDTH, requires_grad=backward)

    def make_route(layer: nn.Module) -> Route:
        layer.train(backward)
        if isinstance(layer, qkv.Attention):
            return lambda: layer(x)
        return lambda: layer(x, x, x, need_weights=False)[0]

    routes = {name: make_route(layer) for name, layer in modules.items()}
    if not backward:
        return routes
    return {name: with_backward(route, [x, *modules[name].parameters()]) for name, route in routes.items()}


def additive_routes(sizes: tuple[int, int, int]) -> dict[str, Callable[[], Tensor]]:
    """The additive score here, and the naive route with the [B, T, S, hidden] tensor of the formula."""
    batch, length, hidden = sizes
    q, k, v = (torch.randn(batch, 1, length, hidden) for _ in range(3))
    w_q, w_k, u = (nn.Linear(hidden, out, bias=False) for out in (hidden, hidden, 1))
    core = build_core(None, False, score=qkv.Additive(hidden), dims=Dims(1, hidden, hidden, hidden))

    def naive() -> Tensor:
        scores = u(torch.tanh(w_q(q)[:, :, :, None] + w_k(k)[:, :, None]))
        return scores[..., 0].softmax(-1) @ v

    return {"naive": naive, "qkv": lambda: core(q, k, v, Masking())}


def build_core(
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
    """The route of another library without its output during set-up, or the message that it is missing."""
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
