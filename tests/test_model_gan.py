"""The networks of a GAN: shapes, spectral norms, where attention stands, and the hinge loss."""

from typing import Any

import numpy as np
import pytest
import torch

from qkv.data.pictures import NoiseBatch
from qkv.errors import QKVError
from qkv.model.gan import GAN, Discriminator, GANConfig, Generator, scale_pictures
from qkv.task.generate_pictures.frechet import (
    FeatureStatistics,
    compare_features,
    compute_frechet_distance,
    measure_features,
)
from qkv.train.objective.adversarial import DISCRIMINATOR, GENERATOR, Adversarial

TINY: dict[str, Any] = {"noise": 4, "widths": (8, 8, 4), "groups": 4}


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("form", ["sagan", "plain"])
def test_attention_stands_on_the_same_side_in_both_networks(after: int, form: str) -> None:
    config = GANConfig(**TINY, self_attention={"after": after, "form": form})  # pyright: ignore[reportArgumentType]
    model, sides = GAN(config), []
    for network in model.children():
        attention: Any = network.self_attention
        attention.register_forward_hook(lambda _, inputs, __: sides.append(tuple(inputs[0].shape[1:])))
    pictures = model.generator(torch.randn(2, 4))
    assert pictures.shape == (2, 3, 16, 16)
    assert pictures.abs().max() <= 1
    assert model.discriminator(pictures).shape == (2,)
    side = 4 * 2 ** (after - 1)
    assert sides == [(config.widths[after - 1], side, side)] * 2
    assert model.generator.compute_attention_input(torch.randn(1, 4)).shape == (1, *sides[0])


def test_sagans_attention_starts_as_the_identity() -> None:
    config = GANConfig(**TINY, self_attention={"after": 2, "form": "sagan"})  # pyright: ignore[reportArgumentType]
    torch.manual_seed(0)
    generator = Generator(config).eval()
    noise = torch.randn(2, 4)
    expected = generator(noise)
    generator.self_attention = torch.nn.Identity()
    assert torch.equal(generator(noise), expected)


def test_every_layer_of_the_discriminator_has_norm_one() -> None:
    torch.manual_seed(0)
    network = Discriminator(GANConfig(**TINY))
    for _ in range(50):
        network(torch.randn(1, 3, 16, 16))  # each call improves the estimate of the norm
    layers = [network.input, *network.stages, network.output]
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=0.01)


def test_the_hinge_loss_of_each_turn() -> None:
    torch.manual_seed(0)
    objective = Adversarial(GAN(GANConfig(**TINY, self_attention=None))).eval()  # no power iterations
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    noise = torch.randn(3, 2, 4)
    batch = NoiseBatch(pictures, noise)
    model: Any = objective.model
    with torch.no_grad():
        real = model.discriminator(scale_pictures(pictures, torch.float32)).tolist()
        first, second = (model.discriminator(model.generator(noise[:, turn])).tolist() for turn in (0, 1))
    loss = objective(batch, DISCRIMINATOR)
    expected = sum(max(0, 1 - score) for score in real) + sum(max(0, 1 + score) for score in first)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    loss.total.backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    model.discriminator.zero_grad()
    loss = objective(batch, GENERATOR)
    assert loss.total.item() == pytest.approx(-sum(second), rel=1e-5)
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.generator.parameters())
    assert all(parameter.grad is None for parameter in model.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in model.discriminator.parameters())


def test_black_and_white() -> None:
    pictures = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert scale_pictures(pictures, torch.float64).flatten().tolist() == [-1, 1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "groups=3 do not divide the width 8"),
        ({"self_attention": {"after": 4}}, "self_attention.after=4, but there are 3 maps"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GANConfig(**{**TINY, **changes})


def test_the_frechet_distance_of_cases_computed_by_hand() -> None:
    one = FeatureStatistics(np.array([1.0]), np.array([[4.0]]))
    other = FeatureStatistics(np.array([4.0]), np.array([[9.0]]))
    assert compute_frechet_distance(one, other) == pytest.approx(3**2 + (2 - 3) ** 2)
    # Σa = [[2, 1], [1, 2]] and Σb = [[2, -1], [-1, 2]] have eigenvalues 3, 1 and 1, 3 on the same vectors
    a = FeatureStatistics(np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]))
    b = FeatureStatistics(np.array([1.0, 2.0]), np.array([[2.0, -1.0], [-1.0, 2.0]]))
    assert compute_frechet_distance(a, b) == pytest.approx(5 + 8 - 2 * 2 * np.sqrt(3))
    # Σa = diag(1, 4) and Σb = [[1, 1], [1, 1]]: the trace of the root of the product is √(1 + 4), of rank 1
    a = FeatureStatistics(np.zeros(2), np.diag([1.0, 4.0]))
    b = FeatureStatistics(np.zeros(2), np.ones((2, 2)))
    assert compute_frechet_distance(a, b) == pytest.approx(5 + 2 - 2 * np.sqrt(5))


def test_the_distance_of_features() -> None:
    features = np.random.RandomState(0).randn(50, 3)
    assert compare_features(features, features) == pytest.approx(0, abs=1e-9)
    assert compare_features(features, features + 2) == pytest.approx(12)
    assert measure_features(features).covariance == pytest.approx(np.cov(features.T))
    with pytest.raises(QKVError, match="needs two pictures or more on each side, got 1"):
        measure_features(features[:1])
