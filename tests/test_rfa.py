"""Random Feature Attention: identities, bias and variance, projections, lengths, and sharp kernels."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.errors import BadRecipe
from qkv.functional import attend
from qkv.kernel import RFA, linear
from qkv.kernel.projections import draw_projections
from qkv.kernel.rfa import compute_arccos_features, compute_fourier_features
from qkv.layer import Attention
from qkv.rules import Choice
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Dims
from reference.loops import weights_of


def close(actual: object, expected: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def choice(causal: bool = False) -> Choice:
    return Choice(None, Global(), Soft(), RFA(), causal)


@pytest.mark.parametrize("orthogonal", [False, True], ids=["iid", "orthogonal"])
def test_a_vector_is_as_like_itself_as_can_be(orthogonal: bool) -> None:
    w, x = draw_projections(3, 11, 7, orthogonal).double(), doubles(2, 3, 5, 7)
    phi = compute_fourier_features(x, w)
    assert phi.shape == (2, 3, 5, 22)
    close(phi.square().sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    products = phi @ phi.mT
    assert products.abs().max() <= 1 + 1e-12
    differences = w @ (x[:, :, :1] - x[:, :, 1:2]).mT
    close(products[:, :, 0, 1], differences.cos().mean((2, 3)))
    moved = compute_fourier_features(x + doubles(2, 3, 1, 7), w)
    close(moved @ moved.mT, products)
    flipped = compute_fourier_features(x, w * torch.tensor([1.0, -1.0] * 5 + [1.0])[:, None])
    close(flipped @ flipped.mT, products)


def test_features_by_hand() -> None:
    w = torch.tensor([[[1.0, math.pi / 2], [1.0, 0.0]]])
    phi = compute_fourier_features(torch.tensor([[[[0.0, 1.0]]]]), w)
    close(phi[0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5, 1e-6)
    phi = compute_arccos_features(torch.tensor([[[[2.0, -4.0]]]]), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    close(phi[0, 0, 0], torch.tensor([2.0, 0.0]) / 2**0.5, 1e-6)


@pytest.mark.parametrize("orthogonal", [False, True], ids=["iid", "orthogonal"])
def test_the_mean_is_the_gaussian_kernel_at_five_sigma(orthogonal: bool) -> None:
    draws, x, y = 120_000, F.normalize(doubles(1, 1, 1, 8), dim=-1), F.normalize(doubles(1, 1, 1, 8), dim=-1)
    w = draw_projections(1, draws, 8, orthogonal).double()
    estimate = (compute_fourier_features(x, w) @ compute_fourier_features(y, w).mT).item()
    squared = (x - y).square().sum().item()
    spread = (1 - math.exp(-squared)) / math.sqrt(2 * draws)
    assert abs(estimate - math.exp(-squared / 2)) < 5 * spread


def arccos_kernel(q: Tensor, k: Tensor) -> Tensor:
    """|q||k| (sin θ + (π - θ) cos θ) / 2π for every pair of the rows [N,D] and [M,D]."""
    lengths = q.norm(dim=-1)[:, None] * k.norm(dim=-1)
    angle = (q @ k.mT / lengths).clamp(-1, 1).arccos()
    return lengths * (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)


@pytest.mark.parametrize("orthogonal", [False, True], ids=["iid", "orthogonal"])
def test_the_mean_of_relu_features_is_the_arccos_kernel_at_five_sigma(orthogonal: bool) -> None:
    draws, q, k = 120_000, doubles(1, 8), doubles(1, 8)
    w = draw_projections(1, draws, 8, orthogonal).double()
    products = compute_arccos_features(q[None, None], w) * compute_arccos_features(k[None, None], w) * draws
    assert abs(products.mean() - arccos_kernel(q, k)[0, 0]) < 5 * products.std() / math.sqrt(draws)


def slope_of_error(kernel: RFA, twin: Callable[[Tensor, Tensor], Tensor], length: float = 1.0) -> float:
    """The log-log slope of the error against the twin's attention over the number of features."""
    q, k, v = length * doubles(1, 1, 16, 8), length * doubles(1, 1, 24, 8), doubles(1, 1, 24, 4)
    exact = twin(q[0, 0], k[0, 0])
    exact = (exact / exact.sum(-1, keepdim=True)) @ v
    sizes, errors = [16, 64, 256, 1024, 4096], []
    for features in sizes:
        part = replace(kernel, features=features)
        draws = [
            (attend(q, k, v, kernel=part, generator=torch.Generator().manual_seed(seed)).out - exact)
            .square()
            .mean()
            for seed in range(11)
        ]
        errors.append(torch.stack(draws).median().sqrt().log())
    logs = torch.tensor(sizes, dtype=torch.float64).log()
    centred = logs - logs.mean()
    return (torch.stack(errors) @ centred / centred.square().sum()).item()


