"""`qkv.capture`: outputs stay the same, weights are those that the outputs used, memory is bounded."""

import pytest
import torch
from torch import nn

import qkv
from qkv.errors import BadData, TooLarge, UnknownName
from qkv.trace import Grid

B, T, S, M = 2, 7, 9, 16

SPECS = {
    "softmax": {},
    "causal": {"causal": True},
    "window": {"scope": qkv.Window(1)},
    "additive": {"score": qkv.Additive(hidden=8)},
    "local-p": {"scope": qkv.Predictive(half_width=2)},
    "hard": {"select": qkv.Hard(estimator="gumbel")},
    "sparsemax": {"select": qkv.Sparsemax()},
    "rfa": {"kernel": qkv.RFA(8)},
    "gated rfa": {"kernel": qkv.RFA(8, gate=True), "causal": True},
    "favor": {"kernel": qkv.Favor(8), "causal": True},
    "elu": {"kernel": qkv.Elu()},
}


def build(**options):
    torch.manual_seed(0)
    return qkv.Attention(M, heads=2, **options)


def padded(length=T):
    keep = torch.ones(B, length, dtype=torch.bool)
    keep[1, -2:] = False
    return torch.randn(B, length, M), keep


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("options", SPECS.values(), ids=SPECS)
def test_outputs_and_gradients_are_the_same_bits_and_weights_match(options, is_training):
    layer = build(**options).train(is_training)
    x, keep = padded()
    x.requires_grad_()
    torch.manual_seed(1)
    expected = layer(x, keep=keep)
    expected_grad = torch.autograd.grad(expected.sum(), x)[0]
    torch.manual_seed(1)
    with qkv.capture(layer) as captured:
        out = layer(x, keep=keep)
    assert torch.equal(out, expected)
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], expected_grad)
    [call] = captured.calls["attention"]
    torch.manual_seed(1)
    weights = layer.attend(x, keep=keep).weights
    assert weights is not None
    torch.testing.assert_close(call.weights, weights.detach())
    torch.testing.assert_close(call.attended.out.shape, torch.Size((B, 2, T, M // 2)))
    assert not call.weights[1, :, :, -2:].any()
    assert not call.weights.requires_grad
    assert vars(layer.core).keys().isdisjoint({"forward", "attend", "start", "extend", "attend_to_state"})


def test_hard_samples_are_those_of_the_output():
    layer = build(select=qkv.Hard(expected=0)).train()
    nn.init.eye_(layer.to_out.weight)
    assert layer.to_out.bias is not None
    nn.init.zeros_(layer.to_out.bias)
    x, _ = padded()
    with qkv.capture(layer) as captured:
        out = layer(x)
    call = captured.calls["attention"][0]
    _, v = layer._project_keys_values(x)
    torch.testing.assert_close((call.weights @ v).transpose(1, 2).flatten(2), out)
    assert call.attended.log_prob is not None
    assert (call.weights.count_nonzero(-1) == 1).all()


def test_predicted_positions_and_gates():
    layer, (x, keep) = build(scope=qkv.Predictive(half_width=2)), padded()
    with qkv.capture(layer, heads=[1]) as captured:
        layer(x, keep=keep)
    [call] = captured.calls["attention"]
    assert call.positions is not None
    assert call.positions.shape == (B, 1, T)
    assert (call.positions >= 0).all()
    assert (call.positions[1] <= T - 2).all()
    peak = call.positions.floor()[..., None] - torch.arange(T)
    assert not call.weights[peak.abs() > 2].any()
    gated = build(kernel=qkv.RFA(8, gate=True), causal=True)
    with qkv.capture(gated) as captured:
        gated(x)
    expected = gated.to_gate(x).mT.sigmoid()
    torch.testing.assert_close(captured.calls["attention"][0].gate, expected.detach())


@pytest.mark.parametrize("name", ["causal", "gated rfa", "favor"])
def test_steps_are_captured(name):
    layer, (x, _) = build(**SPECS[name]).eval(), padded()
    expected = layer.attend(x)
    assert expected.weights is not None
    with qkv.capture(layer) as captured:
        state, outs = layer.start(batch=B), []
        for t in range(T):
            out, state = layer.step(x[:, t], state)
            outs.append(out)
    torch.testing.assert_close(torch.stack(outs, 1), expected.out)
    assert len(captured.calls["attention"]) == T
    trace = captured.trace(list("abcdefg"))
    torch.testing.assert_close(
        torch.from_numpy(trace.examples[0].weights["attention"].copy()), expected.weights[0].detach()
    )
    assert trace.examples[0].weight_axes["attention"].causal
    assert trace.unnormalised == (("attention",) if name != "causal" else ())


def test_a_state_from_outside_is_refused():
    layer = build(causal=True)
    state = layer.start(batch=1)
    with (
        qkv.capture(layer),
        pytest.raises(BadData, match=r"started outside of the capture .* call start\(\)"),
    ):
        layer.step(torch.randn(1, M), state)


def test_layers_inside_any_module():
    torch.manual_seed(0)
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(M, 2, 32, 0.0, batch_first=True), 2).eval()
    for block in model.layers:
        assert isinstance(block, nn.TransformerDecoderLayer)
        block.self_attn = qkv.MultiheadAttention.from_torch(block.self_attn)
        block.multihead_attn = qkv.MultiheadAttention.from_torch(block.multihead_attn, kernel=qkv.RFA(8))
    x, memory = torch.randn(B, T, M), torch.randn(B, S, M)
    hidden = torch.zeros(B, S, dtype=torch.bool)
    hidden[1, -3:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(T)
    expected = model(x, memory, tgt_mask=causal, memory_key_padding_mask=hidden)
    with qkv.capture(model) as captured:
        out = model(x, memory, tgt_mask=causal, memory_key_padding_mask=hidden)
    assert torch.equal(out, expected)
    assert list(captured.calls) == [
        f"layers.{n}.{kind}" for n in range(2) for kind in ("self_attn", "multihead_attn")
    ]
    assert not captured.calls["layers.0.self_attn"][0].weights.triu(1).any()
    trace = captured.trace([f"t{n}" for n in range(T)], [f"s{n}" for n in range(S - 3)], row=1)
    [example] = trace.examples
    assert example.weights["layers.1.multihead_attn"].shape == (2, T, S - 3)
    assert tuple(example.weight_axes["layers.0.self_attn"])[:2] == ("tokens", "tokens")
    assert set(trace.unnormalised) == {f"layers.{n}.multihead_attn" for n in range(2)}
    with qkv.capture(model, layers="layers.1", heads=[1]) as captured:
        model(x, memory)
    assert list(captured.calls) == ["layers.1.self_attn", "layers.1.multihead_attn"]
    assert captured.calls["layers.1.self_attn"][0].weights.shape == (B, 1, T, T)


def test_maps_and_their_grids():
    torch.manual_seed(0)
    layer = qkv.SelfAttention2d(8, heads=2).eval()
    x = torch.randn(1, 8, 3, 4)
    expected = layer(x)
    with qkv.capture(layer) as captured:
        assert torch.equal(layer(x), expected)
    [example] = captured.trace(Grid(3, 4)).examples
    assert example.weights["attention"].shape == (2, 12, 12)


def test_a_budget_is_kept_and_pooling_fits_into_it():
    layer, x = build().eval(), torch.randn(B, 64, M)
    size = B * 2 * 64 * 64 * 4
    with qkv.capture(layer, max_bytes=size - 1), pytest.raises(TooLarge, match="pass pool=8 to pool blocks"):
        layer(x)
    with qkv.capture(layer, heads=[1], max_bytes=size - 1), pytest.raises(TooLarge):
        layer(x)  # forms the weights of both heads
    assert "forward" not in vars(layer.core)
    with qkv.capture(layer, max_bytes=size - 1, pool=8) as captured:
        assert torch.equal(layer(x), build().eval()(x))
    weights = layer.attend(x).weights
    assert weights is not None
    expected = weights.unflatten(-1, (8, 8)).sum(-1).unflatten(-2, (8, 8)).mean(-2)
    torch.testing.assert_close(captured.calls["attention"][0].weights, expected.detach())
    example = captured.trace([f"w{n}" for n in range(64)]).examples[0]
    axis = example.named_axes["tokens"]
    assert isinstance(axis, tuple)
    assert axis[:2] == ("w0 … w7", "w8 … w15")
    with qkv.capture(layer, pool=10) as captured:
        layer(x)
    torch.testing.assert_close(captured.calls["attention"][0].weights.sum(-1), torch.ones(B, 2, 7))


def test_calls_and_axes_have_names():
    layer, x = build(), torch.randn(1, T, M)
    with qkv.capture(layer) as captured:
        layer(x)
        layer(x, torch.randn(1, T, M))
    trace = captured.trace(
        {"target": list("abcdefg"), "source": list("hijklmn")},
        axes={"attention": ("target", "target"), "attention.call2": ("target", "source")},
    )
    assert list(trace.examples[0].weights) == ["attention", "attention.call2"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qkv.capture(nn.Linear(2, 2)), BadData, "Linear has no attention of this library: replace"),
        (
            lambda: qkv.capture(build(), layers="atention"),
            UnknownName,
            "no attention 'atention'. Did you mean",
        ),
        (lambda: qkv.capture(build(), heads=[2]), UnknownName, "attention has no head 2: it has 2"),
        (lambda: qkv.capture(build(), layers=[]), BadData, "layers is empty: name a layer, or leave it out"),
        (lambda: qkv.capture(build(), heads=[]), BadData, "heads takes a list of numbers, such as"),
        (lambda: qkv.capture(build(), pool=0), BadData, "pool must be a positive whole number, got 0"),
        (lambda: qkv.capture(build()).trace(["a"]), BadData, "nothing was captured: call the model inside"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_tokens_that_do_not_fit_are_refused():
    layer = build()
    with qkv.capture(layer) as captured:
        layer(torch.randn(1, T, M))
    with pytest.raises(BadData, match="7 queries and 7 keys, but the axes have these lengths: tokens 2"):
        captured.trace(["a", "b"])
    with pytest.raises(BadData, match=r"not clear from their lengths: pass axes=\{\"attention\": \('tokens'"):
        captured.trace(list("abcdefg"), list("hijklmn"))
    with pytest.raises(BadData, match="no row 3: the batch has 1"):
        captured.trace(list("abcdefg"), row=3)
