"""Generative adversarial networks with self-attention.  Zhang et al. 2019 (SAGAN)."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qkv.errors import BadRecipe
from qkv.model.vision import Pictures, SelfAttention2dConfig
from qkv.strict import Strict

FIRST_SIDE = 4  # cells of the generator's first map
SLOPE = 0.1  # of the leaky ReLUs of the discriminator (Miyato et al. 2018)
Map = Float[Tensor, "B C h w"]


class GANConfig(Strict):
    """A generator and a discriminator of square pictures, which mirror each other.

    Args:
        noise: the number of normally distributed numbers that a picture is generated from.
        widths: channels of the maps from 4 × 4 cells on; each has twice the side of the one before, and the
            last one the side of the pictures.
        groups: groups of channels of the generator's GroupNorm; every width is a multiple.
        self_attention: over the map with the number `after`, from 1, in both networks; null: none.
    """

    noise: PositiveInt = 64
    widths: tuple[PositiveInt, ...] = Field(default=(96, 64, 48, 24), min_length=2, max_length=8)
    groups: PositiveInt = 8
    self_attention: SelfAttention2dConfig | None = SelfAttention2dConfig(after=3, form="sagan")

    @property
    def size(self) -> int:
        """The side of the pictures in pixels."""
        return FIRST_SIDE * 2 ** (len(self.widths) - 1)

    @model_validator(mode="after")
    def _widths_fit(self) -> "GANConfig":
        uneven = [width for width in self.widths if width % self.groups]
        if uneven:
            raise BadRecipe(f"groups={self.groups} do not divide the width {uneven[0]}: use a divisor")
        place = self.self_attention
        if place is not None and place.after > len(self.widths):
            raise BadRecipe(
                f"self_attention.after={place.after}, but there are {len(self.widths)} maps: use one of "
                "their numbers, from 1"
            )
        return self


class GeneratorStage(nn.Module):
    """relu(norm(conv(enlarge(x)))): twice the side.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        groups: groups of channels of the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.convolution = parametrizations.spectral_norm(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        )
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Map) -> Float[Tensor, "B D h2 w2"]:
        """A map of twice the side."""
        enlarged = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return self.norm(self.convolution(enlarged)).relu()


class Generator(nn.Module):
    """From noise to pictures.  Every layer but the last has a spectral norm; GroupNorm, unlike BatchNorm, is
    the same for any division of a batch.

    Args:
        config: the sizes and the attention.

    Example:
        >>> import torch
        >>> Generator(GANConfig(noise=8, widths=(16, 8, 8)))(torch.zeros(2, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        self.project = parametrizations.spectral_norm(nn.Linear(config.noise, first * FIRST_SIDE**2))
        self.norm = nn.GroupNorm(config.groups, first)
        pairs = pairwise(config.widths)
        self.stages: Any = nn.ModuleList(GeneratorStage(*pair, config.groups) for pair in pairs)
        place = config.self_attention
        self.self_attention: Any = None if place is None else place.build(config.widths[place.after - 1])
        self.output = nn.Conv2d(config.widths[-1], 3, 3, padding=1)

    def forward(self, noise: Float[Tensor, "B Z"]) -> Float[Tensor, "B 3 S S"]:
        """Pictures, where -1 is black and 1 is white.

        Args:
            noise: [B,noise], normally distributed.
        """
        x = self._start(noise)
        for number, stage in enumerate((nn.Identity(), *self.stages), start=1):
            x = stage(x)
            if self.config.self_attention is not None and self.config.self_attention.after == number:
                x = self.self_attention(x)
        return self.output(x).tanh()

    def compute_attention_input(self, noise: Float[Tensor, "B Z"]) -> Map:
        """The map that the attention reads.

        Args:
            noise: [B,noise].
        """
        assert self.config.self_attention is not None
        x = self._start(noise)
        for stage in self.stages[: self.config.self_attention.after - 1]:
            x = stage(x)
        return x

    def _start(self, noise: Float[Tensor, "B Z"]) -> Map:
        return self.norm(self.project(noise).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))).relu()


class Discriminator(nn.Module):
    """From pictures to scores, high for real ones.  Every layer has a spectral norm, and none normalises by
    the statistics of a batch.

    Args:
        config: the sizes and the attention.

    Example:
        >>> import torch
        >>> Discriminator(GANConfig(widths=(16, 8, 8)))(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2])
    """

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths[::-1]
        self.input = parametrizations.spectral_norm(nn.Conv2d(3, widths[0], 3, padding=1))
        pairs = pairwise(widths)
        self.stages: Any = nn.ModuleList(
            parametrizations.spectral_norm(nn.Conv2d(*pair, 4, stride=2, padding=1)) for pair in pairs
        )
        place = config.self_attention
        self.self_attention: Any = None if place is None else place.build(config.widths[place.after - 1])
        self.output = parametrizations.spectral_norm(nn.Linear(widths[-1], 1))

    def forward(self, pictures: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B"]:
        """A score of every picture.

        Args:
            pictures: [B,3,S,S], where -1 is black and 1 is white.
        """
        x, place = self.input(pictures), self.config.self_attention
        for number, stage in enumerate((nn.Identity(), *self.stages)):
            x = nn.functional.leaky_relu(stage(x), SLOPE)
            if place is not None and place.after == len(self.config.widths) - number:
                x = self.self_attention(x)
        return self.output(x.sum((2, 3)))[:, 0]


class GAN(nn.Module):
    """A generator and a discriminator.

    Args:
        config: the sizes and the attention.
    """

    def __init__(self, config: GANConfig) -> None:
        super().__init__()
        self.generator, self.discriminator = Generator(config), Discriminator(config)


def scale_pictures(pictures: Pictures, dtype: torch.dtype) -> Float[Tensor, "B 3 S S"]:
    """Pictures as a discriminator reads them, where -1 is black and 1 is white.

    Args:
        pictures: uint8 [B,3,S,S].
        dtype: of the result.
    """
    return pictures.to(dtype) / 127.5 - 1
