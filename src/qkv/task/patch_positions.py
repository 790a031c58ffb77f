"""Learned positions of patches: two models share them only where they stand for the same patches."""

from typing import Any, NamedTuple

from qkv.errors import BadRecipe
from qkv.model.patches import PatchConfig
from qkv.task.initial_run import InitialRun


class PatchPositions(NamedTuple):
    """What the positions of a model of pictures stand for.

    Args:
        has_class_token: whether the first one is that of a class token.
        side: rows, and columns, of the grid of patches.
        are_learned: whether they are a table.
    """

    has_class_token: bool
    side: int
    are_learned: bool


def describe_positions(recipe: Any) -> PatchPositions | None:
    """What the positions of the encoder of pictures stand for; None for an encoder without patches.

    Args:
        recipe: the recipe of a classifier, a captioner or a model that fills pictures.
    """
    encoder = getattr(recipe.model, "encoder", recipe.model)
    if not isinstance(encoder, PatchConfig):
        return None
    has_class_token = getattr(encoder, "pool", None) == "first"
    return PatchPositions(has_class_token, recipe.data.size // encoder.patch, encoder.positions == "learned")


def refuse_other_positions(recipe: Any, initial: InitialRun | None) -> None:
    """Check that the positions of an encoder mean the same in the run that a training starts from.

    Args:
        recipe: the recipe of the training.
        initial: the run; None: there is none.

    Raises:
        BadRecipe: only one has a class token, or learned positions belong to another grid.
    """
    if initial is None:
        return
    own, other = describe_positions(recipe), describe_positions(initial.recipe)
    if own is None or other is None:
        return
    if own.has_class_token != other.has_class_token:
        raise BadRecipe(
            "pool: first puts a class token before the patches, which only one of this model and "
            f"{initial.path} has, so that their positions stand for other patches: use the same pool, or "
            "mean, in both"
        )
    if own.are_learned and other.are_learned and own.side != other.side:
        raise BadRecipe(
            f"this model has {own.side} × {own.side} patches, and {initial.path} {other.side} × "
            f"{other.side}, so that their learned positions stand for other patches: use the same "
            "sizes of pictures and patches, or positions: sinusoidal, in both"
        )
