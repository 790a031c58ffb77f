"""MultiheadAttention: the arguments, results and state_dict of torch's layer, with any part of this library.

out = merge(core(split(query W_q), split(key W_k), split(value W_v))) W_o
"""

from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv import multihead_checks, multihead_masks, nan, nested
from qkv.kernel import Softmax
from qkv.kernel.masking import Masking
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Attended, Dims, Key, Query, Value
from qkv.spec import AttentionSpec, read_part


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with any `score`, `scope`, `select` and `kernel`.

    Arguments, masks (True or -inf = ignore; other floats are added to the scores), initial values, results
    and state_dict are torch's; parameters of the parts are under `core.`.  Differences:

    - A query without any key gets weights 0, so that its output is the bias of `out_proj`; never NaN.
    - The returned weights are those before dropout.
    - `is_causal=True` needs no `attn_mask` where there are as many queries as keys.
    - torch's encoder layers do not use their fused inference path, which would bypass the parts and return
      NaN for queries without keys.
    - A nested tensor of either layout may attend to itself.

    Args:
        embed_dim: M, the width of queries and output.
        num_heads: H, the number of heads.
        dropout: Probability with which weights are dropped in training.
        bias: Whether the projections have a bias.
        add_bias_kv: Whether a learned key and value are added to the keys.
        add_zero_attn: Whether a key and value of zeros are added to the keys.
        kdim: Width of the keys; None takes `embed_dim`.
        vdim: Width of the values; None takes `embed_dim`.
        batch_first: Whether inputs and output are [B,T,M] instead of [T,B,M].
        device: Where the parameters are.
        dtype: Their dtype.
        score: Similarity of a query and a key; None is ScaledDot for Softmax, no score for a feature map.
        scope: Which keys a query may attend to.
        select: How scores become weights.
        kernel: Softmax(), or a feature map.

    Raises:
        IncompatibleParts: The parts clash, or do not fit this layer.
        BadShape: The sizes do not divide each other.

    Vaswani et al. 2017, section 3.2.2.

    Example:
        >>> attention = qkv.MultiheadAttention(64, 8, batch_first=True, select=qkv.Entmax())
        >>> out, weights = attention(*3 * [torch.randn(2, 5, 64)])
        >>> weights.shape
        torch.Size([2, 5, 5])
    """

    def __init__(  # noqa: PLR0913, PLR0917 -- torch's signature, and the parts
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        score: Any = None,
        scope: Any = Global(),
        select: Any = Soft(),
        kernel: Any = Softmax(),
    ) -> None:
        multihead_checks.check_sizes(embed_dim, num_heads, kdim, vdim)
        kernel, select = read_part("kernel", kernel), read_part("select", select)
        multihead_checks.check_results(kernel, select)
        parts = {"score": score, "scope": scope, "select": select, "kernel": kernel}
        spec = AttentionSpec(embed_dim, num_heads, **parts, dropout=dropout, bias=bias)
        multihead_checks.check_positions(spec, has_added_keys=add_bias_kv or add_zero_attn)
        layout = (add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype)
        super().__init__(embed_dim, num_heads, dropout, bias, *layout)
        self.spec = spec
        # Without a hook, torch's encoder layers use the weights directly and never call `forward`.
        self.register_forward_pre_hook(_do_nothing)
        self.core = spec.kernel.build_core(Dims(num_heads, *(self.head_dim,) * 3), spec.choice)
        if device is not None or dtype is not None:
            self.core.to(device=device, dtype=dtype)

    @classmethod
    def from_torch(
        cls,
        module: nn.MultiheadAttention,
        *,
        dropout: float | None = None,
        score: Any = None,
        scope: Any = Global(),
        select: Any = Soft(),
        kernel: Any = Softmax(),
    ) -> "MultiheadAttention":
        """Build a layer with a copy of a module's weights, on its device.

        The weights of a pruned or parametrised module are copied as the module uses them.

        Args:
            module: The layer of torch.
            dropout: None takes the module's; a feature map, which has no weights to drop, needs 0.
            score: Similarity of a query and a key.
            scope: Which keys a query may attend to.
            select: How scores become weights.
            kernel: Softmax(), or a feature map.

        Returns:
            The layer.
        """
        multihead_checks.apply_pruning_masks(module)
        like = module.out_proj.weight
        options = {
            "dropout": module.dropout if dropout is None else dropout,
            "bias": module.in_proj_bias is not None,
            "add_bias_kv": module.bias_k is not None,
            **{name: getattr(module, name) for name in ("add_zero_attn", "kdim", "vdim", "batch_first")},
            **{"device": like.device, "dtype": like.dtype},
            **{"score": score, "scope": scope, "select": select, "kernel": kernel},
        }
        layer = cls(module.embed_dim, module.num_heads, **options)
        with torch.enable_grad():  # a parametrised weight requires grad where its sources do
            for name, parameter in layer.named_parameters():
                if not name.startswith("core."):
                    weight = attrgetter(name)(module)
                    parameter.requires_grad_(weight.requires_grad).data.copy_(weight.data)
        return layer.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from the query to the keys.

        Args:
            query: [T,B,M]; [B,T,M] where `batch_first`; [T,M] without a batch.
            key: [S,B,kdim], in the same layout.
            value: [S,B,vdim], in the same layout.
            key_padding_mask: [B,S] bool (True = ignore) or float (added to the scores).
            need_weights: Whether to return the weights.
            attn_mask: [T,S] or [B·H,T,S], bool or float.
            average_attn_weights: Whether to average the weights over the heads.
            is_causal: A hint that attn_mask is causal.  Exact attention applies the mask; a feature map
                cannot mask single pairs and applies the hint.

        Returns:
            The output in the layout of the query, and the weights [B,T,S] or [B,H,T,S], or None.

        Raises:
            BadShape: The shapes do not fit together.
            BadMask: A mask has another type or shape, or the kernel cannot apply it.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            nested.check_self_attention(query, key, value, (key_padding_mask, attn_mask), self.batch_first)
            return self._forward_nested(query, need_weights, average_attn_weights, is_causal)
        widths = (self.embed_dim, self.kdim, self.vdim)
        multihead_checks.check_inputs(query, key, value, widths, self.batch_first)
        is_self, is_unbatched = query is key, query.dim() == 2
        if key_padding_mask is not None:
            inputs = (query, key, value)
            query, key, value = multihead_masks.zero_padding(inputs, key_padding_mask, self.batch_first)
        nan.check_inputs(query=query, key=key, value=value, attn_mask=attn_mask)
        self._update_dropout()
        q, k, v = (self._split_heads(x) for x in self._project(query, key, value))
        masking = multihead_masks.build_masking(
            q, k, key_padding_mask, attn_mask, is_causal, self.spec.kernel
        )
        # torch 2.6 compiles no _replace
        masking = Masking(masking.keep, masking.allow, masking.bias, is_self, masking.gate)
        over_prefix = is_causal and not self.spec.kernel.forms_weights
        attend = self._attend_to_prefix if over_prefix else self._attend_to_all
        attended = attend(q, k, v, masking, need_weights)
        out = self.out_proj(attended.out.transpose(1, 2).flatten(2))
        weights = attended.weights
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if is_unbatched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def extra_repr(self) -> str:
        """Show the arguments of the spec that differ from the defaults."""
        return ", ".join(f"{name}={value!r}" for name, value in self.spec.to_dict().items())

    def reset_parameters(self) -> None:
        """Initialise all weights at random, including `out_proj` and the parts."""
        self.out_proj.reset_parameters()
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        super()._reset_parameters()
        if "core" in self._modules:
            reset_parameters_of_nearest_descendants(self.core)

    def _update_dropout(self) -> None:
        # torch's layer reads the attribute `dropout` at every call, so that users may set it.
        if self.dropout != self.spec.dropout:
            self.spec = replace(self.spec, dropout=self.dropout)
            self.core.dropout = self.dropout

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        packed, bias = self.in_proj_weight, self.in_proj_bias
        if packed is not None and query is key and key is value:
            return F.linear(query, packed, bias).chunk(3, -1)
        if packed is not None and key is value:
            sizes = (self.embed_dim, 2 * self.embed_dim)
            biases = (None, None) if bias is None else bias.split(sizes)
            query_weight, memory_weight = packed.split(sizes)
            q, memory = F.linear(query, query_weight, biases[0]), F.linear(key, memory_weight, biases[1])
            return q, *memory.chunk(2, -1)
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        inputs = (query, key, value)
        return tuple(F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))

    def _split_heads(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend_to_all(self, q: Query, k: Key, v: Value, masking: Masking, need_weights: bool) -> Attended:
        added_k, added_v = self._added_keys(k)
        count = added_k.shape[2]
        if count:
            k, v = torch.cat([added_k, k], 2), torch.cat([added_v, v], 2)
            masking = multihead_masks.prepend_keys(masking, count)
        if not need_weights:
            return Attended(self.core(q, k, v, masking), None)
        return _move_added_keys_last(self.core.attend(q, k, v, masking), count)

    def _attend_to_prefix(self, q: Query, k: Key, v: Value, masking: Masking, need_weights: bool) -> Attended:
        added_k, added_v = self._added_keys(k)
        state = self.core.start(added_k, added_v, return_weights=need_weights)
        attended, _ = self.core.extend(state, q, k, v, masking)
        return _move_added_keys_last(attended, added_k.shape[2])

    def _added_keys(self, k: Key) -> tuple[Tensor, Tensor]:
        """The keys and values of add_bias_kv and add_zero_attn, [B,H,0 to 2,D]."""
        shape = (k.shape[0], k.shape[1], 1, k.shape[3])
        zeros = k.new_zeros(shape)[:, :, : int(self.add_zero_attn)]
        if self.bias_k is None or self.bias_v is None:
            return zeros, zeros
        key, value = (row.view(1, shape[1], 1, shape[3]).expand(shape) for row in (self.bias_k, self.bias_v))
        return torch.cat([key, zeros], 2), torch.cat([value, zeros], 2)

    def _forward_nested(
        self, x: Tensor, need_weights: bool, average_attn_weights: bool, is_causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        padded, keep = nested.to_padded(x)
        out, weights = self.forward(
            padded, padded, padded, ~keep, need_weights, None, average_attn_weights, is_causal
        )
        return nested.from_padded(out, keep, x), weights


def _move_added_keys_last(attended: Attended, count: int) -> Attended:
    """Move the weights of the first `count` keys to the end, where torch has them."""
    if attended.weights is None or count == 0:
        return attended
    return attended._replace(weights=attended.weights.roll(-count, -1))


def _do_nothing(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook that changes nothing."""
