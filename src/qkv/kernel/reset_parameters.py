"""Initialises modules that were created on the meta device and materialised by to_empty."""

from torch import nn


def reset_parameters_of_nearest_descendants(module: nn.Module) -> None:
    """Call `reset_parameters` of the nearest descendants that have it; each initialises all that is below it.

    Args:
        module: The module whose children are initialised; its own parameters are left to the caller.
    """
    for child in module.children():
        reset = getattr(child, "reset_parameters", None)
        if reset is None:
            reset_parameters_of_nearest_descendants(child)
        else:
            reset()
