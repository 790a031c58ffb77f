"""Captions of pictures, and the random changes of training pictures."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkv.data.batching import BatchConfig, BatchPlan, Dataset
from qkv.data.pictures import (
    AugmentationConfig,
    AugmentedPlan,
    CaptionConfig,
    PictureBatch,
    PictureConfig,
    augment_pictures,
    load_captioned_pictures,
    match_captions,
    read_captions,
)
from qkv.errors import BadData
from qkv.progress import NoProgress
from tiny_pictures import encode, noise, write_zip

EXPECTED = {"a.jpg": ["a dog", "one dog ."], "x/b.jpg": ["a cat"]}
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "x/b.jpg"}],
    "annotations": [
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 9, "caption": " a  cat\n"},
        {"image_id": 7, "caption": "one dog ."},
    ],
}
ROWS = '{"image": "a.jpg", "captions": ["a dog", "one dog ."]}\n{"image": "x/b.jpg", "captions": "a cat"}\n'


def write(folder: Path, name: str, content: str | bytes, **config: Any) -> CaptionConfig:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return CaptionConfig(file=str(path), **config)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", ROWS),
        ("c.jsonl.gz", gzip.compress(ROWS.encode(), mtime=0)),
        ("c.tsv", "a.jpg\ta dog\tone dog .\nx/b.jpg\ta cat\n"),
        ("c.tsv", "a.jpg#0\ta dog\na.jpg#1\tone dog .\n\nx/b.jpg#0\ta cat\n"),
        ("c.csv", 'image,caption\na.jpg,a dog\nx/b.jpg,"a\ncat"\na.jpg,one dog .\n'),
        ("c.json", json.dumps(COCO)),
        ("c.json.gz", gzip.compress(json.dumps(COCO).encode(), mtime=0)),
    ],
)
def test_formats(name: str, content: str | bytes, tmp_path: Path) -> None:
    assert read_captions(write(tmp_path, name, content)) == EXPECTED


def test_keys_of_rows(tmp_path: Path) -> None:
    row = '{"file": "a.jpg", "text": "a dog"}\n'
    config = write(tmp_path, "c.txt", row, format="jsonl", picture_key="file", caption_key="text")
    assert read_captions(config) == {"a.jpg": ["a dog"]}


def test_a_coco_file_is_one_long_line(tmp_path: Path) -> None:
    rows = [{"image_id": 7, "caption": "word " * 100} for _ in range(1000)]
    captions = read_captions(write(tmp_path, "c.json", json.dumps({**COCO, "annotations": rows})))
    assert len(captions["a.jpg"]) == 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", ROWS, "set `format` beside it in the recipe to jsonl, tsv, csv or coco"),
        ("c.jsonl", "", "has no captions"),
        ("c.jsonl", "a dog\n", "line 1: .* is not JSON"),
        (
            "c.jsonl",
            '{"image": "a.jpg"}\n',
            "line 1: no 'captions', only 'image': set `caption_key` beside the file",
        ),
        ("c.jsonl", '{"captions": ["a"]}\n', "line 1: no 'image', only 'captions': set `picture_key`"),
        ("c.jsonl", "{}\n", "line 1: no 'image', only an empty object"),
        ("c.jsonl", '{"image": 3, "captions": ["a"]}\n', "got 3 and 'a'"),
        ("c.jsonl", '{"image": "a", "captions": ["a", " "]}\n', "got 'a' and ' '"),
        ("c.jsonl", '{"image": "a", "captions": []}\n', r"got 'a' and \[\]"),
        ("c.jsonl", '{"image": "a", "captions": "\\ud800"}\n', "half of a surrogate pair"),
        ("c.tsv", "a.jpg\n", "row 1: expected the name of a picture and a caption, got 'a.jpg' and ''"),
        ("c.tsv", "a.jpg\t" + "a" * 1_100_000 + "\n", "line 1: longer than 250,000 characters"),
        ("c.csv", 'a.jpg,"' + "a" * 200_000, "line 1: not CSV"),
        ("c.csv", 'b.jpg,a\na.jpg,"a', "line 2: not CSV"),
        ("c.json", "[]", "not in the form of COCO's captions"),
        ("c.json", '{"images": [{"id": 1}]}', "not in the form of COCO's captions"),
        ("c.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}', "unknown image_id 1"),
        ("c.json", b"\xff", "not in the form of COCO's captions"),
        ("c.json.gz", gzip.compress(json.dumps(COCO).encode(), mtime=0)[:-9], "truncated or damaged"),
    ],
)
def test_bad_files(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message):
        read_captions(write(tmp_path, name, content))


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("c.json", "c.jsonl"):
        with pytest.raises(BadData, match="no such file"):
            read_captions(CaptionConfig(file=str(tmp_path / name)))


def test_captions_find_their_pictures_by_path_or_by_name() -> None:
    config = CaptionConfig(file="c.jsonl")
    matched = match_captions(EXPECTED, ["x/b.jpg", "train/a.jpg"], config)
    assert matched.captions == {"train/a.jpg": EXPECTED["a.jpg"], "x/b.jpg": EXPECTED["x/b.jpg"]}
    assert list(matched.captions) == ["train/a.jpg", "x/b.jpg"]
    assert matched.notes == []
    with pytest.raises(BadData, match=r"'a.jpg' may be x/a.jpg, y/a.jpg: write the path of the picture"):
        match_captions({"a.jpg": ["a"]}, ["x/a.jpg", "y/a.jpg"], config)


def test_what_has_no_partner_is_named_counted_refused_or_skipped() -> None:
    captions = {**EXPECTED, **{f"z{i}.jpg": ["a"] for i in range(5)}}
    pictures = ["a.jpg", "x/b.jpg", "c.jpg"]
    missing = "captions of 5 pictures that are missing: z0.jpg, z1.jpg, z2.jpg and 2 more"
    without = "1 picture without a caption: c.jpg"
    with pytest.raises(BadData, match=f"{missing}; {without}; .*`unmatched: skip` beside it"):
        match_captions(captions, pictures, CaptionConfig(file="c.jsonl"))
    skip = CaptionConfig(file="c.jsonl", unmatched="skip")
    matched = match_captions(captions, pictures, skip)
    assert matched.captions == EXPECTED
    assert matched.notes == [missing, without]
    with pytest.raises(BadData, match="no caption has a picture"):
        match_captions({"z.jpg": ["a"]}, pictures, skip)


def test_captioned_pictures_are_those_with_captions(tmp_path: Path) -> None:
    files = {name: encode(noise(i)) for i, name in enumerate(("a.jpg", "x/b.jpg", "c.jpg"))}
    source = write_zip(tmp_path / "x.zip", {**files, "d.jpg": b""})
    captions = write(tmp_path, "c.jsonl", ROWS, unmatched="skip")
    loaded = load_captioned_pictures(source, captions, PictureConfig(size=8), NoProgress())
    assert loaded.names == ["a.jpg", "x/b.jpg"]
    assert loaded.captions == list(EXPECTED.values())
    assert loaded.pixels.shape == (2, 8, 8, 3)
    assert loaded.notes[1:] == ["2 pictures without a caption: c.jpg, d.jpg"]
    with_bad = ROWS + '{"image": "d.jpg", "captions": ["nothing"]}\n'
    captions = write(tmp_path, "d.jsonl", with_bad, unmatched="skip")
    with pytest.raises(BadData, match=r"1 of 3 pictures cannot be used: d.jpg \(0 bytes\)"):
        load_captioned_pictures(source, captions, PictureConfig(size=8), NoProgress())
    config = PictureConfig(size=8, unusable="skip")
    assert load_captioned_pictures(source, captions, config, NoProgress()).names == ["a.jpg", "x/b.jpg"]


# --- random changes ---------------------------------------------------------------------------------------


def make_plan(count: int = 24, **changes: Any) -> tuple[torch.Tensor, AugmentedPlan]:
    pixels = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (count, 3, 8, 8)).astype(np.uint8))

    def collate(rows: Any) -> PictureBatch:
        numbers = torch.tensor([int(row) for row in rows])
        return PictureBatch(pixels[numbers], numbers % 2, numbers)

    dataset = Dataset([np.arange(count)], collate, positions=np.ones(count, np.int64), row_name="picture")
    plan = BatchPlan(dataset, BatchConfig(batch_tokens=8), seed=3)
    return pixels, AugmentedPlan(plan, AugmentationConfig(**changes), seed=3)


def test_changes_depend_on_seed_update_and_row_alone() -> None:
    _, plan = make_plan(crop=2, flip=True)
    _, again = make_plan(crop=2, flip=True)
    [batch] = plan.window(1, 2, 0, 1)
    torch.testing.assert_close(again.window(1, 2, 0, 1)[0], batch)
    for rank in range(2):
        [part] = plan.window(1, 2, rank, 2)
        torch.testing.assert_close(part.pictures, batch.pictures[rank::2])
    [other] = plan.window(0, 2, 0, 1)
    same = [row for row in batch.rows.tolist() if row in other.rows.tolist()]
    positions = [(batch.rows.tolist().index(row), other.rows.tolist().index(row)) for row in same]
    assert any(not torch.equal(batch.pictures[i], other.pictures[j]) for i, j in positions)


def test_without_changes_the_pictures_stay_as_they_are() -> None:
    pixels, plan = make_plan()
    [batch] = plan.window(0, 0, 0, 1)
    assert torch.equal(batch.pictures, pixels[batch.rows])


def test_a_picture_is_moved_within_the_crop_and_mirrored_only_where_asked() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(1, 3, 8, 8)
    keys = [(0, 0, 0, row) for row in range(200)]
    moved = augment_pictures(ramp.expand(200, -1, -1, -1), AugmentationConfig(crop=2), keys)
    assert set(moved[:, 0, 0, 0].tolist()) == {0, 1, 2}
    assert set(moved[:, 0, 0, 4].tolist()) == {2, 3, 4, 5, 6}
    assert (moved.diff(dim=3) >= 0).all()
    flipped = augment_pictures(ramp.expand(200, -1, -1, -1), AugmentationConfig(flip=True), keys)
    mirrored = (flipped[:, 0, 0, 0] == 7).sum()
    assert 70 < mirrored < 130
    assert torch.equal(flipped[flipped[:, 0, 0, 0] == 7][0], ramp[0].flip(2))
