"""Self-attention inside a convolutional network, over the cells of a feature map."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from qkv import layer_inputs, masks, nan
from qkv.errors import BadMask, BadRecipe, BadShape, IncompatibleParts
from qkv.kernel import Softmax
from qkv.kernel.masking import Masking
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.model.map_pooling import pool_keep, pool_map
from qkv.scope import Global
from qkv.score import Dot
from qkv.select import Soft
from qkv.shapes import Attended, Dims
from qkv.spec import AttentionSpec, read_part

Map = Float[Tensor, "B C Y X"]
KeepCells = Bool[Tensor, "B Y X"]


class SelfAttention2d(nn.Module):
    """Self-attention over the cells of a feature map, with a residual connection.

        out = x + γ W_o merge(core(split(W_q x), split(pool(W_k x)), split(pool(W_v x))))

    Every W is a 1×1 convolution, and N = Y·X cells attend to S = ⌈Y/pool⌉·⌈X/pool⌉ keys.  The module knows no
    positions unless the score or the scope does: without pooling it is permutation equivariant.

    Args:
        channels: C, the number of channels of the input and the output.
        heads: H, the number of heads, a divisor of `inner` and `value`.
        inner: The number of channels of queries and keys, of all heads together; None takes `channels`.
        value: The number of channels of values, of all heads together; None takes `inner`.
        pool: The side of the squares of cells whose maximum is one key and one value.
        spectral_norm: Whether each W is divided by its largest singular value (Miyato et al. 2018).
        gamma: The initial value of γ, which is learned; None for γ = 1, not learned.  With 0 the module
            starts as the identity, and in the first step only γ has a gradient.
        score: Similarity of a query and a key; None is ScaledDot for Softmax, no score for a feature map.
        scope: Which keys a query may attend to, such as `Neighbourhood`.
        select: How scores become weights.
        kernel: Softmax(), or a feature map.
        causal: Whether a cell sees no later cells, row by row.
        dropout: Probability with which weights are dropped in training.
        bias: Whether the convolutions have a bias.

    Raises:
        IncompatibleParts: The parts clash; the message says what to change.
        BadShape: The sizes do not divide each other.
        BadRecipe: A size is not a positive whole number.

    References:
        Wang et al. 2018 (non-local networks); Zhang et al. 2019 (SAGAN), see `sagan`.

    Example:
        >>> attention = qkv.SelfAttention2d(64, heads=4, scope=qkv.Neighbourhood(14, 20, radius=3))
        >>> attention(torch.randn(2, 64, 14, 20)).shape
        torch.Size([2, 64, 14, 20])
        >>> attention.attend(torch.randn(2, 64, 14, 20)).weights.shape
        torch.Size([2, 4, 280, 280])
    """

    def __init__(  # noqa: PLR0913 -- any part of the library
        self,
        channels: int,
        *,
        heads: int = 1,
        inner: int | None = None,
        value: int | None = None,
        pool: int = 1,
        spectral_norm: bool = False,
        gamma: float | None = None,
        score: Any = None,
        scope: Any = Global(),
        select: Any = Soft(),
        kernel: Any = Softmax(),
        causal: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        inner = channels if inner is None else inner
        value = inner if value is None else value
        _check_sizes(heads, channels=channels, heads=heads, inner=inner, value=value, pool=pool)
        parts = (score, scope, select, kernel)
        self.spec = AttentionSpec(inner, heads, *parts, causal, dropout=dropout, bias=bias)
        self.channels, self.heads, self.pool = channels, heads, pool
        self.has_spectral_norm, self.first_gamma = spectral_norm, gamma
        _check_pooling(self.spec, pool)
        self.to_q = nn.Conv2d(channels, inner, 1, bias=bias)
        self.to_k = nn.Conv2d(channels, inner, 1, bias=bias)
        self.to_v = nn.Conv2d(channels, value, 1, bias=bias)
        self.to_out = nn.Conv2d(value, channels, 1, bias=bias)
        self.to_gate = nn.Linear(channels, heads) if self.spec.is_gated else None
        self.gamma = None if gamma is None else nn.Parameter(torch.empty(1))
        self.core = self.spec.kernel.build_core(self.dims, self.spec.choice)
        self._reset_projections()

    @classmethod
    def sagan(
        cls,
        channels: int,
        *,
        heads: int = 1,
        pool: int = 2,
        score: Any = None,
        scope: Any = Global(),
        select: Any = Soft(),
        kernel: Any = Softmax(),
    ) -> "SelfAttention2d":
        """Build the module of SAGAN (Zhang et al. 2019) as its official code has it.

        Queries and keys have C/8 channels, values C/2; keys and values are the maxima of 2×2 cells.  The four
        convolutions have a spectral norm and no bias, the dot product is not scaled, and γ starts at 0.

        Args:
            channels: C.
            heads: H, a divisor of C/8.
            pool: The side of the squares of cells whose maximum is one key and one value.
            score: As for the class, but None is Dot for Softmax.
            scope: As for the class.
            select: As for the class.
            kernel: As for the class.

        Returns:
            The module.
        """
        kernel = read_part("kernel", kernel)
        return cls(
            channels,
            heads=heads,
            inner=max(channels // 8, 1),
            value=max(channels // 2, 1),
            pool=pool,
            spectral_norm=True,
            gamma=0.0,
            score=Dot() if score is None and kernel.forms_weights else score,
            scope=scope,
            select=select,
            kernel=kernel,
            bias=False,
        )

    @property
    def dims(self) -> Dims:
        """The number of heads, and the widths per head."""
        inner, value = (layer.out_channels // self.heads for layer in (self.to_q, self.to_v))
        return Dims(self.heads, inner, inner, value)

    @property
    def is_normalised(self) -> bool:
        """Whether the weights are not negative and sum to 1."""
        return self.spec.kernel.forms_weights and self.spec.scope.normalised

    def forward(self, x: Map, *, keep: KeepCells | None = None) -> Map:
        """Attend from every cell.

        Args:
            x: The feature map [B,C,Y,X].
            keep: [B,Y,X] bool, True = a real cell.  Other cells are not keys, whatever they hold, and 0 in
                the output.

        Returns:
            The output [B,C,Y,X], in the memory format of x.

        Raises:
            BadShape: x has another shape, or the scope has another grid.
            BadMask: `keep` is not boolean or has another shape.
        """
        x = self._check_and_zero_padding(x, keep)
        return self._merge_and_add(x, self.core(*self._project(x, keep)), keep)

    def attend(self, x: Map, *, keep: KeepCells | None = None) -> Attended:
        """Compute `forward` together with the weights; asking for them does not change the output.

        Args and errors are those of `forward`.

        Returns:
            The output [B,C,Y,X], the weights [B,H,N,S], and log_prob [B,H,N] where the selection sampled.
        """
        x = self._check_and_zero_padding(x, keep)
        attended = self.core.attend(*self._project(x, keep))
        return attended._replace(out=self._merge_and_add(x, attended.out, keep))

    def key_grid(self, height: int, width: int) -> tuple[int, int]:
        """The grid of the keys, into which the last dimension of the weights can be unflattened.

        Args:
            height: Y.
            width: X.

        Returns:
            ⌈Y/pool⌉ and ⌈X/pool⌉.
        """
        return -(-height // self.pool), -(-width // self.pool)

    def explain(self, height: int, width: int) -> str:
        """Explain which backend runs for a map of this size, and why.

        Args:
            height: Y.
            width: X.

        Returns:
            One sentence or more.
        """
        rows, columns = self.key_grid(height, width)
        heads = f"{self.heads} head{'s' * (self.heads > 1)} of {self.dims.query}, kernel {self.spec.kernel!r}"
        return f"{heads}: {self.core.explain(height * width, rows * columns)}"

    def extra_repr(self) -> str:
        """Show the sizes and the arguments of the spec that differ from the defaults."""
        sizes = f"{self.channels}, pool={self.pool}"
        return ", ".join([sizes, *(f"{name}={value!r}" for name, value in self.spec.to_dict().items())])

    def reset_parameters(self) -> None:
        """Initialise all weights at random, and γ."""
        self._reset_projections()
        reset_parameters_of_nearest_descendants(self.core)

    def _reset_projections(self) -> None:
        for convolution in (self.to_q, self.to_k, self.to_v, self.to_out):
            if parametrize.is_parametrized(convolution, "weight"):
                parametrize.remove_parametrizations(convolution, "weight", leave_parametrized=False)
            nn.init.xavier_uniform_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            if self.has_spectral_norm:
                parametrizations.spectral_norm(convolution)
        if self.to_gate is not None:
            layer_inputs.initialise_gate(self.to_gate)
        if self.gamma is not None and self.first_gamma is not None:
            nn.init.constant_(self.gamma, self.first_gamma)

    def _check_and_zero_padding(self, x: Map, keep: KeepCells | None) -> Map:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise BadShape(f"x must be [batch, {self.channels}, height, width], got {tuple(x.shape)}")
        grid, cells = self.spec.scope.grid, (x.shape[2], x.shape[3])
        if grid is not None and cells != grid[:2]:
            raise BadShape(
                f"x has {cells[0]}×{cells[1]} cells, but the scope is {self.spec.scope!r}: "
                "set its height and width to those of x"
            )
        if keep is not None:
            if masks.check_boolean(keep, "keep").shape != (x.shape[0], *cells):
                raise BadMask(
                    f"keep must be [batch, height, width] = {[x.shape[0], *cells]}, got {list(keep.shape)}"
                )
            x = torch.where(keep[:, None], x, 0)
        nan.check_inputs(x=x)
        return x

    def _project(self, x: Map, keep: KeepCells | None) -> tuple[Tensor, Tensor, Tensor, Masking]:
        k, v, key_keep = self.to_k(x), self.to_v(x), keep
        if self.pool > 1:
            k, v = (pool_map(vectors, keep, self.pool) for vectors in (k, v))
            key_keep = None if keep is None else pool_keep(keep, self.pool)
        gate = None if self.to_gate is None else self.to_gate(x.flatten(2).mT).mT
        key_keep = None if key_keep is None else key_keep.flatten(1)
        masking = Masking(key_keep, is_self=self.pool == 1, gate=gate)
        q, k, v = (_split_heads(vectors, self.heads) for vectors in (self.to_q(x), k, v))
        return q, k, v, masking

    def _merge_and_add(self, x: Map, out: Tensor, keep: KeepCells | None) -> Map:
        """x + γ W_o out, where out is [B,H,N,E]."""
        merged = out.transpose(1, 2).flatten(2).mT.unflatten(2, x.shape[2:])
        branch = self.to_out(merged)
        y = x + (branch if self.gamma is None else self.gamma * branch)
        return y if keep is None else torch.where(keep[:, None], y, 0)


def _split_heads(x: Map, heads: int) -> Float[Tensor, "B H N D"]:
    """The vectors of all cells, row by row."""
    return x.unflatten(1, (heads, -1)).flatten(3).mT.contiguous()


def _check_sizes(divisor: int, **sizes: Any) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise BadRecipe(f"{name} must be a positive whole number, got {size!r}")
    for name in ("inner", "value"):
        if sizes[name] % divisor:
            problem = f"{name}={sizes[name]} channels cannot be split into heads={divisor} of equal width"
            raise BadShape(f"{problem}: use a multiple")


def _check_pooling(spec: AttentionSpec, pool: int) -> None:
    """Pooled keys have no order or distance to the queries."""
    is_near = spec.scope.reach is not None or spec.scope.grid is not None
    if pool > 1 and (spec.causal or is_near):
        near = (f"scope={spec.scope!r}", "scope=Global()")
        choice, change = ("causal=True", "causal=False") if spec.causal else near
        raise IncompatibleParts(
            f"{choice} compares the positions of queries and keys, but pool={pool} puts the keys on a "
            f"coarser grid than the queries: set pool=1 or {change}"
        )
