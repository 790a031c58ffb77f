"""Initial values anew, for modules that were made on the meta device and filled by to_empty."""

from torch import nn


def reset_children(module: nn.Module) -> None:
    """Initialise anew what stands below a module: each of its modules does so for all that it is made of."""
    for child in module.children():
        reset = getattr(child, "reset_parameters", None)
        if reset is None:
            reset_children(child)
        else:
            reset()
