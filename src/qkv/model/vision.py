"""From pictures to grids of annotation vectors: what attention over a picture reads."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from qkv.errors import BadRecipe, BadShape
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.model.coordinates import append_coordinates
from qkv.model.encoder import check_encoder_attention
from qkv.model.self_attention_2d import SelfAttention2d
from qkv.model.spec_fields import SpecField
from qkv.shapes import Attended
from qkv.spec import AttentionSpec
from qkv.strict import Strict

Pictures = Tensor  # [B,3,H,W]: uint8, or floating-point numbers where black is 0 and white is 1
Map = Float[Tensor, "B C H W"]
Norm = Literal["group", "batch"]
Size = tuple[int, int]


class Annotations(NamedTuple):
    """A grid of vectors that describe the parts of pictures.

    Args:
        vectors: [B,L,C], L = height × width, row by row from the top left.
        height: rows of the grid.
        width: columns of the grid.
        summary: [B,C], a vector of the whole picture, where the encoder has a class token.
    """

    vectors: Float[Tensor, "B L C"]
    height: int
    width: int
    summary: Float[Tensor, "B C"] | None = None


class EncodedPictures(NamedTuple):
    """Annotations, and what the attentions of the encoder did.

    Args:
        annotations: the grid of annotation vectors.
        attended: name -> Attended.
        grids: name -> height and width of the grid of the queries, and those of the keys.
    """

    annotations: Annotations
    attended: dict[str, Attended]
    grids: dict[str, tuple[Size, Size]]


class SelfAttention2dConfig(Strict):
    """Self-attention over the map of a stage of a convolutional network; see `SelfAttention2d`.

    Args:
        after: the number of the stage, from 1, whose map it reads.
        form: plain: 1 × 1 convolutions of all channels, and a residual connection; sagan: C/8 and C/2
            channels, keys and values pooled, spectral norm, and a residual scale that starts at 0.
        heads: number of heads.
        pool: sagan: the side of the squares of cells that are pooled.
        attention: the score, the scope, the selection and the kernel.
    """

    after: PositiveInt = 1
    form: Literal["plain", "sagan"] = "plain"
    heads: PositiveInt = 1
    pool: PositiveInt = 2
    attention: SpecField = AttentionSpec()

    @model_validator(mode="after")
    def _has_legal_attention(self) -> "SelfAttention2dConfig":
        check_encoder_attention(self.attention, "self_attention.attention")
        return self

    def build(self, channels: int) -> SelfAttention2d:
        """The module for a map of so many channels."""
        spec = self.attention
        parts: dict[str, Any] = {"scope": spec.scope, "select": spec.select, "kernel": spec.kernel}
        score = None if spec.score == AttentionSpec().score else spec.score  # each form has its own default
        if self.form == "sagan":
            return SelfAttention2d.sagan(channels, heads=self.heads, pool=self.pool, score=score, **parts)
        return SelfAttention2d(channels, heads=self.heads, score=score, **parts)


class CNNConfig(Strict):
    """A residual convolutional network.

    Args:
        kind: the value that selects this model.
        widths: channels of every stage; each stage after the first halves height and width.
        blocks: residual blocks of a stage, of two 3 × 3 convolutions each.
        stride: by how much the first convolution divides height and width.
        norm: group (GroupNorm), or batch (BatchNorm, whose statistics are those of the micro-batch on each
            process, so that several processes train differently from one).
        groups: groups of channels of GroupNorm; every width is a multiple.
        coordinates: whether the first convolution also reads the row and the column of every pixel, so that a
            cell knows where it is (CoordConv, Liu et al. 2018).
        self_attention: between two stages, or after the last one; null: none.
    """

    kind: Literal["cnn"] = "cnn"
    widths: tuple[PositiveInt, ...] = Field(default=(32, 64, 128), min_length=1, max_length=8)
    blocks: PositiveInt = Field(default=1, le=100)
    stride: Literal[1, 2, 4] = 1
    norm: Norm = "group"
    groups: PositiveInt = 8
    coordinates: bool = False
    self_attention: SelfAttention2dConfig | None = None

    @property
    def reduction(self) -> int:
        """By how much height and width of the grid are smaller than those of the picture."""
        return self.stride * 2 ** (len(self.widths) - 1)

    @model_validator(mode="after")
    def _groups_divide_widths(self) -> "CNNConfig":
        uneven = [width for width in self.widths if width % self.groups]
        if self.norm == "group" and uneven:
            raise BadRecipe(f"groups={self.groups} do not divide the width {uneven[0]}: use a divisor")
        place = self.self_attention
        if place is not None and place.after > len(self.widths):
            raise BadRecipe(
                f"self_attention.after={place.after}, but there are {len(self.widths)} stages: use "
                "one of their numbers, from 1"
            )
        return self


class PixelNormalisation(nn.Module):
    """(pixels - mean) / sd, where black is 0 and white is 1.  The statistics are saved with the weights.

    Args:
        mean: the means of red, green and blue.
        sd: their standard deviations.
    """

    def __init__(self, mean: tuple[float, ...] = (0.5,) * 3, sd: tuple[float, ...] = (0.25,) * 3) -> None:
        super().__init__()
        self.statistics = mean, sd
        self.register_buffer("mean", torch.empty(3, 1, 1))
        self.register_buffer("sd", torch.empty(3, 1, 1))
        self.mean: Tensor
        self.sd: Tensor
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the mean and the standard deviation again."""
        for buffer, values in zip((self.mean, self.sd), self.statistics, strict=True):
            buffer.copy_(torch.tensor(values).view(3, 1, 1))

    def forward(self, pictures: Pictures) -> Map:
        """Normalised pixels [B,3,H,W].

        Args:
            pictures: uint8, or floating-point numbers where black is 0 and white is 1.

        Raises:
            BadShape: they have another shape, or are other integers.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise BadShape(
                f"pictures have the shape [batch, 3, height, width], got {list(pictures.shape)}: give red, "
                "green and blue on the second axis"
            )
        if pictures.dtype == torch.uint8:
            pictures = pictures.to(self.mean.dtype) / 255
        elif not pictures.is_floating_point():
            raise BadShape(
                f"pictures are uint8, 0 to 255, or floating-point numbers from 0 to 1, got {pictures.dtype}"
            )
        return (pictures - self.mean) / self.sd


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + convolutions(x)).  He et al. 2016, with any normalisation.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        stride: by how much height and width are divided.
        config: which normalisation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, config: CNNConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = make_map_norm(config, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = make_map_norm(config, outputs)
        is_same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all weights anew; the block starts as its shortcut (Goyal et al. 2017)."""
        reset_parameters_of_nearest_descendants(self)
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, x: Map) -> Float[Tensor, "B D h w"]:
        """The output of the block."""
        inner = self.first_norm(self.first(x)).relu()
        return (self.shortcut(x) + self.second_norm(self.second(inner))).relu()


