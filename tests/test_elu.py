"""The linear Transformer's feature map."""

import torch
from torch import Tensor

from qkv.functional import attend
from qkv.kernel import Elu
from qkv.kernel.elu import compute_elu_features
from qkv.layer import Attention
from reference.loops import weights_of


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_features_are_elu_plus_one() -> None:
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.0
    close(compute_elu_features(x), torch.nn.functional.elu(x) + 1)
    assert torch.autograd.gradcheck(compute_elu_features, x[:1, :1, 1:3].clone().requires_grad_())


def test_small_features_keep_their_digits_in_float32() -> None:
    """elu(x) + 1 as it is written rounds to a multiple of 2^-24 below zero."""
    x = torch.linspace(-40, -10, 7)
    close(compute_elu_features(x[None, None, None]).log()[0, 0, 0], x, 1e-6)


def test_weights_by_hand() -> None:
    """φ(q) = [1, 2], φ(k) = [3, 1] and [1, 1]: 5 and 3 of 8."""
    q, k = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    close(weights_of(attend(q, k, k, kernel=Elu()))[0, 0, 0], torch.tensor([5 / 8, 3 / 8]), 1e-6)


def test_far_below_zero_the_weights_are_still_those_of_the_products() -> None:
    q, k = torch.full((1, 1, 1, 2), -18.0), torch.tensor([[[[-18.0, -18.0], [-17.0, -17.0]]]])
    shares = torch.tensor([1.0, torch.e])
    close(weights_of(attend(q, k, k, kernel=Elu()))[0, 0, 0], shares / shares.sum(), 1e-4)


def test_nothing_is_learned_stored_or_random() -> None:
    layer, x = Attention(8, 2, kernel=Elu(), causal=True), torch.randn(1, 4, 8)
    assert not layer.core.state_dict()
    assert not list(layer.core.parameters())
    close(layer(x), layer(x), 0)
    state = layer.start(batch=1)
    out, _ = layer.step(x, state)
    close(out, layer(x), 1e-6)


def test_an_empty_state_takes_the_precision_of_what_it_reads() -> None:
    """A layer without parameters cannot tell beforehand."""
    layer, x = (
        Attention(3, kernel=Elu(), causal=True, project=False),
        torch.randn(1, 4, 3, dtype=torch.float64),
    )
    out, _ = layer.step(x, layer.start())
    close(out, layer(x))
