"""The drop-in against torch's own layer: results, gradients and state_dict."""

from typing import Any

import pytest
import torch
from torch import nn

from multihead_cases import (
    BATCH,
    EXTRAS,
    HEADS,
    WIDTH,
    WIDTHS,
    S,
    T,
    agree,
    close,
    infinite,
    inputs,
    masks_of,
    pair,
)
from qkv.kernel import RFA
from qkv.multihead import MultiheadAttention
from qkv.score import Additive, Cosine


@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "fast"])
@pytest.mark.parametrize("kind", ["none", "padding", "pairs", "heads", "infinite", "scores"])
@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_results_and_gradients_are_those_of_torch(
    widths: str, extras: str, kind: str, need_weights: bool
) -> None:
    ours, theirs = pair(**WIDTHS[widths], **EXTRAS[extras], batch_first=kind in ("pairs", "infinite"))
    agree(ours, theirs, inputs(ours), need_weights=need_weights, **masks_of(kind))


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_layouts_of_output_and_weights(batch_first: bool, average: bool) -> None:
    ours, theirs = pair(batch_first=batch_first, add_zero_attn=True)
    agree(ours, theirs, inputs(ours), average_attn_weights=average, **masks_of("heads"))
    agree(ours, theirs, inputs(ours, own=True), average_attn_weights=average)


@pytest.mark.parametrize("kind", ["none", "padding", "pairs", "heads", "infinite"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_without_a_batch(kind: str, need_weights: bool) -> None:
    ours, theirs = pair(add_bias_kv=True)
    given = masks_of(kind, batch=1)
    if "key_padding_mask" in given:
        given["key_padding_mask"] = given["key_padding_mask"][0]
    for average in (True, False):
        options = {"need_weights": need_weights, "average_attn_weights": average}
        agree(ours, theirs, inputs(ours, batched=False), **options, **given)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_causal_hint(padded: bool, need_weights: bool) -> None:
    ours, theirs = pair()
    ahead = torch.ones(T, T).triu(1).bool()
    given = {"key_padding_mask": masks_of("padding", T)["key_padding_mask"]} if padded else {}
    given |= {"need_weights": need_weights, "is_causal": True}
    x = inputs(ours, own=True)
    agree(ours, theirs, x, attn_mask=ahead, **given)
    close(ours(*x, **given)[0], ours(*x, attn_mask=ahead, **given)[0])


def test_same_seed_same_start() -> None:
    for options in (*WIDTHS.values(), *EXTRAS.values()):
        states = []
        for kind in (MultiheadAttention, nn.MultiheadAttention):
            torch.manual_seed(3)
            states.append(kind(WIDTH, HEADS, **options).state_dict())
        assert list(states[0]) == list(states[1])
        for name, value in states[1].items():
            close(states[0][name], value, 0)
            assert value.dtype == torch.float32


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("extras", EXTRAS)
def test_from_torch_and_back(widths: str, extras: str) -> None:
    options = {**WIDTHS[widths], **EXTRAS[extras], "batch_first": True}
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.25, dtype=torch.float64, **options).eval()
    theirs.out_proj.weight.requires_grad_(False)
    ours = MultiheadAttention.from_torch(theirs)
    assert ours.dropout == ours.core.dropout == 0.25
    assert not ours.training
    assert not ours.out_proj.weight.requires_grad
    given = inputs(ours)
    close(ours(*given)[0], theirs(*given)[0])
    with torch.no_grad():
        ours.out_proj.weight.mul_(2)
    assert not ours.out_proj.weight.equal(theirs.out_proj.weight)
    theirs.load_state_dict(ours.state_dict())
    close(ours(*given)[0], theirs(*given)[0])


def test_from_torch_with_other_parts() -> None:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1)
    ours = MultiheadAttention.from_torch(theirs, dropout=0.0, kernel=RFA(4))
    close(ours.in_proj_weight, theirs.in_proj_weight, 0)
    again = MultiheadAttention.from_torch(ours, score=Additive(hidden=5))
    close(again.in_proj_weight, theirs.in_proj_weight, 0)
    assert any(name.startswith("core.") for name in again.state_dict())


