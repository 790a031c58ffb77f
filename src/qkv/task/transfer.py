"""The section `transfer` of a recipe: matching the attention of the run that a training starts from."""

from collections.abc import Callable
from typing import Any

from torch import nn

from qkv.errors import BadRecipe
from qkv.strict import Strict
from qkv.task.base import Training
from qkv.task.initial_run import InitialRun
from qkv.train.objective.transfer import AttentionTransfer, Match, Reading


class TransferConfig(Strict):
    """Train the attention alone, to do what the attention of the run does that `--from` names.

    Args:
        match: outputs: the relative squared error of every layer's output; weights: the cross-entropy of
            its weights, which trains queries, keys and the kernel alone.
    """

    match: Match = "outputs"


def build_transfer(
    config: TransferConfig | None,
    training: Training,
    initial: InitialRun | None,
    build_model: Callable[[Any], nn.Module],
    read: Callable[[Any, Any], Reading],
) -> Training:
    """The training with attention transfer as its objective; without the section it stays as it is.

    Args:
        config: the section of the recipe.
        training: the training of the task, whose validation is kept.
        initial: the run that the training starts from.
        build_model: builds the model of that run's recipe, for a training that is resumed.
        read: what a model reads of a batch.

    Raises:
        BadRecipe: there is no such run, or its attentions cannot be matched.
    """
    if config is None:
        return training
    if initial is None:
        raise BadRecipe(
            "transfer matches the attention of a trained run: name that run with --from, or leave out the "
            "section"
        )
    trained = build_model(initial.recipe) if initial.model is None else initial.model
    objective = AttentionTransfer(training.objective.saved_module(), trained, read, config.match)
    return training._replace(objective=objective)
