"""A Transformer over the patches of pictures.  Dosovitskiy et al. 2021."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from qkv.errors import BadRecipe, BadShape
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer import Attention
from qkv.model.dropout import dropout
from qkv.model.encoder import EncoderConfig, EncoderLayer, apply_layers, make_positions
from qkv.model.feedforward import make_norm
from qkv.model.vision import Annotations, CNNConfig, EncodedPictures, Pictures, PixelNormalisation


class PatchConfig(EncoderConfig):
    """An encoder that reads a picture as a sequence of square patches.

    Args:
        kind: the value that selects this model.
        patch: the side of a patch in pixels; the sides of the pictures are multiples.
        positions: learned or sinusoidal.
    """

    kind: Literal["patches"] = "patches"
    patch: PositiveInt = 4
    positions: Literal["sinusoidal", "learned"] = "learned"


class PatchEncoder(nn.Module):
    """Patch embedding, positions, encoder layers and a final normalisation.

    Args:
        config: the sizes and the attention.
        has_class_token: whether a learned token stands before the patches; its state is the summary.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.

    Example:
        >>> import torch
        >>> encoder = PatchEncoder(PatchConfig(layers=1, width=16, patch=8))
        >>> grid = encoder(torch.zeros(1, 3, 32, 48))
        >>> grid.vectors.shape, grid.height, grid.width
        (torch.Size([1, 24, 16]), 4, 6)
    """

    def __init__(
        self,
        config: PatchConfig,
        has_class_token: bool = False,
        mean: tuple[float, ...] = (0.5,) * 3,
        sd: tuple[float, ...] = (0.25,) * 3,
    ) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.normalise = PixelNormalisation(mean, sd)
        self.embedding = nn.Linear(3 * config.patch**2, config.width)
        self.class_token = nn.Parameter(torch.empty(config.width)) if has_class_token else None
        self.positions = make_positions(config)
        self.layers: Any = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config.norm, config.width)
        self._initialise_class_token()

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        self._initialise_class_token()

    def forward(self, pictures: Pictures) -> Annotations:
        """The states of the patches of pictures [B,3,H,W], as a grid."""
        return self._encode(pictures, capture=False).annotations

    def forward_with_weights(self, pictures: Pictures) -> EncodedPictures:
        """`forward`, and the attention of every layer: "layer.i" -> Attended."""
        return self._encode(pictures, capture=True)

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights: "layer.i"."""
        return {f"layer.{i}": layer.attention for i, layer in enumerate(self.layers)}

    def layer_groups(self) -> list[list[nn.Module]]:
        """The embedding, then the layers in their order; see `Objective.layer_groups`."""
        return [[self.embedding, self.positions], *([layer] for layer in self.layers)]

    def _encode(self, pictures: Pictures, capture: bool) -> EncodedPictures:
        patches, height, width = split_patches(self.normalise(pictures), self.config.patch)
        x = self.embedding(patches)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
        x = dropout(self.positions(x, 0), self.config.dropout, self.training)
        x, attended = apply_layers(self.layers, x, None, capture)
        x, summary = self.norm(x), None
        if self.class_token is not None:
            x, summary = x[:, 1:], x[:, 0]
        grids = dict.fromkeys(attended, ((height, width), (height, width)))
        return EncodedPictures(Annotations(x, height, width, summary), attended, grids)

    def _initialise_class_token(self) -> None:
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=0.02)


def split_patches(pictures: Float[Tensor, "B 3 H W"], patch: int) -> tuple[Float[Tensor, "B L P"], int, int]:
    """The patches of pictures, row by row from the top left, and the height and width of their grid.

    Args:
        pictures: the pictures.
        patch: the side of a patch in pixels.

    Returns:
        Patches [B,L,3·patch²], with the numbers of rows and of columns.

    Raises:
        BadShape: a side of the pictures is no multiple of `patch`.
    """
    batch, channels, height, width = pictures.shape
    if height % patch or width % patch:
        raise BadShape(
            f"pictures of {height} × {width} pixels cannot be split into patches of {patch} × {patch}: use "
            "sides that are multiples"
        )
    rows, columns = height // patch, width // patch
    split = pictures.reshape(batch, channels, rows, patch, columns, patch)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1), rows, columns


def join_patches(
    patches: Float[Tensor, "B L P"], grid: tuple[int, int], patch: int
) -> Float[Tensor, "B 3 H W"]:
    """The pictures whose patches these are; the inverse of `split_patches`.

    Args:
        patches: [B,L,3·patch²], row by row from the top left.
        grid: the numbers of rows and of columns.
        patch: the side of a patch in pixels.
    """
    rows, columns = grid
    split = patches.unflatten(2, (3, patch, patch)).unflatten(1, (rows, columns))
    return split.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, rows * patch, columns * patch)


def count_patches(size: int, config: PatchConfig) -> int:
    """The number of patches of a square picture.

    Args:
        size: the side of the picture in pixels.
        config: the encoder.

    Raises:
        BadRecipe: the side is no multiple of the patch's.
    """
    if size % config.patch:
        raise BadRecipe(
            f"pictures of {size} pixels cannot be split into patches of model.patch={config.patch}: use a "
            "multiple"
        )
    return (size // config.patch) ** 2


def check_picture_size(size: int, config: CNNConfig | PatchConfig, more_positions: int = 0) -> None:
    """Check that an encoder can read square pictures.

    Args:
        size: the side of the pictures in pixels.
        config: the encoder.
        more_positions: the number of tokens before the patches, such as a class token.

    Raises:
        BadRecipe: they are too small, cannot be split into patches, or have too many of them.
    """
    if isinstance(config, CNNConfig):
        if size < config.reduction:
            raise BadRecipe(
                f"pictures of {size} pixels are smaller than {config.reduction}, by which model.stride and "
                "the stages of model.widths divide them: use larger pictures or fewer stages"
            )
        return
    positions, limit = count_patches(size, config) + more_positions, config.length_limits.source
    if limit is not None and positions > limit.positions:
        raise BadRecipe(
            f"{positions} patches need more positions than {limit.key}={limit.positions} holds: raise "
            f"{limit.key} or model.patch"
        )
