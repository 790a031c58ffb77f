"""Weights that two layers share, which load_state_dict(assign=True) would make two of."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TiesWeights(Protocol):
    """A model with `tie_weights()`."""

    def tie_weights(self) -> None:
        """Make the layers share their weights again."""
        ...


def tie_weights_after_loading(model: TiesWeights, mismatches: Any) -> None:
    """A hook for `register_load_state_dict_post_hook`."""
    model.tie_weights()
