"""The task `caption`: recipes that do not fit, bad pictures, and bad captions."""

from pathlib import Path
from typing import Any

import pytest

import qkv
from caption_cases import PATCHES, TRANSFORMER, recipe_in
from picture_trainings import fit
from qkv.errors import QKVError
from tiny_pictures import (
    caption_files,
    caption_recipe,
    caption_shapes_recipe,
    encode,
    noise,
    write_captions,
    write_zip,
)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"shapes": {}}}, "give either 'train', pictures of your own, or 'shapes', generated ones"),
        (
            {"model": {"encoder": {"kind": "cnn", "widths": [8] * 5}}},
            "pictures of 8 pixels are smaller than 16",
        ),
        (
            {"model": {"attention": {"score": {"name": "location", "length": 3}}}},
            "a grid of 16 cells needs more positions than model.attention",
        ),
        ({"objective": {"supervise": 1.0}}, "needs the boxes of objects, which only data.shapes has"),
        ({"validation": {"monitor": "cider", "decode": 0}}, "needs captions, but validation.decode is 0"),
        ({"batch": {"max_lenght": 3}}, "Did you mean 'max_length'"),
    ],
)
def test_recipes_that_do_not_fit(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=message):
        caption_recipe(tmp_path, **sections)


def test_more_recipes_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=r"augment.flip exchanges left and right"):
        caption_shapes_recipe(augment={"flip": True, "sides": []})
    files = {"pictures": "x", "captions": {"file": "y"}}
    with pytest.raises(QKVError, match=r"'shapes' generates its held-out pictures"):
        caption_shapes_recipe(data={"test": files})
    few = {**TRANSFORMER, "encoder": {**PATCHES, "max_length": 3}}
    with pytest.raises(QKVError, match=r"4 cells needs more positions than model.encoder.max_length=3"):
        recipe_in(tmp_path, model=few)
    with pytest.raises(QKVError, match=r"cannot be split into patches of model.encoder.patch=4"):
        recipe_in(tmp_path, model=TRANSFORMER, data={"pictures": {"size": 10}})
    learned = {**TRANSFORMER, "positions": "learned", "max_length": 6}
    with pytest.raises(QKVError, match=r"batch.max_length=6 and the start symbol need more positions"):
        recipe_in(tmp_path, model=learned)
    with pytest.raises(QKVError, match=r"scope 'neighbourhood' is for queries that are cells of a grid"):
        recipe_in(
            tmp_path,
            model={"attention": {"scope": {"name": "neighbourhood", "height": 2, "width": 2, "radius": 1}}},
        )


def test_bad_pictures_and_captions_end_a_training_before_it_starts(tmp_path: Path) -> None:
    files, rows = caption_files()
    cut = dict(files)
    cut["bright-000.png"] = cut["bright-000.png"][:100]
    twice = {**files, "x/a.png": encode(noise(1)), "y/a.png": encode(noise(2))}
    blank = [{"image": row["image"], "captions": ["  "]} for row in rows]
    cases: list[tuple[dict[str, bytes], Any, str]] = [
        (files, [*rows, {"image": "x.png", "captions": ["no"]}], r"captions of 1 picture that is missing"),
        (files, rows[1:], "1 picture without a caption: bright-000.png"),
        (cut, rows, "1 of 40 pictures cannot be used: bright-000.png"),
        ({**files, "../a.png": b"x"}, rows, r"cannot be used: \.\./a\.png \("),
        (twice, [*rows, {"image": "a.png", "captions": ["c"]}], "may be x/a.png, y/a.png"),
        (files, blank, "expected the name of a picture and a caption"),
        (dict(list(files.items())[:5]), rows[:5], "5 pictures with captions are too few to hold any out"),
    ]
    for number, (pictures, captions, message) in enumerate(cases):
        recipe = caption_recipe(tmp_path)
        write_zip(tmp_path / "captioned.zip", pictures)
        write_captions(tmp_path / "captions.jsonl", captions)
        with pytest.raises(QKVError, match=message) as error:
            fit(recipe, tmp_path / f"run{number}")
        assert "\n" not in str(error.value)
        assert not (tmp_path / f"run{number}" / "training").exists()


def test_bad_pictures_are_skipped_and_long_captions_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, rows = caption_files()
    files["bright-000.png"] = b""
    rows.append({"image": "none.png", "captions": ["nothing"]})
    rows[1]["captions"] = ["one two three four five six seven"]
    recipe = caption_recipe(
        tmp_path,
        data={"train": {"captions": {"unmatched": "skip"}}, "pictures": {"unusable": "skip"}},
        train={"steps": 1},
    )
    write_zip(tmp_path / "captioned.zip", files)
    write_captions(tmp_path / "captions.jsonl", rows)
    qkv.fit(recipe, tmp_path / "run")
    said = capsys.readouterr().err
    assert "skipped 1 picture: bright-000.png" in said
    assert "captions of 1 picture that is missing: none.png" in said
    assert "longer than batch.max_length=6 tokens" in said
    with pytest.raises(QKVError, match=r"every one of \d+ captions is longer than batch.max_length=1"):
        fit(
            recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"max_length": 1})}),
            tmp_path / "x",
        )
