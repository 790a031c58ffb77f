"""A trained generator of pictures: samples, their distance from real pictures, and where cells attend."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from qkv.data.batching import iterate_by_length
from qkv.data.pictures import draw_noise
from qkv.errors import BadData, BadRun
from qkv.task.classify_pictures.classifier import PictureClassifier
from qkv.task.classify_pictures.pictures import LabelledPictures, make_dataset, stack_pictures
from qkv.task.generate_pictures.frechet import compare_features
from qkv.task.generate_pictures.recipe import GeneratePicturesRecipe
from qkv.trace import Trace, trace_query_points

SAMPLES_AT_ONCE = 64


class PictureGenerator:
    """A generator of pictures with its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        model: the trained networks, in evaluation mode.
    """

    def __init__(self, recipe: GeneratePicturesRecipe, model: Any) -> None:
        self.recipe, self.model = recipe, model

    @property
    def commands(self) -> tuple[str, ...]:
        """The command for a generator."""
        return ("generate",)

    def generate(self, count: int = 64, seed: int = 0) -> UInt8[np.ndarray, "N S S 3"]:
        """Generate pictures; the first ones of a larger number are the same.

        Args:
            count: how many.
            seed: decides the noise that they are generated from.

        Returns:
            Pixels, uint8 [N,S,S,3].

        Raises:
            BadData: `count` is less than 1.
        """
        if count < 1:
            raise BadData(f"count={count}: generate at least one picture")
        parts = [
            self._generate(self._draw_noise(range(first, min(first + SAMPLES_AT_ONCE, count)), seed))
            for first in range(0, count, SAMPLES_AT_ONCE)
        ]
        return np.concatenate(parts)

    def trace_points(
        self,
        points: Sequence[tuple[int, int]] | None = None,
        *,
        number: int = 0,
        seed: int = 0,
        picture: str | None = None,
    ) -> Trace:
        """Where chosen cells of the generator's map attend while it makes a picture.

        Args:
            points: cells (row, column) of the map; None takes the centre and four points around it.
            number: the number of the picture among those of `generate`, from 0.
            seed: that of `generate`.
            picture: the file of the generated picture, for the viewer.

        Returns:
            A trace of one example; see `qkv.trace.trace_query_points`.

        Raises:
            BadData: the generator has no attention, or a point is outside of its map.
        """
        generator = self.model.generator
        if generator.self_attention is None:
            raise BadData("this generator has no attention to trace: train one with model.self_attention")
        with torch.inference_mode():
            x = generator.compute_attention_input(self._draw_noise([number], seed))
            side = x.shape[2]
            near, far = side // 4, side - 1 - side // 4
            middle = (side // 2, side // 2)
            default = [middle, (near, near), (near, far), (far, near), (far, far)]
            return trace_query_points(
                generator.self_attention, x, default if points is None else points, picture=picture
            )

    def evaluate(
        self,
        pictures: LabelledPictures,
        features: PictureClassifier,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> dict[str, float]:
        """The Fréchet distance between as many samples as there are real pictures, and those.

        Args:
            pictures: real pictures that the generator was not trained on.
            features: the classifier whose pooled vectors are compared.
            seed: of the samples.
            on_progress: called with the number of samples that are made.

        Returns:
            "fid", which is comparable only between scores by the same classifier and number of pictures.

        Raises:
            BadRun: the classifier reads pictures of another size.
            BadData: there are fewer than two pictures.
        """
        check_features(features, self.recipe)
        generated = []
        for first in range(0, len(pictures), SAMPLES_AT_ONCE):
            noise = self._draw_noise(range(first, min(first + SAMPLES_AT_ONCE, len(pictures))), seed)
            generated.append(_embed(features, stack_pictures(list(self._generate(noise)))))
            on_progress(first + len(noise))
        real = embed_pictures(features, pictures, self.recipe.batch.pictures)
        return {"fid": compare_features(np.concatenate(generated), real)}

    def _draw_noise(self, numbers: Iterable[int], seed: int) -> Float[Tensor, "B Z"]:
        weight = self.model.generator.output.weight
        noise = draw_noise([(seed, number) for number in numbers], self.recipe.model.noise)
        return noise.to(weight.device, weight.dtype)

    @torch.inference_mode()
    def _generate(self, noise: Float[Tensor, "B Z"]) -> UInt8[np.ndarray, "B S S 3"]:
        pictures = (self.model.generator(noise).float() + 1) * 127.5
        return pictures.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def check_features(features: Any, recipe: GeneratePicturesRecipe) -> None:
    """Check that a run can give the features of generated pictures.

    Args:
        features: what `load` returned.
        recipe: the recipe of the generator.

    Raises:
        BadRun: it is not a classifier of pictures, or one of another size.
    """
    if not isinstance(features, PictureClassifier):
        raise BadRun(
            f"features come from a classifier of pictures, got a {type(features).__name__}: name a run of "
            "the task 'classify-pictures'"
        )
    size = features.recipe.data.size
    if size != recipe.data.size:
        raise BadRun(
            f"the classifier of the features reads pictures of {size} pixels, but {recipe.data.size} are "
            "generated: train one with data.pictures.size or data.shapes.size of the same value"
        )


def embed_pictures(
    features: PictureClassifier, pictures: LabelledPictures, batch: int
) -> Float[np.ndarray, "N M"]:
    """The features of pictures, in no particular order.

    Args:
        features: the classifier.
        pictures: the pictures.
        batch: how many are read at once.
    """
    dataset = make_dataset(pictures, np.zeros(len(pictures), np.int64))
    return np.concatenate([_embed(features, each.pictures) for _, each in iterate_by_length(dataset, batch)])


@torch.inference_mode()
def _embed(features: PictureClassifier, pictures: Tensor) -> Float[np.ndarray, "B M"]:
    device = next(features.model.parameters()).device
    return features.model.embed(pictures.to(device)).double().cpu().numpy()