def exp_cosine(q: Tensor, k: Tensor) -> Tensor:
    return (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).exp()


TWINS = {
    "gaussian": (RFA(orthogonal=False), exp_cosine, 1.0),
    "lengths": (
        RFA(orthogonal=False, normalise=False, temperature=2.0),
        lambda q, k: (q @ k.mT / 4).exp(),
        0.7,
    ),
    "arccos": (
        RFA(kernel="arccos", orthogonal=False),
        lambda q, k: arccos_kernel(F.normalize(q, dim=-1), F.normalize(k, dim=-1)),
        1.0,
    ),
    "arccos-lengths": (RFA(kernel="arccos", orthogonal=False, normalise=False), arccos_kernel, 1.0),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_error_falls_as_one_over_the_root_of_the_features(name: str) -> None:
    assert abs(slope_of_error(*TWINS[name]) + 0.5) < 0.1


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


def test_training_draws_from_a_pool_that_the_seed_decides() -> None:
    torch.manual_seed(3)
    features = Attention(8, 2, kernel=RFA(5, pool=3)).core.features.train()
    torch.manual_seed(7)
    draws = [features.choose_projections() for _ in range(40)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 3
    assert all(not draw.equal(features.fixed) for draw in draws)
    torch.manual_seed(7)
    assert all(features.choose_projections().equal(draw) for draw in draws)
    torch.manual_seed(8)
    assert not all(features.choose_projections().equal(draw) for draw in draws)
    torch.manual_seed(3)
    again = Attention(8, 2, kernel=RFA(5, pool=3)).core.features.train()
    torch.manual_seed(7)
    assert again.choose_projections().equal(draws[0])
    other = Attention(8, 2, kernel=RFA(5, pool=3)).core.features.train()
    assert not any(other.choose_projections().equal(draw) for draw in draws)
    features.eval()
    assert features.choose_projections() is features.fixed
    assert features.double().train().choose_projections().dtype == torch.float64


def test_compiles_as_one_graph_in_training_and_draws_as_before(unchecked: None) -> None:
    torch.compiler.reset()
    layer, x = Attention(8, 2, kernel=RFA(5), causal=True), torch.randn(1, 5, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    outs = []
    for route in (layer, compiled):
        torch.manual_seed(1)
        outs.append([route(x), route(x)])
        layer.zero_grad()
        outs[-1][-1].sum().backward()
        outs[-1].append(layer.core.features.bandwidth.grad.clone())
    close(outs[1], outs[0], 1e-5)
    assert not outs[0][0].equal(outs[0][1])


def test_parameters_and_buffers_keep_their_names_and_shapes() -> None:
    for kernel in ("gaussian", "arccos"):
        state = Attention(8, 2, kernel=RFA(5, kernel)).core.state_dict()
        shapes = {name: list(tensor.shape) for name, tensor in state.items()}
        assert shapes == {"features.bandwidth": [2, 1, 4], "features.fixed": [2, 5, 4]}


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
    state = core.start(pair, pair)
    close(core.attend_to_state(pair, state)[0].out, pair, 0.2)
    _, state = core.extend(state, pair, pair, pair)
    close(core.attend_to_state(pair, state)[0].out, pair, 0.2)


def test_temperature_and_bandwidth_sharpen_the_same_kernel() -> None:
    sharp, wide = (Attention(8, kernel=RFA(16, temperature=t)).eval() for t in (0.5, 1.0))
    wide.load_state_dict(sharp.state_dict())
    torch.nn.init.constant_(wide.core.features.bandwidth, 2.0)
    x = torch.randn(1, 5, 8)
    close(wide(x), sharp(x), 1e-5)


def test_lengths_of_queries_and_keys_do_not_matter() -> None:
    q, k, v = doubles(1, 2, 3, 5), doubles(1, 2, 7, 5), doubles(1, 2, 7, 4)
    longer = 3 * q, k * torch.arange(1, 8)[:, None], v
    for kernel in (RFA(), RFA(kernel="arccos")):
        close(attend(*longer, kernel=kernel).out, attend(q, k, v, kernel=kernel).out)
    carrying = RFA(kernel="arccos", normalise=False)
    close(attend(3 * q, k, v, kernel=carrying).out, attend(q, k, v, kernel=carrying).out)
    for kernel in (carrying, RFA(normalise=False)):
        assert (attend(*longer, kernel=kernel).out - attend(q, k, v, kernel=kernel).out).abs().max() > 1e-2
    shorter = attend(q, 1e-2 * k, v, kernel=carrying)
    close(shorter.out, attend(q, k, v, kernel=carrying).out)


def test_arccos_weights_are_a_share_of_the_whole() -> None:
    q, k, v = doubles(1, 2, 3, 5), doubles(1, 2, 7, 5), doubles(1, 2, 7, 4)
    attended = attend(q, k, v, kernel=RFA(kernel="arccos"))
    assert weights_of(attended).min() >= 0
    close(weights_of(attended).sum(-1), torch.ones(1, 2, 3, dtype=torch.float64))
    with pytest.raises(BadRecipe, match=r"arccos.*has no temperature"):
        RFA(kernel="arccos", temperature=0.2)


def test_keys_that_no_relu_sees_share_the_weight() -> None:
    """All keys opposite to the query: the kernel is 0 everywhere."""
    q, v = doubles(1, 1, 1, 5), doubles(1, 1, 3, 2)
    k = -q * torch.tensor([[1.0], [2.0], [4.0]])
    for kernel, weights in (
        (RFA(kernel="arccos"), [1 / 3, 1 / 3, 1 / 3]),
        (RFA(kernel="arccos", normalise=False), [1 / 7, 2 / 7, 4 / 7]),
    ):
        close(weights_of(attend(q, k, v, kernel=kernel))[0, 0, 0], torch.tensor(weights).double(), 1e-6)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_constants_survive_where_denominators_go_bad(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = doubles(2, 3, 40, 7), doubles(2, 3, 40, 7)
    core = RFA(8, temperature=0.2).build_core(Dims(3, 7, 7, 2), choice(causal), None).double().eval()
    projections = core.features.choose_projections()
    products = core.features.map_queries(q, projections) @ core.features.map_keys(k, projections)[0].mT
    assert (products.sum(-1) < 0).any(), "the denominators should go bad here"
    attended = core.attend(q, k, torch.ones_like(q[..., :2]))
    close(attended.out, torch.ones_like(attended.out), 1e-9)
    close(weights_of(attended).sum(-1), torch.ones_like(q[..., 0]), 1e-9)
    for short in (True, False):
        monkeypatch.setattr(linear.Linear, "_is_pairwise_cheaper", lambda *sizes, short=short: short)
        close(core(q, k, torch.ones_like(q[..., :2])), attended.out, 1e-9)
    close(attend(q, k, torch.ones_like(k), kernel=RFA(8, temperature=0.2)).out, torch.ones_like(q), 1e-9)


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
    assert state.core.history is None
    sizes = [tensor.numel() for tensor in (state.core.feature_sums, state.core.plain_sums)]
    _, later = layer.step(torch.randn(2, 100, 8), state)
    assert sizes == [tensor.numel() for tensor in (later.core.feature_sums, later.core.plain_sums)]


def test_a_sharp_kernel_over_many_keys_converges_too() -> None:
    """What fills up noisy sums must vanish with the features: it may not cap how much one key can get."""
    k = F.normalize(doubles(1, 1, 512, 8), dim=-1)
    v = torch.eye(512, dtype=torch.float64)[None, None]
    exact = (k @ k.mT / 0.3**2).softmax(-1).diagonal(dim1=-2, dim2=-1)
    weights = [
        weights_of(attend(k[:, :, :20], k, v, kernel=RFA(features, temperature=0.3)))
        for features in (256, 16384)
    ]
    errors = [(estimate.diagonal(dim1=-2, dim2=-1) - exact[..., :20]).abs().mean() for estimate in weights]
    assert errors[1] < 0.25 * errors[0]
    assert errors[1] < 0.1


def test_the_pool_comes_back_with_the_weights() -> None:
    first, second = (Attention(8, kernel=RFA(5)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    x, outs = torch.randn(1, 4, 8), []
    for layer in (first, second):
        torch.manual_seed(3)
        outs.append(layer.train()(x))
    close(outs[1], outs[0], 0)
