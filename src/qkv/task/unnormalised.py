"""Names of attention weights that need not sum to 1, for traces."""

from typing import Any


def find_unnormalised(model: Any) -> tuple[str, ...]:
    """Names of weights whose rows may not sum to 1 or may be negative.

    Those are the implied weights of a feature map, and the weights of scopes that do not normalise.
    """
    specs = {name: layer.spec for name, layer in model.attention_layers().items()}
    return tuple(
        name for name, spec in specs.items() if not (spec.kernel.forms_weights and spec.scope.normalised)
    )
