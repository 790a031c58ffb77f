"""Conversion of nested tensors, strided or jagged, to padded tensors and back."""

from typing import Any

import torch
from torch import Tensor

from qkv.errors import BadShape


def check_self_attention(
    query: Tensor, key: Tensor, value: Tensor, masks: tuple[Tensor | None, ...], batch_first: bool
) -> None:
    """Check that nested inputs are a batch of sequences that attends to itself without masks.

    Args:
        query: The queries.
        key: The keys.
        value: The values.
        masks: The masks of the call.
        batch_first: Whether the layer has the batch as its first dimension.

    Raises:
        BadShape: They are something else.
    """
    if query is not key or key is not value or any(mask is not None for mask in masks):
        raise BadShape(
            "a nested tensor can only attend to itself, without masks: pass padded tensors and a "
            "key_padding_mask instead"
        )
    if not batch_first:
        raise BadShape(
            "a nested tensor has its batch first, but this layer has batch_first=False: build it with "
            "batch_first=True, or pass padded tensors and a key_padding_mask"
        )
    if query.dim() != 3:
        raise BadShape(
            f"a nested tensor must hold one or more sequences [positions, width]; got {query.size(0)} "
            f"tensors of {query.dim() - 1} dimensions"
        )


def to_padded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a nested tensor to a padded one.

    Args:
        x: A nested tensor [B,*,M].

    Returns:
        The padded tensor [B,N,M], and keep [B,N] bool, True at its real positions.
    """
    rows = list(x.unbind())
    dense = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([row.shape[0] for row in rows], device=x.device)
    return dense, torch.arange(dense.shape[1], device=x.device) < lengths[:, None]


def from_padded(x: Tensor, keep: Tensor, like: Any) -> Tensor:
    """Convert a padded tensor to a nested one.

    Args:
        x: A padded tensor [B,N,M].
        keep: [B,N] bool, True at real positions.
        like: The nested tensor whose layout and lengths it takes.

    Returns:
        A nested tensor [B,*,M].
    """
    if like.layout is not torch.jagged:
        lengths = keep.sum(1).tolist()
        return torch.nested.as_nested_tensor([row[:length] for row, length in zip(x, lengths, strict=True)])
    # Share the offsets instead of copying them: torch adds only jagged tensors that share theirs.
    if like.lengths() is None:
        return torch.nested.nested_tensor_from_jagged(x[keep], like.offsets())
    values = like.values().new_zeros(like.values().shape[0], x.shape[-1])
    starts = like.offsets()[: x.shape[0], None]
    rows = (starts + torch.arange(x.shape[1], device=x.device))[keep]
    values = values.index_copy(0, rows, x[keep])
    return torch.nested.nested_tensor_from_jagged(values, like.offsets(), like.lengths())
