"""What every evaluator of attention is to the code that trains it."""

from torch import nn


class Core(nn.Module):
    """Base class of the evaluators: attention per head, between the projections of a layer.

    The first dimension of each of its parameters counts heads; a parameter [H, D] is one vector per head.
    """

    def anneal(self, progress: float) -> None:
        """Adapt what changes over a training, such as a temperature; by default nothing does.

        Args:
            progress: the part of the training that is completed, from 0 to 1.  A training loop calls this
                before every update.

        Raises:
            BadRecipe: the progress is outside 0 to 1.
        """
