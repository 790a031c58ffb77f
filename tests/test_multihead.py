"""The drop-in against torch's own layer: results, gradients, state_dict, and what only ours does."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv.errors import BadMask, BadShape, IncompatibleParts
from qkv.kernel import RFA, Elu
from qkv.multihead import MultiheadAttention
from qkv.scope import Window
from qkv.score import Additive, Cosine
from qkv.select import Hard

WIDTH, HEADS, BATCH, T, S = 6, 3, 2, 5, 7
WIDTHS = {"one width": {}, "kdim": {"kdim": 11}, "kdim, vdim": {"kdim": 11, "vdim": 13}}
EXTRAS = {
    "plain": {},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
}


def close(actual: Tensor | None, expected: Tensor | None, tolerance: float = 1e-10) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def pair(**options: Any) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and torch's, with the same random weights and biases, read through the state_dict."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(layer: Any, batched: bool = True, own: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in the layout of the layer; the same tensor three times where `own`."""
    q = torch.randn(BATCH, T, WIDTH, dtype=torch.float64)
    k, v = (torch.randn(BATCH, S, width, dtype=torch.float64) for width in (layer.kdim, layer.vdim))
    arranged = (x if layer.batch_first else x.transpose(0, 1) for x in (q, k, v))
    q, k, v = (x.clone().requires_grad_() for x in (arranged if batched else (q[0], k[0], v[0])))
    return (q, q, q) if own else (q, k, v)


def masks_of(kind: str, keys: int = S, batch: int = BATCH) -> dict[str, Tensor]:
    """Masks in torch's polarity that leave every query its first key."""
    hide = torch.rand(batch, keys) < 0.4
    pairs = torch.rand(T, keys) < 0.4
    rows = torch.rand(batch * HEADS, T, keys) < 0.4
    hide[:, 0], pairs[:, 0], rows[:, :, 0] = False, False, False
    hide[:, 1], pairs[:, 2], rows[:, :, 3] = True, True, True
    given: dict[str, dict[str, Tensor]] = {
        "none": {},
        "padding": {"key_padding_mask": hide},
        "pairs": {"attn_mask": pairs},
        "heads": {"attn_mask": rows, "key_padding_mask": hide},
        "infinite": {"attn_mask": infinite(pairs), "key_padding_mask": infinite(hide)},
        "scores": {
            "attn_mask": infinite(rows) + torch.randn(rows.shape, dtype=torch.float64),
            "key_padding_mask": infinite(hide) + torch.randn(hide.shape, dtype=torch.float64),
        },
    }
    return given[kind]


def infinite(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


def agree(ours: nn.Module, theirs: nn.Module, given: tuple[Tensor, ...], **options: Any) -> None:
    """The same output, weights, and gradients of inputs and parameters."""
    out, weights = ours(*given, **options)
    expected, shown = theirs(*given, **options)
    close(out, expected)
    assert (weights is None) == (shown is None)
    if shown is not None:
        close(weights, shown)
    direction = torch.randn_like(expected)
    names = [name for name, _ in theirs.named_parameters()]
    mine, its = (
        torch.autograd.grad(
            result, [*dict.fromkeys(given), *(layer.get_parameter(name) for name in names)], direction
        )
        for layer, result in ((ours, out), (theirs, expected))
    )
    for a, b in zip(mine, its, strict=True):
        close(a, b)


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


def test_inside_torch_decoder_layer_with_a_feature_map() -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 10, 0.0)
    layer.self_attn = MultiheadAttention.from_torch(layer.self_attn, kernel=RFA(8))
    layer.multihead_attn = MultiheadAttention.from_torch(layer.multihead_attn, kernel=RFA(8))
    decoder = nn.TransformerDecoder(layer, 1).eval()
    x, memory = torch.randn(T, BATCH, WIDTH), torch.randn(S, BATCH, WIDTH)
    ahead = nn.Transformer.generate_square_subsequent_mask(T)
    out = decoder(x, memory, tgt_mask=ahead)
    x[-1] += 1
    close(decoder(x, memory, tgt_mask=ahead)[:-1], out[:-1], 1e-6)


@pytest.mark.parametrize("extras", ["plain", "both"])
def test_feature_map_goes_by_padding_and_by_the_causal_hint(extras: str) -> None:
    layer = (
        MultiheadAttention(WIDTH, HEADS, **EXTRAS[extras], kernel=RFA(8), batch_first=True).double().eval()
    )
    x = torch.randn(BATCH, T, WIDTH, dtype=torch.float64)
    ignore = torch.zeros(BATCH, T).bool()
    ignore[1, 2] = True
    for causal in (False, True):
        for mask in (ignore, infinite(ignore)):
            out, weights = layer(x, x, x, mask, is_causal=causal, average_attn_weights=False)
            close(layer(x, x, x, mask, need_weights=False, is_causal=causal)[0], out)
            assert not weights[1, :, :, 2].any()
            close(weights.sum(-1), torch.ones(BATCH, HEADS, T, dtype=torch.float64))
            assert (weights[..., :T].triu(1).abs().max() < 1e-12) == causal
            assert weights.shape[-1] == T + (2 if extras == "both" else 0)
            junk = x.masked_fill(ignore[..., None], 1e3)
            close(layer(junk, junk, junk, mask, is_causal=causal)[0][~ignore], out[~ignore])
    v = layer._split_heads(layer._project(x, x, x)[2])
    if extras == "plain":
        _, weights = layer(x, x, x, is_causal=True, average_attn_weights=False)
        by_hand = layer.out_proj((weights @ v).transpose(1, 2).flatten(2))
        close(layer(x, x, x, is_causal=True, need_weights=False)[0], by_hand)


