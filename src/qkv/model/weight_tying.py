"""Weights that two layers share, and which `load_state_dict(assign=True)` would separate."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TiesWeights(Protocol):
    """A model with layers that share weights."""

    def tie_weights(self) -> None:
        """Let the layers share their weights again."""
        ...


def tie_weights_after_loading(model: TiesWeights, incompatible_keys: Any) -> None:
    """Tie weights again: a hook for `register_load_state_dict_post_hook`.

    Args:
        model: The model.
        incompatible_keys: Not used.
    """
    model.tie_weights()
