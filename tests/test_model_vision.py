"""Models of pictures: grids of annotation vectors, patches, normalisation, and classifiers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv.errors import BadShape
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.model.patches import PatchConfig, PatchEncoder, split_patches
from qkv.model.vision import CNN, CNNConfig, PixelNormalisation, SelfAttention2dConfig
from qkv.model.vision_classifier import CNNClassifierConfig, PatchClassifierConfig, VisionClassifier

SMALL = {"layers": 1, "width": 16, "heads": 2, "feedforward": 16, "patch": 4, "dropout": 0.0}
LINEAR = SelfAttention2dConfig.model_validate({"after": 2, "heads": 2, "attention": {"kernel": "elu"}})
CONFIGS: list[Any] = [
    CNNClassifierConfig(widths=(8, 16), groups=4),
    CNNClassifierConfig(widths=(8, 16), groups=4, blocks=2, stride=2, pool="attention"),
    CNNClassifierConfig.model_validate(
        {
            "widths": (8, 16),
            "groups": 4,
            "self_attention": {"after": 2, "heads": 2, "attention": {"kernel": "elu"}},
        }
    ),
    PatchClassifierConfig(**SMALL),
    PatchClassifierConfig(**SMALL, pool="first", positions="sinusoidal"),
    PatchClassifierConfig(**SMALL, pool="attention", attention={"kernel": "elu"}),  # pyright: ignore
]


def pictures(count: int = 2, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def move_norms(model: nn.Module) -> None:
    """Change all weights, so that no residual branch is 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_pixels_are_normalised() -> None:
    normalise = PixelNormalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    x = pictures()
    expected = (x / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(
        3, 1, 1
    )
    torch.testing.assert_close(normalise(x), expected)
    torch.testing.assert_close(normalise(x / 255), expected)
    with pytest.raises(BadShape, match=r"uint8, 0 to 255, or floating-point .* got torch.int64"):
        normalise(x.long())
    with pytest.raises(BadShape, match=r"\[batch, 3, height, width\], got \[2, 16, 16, 3\]"):
        normalise(x.movedim(1, -1))


@pytest.mark.parametrize(("stride", "stages", "grid"), [(1, 1, (12, 20)), (1, 2, (6, 10)), (2, 3, (2, 3))])
def test_the_grid_has_the_size_that_the_config_says(stride: Any, stages: int, grid: tuple[int, int]) -> None:
    config = CNNConfig(widths=(8,) * stages, groups=4, stride=stride)
    annotations = CNN(config)(pictures(1, 12, 20))
    assert (annotations.height, annotations.width) == grid
    assert annotations.vectors.shape == (1, grid[0] * grid[1], 8)
    assert -(-12 // config.reduction) == grid[0]


def test_the_grid_is_row_by_row_and_the_network_is_equivariant_inside() -> None:
    torch.manual_seed(0)
    network = CNN(CNNConfig(widths=(8,), groups=8, norm="batch")).double().eval()
    move_norms(network)
    x = pictures(1, 16, 16).double() / 255
    moved = x.roll((2, 3), (2, 3))
    first, second = (network(each).vectors.view(16, 16, 8) for each in (x, moved))
    torch.testing.assert_close(second[7:12, 8:12], first[5:10, 5:9], rtol=0, atol=1e-12)


def test_a_block_starts_as_its_shortcut() -> None:
    network = CNN(CNNConfig(widths=(8,), blocks=2, groups=4))
    x = torch.rand(2, 8, 6, 6)
    torch.testing.assert_close(network.stages[0](x), x)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.pool}")
def test_a_picture_is_classified_alike_alone_and_in_a_batch(config: Any) -> None:
    torch.manual_seed(0)
    model = VisionClassifier(config, 3).double()
    move_norms(model)
    x = pictures(3)
    model.train()  # group and layer normalisation do not depend on the batch
    together = model(x)
    torch.testing.assert_close(together, torch.cat([model(row[None]) for row in x]), rtol=0, atol=1e-12)
    weighted = model.forward_with_weights(x)
    torch.testing.assert_close(weighted.scores, together, rtol=0, atol=1e-12)
    assert set(weighted.attended) == set(model.attention_layers())
    for name, each in weighted.attended.items():
        rows, columns = weighted.grids[name][1]
        assert each.weights is not None
        assert each.weights.shape[-1] == rows * columns + (config.pool == "first")
    together.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.pool}")
def test_weights_made_on_the_meta_device_are_initialised(config: Any) -> None:
    with torch.device("meta"):
        model = VisionClassifier(config, 3)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().fill_(torch.nan)
    reset_parameters_of_nearest_descendants(model)
    assert model(pictures()).isfinite().all()


def test_patches_are_the_squares_of_the_picture() -> None:
    x = pictures(2, 8, 12).float()
    patches, height, width = split_patches(x, 4)
    assert (height, width) == (2, 3)
    for row in range(2):
        for column in range(3):
            square = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(patches[:, 3 * row + column], square.flatten(1))
    with pytest.raises(BadShape, match="8 × 12 pixels cannot be split into patches of 5 × 5"):
        split_patches(x, 5)


def test_the_embedding_is_a_convolution_with_the_stride_of_a_patch() -> None:
    encoder = PatchEncoder(PatchConfig(**SMALL))
    x = encoder.normalise(pictures())
    kernel = encoder.embedding.weight.view(16, 3, 4, 4)
    expected = nn.functional.conv2d(x, kernel, encoder.embedding.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.embedding(split_patches(x, 4)[0]), expected)


def test_without_positions_patches_are_a_set() -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(PatchConfig(**SMALL), has_class_token=True).double()
    with torch.no_grad():
        table: Any = encoder.positions.table
        table.zero_()
    x = pictures(1).double() / 255
    swapped = torch.cat([x[..., 8:], x[..., :8]], -1)
    first, second = encoder(x), encoder(swapped)
    grids = [each.vectors.view(4, 4, 16) for each in (first, second)]
    torch.testing.assert_close(grids[1], torch.cat([grids[0][:, 2:], grids[0][:, :2]], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(first.summary, second.summary, rtol=0, atol=1e-12)


def test_batch_norm_keeps_running_statistics() -> None:
    model = VisionClassifier(CNNClassifierConfig(widths=(8,), norm="batch"), 2)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()(pictures())
    changed = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]
    assert all("norm" in name for name in changed)
    assert len(changed) == 9


def test_the_module_of_sagan_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    plain = CNN(CNNConfig(widths=(8, 16), groups=4))
    config = CNNConfig.model_validate(
        {"widths": (8, 16), "groups": 4, "self_attention": {"after": 1, "form": "sagan"}}
    )
    network = CNN(config)
    network.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(network(pictures()).vectors, plain(pictures()).vectors)
    assert network.layer_groups()[1] == [network.stages[0], network.self_attention]
