"""Checks of the arguments of `MultiheadAttention`."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from qkv.errors import BadShape, IncompatibleParts
from qkv.spec import AttentionSpec


def check_sizes(embed_dim: int, num_heads: int, kdim: int | None, vdim: int | None) -> None:
    """Check the sizes of the layer.

    Args:
        embed_dim: The width of queries and output.
        num_heads: The number of heads.
        kdim: The width of keys, or None.
        vdim: The width of values, or None.

    Raises:
        BadShape: A size is not positive, or `num_heads` does not divide `embed_dim`.
    """
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim, "vdim": vdim}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise BadShape(f"{name} must be a positive whole number, got {size}")
    if embed_dim % num_heads:
        raise BadShape(
            f"embed_dim={embed_dim} cannot be split into num_heads={num_heads} of equal width: "
            "make it a multiple"
        )


def check_inputs(
    query: Tensor, key: Tensor, value: Tensor, widths: tuple[int, int, int], batch_first: bool
) -> None:
    """Check the shapes of the inputs.

    Args:
        query: [T,B,M]; [B,T,M] where `batch_first`; [T,M] without a batch.
        key: [S,B,kdim], in the same layout.
        value: [S,B,vdim], in the same layout.
        widths: The expected widths of the three.
        batch_first: Whether the batch is the first dimension.

    Raises:
        BadShape: The shapes do not fit together.
    """
    shapes = f"got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
    dims = query.dim()
    if dims not in (2, 3) or key.dim() != dims or value.dim() != dims:
        raise BadShape(f"query, key and value must all have 3 dimensions, or 2 without a batch; {shapes}")
    if (query.shape[-1], key.shape[-1], value.shape[-1]) != widths:
        raise BadShape(f"query, key and value must have widths {widths} (last dimension); {shapes}")
    batch = 0 if batch_first else 1
    if key.shape[:-1] != value.shape[:-1] or (dims == 3 and query.shape[batch] != key.shape[batch]):
        layout = "[batch, positions, width]" if batch_first else "[positions, batch, width]"
        raise BadShape(
            f"key and value must agree in positions, and all three in their batch ({layout} at "
            f"batch_first={batch_first}); {shapes}"
        )


def check_positions(spec: AttentionSpec, has_added_keys: bool) -> None:
    """Check that no part uses positions where the layer adds keys without a position.

    Args:
        spec: The parts.
        has_added_keys: Whether add_bias_kv or add_zero_attn is set.

    Raises:
        IncompatibleParts: A part uses positions.
    """
    positional = [part for part in (spec.score, spec.scope) if part is not None and part.positional]
    if has_added_keys and positional:
        raise IncompatibleParts(
            f"{positional[0]!r} uses the positions of keys, but those of add_bias_kv and add_zero_attn have "
            "no position: leave these two out"
        )


def check_results(kernel: Any, select: Any) -> None:
    """Check that the parts need nothing that torch's layer does not have or return.

    Args:
        kernel: The kernel.
        select: The selection.

    Raises:
        IncompatibleParts: The selection returns log-probabilities, or the kernel needs a gate.
    """
    if select.gives_log_prob:
        raise IncompatibleParts(
            f"{select!r} learns from the log-probability of its samples, which torch's layer does not "
            "return: use qkv.Attention, or estimator='gumbel' or 'straight_through'"
        )
    if kernel.is_gated:
        raise IncompatibleParts(
            f"{kernel!r} computes a gate from the layer's input, for which torch's layer has no weights: use "
            "qkv.Attention, or gate=False"
        )


def apply_pruning_masks(module: nn.MultiheadAttention) -> None:
    """Mask the weights of a pruned module in place, as its next call would.

    Args:
        module: The layer of torch.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            hook(module, ())
