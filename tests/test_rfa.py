"""Random Feature Attention: identities, bias and variance, projections, both routes, and sharp kernels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.attention import Attention, attend
from qkv.kernel import RFA, linear
from qkv.kernel.exact import Given
from qkv.kernel.rfa import draw_projections, fourier_features
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims
from reference.loops import weights_of


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def choice(causal: bool = False) -> Choice:
    return Choice(None, Global(), Soft(), RFA(), causal)


@pytest.mark.parametrize("orthogonal", [False, True], ids=["iid", "orthogonal"])
def test_a_vector_is_as_like_itself_as_can_be(orthogonal: bool) -> None:
    phi = fourier_features(doubles(2, 3, 5, 7), draw_projections(3, 11, 7, orthogonal).double())
    assert phi.shape == (2, 3, 5, 22)
    close(phi.square().sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert (phi @ phi.mT).abs().max() <= 1 + 1e-12


def test_features_by_hand() -> None:
    phi = fourier_features(torch.tensor([[[[0.0, 5.0]]]]), torch.tensor([[[1.0, math.pi / 2], [1.0, 0.0]]]))
    close(phi[0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5, 1e-6)


@pytest.mark.parametrize("orthogonal", [False, True], ids=["iid", "orthogonal"])
def test_the_mean_is_the_gaussian_kernel_at_five_sigma(orthogonal: bool) -> None:
    draws, x, y = 120_000, F.normalize(doubles(1, 1, 1, 8), dim=-1), F.normalize(doubles(1, 1, 1, 8), dim=-1)
    w = draw_projections(1, draws, 8, orthogonal).double()
    estimate = (fourier_features(x, w) @ fourier_features(y, w).mT).item()
    squared = (x - y).square().sum().item()
    spread = (1 - math.exp(-squared)) / math.sqrt(2 * draws)
    assert abs(estimate - math.exp(-squared / 2)) < 5 * spread


def slope_of_error(temperature: float) -> float:
    """The log-log slope of the error against softmax(cosine / τ²) over the number of features."""
    q, k, v = doubles(1, 1, 16, 8), doubles(1, 1, 24, 8), doubles(1, 1, 24, 4)
    cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    twin = (cosine / temperature**2).softmax(-1) @ v
    sizes, errors = [16, 64, 256, 1024, 4096], []
    for features in sizes:
        kernel = RFA(features, temperature=temperature, orthogonal=False)
        draws = [
            (attend(q, k, v, kernel=kernel, generator=torch.Generator().manual_seed(seed)).out - twin)
            .square()
            .mean()
            for seed in range(11)
        ]
        errors.append(torch.stack(draws).median().sqrt().log())
    logs = torch.tensor(sizes, dtype=torch.float64).log()
    centred = logs - logs.mean()
    return (torch.stack(errors) @ centred / centred.square().sum()).item()


def test_the_error_falls_as_one_over_the_root_of_the_features() -> None:
    assert abs(slope_of_error(temperature=1.0) + 0.5) < 0.1


def test_orthogonal_rows_are_orthogonal_within_blocks_and_as_long_as_independent_ones() -> None:
    w = draw_projections(3, 19, 7, orthogonal=True).double()
    for begin in range(0, 19, 7):
        block = w[:, begin : begin + 7]
        gram = block @ block.mT
        crossing = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
        assert crossing.abs().max() < 1e-4
    squares = draw_projections(1, 7000, 7, orthogonal=True).square().sum(-1)
    assert abs(squares.mean() - 7) < 5 * math.sqrt(14 / 7000)
    assert abs(squares.var() - 14) < 3
    first = draw_projections(1, 7000, 7, orthogonal=True).mean(1)
    assert first.abs().max() < 5 / math.sqrt(7000)


def test_orthogonal_rows_err_less() -> None:
    x, y = F.normalize(doubles(1, 1, 1, 8), dim=-1), F.normalize(doubles(1, 1, 1, 8), dim=-1)
    exact = math.exp(-(x - y).square().sum().item() / 2)

    def error(orthogonal: bool) -> Tensor:
        w = draw_projections(4000, 8, 8, orthogonal).double()
        kernel = torch.cos(w @ (x - y)[0, 0, 0]).mean(-1)
        return (kernel - exact).square().mean()

    assert error(True) < 0.8 * error(False)


def test_redraws_in_training_and_is_fixed_in_evaluation() -> None:
    layer, x = Attention(8, 2, kernel=RFA(5)), torch.randn(1, 4, 8)
    assert not layer(x).equal(layer(x))
    fixed = layer.core.features.fixed.clone()
    close(layer.eval()(x), layer(x), 0)
    close(layer.core.features.fixed, fixed, 0)
    still = Attention(8, 2, kernel=RFA(5, redraw=False))
    close(still(x), still(x), 0)


def test_queries_and_keys_are_mapped_alike_also_when_redrawn() -> None:
    """Of a vector and its opposite, a sharp kernel picks the vector itself."""
    core = RFA(4000, temperature=0.3).build_core(Dims(2, 5, 5, 5), choice(), None).train()
    x = torch.randn(1, 2, 1, 5)
    pair = torch.cat([x, -x], 2)
    own = torch.eye(2).expand(1, 2, 2, 2)
    close(weights_of(core.attend(pair, pair, pair)), own, 0.1)
    state = core.start(pair, pair, None)
    _, state = core.extend(state, pair, pair, pair, None)
    close(core.read(pair, state).out, pair, 0.2)


def test_temperature_and_bandwidth_sharpen_the_same_kernel() -> None:
    sharp, wide = (Attention(8, kernel=RFA(16, temperature=t)).eval() for t in (0.5, 1.0))
    wide.load_state_dict(sharp.state_dict())
    torch.nn.init.constant_(wide.core.features.bandwidth, 2.0)
    x = torch.randn(1, 5, 8)
    close(wide(x), sharp(x), 1e-5)


def test_lengths_of_queries_and_keys_do_not_matter() -> None:
    q, k, v = doubles(1, 2, 3, 5), doubles(1, 2, 7, 5), doubles(1, 2, 7, 4)
    longer = attend(3 * q, k * torch.arange(1, 8)[:, None], v, kernel=RFA())
    close(longer.out, attend(q, k, v, kernel=RFA()).out)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("ahead", [0, 9, -9], ids=["T=S", "T<S", "T>S"])
def test_both_routes_agree(length: int, causal: bool, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    core = RFA(4, temperature=0.4).build_core(Dims(2, 5, 5, 3), choice(causal), None).double().eval()
    q = doubles(2, 2, length - min(ahead, 0), 5)
    k, v = doubles(2, 2, length + max(ahead, 0), 5), doubles(2, 2, length + max(ahead, 0), 3)
    given = Given(keep=torch.rand(2, k.shape[2]) < 0.8)
    routes = []
    for short in (True, False):
        monkeypatch.setattr(linear.Linear, "_short", lambda *sizes, short=short: short)
        routes.append(core(q, k, v, given))
    close(routes[1], routes[0], 1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 64, 200])
def test_prefix_sums_do_not_depend_on_the_chunk(chunk: int) -> None:
    phi_q, phi_k, v1, sums = (
        doubles(1, 2, 65, 3),
        doubles(1, 2, 65, 3),
        doubles(1, 2, 65, 4),
        doubles(1, 2, 3, 4),
    )
    out, last = linear.prefix_sums(phi_q, phi_k, v1, sums, chunk)
    running, expected = sums, []
    for t in range(65):
        running = running + phi_k[:, :, t, :, None] * v1[:, :, t, None]
        expected.append((phi_q[:, :, t, None] @ running)[:, :, 0])
    close(out, torch.stack(expected, 2))
    close(last, running)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_constants_survive_where_denominators_go_bad(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = doubles(2, 3, 40, 7), doubles(2, 3, 40, 7)
    core = RFA(8, temperature=0.2).build_core(Dims(3, 7, 7, 2), choice(causal), None).double().eval()
    projections = core.features.draw()
    alike = core.features(q, projections) @ core.features(k, projections).mT
    assert (alike.sum(-1) < 0).any(), "the denominators should go bad here"
    shown = core.attend(q, k, torch.ones_like(q[..., :2]))
    close(shown.out, torch.ones_like(shown.out), 1e-9)
    close(weights_of(shown).sum(-1), torch.ones_like(q[..., 0]), 1e-9)
    for short in (True, False):
        monkeypatch.setattr(linear.Linear, "_short", lambda *sizes, short=short: short)
        close(core(q, k, torch.ones_like(q[..., :2])), shown.out, 1e-9)
    close(attend(q, k, torch.ones_like(k), kernel=RFA(8, temperature=0.2)).out, torch.ones_like(q), 1e-9)


@pytest.mark.parametrize("route", ["parallel", "step"])
def test_sums_stay_exact_over_thousands_of_positions_under_autocast(route: str) -> None:
    """A running count in bfloat16 stops growing at 256: the average of a constant would drift from it."""
    core = RFA(4).build_core(Dims(1, 4, 4, 2), choice(True), None).eval()
    length = 5000
    k = torch.randn(1, 1, 1, 4, dtype=torch.bfloat16).expand(1, 1, length, 4)
    v = torch.full((1, 1, length, 2), 3.0, dtype=torch.bfloat16)
    v[..., 4000:, 1] = -5.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if route == "parallel":
            out = core(k, k, v)
        else:
            state = core.start(k[:, :, :4999], v[:, :, :4999], None)
            attended, state = core.extend(state, k[:, :, 4999:], k[:, :, 4999:], v[:, :, 4999:], None)
            out = attended.out
            assert state.sums.dtype == torch.float32
            close(state.plain[..., -1], torch.full((1, 1, 1), 5000.0), 0)
    last = out[0, 0, -1].float()
    close(last, torch.tensor([3.0, (4000 * 3 - 1000 * 5) / 5000]), 1e-2)
    close(out[..., 0].float(), torch.full_like(out[..., 0], 3.0).float(), 1e-2)


def test_the_layer_runs_under_autocast_and_in_bfloat16() -> None:
    layer, x = Attention(8, 2, kernel=RFA(5), causal=True).eval(), torch.randn(1, 6, 8)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), exact, rtol=0.05, atol=0.05)
    half = layer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.05)


def test_weights_are_not_remembered_unless_asked() -> None:
    layer = Attention(8, kernel=RFA(5), causal=True).eval()
    attended, state = layer.attend_step(torch.randn(2, 3, 8), layer.start(batch=2))
    assert attended.weights is None
    assert state.core.seen is None
    sizes = [tensor.numel() for tensor in (state.core.sums, state.core.plain)]
    _, later = layer.step(torch.randn(2, 100, 8), state)
    assert sizes == [tensor.numel() for tensor in (later.core.sums, later.core.plain)]