def test_feature_map_reads_the_extra_keys_in_both_evaluations() -> None:
    layer = MultiheadAttention(WIDTH, HEADS, add_bias_kv=True, add_zero_attn=True, kernel=RFA(8)).double()
    x = torch.randn(T, BATCH, WIDTH, dtype=torch.float64)
    whole, prefix = (layer.eval()(x, x, x, is_causal=causal) for causal in (False, True))
    # The last query sees everything either way.
    close(prefix[0][-1], whole[0][-1])
    close(prefix[1][:, -1], whole[1][:, -1])
    assert prefix[1][:, :, -2:].abs().min() > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attn_mask": torch.zeros(T, T).bool()}, r"attn_mask cannot be applied by RFA\(.*is_causal=True"),
        ({"key_padding_mask": torch.ones(BATCH, T)}, r"adds to the scores, but RFA\(.*booleans"),
    ],
)
def test_feature_map_refuses_other_masks(given: dict, message: str) -> None:
    layer, x = MultiheadAttention(WIDTH, HEADS, kernel=RFA(4)), torch.randn(T, BATCH, WIDTH)
    with pytest.raises(BadMask, match=message):
        layer(x, x, x, **given)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 7}, r"embed_dim=7 cannot be split into num_heads=3"),
        ({"embed_dim": 0}, r"embed_dim must be a positive whole number, got 0"),
        ({"kdim": 0}, r"kdim must be a positive whole number, got 0"),
    ],
)
def test_sizes_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(BadShape, match=message):
        MultiheadAttention(**{"embed_dim": WIDTH, "num_heads": HEADS, **options})


def test_parts_that_do_not_go_together() -> None:
    with pytest.raises(IncompatibleParts, match="feature map replaces the score"):
        MultiheadAttention(WIDTH, HEADS, score=Additive(), kernel=RFA())
    with pytest.raises(IncompatibleParts, match="nothing to drop"):
        MultiheadAttention(WIDTH, HEADS, 0.1, kernel=RFA())
    with pytest.raises(IncompatibleParts, match=r"gate=True.* use qkv.Attention, or gate=False"):
        MultiheadAttention(WIDTH, HEADS, kernel=RFA(gate=True))
    extras: list[dict[str, Any]] = [{"add_bias_kv": True}, {"add_zero_attn": True}]
    for extra in extras:
        with pytest.raises(IncompatibleParts, match=r"Window\(.* uses the positions.*leave these two out"):
            MultiheadAttention(WIDTH, HEADS, scope=Window(1), **extra)


def test_positional_parts_tell_self_attention_from_a_memory() -> None:
    """Beside itself a query stands at its own key; beside a memory it counts from the first."""
    layer = MultiheadAttention(WIDTH, HEADS, batch_first=True, scope=Window(1))
    x, padding = torch.randn(1, T, WIDTH), torch.zeros(1, T).bool()
    padding[:, 0] = True
    own, beside = (layer(x, memory, memory, padding)[1][0] > 0 for memory in (x, x.clone()))
    apart = torch.arange(T) - torch.arange(T)[:, None]
    real = ~padding
    assert own.equal((apart.abs() <= 1) & real)
    assert beside[:-1].equal((((apart - 1).abs() <= 1) & real)[:-1])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"key_padding_mask": torch.zeros(BATCH, S).long()}, BadMask, r"boolean .*int64.*\.bool\(\) if 1"),
        ({"attn_mask": torch.zeros(T, S).int()}, BadMask, r"attn_mask must be boolean .*int32"),
        ({"key_padding_mask": torch.zeros(S, BATCH).bool()}, BadMask, r"\[batch, keys\] = \(2, 7\), got \(7"),
        ({"attn_mask": torch.zeros(S, T).bool()}, BadMask, r"= \(5, 7\) or .* = \(6, 5, 7\), got \(7, 5\)"),
        ({"attn_mask": torch.zeros(BATCH, T, S).bool()}, BadMask, r"got \(2, 5, 7\)"),
        ({"is_causal": True}, BadMask, r"ambiguous for 5 queries and 7 keys"),
        ({"query": torch.zeros(T, WIDTH)}, BadShape, r"3 dimensions, or 2 without a batch; got \(5, 6\)"),
        ({"key": torch.zeros(S, BATCH, 11)}, BadShape, r"widths \(6, 6, 6\) .*got .*\(7, 2, 11\)"),
        ({"value": torch.zeros(T, BATCH, WIDTH)}, BadShape, r"key and value must agree in positions"),
        ({"query": torch.zeros(T, 3, WIDTH)}, BadShape, r"\[positions, batch, width\] at batch_first=False"),
    ],
)
def test_input_that_does_not_fit(given: dict, error: type[Exception], message: str) -> None:
    memory = torch.zeros(S, BATCH, WIDTH)
    full = {"query": torch.zeros(T, BATCH, WIDTH), "key": memory, "value": memory, **given}
    with pytest.raises(error, match=message):
        MultiheadAttention(WIDTH, HEADS)(**full)


def test_samples_that_nobody_could_reward_are_refused() -> None:
    with pytest.raises(IncompatibleParts, match="estimator='gumbel'"):
        MultiheadAttention(6, 2, select=Hard())
    MultiheadAttention(6, 2, select=Hard("gumbel"))


def test_causal_feature_maps_ask_for_as_many_keys_as_queries() -> None:
    layer = MultiheadAttention(8, 2, batch_first=True, kernel=Elu())
    with pytest.raises(BadMask, match="ambiguous for 1 queries and 5 keys"):
        layer(torch.randn(2, 1, 8), k := torch.randn(2, 5, 8), k, attn_mask=torch.zeros(1, 5), is_causal=True)
