"""Where objects are: boxes that move with their picture, and targets of the attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkv.data.byte_tokens import ByteTokenizer
from qkv.data.pictures.augmentation import AugmentationConfig, PictureChange, draw_picture_change
from qkv.data.pictures.boxes import make_even_centres
from qkv.model.vision import CNN, CNNConfig
from qkv.progress import NoProgress
from qkv.task.caption.batches import draw_change_of_caption
from qkv.task.caption.examples import NamedObjects
from qkv.task.caption.grounding import find_cell_centres, make_attention_targets, name_objects_of_tokens
from qkv.task.caption.recipe import CaptionAugmentationConfig
from qkv.task.registry import find_task
from tiny_pictures import caption_shapes_recipe


def test_boxes_move_with_the_picture() -> None:
    """A white rectangle on black: after every change its pixels fill the changed box."""
    size, box = 16, np.array([[2, 3, 7, 6]], np.float32) / 16
    picture = torch.zeros(3, size, size, dtype=torch.uint8)
    picture[:, 3:6, 2:7] = 255
    changes = {draw_picture_change(AugmentationConfig(crop=2, flip=True), (0, i)) for i in range(200)}
    assert len(changes) == 50
    for change in changes:
        left, top, right, bottom = (change.apply_to_boxes(box, size)[0] * size).round().astype(int)
        expected = torch.zeros_like(picture)
        expected[:, top:bottom, left:right] = 255
        assert torch.equal(change.apply_to_pixels(picture), expected), change
    gone = PictureChange(0, 8, False).apply_to_boxes(box, size)[0]
    assert gone[0] == gone[2]


def test_pictures_whose_caption_names_a_side_are_not_mirrored() -> None:
    config = CaptionAugmentationConfig(flip=True)
    keys = [(0, i) for i in range(40)]
    assert any(draw_change_of_caption("a star above a hat", config, key).is_mirrored for key in keys)
    for text in ("To the LEFT.", "un carré à droite d'une étoile"):
        assert not any(draw_change_of_caption(text, config, key).is_mirrored for key in keys)


def test_targets_of_the_attention_lie_in_the_boxes_of_what_words_name() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("a hat on b")[0]
    objects = NamedObjects((None, 1, None, 0), np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32))
    assert name_objects_of_tokens(ids, objects.named, tokenizer) == [None, None, 1, 1, 1, *[None] * 4, 0]
    targets = make_attention_targets(ids, objects, make_even_centres(2, 2), tokenizer)
    assert targets.shape == (len(ids) + 1, 4)
    assert targets[2].tolist() == [0, 0, 0, 1]
    assert targets[9].tolist() == [1, 0, 0, 0]
    assert targets[[0, 1, 5, 6, 7, 8, 10]].sum() == 0
    outside = objects._replace(boxes=np.array([[0, 0, 0.5, 0.5], [1, 0.5, 1, 1]], np.float32))
    assert make_attention_targets(ids, outside, make_even_centres(2, 2), tokenizer)[2].sum() == 0


@pytest.mark.parametrize(("stride", "size"), [(2, 80), (1, 61)])
def test_the_centre_of_a_cell_is_the_middle_of_the_pixels_that_reach_it(stride: Any, size: int) -> None:
    """Without normalisation, which would let every pixel reach every cell."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.encoder = CNN(CNNConfig(widths=(8, 8, 8), stride=stride, norm="batch"))
    for norm in model.encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(norm.weight)
    centres = find_cell_centres(model, size)
    picture = torch.rand(1, 3, size, size, requires_grad=True)
    grid = model.encoder(picture)
    row, column = 4, 5  # so far from the border that no pixel is missing
    grid.vectors[0, row * grid.width + column].sum().backward()
    assert picture.grad is not None
    _, rows, columns = picture.grad[0].nonzero(as_tuple=True)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(centres.rows[row] * size)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(centres.columns[column] * size)
    assert len(centres.rows) == grid.height


@pytest.mark.parametrize("kind", ["word", "char", "bpe"])
def test_supervised_attention_gets_targets_of_changed_pictures(kind: str, tmp_path: Path) -> None:
    recipe = caption_shapes_recipe(
        tokens={"kind": kind, "vocab": 60},
        batch={"max_length": 90},
        augment={"crop": 1, "flip": True},
        objective={"supervise": 1.0},
        train={"steps": 1},
    )
    task = find_task("caption")
    data = task.read_data(recipe, NoProgress())
    parsed = task.parse_files(task.learn_files(recipe, data, {}), tmp_path)
    training = task.build_training(recipe, data, parsed, NoProgress())
    (batch,) = training.batches.window(0, 0, 0, 1)
    targets: Any = batch.attention_targets
    assert targets.shape == (8, batch.target.shape[1] - 1, 64)
    sums = targets.sum(-1)
    assert ((sums - 1).abs().minimum(sums.abs()) < 1e-5).all()
    assert (sums > 0).any(1).all()
    assert (sums[~batch.target_keep[:, 1:]] == 0).all()
    assert training.objective.train()(batch).metrics["supervision"] > 0
