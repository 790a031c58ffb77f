"""What only the drop-in does: other parts, feature maps, and errors for inputs that do not fit."""

from typing import Any

import pytest
import torch
from torch import nn

from multihead_cases import BATCH, EXTRAS, HEADS, WIDTH, S, T, close, infinite
from qkv.errors import BadMask, BadShape, IncompatibleParts
from qkv.kernel import RFA, Elu
from qkv.multihead import MultiheadAttention
from qkv.scope import Window
from qkv.score import Additive
from qkv.select import Hard


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
