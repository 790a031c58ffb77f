"""Weights that two layers share, and which moving or loading a model would separate."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class WeightTyingModule(nn.Module, ABC):
    """Base class of models with layers that share weights.

    A subclass calls `tie_weights` when it is built.  It is called again after `load_state_dict`, which with
    assign=True gives each layer a weight of its own, and after `to_empty`, which does so too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_tie_weights_after_loading)

    @abstractmethod
    def tie_weights(self) -> None:
        """Let the layers share their weights."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # to_empty separates tied weights
        self.tie_weights()
        return self


def _tie_weights_after_loading(model: Any, incompatible_keys: Any) -> None:
    model.tie_weights()
