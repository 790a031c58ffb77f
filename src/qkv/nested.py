"""Nested tensors, strided and jagged, as padded tensors and back."""

from typing import Any

import torch
from torch import Tensor

from qkv.errors import BadShape


def check(
    query: Tensor, key: Tensor, value: Tensor, masks: tuple[Tensor | None, ...], batch_first: bool
) -> None:
    """Raise BadShape unless this is a batch of sequences that attends to itself."""
    if query is not key or key is not value or any(mask is not None for mask in masks):
        raise BadShape(
            "a nested tensor can only attend to itself, without masks: pass padded tensors and a "
            "key_padding_mask instead"
        )
    if not batch_first:
        raise BadShape(
            "a nested tensor has its batch first, and this layer was made with batch_first=False: make it "
            "with batch_first=True, or pass padded tensors and a key_padding_mask"
        )
    if query.dim() != 3:
        raise BadShape(
            f"a nested tensor must hold one or more sequences [positions, width]; got {query.size(0)} "
            f"tensors of {query.dim() - 1} dimensions"
        )


def padded(x: Tensor) -> tuple[Tensor, Tensor]:
    """A nested tensor [B,*,M] as a padded one [B,N,M], and which of its positions are real [B,N]."""
    rows = list(x.unbind())
    dense = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([row.shape[0] for row in rows], device=x.device)
    return dense, torch.arange(dense.shape[1], device=x.device) < lengths[:, None]


def packed(x: Tensor, keep: Tensor, like: Any) -> Tensor:
    """The real positions of a padded tensor [B,N,M] as a nested one with the layout and lengths of `like`."""
    if like.layout is not torch.jagged:
        lengths = keep.sum(1).tolist()
        return torch.nested.as_nested_tensor([row[:length] for row, length in zip(x, lengths, strict=True)])
    # The same offsets, not equal ones: torch adds only tensors that share them.
    if like.lengths() is None:
        return torch.nested.nested_tensor_from_jagged(x[keep], like.offsets())
    values = like.values().new_zeros(like.values().shape[0], x.shape[-1])
    begins = like.offsets()[: x.shape[0], None]
    places = (begins + torch.arange(x.shape[1], device=x.device))[keep]
    values = values.index_copy(0, places, x[keep])
    return torch.nested.nested_tensor_from_jagged(values, like.offsets(), like.lengths())
