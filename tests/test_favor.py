"""FAVOR+: positive features of the softmax of the scaled dot product."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qkv.functional import attend
from qkv.kernel import Favor
from qkv.kernel.favor import compute_positive_features_and_log_factor
from qkv.kernel.projections import draw_projections
from qkv.layer import Attention
from reference.loops import weights_of


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_features_by_hand() -> None:
    phi, log_mass = compute_positive_features_and_log_factor(
        torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, -1.0]]])
    )
    close(phi[0, 0, 0], torch.tensor([-1.0, -2.0, 0.0, -4.0]).exp() / 2, 1e-6)
    close(log_mass[0, 0], torch.tensor([3.0 - 5 / 2]), 1e-6)


@pytest.mark.parametrize("orthogonal", [False, True], ids=["iid", "orthogonal"])
def test_the_mean_is_the_exponential_of_the_product_at_five_sigma(orthogonal: bool) -> None:
    """Of short vectors: the features' distribution has a heavy tail."""
    draws, q, k = 120_000, 0.3 * doubles(1, 1, 1, 8), 0.3 * doubles(1, 1, 1, 8)
    w = draw_projections(1, draws, 8, orthogonal).double()
    (phi_q, mass_q), (phi_k, mass_k) = (
        compute_positive_features_and_log_factor(q, w),
        compute_positive_features_and_log_factor(k, w),
    )
    products = phi_q * phi_k * (mass_q + mass_k).exp() * draws
    assert abs(products.mean() - (q * k).sum().exp()) < 5 * products.std() / math.sqrt(draws)


def test_the_error_falls_as_one_over_the_root_of_the_features() -> None:
    q, k, v = 0.3 * doubles(1, 1, 16, 8), 0.3 * doubles(1, 1, 24, 8), doubles(1, 1, 24, 4)
    exact = attend(q, k, v).out
    sizes, errors = [16, 64, 256, 1024, 4096], []
    for features in sizes:
        part = Favor(features, orthogonal=False)
        draws = [
            (attend(q, k, v, kernel=part, generator=torch.Generator().manual_seed(seed)).out - exact)
            .square()
            .mean()
            for seed in range(11)
        ]
        errors.append(torch.stack(draws).median().sqrt().log())
    logs = torch.tensor(sizes, dtype=torch.float64).log()
    centred = logs - logs.mean()
    slope = (torch.stack(errors) @ centred / centred.square().sum()).item()
    assert abs(slope + 0.5) < 0.1


def test_orthogonal_rows_err_less() -> None:
    q, k = doubles(1, 1, 8), doubles(1, 1, 8)
    q, k = q / q.norm(), k / k.norm()

    def error(orthogonal: bool) -> Tensor:
        w = draw_projections(4000, 8, 8, orthogonal).double()
        (phi_q, mass_q), (phi_k, mass_k) = (
            compute_positive_features_and_log_factor(x.expand(4000, 1, 8)[None], w) for x in (q, k)
        )
        estimate = ((phi_q * phi_k).sum(-1) * (mass_q + mass_k).exp()).flatten()
        return (estimate - (q * k).sum().exp()).square().mean()

    assert error(True) < 0.9 * error(False)


def test_what_all_keys_have_in_common_cancels_and_what_one_has_does_not() -> None:
    """A vector orthogonal to everything that is asked adds its length to all keys alike."""
    q, k, v = doubles(1, 1, 3, 6), doubles(1, 1, 7, 6), doubles(1, 1, 7, 2)
    layer = Attention(6, kernel=Favor(5), project=False).double().eval()
    w = layer.core.features.fixed
    with torch.no_grad():
        w[..., 5] = 0
        q[..., 5] = k[..., 5] = 0
    plain = layer.core.attend(q, k, v).out
    longer = k.clone()
    longer[..., 5] = 30.0
    close(layer.core.attend(q, longer, v).out, plain)
    asked = q.clone()
    asked[..., 5] = 30.0
    close(layer.core.attend(asked, k, v).out, plain)
    longer[:, :, 2, 5] = 29.0
    outweighed = weights_of(layer.core.attend(q, longer, v))
    assert (outweighed[..., 2] > 0.99).all()


def test_long_vectors_are_not_flattened_by_the_floor() -> None:
    """Their products lie many orders of magnitude below the largest possible one, and yet are exact."""
    q, k, v = 3 * doubles(1, 1, 13, 64), 3 * doubles(1, 1, 17, 64), doubles(1, 1, 17, 4)
    core = Attention(64, kernel=Favor(37)).core.double().eval()
    x, w = 64**-0.25 * torch.cat([q, k], 2), core.features.fixed
    logits = torch.logsumexp((x[:, :, :13, None] + x[:, :, None, 13:]) @ w.mT[:, None], -1)
    expected = (logits - x[:, :, None, 13:].square().sum(-1) / 2).softmax(-1)
    close(weights_of(core.attend(q, k, v)), expected, 1e-8)
    narrow = q.float(), k.float(), v.float()
    close(weights_of(core.float().attend(*narrow)).double(), expected, 1e-3)
    core.floor = 1e-6
    assert (weights_of(core.attend(*narrow)) - expected).abs().max() > 0.1


def test_training_redraws_and_evaluation_does_not() -> None:
    layer, x = Attention(8, 2, kernel=Favor(5)), torch.randn(1, 4, 8)
    assert not layer(x).equal(layer(x))
    close(layer.eval()(x), layer(x), 0)
    still = Attention(8, 2, kernel=replace(Favor(5), redraw=False))
    close(still(x), still(x), 0)
    assert list(layer.core.state_dict()) == ["features.fixed"]
