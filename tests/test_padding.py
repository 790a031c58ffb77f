"""NaN, infinity and huge numbers in padded positions: layers, models and functions beside the contracts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv import masks
from qkv.kernel import RFA, Elu, Favor
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.scope import Window
from qkv.score import Cosine
from qkv.select import Entmax, TopK
from qkv.spec import AttentionSpec
from qkv.symbols import PAD

B, N, WIDTH = 3, 9, 16
KEEP = torch.ones(B, N, dtype=torch.bool)
KEEP[0, 6:] = KEEP[1, 3] = KEEP[2, :2] = False
KINDS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "cosine": {"score": Cosine()},
    "window": {"scope": Window(2)},
    "topk": {"select": TopK(3)},
    "entmax": {"select": Entmax()},
    "rfa": {"kernel": RFA(8, redraw=False)},
    "favor": {"kernel": Favor(8, redraw=False)},
    "elu": {"kernel": Elu()},
}
# Of parameter gradients float32 keeps five digits; half precision keeps two.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def filled(x: Tensor, junk: float) -> Tensor:
    return torch.where(KEEP[..., None], x, junk)


def results(call: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module) -> list[Tensor]:
    """The outputs of real positions, and the gradients of them in the input and in every parameter."""
    x = x.clone().requires_grad_()
    out = call(x)
    leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
    slopes = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    assert not slopes[0][~KEEP].any()
    return [out, *slopes]


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@every_kind
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_layer_of_fast_routes(options: dict[str, Any], dtype: torch.dtype) -> None:
    layer, x = (
        qkv.Attention(WIDTH, 2, causal=dtype == torch.float32, **options).to(dtype),
        torch.randn(B, N, WIDTH).to(dtype),
    )

    def call(x: Tensor) -> Tensor:
        return layer(x, keep=KEEP)[KEEP]

    expected = results(call, filled(x, 0.0), layer)
    for junk in (torch.nan, torch.inf, torch.finfo(dtype).max, torch.finfo(dtype).max ** 0.7):
        close(results(call, filled(x, junk), layer), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", [qkv.Softmax(), Elu(), RFA(8, redraw=False)], ids=repr)
def test_long_sequences(kernel: Any) -> None:
    layer, x, keep = qkv.Attention(8, kernel=kernel), torch.randn(1, 1200, 8), torch.arange(1200)[None] < 900
    expected = layer(x, keep=keep)[keep]
    close(layer(x.masked_fill(~keep[..., None], torch.nan), keep=keep)[keep], expected)


@every_kind
@pytest.mark.parametrize("mode", ["first", "second", "cross", "float", "extra", "apart"])
def test_multihead_attention(options: dict[str, Any], mode: str) -> None:
    extra = mode == "extra" and "scope" not in options
    layout = {"batch_first": mode != "second", "add_bias_kv": extra, "add_zero_attn": extra}
    layer, x = qkv.MultiheadAttention(WIDTH, 2, **layout, **options), torch.randn(B, N, WIDTH)
    query = torch.randn(B, N, WIDTH)
    ignore = torch.zeros(B, N).masked_fill(~KEEP, -torch.inf) if mode == "float" else ~KEEP

    def call(x: Tensor) -> Tensor:
        if mode == "second":
            x = x.transpose(0, 1)
            return layer(x, x, x, key_padding_mask=ignore)[0].transpose(0, 1)[KEEP]
        if mode in ("cross", "apart"):
            return layer(query, x, x if mode == "cross" else x + 0, key_padding_mask=ignore)[0]
        return layer(x, x, x, key_padding_mask=ignore, need_weights=mode == "first")[0][KEEP]

    expected = results(call, filled(x, 0.0), layer)
    for junk in (torch.nan, torch.inf, 1e38):
        close(results(call, filled(x, junk), layer), expected, 1e-4)


def test_multihead_attention_without_a_batch() -> None:
    layer, x = qkv.MultiheadAttention(WIDTH, 2), torch.randn(N, WIDTH)
    real = KEEP[0]
    expected = layer(x, x, x, key_padding_mask=~real)[0][real]
    x = x.masked_fill(~real[:, None], torch.nan)
    close(layer(x, x, x, key_padding_mask=~real)[0][real], expected)


def test_padded_queries_with_usable_content_are_answered_as_in_torch() -> None:
    theirs, x = nn.MultiheadAttention(WIDTH, 2, batch_first=True), 30 * torch.randn(B, N, WIDTH)
    ours = qkv.MultiheadAttention.from_torch(theirs)
    close(ours(x, x, x, key_padding_mask=~KEEP), theirs(x, x, x, key_padding_mask=~KEEP), 1e-4)


@pytest.mark.parametrize("options", [{}, KINDS["window"], KINDS["elu"]], ids=["softmax", "window", "elu"])
def test_the_function(options: dict[str, Any]) -> None:
    x = torch.randn(B, N, WIDTH)

    def call(x: Tensor) -> Tensor:
        q = x[:, None].expand(-1, 2, -1, -1)
        return qkv.attend(q, q, q, keep=KEEP, **options).out.transpose(1, 2)[KEEP]

    expected = results(call, filled(x, 0.0), nn.Module())
    close(results(call, filled(x, torch.nan), nn.Module()), expected)


@pytest.mark.parametrize("kernel", [qkv.Softmax(), Elu()], ids=repr)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_transformer_whose_padding_has_no_vector(kernel: Any, norm: Any) -> None:
    config = TransformerConfig(
        width=8, heads=2, feedforward=8, encoder_layers=2, decoder_layers=1, norm=norm,
        encoder=AttentionSpec(kernel=kernel), embeddings="separate",
    )  # fmt: skip
    check_model(Transformer(config, 11, 11).eval())


@pytest.mark.parametrize("decoder", ["bahdanau", "luong"])
def test_a_recurrent_model_whose_padding_has_no_vector(decoder: Any) -> None:
    check_model(RNNTranslator(RNNConfig(embedding=8, hidden=8, decoder=decoder), 11, 11).eval())


def check_model(model: Any) -> None:
    keep = torch.arange(N) < torch.tensor([[6], [9], [3]])
    source = torch.randint(4, 11, (B, N)).masked_fill(~keep, PAD)
    target = torch.randint(4, 11, (B, 4))
    words = model.source if isinstance(model, Transformer) else model.encoder.words

    def run(junk: float, ids: Tensor) -> list[Tensor]:
        with torch.no_grad():
            words.weight[PAD] = junk
        out = model(ids, keep, target)
        slopes = torch.autograd.grad(
            out.square().sum(), list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        state = model.start(ids, keep)
        return [out, model.step(target[:, 0], state).logits, *slopes]

    expected = run(0.0, source)
    close(run(torch.nan, source), expected)
    close(run(torch.inf, source.masked_fill(~keep, -100)), expected)


def test_looking_for_nan_does_not_look_at_padding() -> None:
    layer, x = qkv.Attention(WIDTH, 2), filled(torch.randn(B, N, WIDTH), torch.nan)
    with qkv.debug_nan():
        layer(x, keep=KEEP)
        layer.start(x, keep=KEEP)
        qkv.MultiheadAttention(WIDTH, 2, batch_first=True)(x, x, x, key_padding_mask=~KEEP)
        with pytest.raises(qkv.QKVError, match=r"x .* holds NaN"):
            layer(x, keep=torch.ones_like(KEEP))


def test_a_real_position_is_never_hidden() -> None:
    x = torch.full((1, 2, 3), torch.nan)
    keep = torch.tensor([[True, False]])
    for hide in (masks.zero_keys, masks.zero_unusable_queries):
        assert hide(x, keep)[0, 0].isnan().all()
        assert not hide(x, keep)[0, 1].any()
