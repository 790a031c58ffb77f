"""The encoders of captioners: a CNN, a Transformer over patches, or none, for grids of annotation vectors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from qkv.errors import BadShape
from qkv.layer import Attention
from qkv.model.length_limits import LengthLimit, find_smallest_limit, get_key_limit
from qkv.model.patches import PatchConfig, PatchEncoder
from qkv.model.vision import CNN, Annotations, CNNConfig, EncodedPictures
from qkv.strict import Strict

Grids = Tensor  # [B,Y,X,C], floating-point
Named = TypeVar("Named")


class GridConfig(Strict):
    """Annotation vectors that another model computed.

    Args:
        kind: the value that selects this encoder.
        width: numbers in an annotation vector.
    """

    kind: Literal["grid"] = "grid"
    width: PositiveInt


PictureEncoderConfig = Annotated[CNNConfig | PatchConfig | GridConfig, Field(discriminator="kind")]


class GridEncoder(nn.Module):
    """Grids of annotation vectors, passed on as they are.

    Args:
        config: the width of a vector.

    Example:
        >>> import torch
        >>> grid = GridEncoder(GridConfig(width=16))(torch.zeros(1, 4, 6, 16))
        >>> grid.vectors.shape, grid.height, grid.width
        (torch.Size([1, 24, 16]), 4, 6)
    """

    def __init__(self, config: GridConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width

    def forward(self, grids: Grids) -> Annotations:
        """The grids [B,Y,X,C] with their cells row by row, in float32 at least.

        Args:
            grids: rows, columns, then the vector of a cell.

        Raises:
            BadShape: they have another shape or width, or are integers.
        """
        if grids.ndim != 4 or grids.shape[-1] != self.width or not grids.is_floating_point():
            raise BadShape(
                f"grids have the shape [batch, height, width, {self.width}] and are floating-point, got "
                f"{list(grids.shape)} of {grids.dtype}: put the vector of a cell last, or correct "
                "model.encoder.width"
            )
        wide = grids.to(torch.promote_types(grids.dtype, torch.float32))
        return Annotations(wide.flatten(1, 2), grids.shape[1], grids.shape[2])

    def forward_with_weights(self, grids: Grids) -> EncodedPictures:
        """`forward`, and what every attention did; there is none."""
        return EncodedPictures(self(grids), {}, {})

    def attention_layers(self) -> dict[str, Attention]:
        """Every attention by the name of its weights; there is none."""
        return {}

    def layer_groups(self) -> list[list[nn.Module]]:
        """There are no layers; see `Objective.layer_groups`."""
        return []


def build_picture_encoder(
    config: CNNConfig | PatchConfig | GridConfig, mean: tuple[float, ...], sd: tuple[float, ...]
) -> Any:
    """The encoder of a config, with random weights.

    Args:
        config: which encoder, and its sizes.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.
    """
    if isinstance(config, GridConfig):
        return GridEncoder(config)
    if isinstance(config, PatchConfig):
        return PatchEncoder(config, False, mean, sd)
    return CNN(config, mean, sd)


def get_annotation_width(config: CNNConfig | PatchConfig | GridConfig) -> int:
    """The width of an annotation vector of this encoder."""
    return config.widths[-1] if isinstance(config, CNNConfig) else config.width


def find_cell_limit(config: CNNConfig | PatchConfig | GridConfig) -> LengthLimit | None:
    """The largest number of cells that this encoder can read; None where there is no limit."""
    if not isinstance(config, PatchConfig):
        return None
    has_table = config.positions == "learned"
    table = LengthLimit(config.max_length, "model.encoder.max_length") if has_table else None
    return find_smallest_limit(table, get_key_limit(config.attention, "model.encoder.attention"))


def add_encoder_prefix(named: Mapping[str, Named]) -> dict[str, Named]:
    """The same values, whose names say that they belong to the encoder: "layer.0" -> "encoder.layer.0"."""
    return {f"encoder.{name}": value for name, value in named.items()}
