"""Film strips of captions: the picture, then where every word looks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from qkv.errors import BadData
from qkv.task.caption.grounding import find_cell_centres
from qkv.task.caption.inputs import name_input, read_input
from qkv.view.film import Film, draw_films


def draw_strips(captioner: Any, answers: Iterable[list[Any]], path: Path, *, dark: bool = False) -> None:
    """Draw a film strip for every picture; weights are averaged over the heads and layers that read the grid.

    Args:
        captioner: a `Captioner`.
        answers: what its `n_best(capture=True)` returns for each picture; the best captions are drawn.
        path: the picture to write: .png, .svg or .pdf.
        dark: use colours for dark backgrounds.

    Raises:
        BadData: the model has no attention to the grid, or reads grids instead of pictures; or the path
            cannot be written.
        QKVError: without matplotlib.
    """
    model, recipe = captioner.model, captioner.recipe
    if captioner.reads_grids:
        raise BadData("this model reads grids, and there is no picture to draw: use --trace")
    names = [name for name, place in model.attention_places().items() if place == "cross"]
    if not names:
        raise BadData("this model has no attention to the picture: train one with model.attention")
    centres = find_cell_centres(model, recipe.data.size)
    films = []
    for best, *_ in answers:
        tokens = best.hypothesis.tokens
        weights = torch.zeros(0)  # of an empty caption
        if tokens:
            steps = [torch.stack(best.hypothesis.weights[name][: len(tokens)]).mean(1) for name in names]
            weights = torch.stack(steps).mean(0)
        weights = weights.view(len(tokens), len(centres.rows), len(centres.columns)).numpy()
        pixels, title = read_input(best.picture, recipe), name_input(best.picture) or ""
        films.append(Film(pixels, captioner.tokenizer.pieces(tokens), weights, *centres, Path(title).name))
    draw_films(films, path, dark=dark)
