"""Random projections of feature maps: fixed ones for evaluation, and a pool of others for training."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.kernel.feature_map import BackendMap
from qkv.shapes import Dims

Projections = Float[Tensor, "H R D"]


def draw_projections(
    heads: int,
    features: int,
    width: int,
    orthogonal: bool,
    generator: torch.Generator | None = None,
    like: Tensor | None = None,
) -> Projections:
    """Draw random vectors from N(0, I_D) for every head.

    Orthogonal vectors are the rows of random rotations, scaled to the lengths of independent normal vectors,
    so that every single row keeps its distribution.  Yu et al. 2016, section 3.

    Args:
        heads: H.
        features: R, the number of vectors per head.
        width: D.
        orthogonal: Whether the rows within each block of D are mutually orthogonal.
        generator: Draws on its own device.  None uses torch's global generator of the device of `like`.
        like: A tensor with the dtype and device of the result (default float32 on the CPU).  The numbers are
            drawn in float32 at least.

    Returns:
        w̃ [H,R,D].
    """
    like = torch.empty(0) if like is None else like
    device = like.device if generator is None else generator.device
    dtype = torch.promote_types(like.dtype, torch.float32)  # torch has no QR in half precision
    normal = torch.randn(heads, features, width, generator=generator, device=device, dtype=dtype)
    if not orthogonal:
        return normal.to(like)
    blocks = -(-features // width)
    square = torch.randn(heads, blocks, width, width, generator=generator, device=device, dtype=dtype)
    rotation, upper = torch.linalg.qr(square)
    rotation = rotation * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    rows = rotation.mT.reshape(heads, blocks * width, width)[:, :features]
    return (rows * normal.norm(dim=-1, keepdim=True)).to(like)


# The operator keeps its first name, which exported programs refer to.
@torch.library.custom_op("qkv::projections_of_pool", mutates_args=())
def regenerate_projections_of_pool(index: Tensor, like: Tensor, orthogonal: bool) -> Tensor:
    """Draw set number `index` of a pool of projections, with the shape and dtype of `like` [H,R,D].

    The sets are not stored.  Each is drawn from a seed of its own: the index plus the bits of the first
    number of `like`, which checkpoints hold.  This is an operator because torch.compile cannot trace
    generators.

    Args:
        index: The number of the set, an integer tensor.
        like: The fixed projections [H,R,D].
        orthogonal: As in `draw_projections`.

    Returns:
        Projections [H,R,D].
    """
    heads, features, width = like.shape
    seed = int(like.flatten()[0].float().view(torch.int32)) % 2**31
    generator = torch.Generator().manual_seed(seed + int(index))
    float32 = torch.empty(0, dtype=torch.float32, device="cpu")  # layers of every dtype draw the same numbers
    return draw_projections(heads, features, width, orthogonal, generator, float32).to(like)


@regenerate_projections_of_pool.register_fake
def _allocate_fake_projections(index: Tensor, like: Tensor, orthogonal: bool) -> Tensor:
    return torch.empty_like(like)


class RandomFeatureMap(BackendMap):
    """Base class of random feature maps: holds the fixed projections, and draws from a pool in training.

    torch's global generator decides which set of the pool a call uses.  Peng et al. 2021 train with 500 sets.

    Args:
        dims: Heads, and the widths per head.
        part: The part that the map belongs to, with `features`, `redraw`, `pool` and `orthogonal`.
    """

    def __init__(self, dims: Dims, part: Any) -> None:
        super().__init__()
        self.redraw, self.pool, self.orthogonal = part.redraw, part.pool, part.orthogonal
        self.register_buffer("fixed", torch.empty(dims.heads, part.features, dims.query))
        self.fixed: Tensor

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new fixed projections.

        Args:
            generator: Draws the new projections; None uses torch's global generator.
        """
        heads, features, width = self.fixed.shape
        self.fixed.copy_(draw_projections(heads, features, width, self.orthogonal, generator, self.fixed))

    def choose_projections(self) -> Projections:
        """The projections w̃ [H,R,D] of one call: from the pool in training, the fixed ones in evaluation."""
        if self.training and self.redraw:
            index = torch.randint(self.pool, (), device="cpu")
            return regenerate_projections_of_pool(index, self.fixed, self.orthogonal)
        return self.fixed