class CNN(nn.Module):
    """A residual network whose last map is the grid of annotation vectors.

    Args:
        config: the sizes.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.

    Example:
        >>> import torch
        >>> grid = CNN(CNNConfig(widths=(8, 16)))(torch.zeros(1, 3, 32, 48))
        >>> grid.vectors.shape, grid.height, grid.width
        (torch.Size([1, 384, 16]), 16, 24)
    """

    def __init__(
        self, config: CNNConfig, mean: tuple[float, ...] = (0.5,) * 3, sd: tuple[float, ...] = (0.25,) * 3
    ) -> None:
        super().__init__()
        self.config: Any = config
        self.width = config.widths[-1]
        self.normalise = PixelNormalisation(mean, sd)
        first = config.widths[0]
        channels = 3 + 2 * config.coordinates
        self.stem = nn.Conv2d(
            channels, first, 2 * config.stride + 1, config.stride, config.stride, bias=False
        )
        self.stem_norm = make_map_norm(config, first)
        self.stages: Any = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(zip((first, *config.widths), config.widths, strict=False)):
            strides = [1 if number == 0 else 2] + [1] * (config.blocks - 1)
            widths = [inputs] + [outputs] * (config.blocks - 1)
            self.stages.append(
                nn.Sequential(
                    *(ResidualBlock(w, outputs, s, config) for w, s in zip(widths, strides, strict=True))
                )
            )
        place = config.self_attention
        self.self_attention = None if place is None else place.build(config.widths[place.after - 1])

    def forward(self, pictures: Pictures) -> Annotations:
        """The grid of annotation vectors of pictures [B,3,H,W]."""
        return self._encode(pictures, capture=False).annotations

    def forward_with_weights(self, pictures: Pictures) -> EncodedPictures:
        """`forward`, and what the attention did: "map" -> Attended."""
        return self._encode(pictures, capture=True)

    def attention_layers(self) -> dict[str, Any]:
        """Every attention by the name of its weights: "map"."""
        return {} if self.self_attention is None else {"map": self.self_attention}

    def layer_groups(self) -> list[list[nn.Module]]:
        """The stem, then the stages in their order; see `Objective.layer_groups`."""
        groups: list[list[nn.Module]] = [[self.stem, self.stem_norm], *([stage] for stage in self.stages)]
        if self.self_attention is not None:
            groups[self.config.self_attention.after].append(self.self_attention)
        return groups

    def _encode(self, pictures: Pictures, capture: bool) -> EncodedPictures:
        x = self.normalise(pictures)
        x = append_coordinates(x) if self.config.coordinates else x
        x = self.stem_norm(self.stem(x)).relu()
        attended: dict[str, Attended] = {}
        grids: dict[str, tuple[Size, Size]] = {}
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if self.self_attention is None or self.config.self_attention.after != number:
                continue
            if capture:
                attended["map"] = self.self_attention.attend(x)
                cells = (x.shape[2], x.shape[3])
                grids["map"] = cells, self.self_attention.key_grid(*cells)
                x = attended["map"].out
            else:
                x = self.self_attention(x)
        annotations = Annotations(x.flatten(2).transpose(1, 2), x.shape[2], x.shape[3])
        return EncodedPictures(annotations, attended, grids)


def make_map_norm(config: CNNConfig, channels: int) -> Any:
    """GroupNorm (Wu and He 2018) or BatchNorm (Ioffe and Szegedy 2015) of a map."""
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(config.groups, channels)
