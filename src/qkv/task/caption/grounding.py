"""Which tokens name an object, where attention should go for them, and where it goes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from qkv.data.pairs import collate_target
from qkv.data.pictures.boxes import CellCentres, make_even_centres, spread_over_boxes
from qkv.task.caption.examples import CaptionedExamples, NamedObjects, stack_inputs
from qkv.task.caption.pointing import add_counts, count_pointing
from qkv.task.grid_axes import make_grid
from qkv.task.texts import AnyTokenizer


def find_cell_centres(model: Any, size: int) -> CellCentres:
    """Where the cells of the grid of square pictures are; see `make_grid`.

    Args:
        model: the captioner; it is left in evaluation mode.
        size: the side of a picture in pixels.
    """
    device, encoder = next(model.parameters()).device, model.eval().encoder
    with torch.no_grad():
        grid = encoder(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
    left, top, right, bottom = make_grid(encoder.config, size, (grid.height, grid.width), None).area
    even = make_even_centres(grid.height, grid.width)
    return CellCentres(top + even.rows * (bottom - top), left + even.columns * (right - left))


def name_objects_of_tokens(
    ids: Sequence[int], named: Sequence[int | None], tokenizer: AnyTokenizer
) -> list[int | None]:
    """For every token of a caption the object that its word names, or None.

    Args:
        ids: the token ids of the caption.
        named: for every word the number of the object that it names, or None.
        tokenizer: the tokenizer.

    Example:
        >>> from qkv.data.byte_tokens import ByteTokenizer
        >>> tokenizer = ByteTokenizer()
        >>> name_objects_of_tokens(tokenizer.encode("a hat")[0], [None, 0], tokenizer)
        [None, None, 0, 0, 0]
    """
    if tokenizer.kind == "word":
        return list(named)
    objects: list[int | None] = []
    word = 0
    for number, piece in enumerate(tokenizer.pieces(ids)):
        word += piece.startswith("▁") and number > 0
        objects.append(None if piece == "▁" else named[word])
    return objects


def make_attention_targets(
    ids: Sequence[int], objects: NamedObjects, centres: CellCentres, tokenizer: AnyTokenizer
) -> Float32[np.ndarray, "T L"]:
    """The distribution over cells for every token and the end symbol; zeros where no object is named.

    Args:
        ids: the token ids of a caption.
        objects: what its words name; objects with an empty box have left the picture.
        centres: where the cells of the grid are.
        tokenizer: the tokenizer.
    """
    is_visible = (objects.boxes[:, 2] > objects.boxes[:, 0]) & (objects.boxes[:, 3] > objects.boxes[:, 1])
    places = {number: place for place, number in enumerate(np.flatnonzero(is_visible).tolist())}
    named = [
        None if n is None else places.get(n) for n in name_objects_of_tokens(ids, objects.named, tokenizer)
    ]
    return spread_over_boxes([*named, None], objects.boxes[is_visible], centres)


@torch.inference_mode()
def measure_pointing(
    model: Any, examples: CaptionedExamples, tokenizer: AnyTokenizer, batch_size: int
) -> dict[str, float]:
    """How well the attention to the grid points while the right captions are read, in percent.

    The weights of a token are those with which the model predicts it, averaged over heads and layers.

    Args:
        model: the captioner, in evaluation mode.
        examples: pictures with the boxes of their objects.
        tokenizer: the tokenizer.
        batch_size: pictures of a batch.

    Returns:
        The scores of `PointingCounts`; none where the model has no attention to the grid.
    """
    names = [name for name, place in model.attention_places().items() if place == "cross"]
    if not names:
        return {}
    device, counts = next(model.parameters()).device, []
    centres = find_cell_centres(model, examples.get_pixels(0).shape[0])
    for start in range(0, len(examples), batch_size):
        places = range(start, min(start + batch_size, len(examples)))
        ids = tokenizer.encode([examples.get_captions(place)[0] for place in places])
        inputs = stack_inputs([examples.get_pixels(place) for place in places]).to(device)
        target = collate_target(ids)[0].to(device)
        _, attended = model.forward_with_weights(inputs, target[:, :-1])
        weights = (
            torch.stack([attended[name].weights.float().mean(1) for name in names]).mean(0).cpu().numpy()
        )
        for place, row, tokens in zip(places, weights, ids, strict=True):
            objects = examples.find_objects(place)
            assert objects is not None
            named = name_objects_of_tokens(tokens, objects.named, tokenizer)
            counts.append(count_pointing(row[: len(tokens)], named, objects.boxes, centres))
    return add_counts(counts).compute_scores()
