"""Random projections: how they are drawn, kept for evaluation, and drawn anew in training."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.kernel.kind import BackendMap
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
    """w̃ [H,R,D] with rows from N(0, I_D); `orthogonal` makes the rows within each block of D mutually
    orthogonal.

    Blocks are rotations whose rows get the lengths of independent normal vectors, so that every row by itself
    keeps its distribution.  Yu et al. 2016, section 3.

    generator: draws on its own device; without one the numbers come from torch's global generator of the
    device of `like`.  like: a tensor of the type that is wanted; they are drawn in float32 at least.
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


@torch.library.custom_op("qkv::projections_of_pool", mutates_args=())
def projections_of_pool(index: Tensor, like: Tensor, orthogonal: bool) -> Tensor:
    """Set number `index` of a pool of projections, as large as `like` [H,R,D].

    The sets are not stored: each is drawn again from a seed of its own, counted from the bits of the first
    number of `like`, which checkpoints hold.  An operator, because torch.compile cannot trace generators.
    """
    heads, features, width = like.shape
    seed = int(like.flatten()[0].float().view(torch.int32)) % 2**31
    generator = torch.Generator().manual_seed(seed + int(index))
    number = torch.empty(0, dtype=torch.float32, device="cpu")  # the sets are the same for layers of any type
    return draw_projections(heads, features, width, orthogonal, generator, number).to(like)


@projections_of_pool.register_fake
def _(index: Tensor, like: Tensor, orthogonal: bool) -> Tensor:
    return torch.empty_like(like)


class RandomFeatures(BackendMap):
    """What random feature maps share: fixed projections for evaluation (a buffer), and a pool for training.
    Which set a call takes is up to torch's global generator.  Peng et al. 2021 train with 500 sets.
    """

    def __init__(self, dims: Dims, part: Any) -> None:
        super().__init__()
        self.redraw, self.pool, self.orthogonal = part.redraw, part.pool, part.orthogonal
        self.register_buffer("fixed", torch.empty(dims.heads, part.features, dims.query))
        self.fixed: Tensor

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the fixed projections anew."""
        heads, features, width = self.fixed.shape
        self.fixed.copy_(draw_projections(heads, features, width, self.orthogonal, generator, self.fixed))

    def draw(self) -> Projections:
        """The projections w̃ of this call: of the pool in training, the fixed ones in evaluation."""
        if self.training and self.redraw:
            index = torch.randint(self.pool, (), device="cpu")
            return projections_of_pool(index, self.fixed, self.orthogonal)
        return self.fixed