@pytest.mark.parametrize("kind", ["padding", "pairs", "both", "infinite", "scores"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_with_nothing_allowed_gives_zeros(kind: str, dtype: torch.dtype) -> None:
    ours = MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=dtype)
    nn.init.normal_(ours.out_proj.bias)
    x = torch.randn(BATCH, T, WIDTH, dtype=dtype, requires_grad=True)
    hide, pairs = torch.zeros(BATCH, T).bool(), torch.zeros(T, T).bool()
    hide[1], pairs[2] = True, True
    given = {
        "padding": {"key_padding_mask": hide},
        "pairs": {"attn_mask": pairs},
        "both": {"key_padding_mask": hide, "attn_mask": pairs},
        "infinite": {"key_padding_mask": infinite(hide), "attn_mask": infinite(pairs)},
        "scores": {"key_padding_mask": infinite(hide) + 1, "attn_mask": infinite(pairs) - 1},
    }[kind]
    empty = torch.zeros(BATCH, T).bool()
    empty[1] = "key_padding_mask" in given
    empty[:, 2] |= "attn_mask" in given
    for need_weights in (True, False):
        out, weights = ours(x, x, x, need_weights=need_weights, **given)
        close(out[empty], ours.out_proj.bias.expand_as(out[empty]), 0)
        if weights is not None:
            assert not weights[empty].any()
            close(weights[~empty].sum(-1), torch.ones_like(weights[~empty].sum(-1)), 1e-2)
        for gradient in torch.autograd.grad(out.square().sum(), [x, *ours.parameters()]):
            assert gradient.isfinite().all()


def test_a_mask_that_learns_gets_its_gradient_even_at_zero() -> None:
    ours, theirs = pair()
    given = inputs(ours)
    both = []
    for layer in (ours, theirs):
        mask = torch.zeros(T, S, dtype=torch.float64, requires_grad=True)
        both += torch.autograd.grad(layer(*given, attn_mask=mask)[0].square().sum(), mask)
    close(*both)
    assert both[0].abs().max() > 1e-3


def test_fast_route_is_taken_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair()
    monkeypatch.setattr(ours.core, "attend", lambda *_: pytest.fail("formed the weights"))
    for kind in ("none", "padding", "heads", "infinite"):
        ours(*inputs(ours), need_weights=False, **masks_of(kind))


def test_dropout_acts_in_training_and_can_be_changed() -> None:
    ours = MultiheadAttention(WIDTH, HEADS, dropout=0.5)
    x = torch.randn(T, BATCH, WIDTH)
    assert not ours(x, x, x)[0].equal(ours(x, x, x)[0])
    _, weights = ours(x, x, x)
    close(weights.sum(-1), torch.ones(BATCH, T), 1e-5)
    ours.dropout = 0.0
    close(ours(x, x, x)[0], ours.eval()(x, x, x)[0], 0)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("kind", ["none", "padding", "pairs", "infinite"])
def test_inside_torch_encoder_layer(kind: str, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        WIDTH, 2, 10, 0.0, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    x = torch.randn(BATCH, T, WIDTH, dtype=torch.float64)
    given = {
        "src_mask" if name == "attn_mask" else "src_key_padding_mask": mask
        for name, mask in masks_of(kind, T).items()
    }
    expected = layer(x, **given)
    layer.self_attn = MultiheadAttention.from_torch(layer.self_attn)
    close(layer(x, **given), expected)
    with torch.no_grad():
        close(layer.eval()(x, **given), expected)
        layer.self_attn = MultiheadAttention.from_torch(layer.self_attn, score=Cosine())
        assert (layer(x, **given) - expected).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_put_into_a_torch_encoder_that_packs_its_rows() -> None:
    """In evaluation such an encoder hands its layers nested tensors in place of padding."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 10, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    ignore = torch.arange(T) >= torch.tensor([[T], [3]])
    x = torch.randn(BATCH, T, WIDTH)
    for inner in encoder.layers:
        assert isinstance(inner, nn.TransformerEncoderLayer)
        inner.self_attn = MultiheadAttention.from_torch(inner.self_attn, kernel=RFA(8, redraw=False))
    expected = encoder(x, src_key_padding_mask=ignore)
    with torch.no_grad():
        close(encoder.eval()(x, src_key_padding_mask=ignore)[~ignore], expected[~ignore], 1e-5)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("kernel", [None, RFA(4)], ids=["softmax", "rfa"])
def test_compiles(kernel: Any, dynamic: bool | None, unchecked: None) -> None:
    torch._dynamo.reset()
    ours = MultiheadAttention(WIDTH, HEADS, **({} if kernel is None else {"kernel": kernel})).eval()
    compiled = torch.compile(ours, backend="eager", fullgraph=True, dynamic=dynamic)
    x = torch.randn(T, BATCH, WIDTH)
    ignore = masks_of("padding", T)["key_padding_mask"]
    for need_weights in (True, False):
        options = {"key_padding_mask": ignore, "need_weights": need_weights}
        close(compiled(x, x, x, **options)[0], ours(x, x, x, **options)[0], 1e-6)
    if kernel is None:
        scores = torch.randn(T, T)
        close(compiled(x, x, x, attn_mask=scores)[0], ours(x, x, x, attn_mask=scores)[0], 1e-6)


def test_half_precision_under_autocast() -> None:
    layer = MultiheadAttention(WIDTH, HEADS, add_bias_kv=True, add_zero_attn=True)
    x = torch.randn(T, BATCH, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        shown, fast = (layer(x, x, x, need_weights=need_weights)[0] for need_weights in (True, False))
    assert shown.dtype == fast.dtype == torch.bfloat16
    for out in (shown, fast):
        close(out.float(), layer(x, x, x)[0], 3e-2)


def test_device_and_dtype_reach_the_parts() -> None:
    layer = MultiheadAttention(WIDTH, HEADS, device="meta", dtype=torch.float64, score=Additive())
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
