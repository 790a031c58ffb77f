"""The layer and the functional form: worked examples, parity with torch, and what they refuse."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qkv
from qkv.errors import BadMask, BadRecipe, BadShape, UnknownName
from qkv.functional import attend
from qkv.kernel import RFA, Softmax
from qkv.layer import Attention
from qkv.scope import Window
from qkv.score import Additive
from reference.loops import weights_of


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_scaled_dot_by_hand() -> None:
    # Scores q·k / sqrt(4) are [0, ln 3] and [ln 3, 0]: softmax gives quarters.
    q = torch.tensor([[0.0, 0, 2, 0], [2.0, 0, 0, 0]], dtype=torch.float64)
    k = math.log(3) * torch.tensor([[1.0, 5, 0, 0], [0.0, 5, 1, 0]], dtype=torch.float64)
    v = torch.tensor([[4.0, 0, 8], [0.0, 4, 0]], dtype=torch.float64)
    shown = attend(q[None, None], k[None, None], v[None, None])
    close(weights_of(shown)[0, 0], torch.tensor([[0.25, 0.75], [0.75, 0.25]], dtype=torch.float64))
    close(shown.out[0, 0], torch.tensor([[1.0, 3, 2], [3.0, 1, 6]], dtype=torch.float64))
    assert shown.log_prob is None


def test_additive_by_hand() -> None:
    """One hidden unit with W = 1, U = -1, b = atanh(1/2), v = 2 ln 3."""
    layer = Attention(1, score=Additive(hidden=1), project=False).double()
    with torch.no_grad():
        for name, value in (("w", 1.0), ("u", -1.0), ("b", math.atanh(0.5)), ("v", 2 * math.log(3))):
            getattr(layer.core.score, name).fill_(value)
    x = torch.tensor([[[3.0]]], dtype=torch.float64)
    memory = torch.tensor([[[3.0], [3.0 + 2 * math.atanh(0.5)]]], dtype=torch.float64)
    shown = layer.attend(x, memory)
    # tanh is 1/2 and -1/2, the scores ln 3 and -ln 3, so the odds are 9 to 1.
    close(weights_of(shown)[0, 0], torch.tensor([[0.9, 0.1]], dtype=torch.float64))
    close(shown.out, 0.9 * memory[:, :1] + 0.1 * memory[:, 1:])


def test_bare_additive_takes_a_memory_of_another_width() -> None:
    layer = Attention(5, score=Additive(hidden=3), d_memory=7, project=False)
    shown = layer.attend(torch.randn(2, 1, 5), memory := torch.randn(2, 4, 7))
    close(shown.out, weights_of(shown)[:, 0] @ memory, 1e-6)


@pytest.mark.parametrize("masked", ["plain", "causal", "keep", "allow"])
def test_parity_with_torch_sdpa(masked: str) -> None:
    q, k, v = (torch.randn(2, 4, n, d, dtype=torch.float64) for n, d in ((5, 3), (5, 3), (5, 7)))
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]]).bool()
    allow = torch.rand(2, 4, 5, 5).clamp_min(torch.eye(5)) > 0.5
    ours = {"plain": {}, "causal": {"causal": True}, "keep": {"keep": keep}, "allow": {"allow": allow}}[
        masked
    ]
    theirs = {
        "plain": {},
        "causal": {"is_causal": True},
        "keep": {"attn_mask": keep[:, None, None]},
        "allow": {"attn_mask": allow},
    }[masked]
    close(attend(q, k, v, **ours).out, F.scaled_dot_product_attention(q, k, v, **theirs))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_parity_with_torch_multihead_attention(masked: bool) -> None:
    ours, theirs = Attention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        nn.init.normal_(theirs.in_proj_bias)
        nn.init.normal_(theirs.out_proj.bias)
        for mine, copied in (
            (ours.to_q, slice(0, 12)),
            (ours.to_kv, slice(12, 36)),
        ):
            mine.weight.copy_(theirs.in_proj_weight[copied])
            mine.bias.copy_(theirs.in_proj_bias[copied])
        ours.to_out.load_state_dict(theirs.out_proj.state_dict())
    x, memory = torch.randn(2, 5, 12, dtype=torch.float64), torch.randn(2, 7, 12, dtype=torch.float64)
    keep = torch.rand(2, 7) < 0.7
    keep[:, 0] = True
    x, memory = x.requires_grad_(), memory.requires_grad_()
    shown = ours.attend(x, memory, keep=keep if masked else None)
    hidden = ~keep if masked else None
    expected, weights = theirs(x, memory, memory, key_padding_mask=hidden, average_attn_weights=False)
    close(shown.out, expected)
    close(weights_of(shown), weights)
    for mine, its in zip(
        *(torch.autograd.grad(out.square().sum(), [x, memory]) for out in (shown.out, expected)), strict=True
    ):
        close(mine, its)


def test_dropout_acts_in_training_alone() -> None:
    layer, x = Attention(8, 2, dropout=0.5), torch.randn(1, 6, 8)
    assert not layer(x).equal(layer(x))
    close(layer.eval()(x), layer(x), 0)
    assert (weights_of(layer.train().attend(x)).sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": torch.ones(1, 3).long()}, r"keep must be boolean.*torch.int64.*keep\.bool\(\) if 1 means"),
        ({"keep": torch.ones(1, 3)}, r"keep must be boolean.*torch.float32.*pass additive scores as bias="),
        ({"allow": torch.ones(3, 3).long()}, r"allow must be boolean.*torch.int64"),
        ({"allow": torch.zeros(3, 3)}, r"allow must be boolean.*torch.float32"),
        ({"keep": torch.ones(1, 4).bool()}, r"keep must be \[batch, keys\] = \(1, 3\), got \(1, 4\)"),
        ({"allow": torch.ones(3, 4).bool()}, r"allow must broadcast to .* = \[1, 2, 3, 3\], got"),
        ({"allow": torch.ones(3).bool()}, r"allow must be \[T,S\], \[B,T,S\] or \[B,H,T,S\], got \[3\]"),
        ({"allow": torch.ones(5, 3, 3).bool()}, r"allow must broadcast to"),
        ({"bias": torch.ones(3, 3).bool()}, r"bias= .* must be float, got torch.bool; masks go in allow="),
        ({"bias": torch.ones(4, 3)}, r"bias must broadcast to .* = \[1, 2, 3, 3\], got \[1, 1, 4, 3\]"),
    ],
)
def test_bad_masks_are_refused_with_a_hint(given: dict, message: str, unchecked: None) -> None:
    layer, x = Attention(8, 2), torch.randn(1, 3, 8)
    for run in (layer, layer.attend):
        with pytest.raises(BadMask, match=message):
            run(x, **given)


@pytest.mark.parametrize(
    ("x", "memory", "message"),
    [
        ((1, 3, 9), None, r"x must be \[batch, positions, 8\], got \(1, 3, 9\)"),
        ((3, 8), None, r"x must be \[batch, positions, 8\], got \(3, 8\)"),
        ((1, 3, 8), (1, 3, 9), r"memory must be \[batch, positions, 8\], got \(1, 3, 9\)"),
        ((2, 3, 8), (3, 3, 8), "x and memory must have one batch size, got 2 and 3"),
    ],
)
def test_bad_shapes_are_refused(x: tuple, memory: tuple | None, message: str, unchecked: None) -> None:
    with pytest.raises(BadShape, match=message):
        Attention(8, 2)(torch.randn(x), None if memory is None else torch.randn(memory))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"d_model": 8, "heads": 3}, BadShape, "d_model=8 cannot be split into heads=3"),
        ({"d_model": 8, "heads": 4, "kv_heads": 3}, BadShape, "heads=4 must be a multiple of kv_heads=3"),
        ({"d_model": 8, "heads": 2, "project": False}, BadShape, "project=False.*set heads=1, got heads=2"),
        ({"d_model": 8, "dropout": 1.5}, BadRecipe, "dropout must be a probability, 0 to 1, got 1.5"),
        ({"d_model": 0}, BadRecipe, "d_model must be a positive whole number, got 0"),
        ({"d_model": 8, "scope": RFA()}, UnknownName, r"is not a scope. Known: Global"),
    ],
)
def test_bad_options_are_refused_when_the_layer_is_built(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Attention(**options)


@pytest.mark.parametrize("kernel", [qkv.Softmax(), qkv.RFA()], ids=repr)
@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_read_or_to_ask_is_no_error(
    kernel: qkv.Softmax | qkv.RFA, queries: int, keys: int
) -> None:
    layer = Attention(6, 2, kernel=kernel)
    x, memory = torch.randn(2, queries, 6), torch.randn(2, keys, 6)
    assert weights_of(layer.attend(x, memory)).shape == (2, 2, queries, keys)
    close(layer(x, memory), torch.zeros(2, queries, 6), 0)


def test_explain_names_the_route() -> None:
    assert "scaled_dot_product_attention" in Attention(8, 2).explain(3, 5)
    assert "forms 3×5 weights" in Attention(8, score=Additive()).explain(3, 5)
    layer = Attention(8, kernel=RFA(4), causal=True)
    assert "pairwise: at 3×5" in layer.explain(3, 5)
    assert "linear in 900+900: 8 features, summed in chunks of 512" in layer.explain(900, 900)


def test_the_fused_route_is_taken_for_transformer_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Attention(8, 2, causal=True), torch.randn(1, 3, 8)
    expected = layer.attend(x).out
    monkeypatch.setattr(layer.core, "attend", None)
    close(layer(x), expected, 1e-6)


def test_a_bias_of_minus_infinity_hides_and_an_empty_row_is_zero() -> None:
    layer, x = Attention(8, 2, bias=False).eval(), torch.randn(1, 3, 8, requires_grad=True)
    bias = torch.zeros(3, 3)
    bias[0], bias[1, 2] = float("-inf"), float("-inf")
    out, weights, _ = layer.attend(x, bias=bias)
    assert weights is not None
    torch.testing.assert_close(out[:, 0], torch.zeros(1, 8))
    torch.testing.assert_close(weights[:, :, 0], torch.zeros(1, 2, 3))
    torch.testing.assert_close(weights[:, :, 1, 2], torch.zeros(1, 2))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_stepping_refuses_what_it_would_ignore() -> None:
    own, cross = Attention(8, 2, causal=True), Attention(8, 2)
    x, keep = torch.randn(2, 1, 8), torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(BadMask, match="pass keep= to each step instead"):
        own.start(keep=keep)
    with pytest.raises(BadMask, match="was marked in start"):
        cross.step(x, cross.start(torch.randn(2, 3, 8)), keep=keep)
    with pytest.raises(BadShape, match="x has batch size 2, the state 1"):
        own.step(x, own.start(batch=1))
    with pytest.raises(BadShape, match="x has batch size 2, the state 1"):
        cross.step(x, cross.start(torch.randn(1, 3, 8)))


def test_a_layer_without_parameters_steps() -> None:
    layer, x = Attention(8, causal=True, project=False), torch.randn(2, 3, 8)
    out, _ = layer.step(x, layer.start(batch=2))
    torch.testing.assert_close(out, layer(x))


@pytest.mark.parametrize("kernel", [Softmax(), RFA(4)])
def test_no_positions_make_no_output(kernel: Any) -> None:
    layer = Attention(8, 2, causal=True, kernel=kernel).eval()
    out, state = layer.step(torch.randn(2, 0, 8), layer.start(batch=2))
    assert out.shape == (2, 0, 8)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(layer.step(x, state)[0], layer(x))


def test_widths_that_differ_need_projections_or_a_score_of_two_widths() -> None:
    with pytest.raises(BadShape, match="needs equal widths: use General"):
        Attention(8, project=False, d_memory=12)
    Attention(8, project=False, d_memory=12, score=Additive(5))


def test_a_zero_vector_has_a_bounded_gradient_in_rfa() -> None:
    layer, x = Attention(8, 2, kernel=RFA(4), bias=False).eval(), torch.zeros(1, 3, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() < 1e5


def test_a_bias_of_three_dimensions_is_one_per_row() -> None:
    layer, x, bias = Attention(6, 2).eval(), torch.randn(2, 3, 6), torch.randn(2, 3, 3)
    alone = [layer(x[row : row + 1], bias=bias[row]) for row in range(2)]
    close(layer(x, bias=bias), torch.cat(alone), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bias_too_low_for_half_precision_hides(dtype: torch.dtype) -> None:
    layer, x = Attention(6, 2).to(dtype).eval(), torch.randn(1, 3, 6).to(dtype)
    bias = torch.zeros(3, 3)
    bias[0] = torch.finfo(torch.float32).min
    shown = layer.attend(x, bias=bias)
    assert shown.out.isfinite().all()
    assert not weights_of(shown)[0, :, 0].any()


def test_queries_that_are_the_keys_count_positions_with_them() -> None:
    x, keep = torch.randn(1, 1, 4, 3), torch.tensor([[False, False, True, True]])
    shown = attend(x, x, x, scope=Window(1, right=0), keep=keep)
    assert weights_of(shown)[0, 0, 2].tolist() == [0, 0, 1, 0]
    layer, x = Attention(6, scope=Window(1)).eval(), torch.randn(1, 4, 6)
    close(layer(x, x, keep=keep), layer(x, keep=keep), 0)


@pytest.mark.parametrize("kernel", [Softmax(), RFA(4)], ids=["softmax", "rfa"])
def test_a_layer_without_parameters_steps_in_the_dtype_it_reads(kernel: Any) -> None:
    layer = Attention(6, kernel=kernel, causal=True, project=False).to(torch.bfloat16).eval()
    x = torch.randn(2, 3, 6).bfloat16()
    out, _ = layer.step(x, layer.start(batch=2))
    close(out.float(), layer(x).float(), 0.05)


def test_scores_do_not_overflow_in_half_precision() -> None:
    q = torch.full((1, 1, 2, 64), 40.0).half()
    assert weights_of(attend(q, q, q)).isfinite().all()
