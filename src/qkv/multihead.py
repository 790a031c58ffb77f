"""MultiheadAttention: torch's layer in arguments, results and state_dict, open to every part of this library.

out = merge(core(split(query W_q), split(key W_k), split(value W_v))) W_o
"""

from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from qkv import multihead_masks, nan, nested
from qkv.errors import BadShape, IncompatibleParts
from qkv.kernel import Softmax
from qkv.kernel.masking import Masking
from qkv.kernel.reset_parameters import reset_children
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Attended, Dims, Key, Query, Value
from qkv.spec import AttentionSpec, read_part


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with any `score`, `scope`, `select` and `kernel`.

    Arguments, masks (True or -inf = ignore; other floats are added to the scores), initial values, results
    and state_dict are torch's; what other parts learn stands under `core.`.  Where the two differ:

    - A query that may see nothing gets weights 0, so that its output is the bias of `out_proj`; never NaN.
    - The weights returned are those before dropout.
    - `is_causal=True` needs no `attn_mask` where there are as many queries as keys.
    - torch's encoder layers do not take their fused inference route, which would go around the parts and
      return NaN for empty rows.
    - A nested tensor of either layout may attend to itself.

    Raises IncompatibleParts for parts that cannot go together, BadShape for sizes that do not fit.
    Vaswani et al. 2017, section 3.2.2.
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
        _check_sizes(embed_dim, num_heads, kdim, vdim)
        kernel, select = read_part("kernel", kernel), read_part("select", select)
        _refuse_parts(kernel, select)
        parts = {"score": score, "scope": scope, "select": select, "kernel": kernel}
        spec = AttentionSpec(embed_dim, num_heads, **parts, dropout=dropout, bias=bias)
        _check_parts(spec, more_keys=add_bias_kv or add_zero_attn)
        layout = (add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype)
        super().__init__(embed_dim, num_heads, dropout, bias, *layout)
        self.spec = spec
        # torch's encoder layers compute with the weights, and do not call `forward`, unless there is a hook.
        self.register_forward_pre_hook(_keep_forward)
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
        """A layer with a copy of the module's weights, on its device, and these parts.

        The weights of a module that is pruned or parametrised are copied as it computes with them.
        dropout: None takes the module's; a feature map, which has no weights to drop, needs 0.
        """
        _update_pruned(module)
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
        with torch.enable_grad():  # a weight computed from others learns where they do
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
        """Attend from query [T,B,M] to key [S,B,kdim] and value [S,B,vdim]; [B,T,M] … where `batch_first`,
        [T,M] … without a batch.

        key_padding_mask: [B,S].  attn_mask: [T,S] or [B·H,T,S].  Both bool (True = ignore) or float (added).
        is_causal: a hint that attn_mask is causal.  Exact attention goes by the mask; a feature map, which
        cannot hide single pairs, goes by the hint.
        Returns the output like the query, and None or the weights: averaged over the heads [B,T,S], or
        [B,H,T,S].  Raises BadShape, and BadMask for a mask of another type or shape, or that the kernel
        cannot honour.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            nested.check(query, key, value, (key_padding_mask, attn_mask), self.batch_first)
            return self._nested(query, need_weights, average_attn_weights, is_causal)
        self._check_inputs(query, key, value)
        own, unbatched = query is key, query.dim() == 2
        if key_padding_mask is not None:
            inputs = (query, key, value)
            query, key, value = multihead_masks.hide_padding(inputs, key_padding_mask, self.batch_first)
        nan.check(query=query, key=key, value=value, attn_mask=attn_mask)
        self._follow_dropout()
        q, k, v = (self._split(x) for x in self._project(query, key, value))
        masking = multihead_masks.build_masking(
            q, k, key_padding_mask, attn_mask, is_causal, self.spec.kernel
        )
        masking = masking._replace(is_self=own)
        prefix = is_causal and not self.spec.kernel.forms_weights
        attended = (self._over_prefix if prefix else self._over_all)(q, k, v, masking, need_weights)
        out = self.out_proj(attended.out.transpose(1, 2).flatten(2))
        weights = attended.weights
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if unbatched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def extra_repr(self) -> str:
        """The spec, as it was written."""
        return ", ".join(f"{name}={value!r}" for name, value in self.spec.to_dict().items())

    def reset_parameters(self) -> None:
        """Initialise all weights anew, those of `out_proj` and of the parts too."""
        self.out_proj.reset_parameters()
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        super()._reset_parameters()
        if "core" in self._modules:
            reset_children(self.core)

    def _follow_dropout(self) -> None:
        # torch's layer reads `dropout` at every call, and people set it.
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
            (of_q, of_kv) = packed.split(sizes)
            return F.linear(query, of_q, biases[0]), *F.linear(key, of_kv, biases[1]).chunk(2, -1)
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        inputs = (query, key, value)
        return tuple(F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))

    def _split(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _over_all(self, q: Query, k: Key, v: Value, masking: Masking, need_weights: bool) -> Attended:
        more_k, more_v = self._more(k)
        count = more_k.shape[2]
        if count:
            k, v = torch.cat([more_k, k], 2), torch.cat([more_v, v], 2)
            masking = multihead_masks.pad_masking(masking, count)
        if not need_weights:
            return Attended(self.core(q, k, v, masking), None)
        return _in_torch_order(self.core.attend(q, k, v, masking), count)

    def _over_prefix(self, q: Query, k: Key, v: Value, masking: Masking, need_weights: bool) -> Attended:
        more_k, more_v = self._more(k)
        state = self.core.start(more_k, more_v, remember=need_weights)
        attended, _ = self.core.extend(state, q, k, v, masking)
        return _in_torch_order(attended, more_k.shape[2])

    def _more(self, k: Key) -> tuple[Tensor, Tensor]:
        """The keys and values that every query sees beside those it was masking."""
        shape = (k.shape[0], k.shape[1], 1, k.shape[3])
        nothing = k.new_zeros(shape)[:, :, : int(self.add_zero_attn)]
        if self.bias_k is None or self.bias_v is None:
            return nothing, nothing
        key, value = (row.view(1, shape[1], 1, shape[3]).expand(shape) for row in (self.bias_k, self.bias_v))
        return torch.cat([key, nothing], 2), torch.cat([value, nothing], 2)

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        told = f"got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        dims = query.dim()
        if dims not in (2, 3) or key.dim() != dims or value.dim() != dims:
            raise BadShape(f"query, key and value must all have 3 dimensions, or 2 without a batch; {told}")
        widths = (self.embed_dim, self.kdim, self.vdim)
        if (query.shape[-1], key.shape[-1], value.shape[-1]) != widths:
            raise BadShape(f"query, key and value must have widths {widths} (last dimension); {told}")
        rows = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (dims == 3 and query.shape[rows] != key.shape[rows]):
            layout = "[batch, positions, width]" if self.batch_first else "[positions, batch, width]"
            raise BadShape(
                f"key and value must agree in positions, and all three in their batch ({layout} at "
                f"batch_first={self.batch_first}); {told}"
            )

    def _nested(
        self, x: Tensor, need_weights: bool, average_attn_weights: bool, is_causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        padded, keep = nested.padded(x)
        out, weights = self.forward(
            padded, padded, padded, ~keep, need_weights, None, average_attn_weights, is_causal
        )
        return nested.packed(out, keep, x), weights


def _in_torch_order(attended: Attended, count: int) -> Attended:
    """The weights of the first `count` keys moved to the end, where torch has them."""
    if attended.weights is None or count == 0:
        return attended
    return attended._replace(weights=attended.weights.roll(-count, -1))


def _check_sizes(embed_dim: int, num_heads: int, kdim: int | None, vdim: int | None) -> None:
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim, "vdim": vdim}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise BadShape(f"{name} must be a positive whole number, got {size}")
    if embed_dim % num_heads:
        raise BadShape(
            f"embed_dim={embed_dim} cannot be split into num_heads={num_heads} of equal width: "
            "make it a multiple"
        )


def _check_parts(spec: AttentionSpec, more_keys: bool) -> None:
    positional = [part for part in (spec.score, spec.scope) if part is not None and part.positional]
    if more_keys and positional:
        raise IncompatibleParts(
            f"{positional[0]!r} counts positions, and the keys of add_bias_kv and add_zero_attn stand at "
            "none: leave these two out"
        )


def _refuse_parts(kernel: Any, select: Any) -> None:
    if select.gives_log_prob:
        raise IncompatibleParts(
            f"{select!r} learns from the log-probability of its choices, which torch's layer does not "
            "return: use qkv.Attention, or estimator='gumbel' or 'straight_through'"
        )
    if kernel.is_gated:
        raise IncompatibleParts(
            f"{kernel!r} reads a gate from the layer's input, for which torch's layer has no weights: use "
            "qkv.Attention, or gate=False"
        )


def _keep_forward(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook that changes nothing."""


def _update_pruned(module: nn.MultiheadAttention) -> None:
    """Mask the weights of a pruned module as its next call would."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            hook(module, ())
