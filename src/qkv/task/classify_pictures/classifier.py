"""A trained classifier: pictures in, labels and probabilities out, with scores and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from qkv.data.batching import iterate_by_length
from qkv.errors import BadData
from qkv.model.vision import Size
from qkv.task.classify.classifier import Label, compute_scores, make_label
from qkv.task.classify_pictures.pictures import (
    LabelledPictures,
    make_dataset,
    number_labels,
    read_test_pictures,
    stack_pictures,
)
from qkv.task.classify_pictures.recipe import PictureClassificationRecipe
from qkv.task.grid_axes import make_grid
from qkv.task.picture_inputs import Picture, list_pictures, read_picture
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Axis, Example, Trace, WeightAxes

LABEL = "label"  # an axis of one position


class PictureClassifier:
    """A classifier with its classes and its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        classes: the names of the classes.
        model: the trained model, in evaluation mode.
    """

    def __init__(self, recipe: PictureClassificationRecipe, classes: Sequence[str], model: Any) -> None:
        self.recipe, self.classes, self.model = recipe, list(classes), model

    @property
    def commands(self) -> tuple[str, ...]:
        """The command for a classifier."""
        return ("classify",)

    @property
    def reads_pictures(self) -> bool:
        """Whether its inputs are pictures."""
        return True

    def classify(self, pictures: Picture | Iterable[Picture]) -> Label | list[Label]:
        """The label of a picture, or of every picture.

        Args:
            pictures: the path of a picture file, or pixels uint8 [H,W,3]; or several of them.  A file is
                resized like those of the training; pixels must have their size.

        Returns:
            A Label for one picture, otherwise a list of them.

        Raises:
            BadData: a file cannot be read or is not a picture, or pixels have another type or size.
        """
        several = list_pictures(pictures)
        labels = [make_label(row, self.classes) for row in self._compute_log_probs(several)]
        return labels[0] if several and several[0] is pictures else labels

    def evaluate(
        self,
        pictures: LabelledPictures | None = None,
        *,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> dict[str, float]:
        """Accuracy, nll and macro-averaged F1 on labelled pictures, and the accuracy of the commonest class.

        Args:
            pictures: labelled pictures; None takes the recipe's test data, or its held-out data.
            on_progress: called with the number of pictures that are scored.

        Raises:
            BadData: a label is not one of the classes.
        """
        pictures = read_test_pictures(self.recipe) if pictures is None else pictures
        numbers = number_labels(pictures, self.classes)
        dataset, scored = make_dataset(pictures, numbers), 0
        scores = np.zeros((len(pictures), len(self.classes)), np.float64)
        for rows, batch in iterate_by_length(dataset, self.recipe.batch.pictures):
            scores[rows] = self._score(batch.pictures)
            scored += len(rows)
            on_progress(scored)
        return compute_scores(scores, numbers)

    def trace(self, pictures: Picture | Iterable[Picture]) -> Trace:
        """Where the attention of every layer, and of the pooling, goes in each picture.

        Args:
            pictures: what `classify` takes.

        Raises:
            BadData: there is no picture, a picture cannot be used, or the model has no attention.
        """
        several = list_pictures(pictures)
        if not several:
            raise BadData("there is no picture to trace")
        if not self.model.attention_layers():
            raise BadData(
                "this model has no attention to trace: train one with model.self_attention or "
                "model.pool=attention"
            )
        return Trace(
            tuple(self.list_examples(several)), "classification", unnormalised=find_unnormalised(self.model)
        )

    def list_examples(self, pictures: Iterable[Picture]) -> Iterator[Example]:
        """The attention on pictures, one by one; nothing for a model without attention.

        Args:
            pictures: what `classify` takes.
        """
        if self.model.attention_layers():
            yield from (self._make_example(picture, number) for number, picture in enumerate(pictures, 1))

    def _compute_log_probs(self, pictures: Sequence[Picture]) -> Iterator[np.ndarray]:
        """log-probabilities [C] of every picture; the files are read batch by batch."""
        size = self.recipe.batch.pictures
        for start in range(0, len(pictures), size):
            batch = [
                read_picture(picture, self.recipe.data.size) for picture in pictures[start : start + size]
            ]
            yield from self._score(stack_pictures(batch))

    @torch.inference_mode()
    def _score(self, pictures: torch.Tensor) -> np.ndarray:
        """log-probabilities [B,C]."""
        scores = self.model(pictures.to(next(self.model.parameters()).device))
        return scores.double().log_softmax(-1).cpu().numpy()

    @torch.inference_mode()
    def _make_example(self, picture: Picture, number: int) -> Example:
        pixels = stack_pictures([read_picture(picture, self.recipe.data.size)]).to(
            next(self.model.parameters()).device
        )
        classified = self.model.forward_with_weights(pixels)
        label = make_label(classified.scores[0].double().log_softmax(-1).cpu().numpy(), self.classes)
        weights = {
            name: each.weights[0].float().cpu().numpy()
            for name, each in classified.attended.items()
            if each.weights is not None
        }
        name = None if isinstance(picture, np.ndarray) else str(picture)
        axes: dict[str, Axis] = {LABEL: (label.label,)}
        weight_axes = {}
        for key, weight in weights.items():
            queries, keys = classified.grids[key]
            rows = LABEL if key == "pool" else self._add_axis(axes, queries, weight.shape[1], name)
            weight_axes[key] = WeightAxes(rows, self._add_axis(axes, keys, weight.shape[2], name))
        return Example(
            named_axes=axes,
            weights=weights,
            weight_axes=weight_axes,
            meta={"line": number, "label": label.label, "probability": label.probability},
        )

    def _add_axis(self, axes: dict[str, Axis], size: Size, count: int, picture: str | None) -> str:
        """The name of the axis of a grid; where a class token stands before the cells it is not a grid."""
        name = f"picture {size[0]}×{size[1]}"
        grid = make_grid(self.recipe.model, self.recipe.data.size, size, picture)
        if count == len(grid):
            axes[name] = grid
        else:
            axes[name] = ("<class>", *(f"{i // size[1] + 1},{i % size[1] + 1}" for i in range(len(grid))))
        return name
