"""Modules that change with the progress of a training, such as the temperature of a sampled selection."""

from abc import ABC, abstractmethod

from torch import nn


class AnnealedModule(nn.Module, ABC):
    """Base of modules with a value that a training loop anneals: it calls `anneal` before every update."""

    @abstractmethod
    def anneal(self, progress: float) -> None:
        """Set the annealed value.

        Args:
            progress: The share of the training that is complete, from 0 to 1.
        """
