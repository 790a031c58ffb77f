"""Encoders of pictures that learn from pictures alone: hidden patches are predicted from the others."""

from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.model.patches import PatchConfig, PatchEncoder, check_picture_size, split_patches
from qkv.model.vision import CNN, CNNConfig, Pictures

VisionEncoderConfig = Annotated[CNNConfig | PatchConfig, Field(discriminator="kind")]


class MaskedPictureModel(nn.Module):
    """An encoder, and a linear layer from every cell of its grid to the pixels of the cell.

    Hidden cells are painted in one learned colour before the encoder reads the picture, and the pixels are
    predicted from its grid.  Because the encoder sees a whole picture, it can be convolutional or have any
    attention.  Xie et al. 2022 (SimMIM); He et al. 2022 (MAE) leave hidden patches out instead.

    Args:
        config: the encoder.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.

    Example:
        >>> import torch
        >>> model = MaskedPictureModel(CNNConfig(widths=(8, 16)))
        >>> hidden = torch.ones(1, 4, 4, dtype=torch.bool)
        >>> model(torch.zeros(1, 3, 8, 8), hidden).shape
        torch.Size([1, 16, 12])
    """

    def __init__(
        self,
        config: CNNConfig | PatchConfig,
        mean: tuple[float, ...] = (0.5,) * 3,
        sd: tuple[float, ...] = (0.25,) * 3,
    ) -> None:
        super().__init__()
        self.cell = get_cell_size(config)
        self.encoder: Any = (
            CNN(config, mean, sd) if isinstance(config, CNNConfig) else PatchEncoder(config, False, mean, sd)
        )
        self.output = nn.Linear(self.encoder.width, 3 * self.cell**2)
        self.mask_colour = nn.Parameter(torch.empty(3))
        self._initialise_mask_colour()

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        reset_parameters_of_nearest_descendants(self)
        self._initialise_mask_colour()

    def forward(self, pictures: Pictures, hidden: Bool[Tensor, "B h w"]) -> Float[Tensor, "B L P"]:
        """Predict the normalised pixels of every cell.

        Args:
            pictures: [B,3,H,W].
            hidden: [B,h,w], True at the cells that the encoder does not see.

        Returns:
            [B,L,3·cell²], in the order of `split_patches`.
        """
        scale = self.encoder.normalise
        if pictures.dtype == torch.uint8:
            pictures = pictures.to(self.mask_colour.dtype) / 255
        colour = scale.mean + scale.sd * self.mask_colour.view(3, 1, 1)
        is_hidden = hidden.repeat_interleave(self.cell, 1).repeat_interleave(self.cell, 2)
        painted = torch.where(is_hidden[:, None], colour, pictures)
        return self.output(self.encoder(painted).vectors)

    def split_targets(self, pictures: Pictures) -> Float[Tensor, "B L P"]:
        """The normalised pixels of every cell, which `forward` predicts.

        Args:
            pictures: [B,3,H,W].
        """
        return split_patches(self.encoder.normalise(pictures), self.cell)[0]

    def layer_groups(self) -> list[list[nn.Module]]:
        """The groups of the encoder; see `Objective.layer_groups`."""
        return self.encoder.layer_groups()

    def _initialise_mask_colour(self) -> None:
        nn.init.zeros_(self.mask_colour)


def get_cell_size(config: CNNConfig | PatchConfig) -> int:
    """The side, in pixels, of the square that one cell of the encoder's grid stands for.

    Args:
        config: the encoder.
    """
    return config.reduction if isinstance(config, CNNConfig) else config.patch


def compute_cell_grid(size: int, config: CNNConfig | PatchConfig) -> tuple[int, int]:
    """Rows and columns of the cells of a square picture.

    Args:
        size: the side of the picture in pixels.
        config: the encoder.

    Raises:
        BadRecipe: the picture cannot be cut into two cells or more.
    """
    check_picture_size(size, config)
    cell = get_cell_size(config)
    if size % cell or size == cell:
        raise BadRecipe(
            f"pictures of {size} pixels cannot be cut into cells of {cell} × {cell}, the reduction of the "
            f"network: use a multiple of {cell}, at least {2 * cell}, or fewer stages"
        )
    return size // cell, size // cell
