"""The exact evaluator's fast routes equal the explicit one: bands, blocks of queries, the growing cache."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qkv.errors import TooLarge
from qkv.kernel import bands, query_blocks
from qkv.kernel.cache import Cache
from qkv.kernel.fused_attention import compute_fused_attention
from qkv.kernel.masking import Masking
from qkv.layer import Attention
from qkv.scope import Predictive, Window
from qkv.score import Additive, Cosine, General, Location
from qkv.select import Entmax, Hard, Sparsemax, TopK
from qkv.state import detach, select_rows
from reference.loops import weights_of

B, H, WIDTH = 2, 4, 4 * 7
SCORES = [None, General(), Additive(5), Cosine(2.0), Location(2000)]
SELECTS = [Entmax(), Sparsemax(), TopK(3), Hard("gumbel")]


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def layer(**parts: Any) -> Attention:
    return Attention(WIDTH, H, kv_heads=2, **parts).double()


def gradients(layer: Attention, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    grads = torch.autograd.grad(call(x).square().sum(), [x, *layer.parameters()], allow_unused=True)
    return [gradient for gradient in grads if gradient is not None]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "MIN_BLOCK", 3)
    monkeypatch.setattr(bands, "MAX_BLOCK", 4)
    monkeypatch.setattr(bands, "BLOCKS_AT_A_TIME", 2)
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 500)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "window", [Window(2), Window(1, left=4, right=0), Window(1, left=0, right=3)], ids=repr
)
@pytest.mark.parametrize("padded", ["none", "anywhere"])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
def test_bands_equal_all_pairs(
    small_blocks: None, window: Window, causal: bool, padded: str, length: int
) -> None:
    attention, x = layer(scope=window, causal=causal), torch.randn(B, length, WIDTH).double()
    keep = None if padded == "none" else torch.rand(B, length) < 0.7
    assert length < 15 or "in bands" in attention.explain(length, length)
    expected = attention.attend(x, keep=keep).out
    close(attention(x, keep=keep), expected)
    with torch.no_grad():
        close(attention(x, keep=keep), expected)
    close(
        gradients(attention, lambda x: attention(x, keep=keep), x),
        gradients(attention, lambda x: attention.attend(x, keep=keep).out, x),
    )


@pytest.mark.parametrize("size", [(1000, 64), (65, 1000), (200, 200)], ids=str)
def test_bands_serve_a_memory_of_another_length(small_blocks: None, size: tuple[int, int]) -> None:
    attention = layer(scope=Window(2, right=1), d_memory=WIDTH)
    x, memory = (torch.randn(B, n, WIDTH).double() for n in size)
    keep = torch.rand(B, size[1]) < 0.9
    for real in (None, keep):
        expected = attention.attend(x, memory, keep=real).out
        close(attention(x, memory, keep=real), expected)
        with torch.no_grad():
            close(attention(x, memory, keep=real), expected)


@pytest.mark.parametrize("queries", [15, 40])
def test_bands_end_where_the_keys_end(small_blocks: None, queries: int) -> None:
    """Fewer queries than keys, and more, of one causal sequence."""
    core = layer(scope=Window(2), causal=True).core
    q, k = torch.randn(B, H, queries, 7).double(), torch.randn(B, 2, 30, 7).double()
    for masking in (Masking(), Masking(keep=torch.rand(B, 30) < 0.8)):
        close(core(q, k, k, masking), core.attend(q, k, k, masking).out)


@pytest.mark.parametrize("score", SCORES[1:-1], ids=repr)
@pytest.mark.parametrize("select", SELECTS[:3], ids=repr)
def test_bands_take_any_score_and_selection(small_blocks: None, score: Any, select: Any) -> None:
    attention = layer(scope=Window(3), score=score, select=select).eval()
    x, keep = torch.randn(B, 50, WIDTH).double(), torch.rand(B, 50) < 0.8
    close(attention(x, keep=keep), attention.attend(x, keep=keep).out)
    with torch.no_grad():
        close(attention(x), attention.attend(x).out)


@pytest.mark.parametrize("wanted", [True, False], ids=["gradients", "numbers"])
def test_bands_have_the_type_that_autocast_gives(small_blocks: None, wanted: bool) -> None:
    attention = Attention(WIDTH, 1, scope=Window(3), project=False)
    with torch.set_grad_enabled(wanted), torch.autocast("cpu", torch.bfloat16):
        out = attention(torch.randn(B, 50, WIDTH, requires_grad=wanted))
    assert out.dtype == torch.bfloat16


def test_a_window_never_makes_a_tensor_of_all_pairs() -> None:
    attention, length = layer(scope=Window(8), causal=True), 2048
    for half_width in (8, 64):
        attention = layer(scope=Window(half_width), causal=True)
        with Largest() as largest:
            attention(torch.randn(1, length, WIDTH).double()).sum().backward()
        reach = bands.compute_queries_per_band_block(half_width, 0) + half_width
        assert largest.elements <= H * length * 2 * reach
        assert largest.elements < length**2 / 4


@pytest.mark.parametrize(("width", "value"), [(3, 11), (11, 3)])
@pytest.mark.parametrize("causal", [False, True])
def test_values_of_another_width_make_no_tensor_of_all_pairs(width: int, value: int, causal: bool) -> None:
    q, k = (torch.randn(1, 2, 600, width).double().requires_grad_() for _ in range(2))
    v = torch.randn(1, 2, 600, value).double().requires_grad_()
    for scale in (None, 0.7):
        with Largest() as largest:
            out = compute_fused_attention(q, k, v, None, causal, scale, 0.0)
            gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
        assert largest.elements < 600**2
        logits = (q * (width**-0.5 if scale is None else scale)) @ k.mT
        logits = logits.masked_fill(torch.ones(600, 600).triu(1).bool(), -torch.inf) if causal else logits
        expected = logits.softmax(-1) @ v
        close(out, expected)
        close(gradients, torch.autograd.grad(expected.square().sum(), (q, k, v)))


@pytest.mark.parametrize("score", SCORES, ids=repr)
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_queries_equal_all_at_once(
    monkeypatch: pytest.MonkeyPatch, score: Any, causal: bool
) -> None:
    attention, x = layer(score=score, select=Entmax(), causal=causal), torch.randn(B, 23, WIDTH).double()
    masks = {"keep": torch.rand(B, 23) < 0.8, "allow": torch.rand(23, 23) < 0.9}
    masks["bias"] = torch.randn(B, H, 23, 23).double()
    full = attention.attend(x, **masks)
    expected = gradients(attention, lambda x: attention(x, **masks), x)
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 500)
    assert "queries at a time" in attention.explain(23, 23)
    parts = attention.attend(x, **masks)
    close(parts.out, full.out)
    close(weights_of(parts), weights_of(full))
    close(gradients(attention, lambda x: attention(x, **masks), x), expected)


@pytest.mark.parametrize("scope", [Predictive(2), Window(2)], ids=repr)
def test_blocks_know_where_their_queries_stand(monkeypatch: pytest.MonkeyPatch, scope: Any) -> None:
    attention, x = layer(scope=scope, score=Location(40)), torch.randn(B, 23, WIDTH).double()
    keep = torch.rand(B, 23) < 0.8
    full = attention.attend(x, keep=keep)
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 500)
    close(attention(x, keep=keep), full.out)


def test_blocks_cover_queries_that_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 1)
    core = layer(score=Cosine(), causal=True).core
    q, k = torch.randn(B, H, 9, 7).double(), torch.randn(B, 2, 4, 7).double()
    attended = core.attend(q, k, k)
    assert weights_of(attended).shape == (B, H, 9, 4)
    assert not attended.out[:, :, :5].any()
    close(weights_of(attended).sum(-1)[:, :, 5:], torch.ones(B, H, 4).double())


@pytest.mark.parametrize("estimator", ["reinforce", "straight_through", "gumbel"])
def test_blocks_draw_once(monkeypatch: pytest.MonkeyPatch, estimator: Any) -> None:
    """The backward pass, which computes every block again, meets the draws of the forward pass."""
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 500)
    attention, x = layer(select=Hard(estimator)), torch.randn(B, 23, WIDTH).double()

    def drawn(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        attended = attention.attend(x)
        return attended.out if attended.log_prob is None else attended.out.sum() + attended.log_prob.sum()

    again = gradients(attention, drawn, x)
    monkeypatch.setattr(query_blocks, "checkpoint", lambda average, part, **_: average(part))
    close(again, gradients(attention, drawn, x))


def test_additive_scores_never_hold_all_pairs_times_the_inner_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 2**14)
    attention = Attention(8, 1, score=Additive(64), project=False).double()
    x, memory = torch.randn(2, 60, 8).double(), torch.randn(2, 50, 8).double()
    with Largest() as largest:
        attention(x.requires_grad_(), memory).sum().backward()
    assert largest.elements <= 2**14 < 2 * 60 * 50 * 64 / 16


@pytest.mark.parametrize("parts", [{}, {"scope": Window(3)}, {"score": Additive(5)}], ids=str)
def test_a_step_that_writes_behind_the_cache_equals_one_that_copies(parts: dict[str, Any]) -> None:
    attention, x = layer(causal=True, **parts).eval(), torch.randn(B, 70, WIDTH).double()
    expected = attention(x)
    for copies in (False, True):
        state, outs = attention.start(batch=B), []
        with torch.set_grad_enabled(copies):
            for t in range(70):
                out, state = attention.step(x[:, t], state)
                outs.append(out)
        close(torch.stack(outs, 1), expected)


def test_two_futures_of_one_state_do_not_meet() -> None:
    attention = layer(causal=True).eval()
    x, one, other = (torch.randn(B, n, WIDTH).double() for n in (5, 9, 9))
    with torch.no_grad():
        _, past = attention.step(x, attention.start(batch=B))
        first, after = attention.step(one[:, :4], past)
        second, _ = attention.step(other, past)
        swapped = select_rows(past, torch.tensor([1, 0]))
        third, _ = attention.step(one[[1, 0]], swapped)
        fourth, _ = attention.step(one[:, 4:], detach(after))
        expected = [attention(torch.cat([x, future], 1))[:, 5:] for future in (one, other)]
    close(torch.cat([first, fourth], 1), expected[0])
    close(second, expected[1])
    close(third[[1, 0]], expected[0])


def test_the_cache_shares_heads_and_grows_by_doubling() -> None:
    attention = layer(causal=True).eval()
    addresses = set()
    with torch.no_grad():
        state = attention.start(batch=B)
        for _ in range(200):
            _, state = attention.step(torch.randn(B, WIDTH).double(), state)
            addresses.add(state.core.keys.entries.untyped_storage().data_ptr())
    assert state.core.keys.entries.shape == (B, 2, 200, 7)
    assert len(addresses) <= 6


def test_a_window_keeps_no_more_than_it_reaches() -> None:
    attention = layer(causal=True, scope=Window(5)).eval()
    x, keep = torch.randn(B, 300, WIDTH).double(), torch.rand(B, 300) < 0.7
    expected = attention(x, keep=keep)
    with torch.no_grad():
        state, outs = attention.start(batch=B), []
        for t in range(300):
            out, state = attention.step(x[:, t], state, keep=keep[:, t : t + 1])
            outs.append(out)
            assert state.core.keys.entries.shape[2] <= 40
            assert state.core.keys.entries.untyped_storage().nbytes() <= 8 * B * 2 * 7 * 90
    close(torch.stack(outs, 1), expected)


def test_a_cache_is_of_the_type_of_what_is_read() -> None:
    with torch.no_grad():
        cache = Cache(torch.zeros(1, 1, 2, 3)).append(torch.ones(1, 1, 1, 3).double())
        assert cache.entries.dtype == torch.float64
        assert cache.append(torch.ones(1, 1, 1, 3)).entries.dtype == torch.float32
    with torch.inference_mode():
        further = cache.append(torch.ones(1, 1, 1, 3).double())
    with torch.no_grad():
        assert further.append(torch.ones(1, 1, 1, 3).double()).entries.shape[2] == 5


def test_steps_show_weights_only_where_asked() -> None:
    attention, x = layer(causal=True).eval(), torch.randn(B, 3, WIDTH).double()
    without_weights, _ = attention.attend_step(x, attention.start(batch=B))
    attended, _ = attention.attend_step(x, attention.start(batch=B, return_weights=True))
    assert without_weights.weights is None
    close(weights_of(attended), weights_of(attention.attend(x)))
    close(without_weights.out, attended.out)


@pytest.mark.parametrize(("queries", "is_contiguous"), [(1, False), (64, False), (512, True)])
def test_only_keys_that_many_queries_read_are_laid_side_by_side(
    monkeypatch: pytest.MonkeyPatch, queries: int, is_contiguous: bool
) -> None:
    layouts: list[bool] = []

    def record_layout(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layouts.append(k.is_contiguous() and v.is_contiguous())
        return q

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record_layout)
    q, k = (torch.randn(1, n, 2, 4).transpose(1, 2) for n in (queries, 700))
    compute_fused_attention(q, k, k, None, False, None, 0.0)
    assert layouts == [is_contiguous]


@pytest.mark.parametrize("causal", [False, True])
def test_masks_of_all_pairs_come_in_blocks_too(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    attention, x = layer(causal=causal), torch.randn(B, 23, WIDTH).double()
    masks = {"keep": torch.rand(B, 23) < 0.8} if causal else {"allow": torch.rand(23, 23) < 0.8}
    expected = gradients(attention, lambda x: attention(x, **masks), x)
    monkeypatch.setattr(query_blocks, "BLOCK_NUMBERS", 100)
    close(attention(x, **masks), attention.attend(x, **masks).out)
    close(gradients(attention, lambda x: attention(x, **masks), x), expected)


def test_weights_that_cannot_be_held_are_refused_at_once() -> None:
    core = Attention(4, 1, score=Cosine()).core
    q = torch.randn(1, 1, 8_000_000, 4)
    with pytest.raises(TooLarge, match=r"would take 256,000 GB. Call the layer itself"):
        core.attend(q, q, q)
