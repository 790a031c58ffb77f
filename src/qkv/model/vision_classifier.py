"""Classifiers of pictures: an encoder, a pooling of its grid, and an output layer."""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from qkv.model.dropout import dropout
from qkv.model.patches import PatchConfig, PatchEncoder
from qkv.model.pooling import PoolKind, make_pool
from qkv.model.vision import CNN, Annotations, CNNConfig, Pictures, Size
from qkv.shapes import Attended


class CNNClassifierConfig(CNNConfig):
    """A convolutional network with a pooling.

    Args:
        pool: mean or attention: how the annotation vectors become one vector.
        dropout: rate of dropout before the output layer.
    """

    dropout: float = Field(default=0.0, ge=0, lt=1)
    pool: Literal["mean", "attention"] = "mean"


class PatchClassifierConfig(PatchConfig):
    """A Transformer over patches with a pooling.

    Args:
        pool: mean, first (a class token, which stands before the patches) or attention.
    """

    pool: PoolKind = "mean"


VisionClassifierConfig = Annotated[CNNClassifierConfig | PatchClassifierConfig, Field(discriminator="kind")]


class VisionClassified(NamedTuple):
    """Scores of the classes, and what every attention did.

    Args:
        scores: [B,C].
        attended: name -> Attended; "map" or "layer.i" and, where the pooling is attention, "pool".
        grids: name -> height and width of the grid of the queries, and those of the keys.
    """

    scores: Float[Tensor, "B C"]
    attended: dict[str, Attended]
    grids: dict[str, tuple[Size, Size]]


class VisionClassifier(nn.Module):
    """Encoder, pooling and output layer.

    Args:
        config: the encoder and the pooling.
        classes: C, the number of classes.
        mean: the means of red, green and blue that pixels are normalised by.
        sd: their standard deviations.

    Example:
        >>> import torch
        >>> model = VisionClassifier(CNNClassifierConfig(widths=(8, 16)), classes=2)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        config: CNNClassifierConfig | PatchClassifierConfig,
        classes: int,
        mean: tuple[float, ...] = (0.5,) * 3,
        sd: tuple[float, ...] = (0.25,) * 3,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder: Any = (
            CNN(config, mean, sd)
            if isinstance(config, CNNClassifierConfig)
            else PatchEncoder(config, config.pool == "first", mean, sd)
        )
        self.pool: Any = None if config.pool == "first" else make_pool(config.pool, self.encoder.width)
        self.output = nn.Linear(self.encoder.width, classes)
        nn.init.zeros_(self.output.bias)

    def forward(self, pictures: Pictures) -> Float[Tensor, "B C"]:
        """Scores of the classes, of pictures [B,3,H,W]."""
        return self._score(self.embed(pictures))

    def embed(self, pictures: Pictures) -> Float[Tensor, "B M"]:
        """The vectors that the output layer reads, of pictures [B,3,H,W]."""
        return self._pool(self.encoder(pictures)).out

    def forward_with_weights(self, pictures: Pictures) -> VisionClassified:
        """`forward`, and what the attentions did."""
        grid, attended, grids = self.encoder.forward_with_weights(pictures)
        pooled = self._pool(grid)
        if pooled.weights is not None:
            attended["pool"], grids["pool"] = pooled, ((1, 1), (grid.height, grid.width))
        return VisionClassified(self._score(pooled.out), attended, grids)

    def attention_layers(self) -> dict[str, Any]:
        """Every attention by the name of its weights."""
        pool = {"pool": self.pool.attention} if self.config.pool == "attention" else {}
        return {**self.encoder.attention_layers(), **pool}

    def layer_groups(self) -> list[list[nn.Module]]:
        """The groups of the encoder; see `Objective.layer_groups`."""
        return self.encoder.layer_groups()

    def _pool(self, grid: Annotations) -> Attended:
        if grid.summary is not None:
            return Attended(grid.summary, None)
        keep = torch.ones(grid.vectors.shape[:2], dtype=torch.bool, device=grid.vectors.device)
        return self.pool(grid.vectors, keep)

    def _score(self, vector: Float[Tensor, "B M"]) -> Float[Tensor, "B C"]:
        return self.output(dropout(vector, self.config.dropout, self.training))
