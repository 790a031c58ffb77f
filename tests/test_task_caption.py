"""The task `caption`: training, captions, scores, traces, exact resume, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import qkv
import tiny
from qkv.data.byte_tokens import ByteTokenizer
from qkv.data.pictures.augmentation import AugmentationConfig, PictureChange, draw_picture_change
from qkv.data.pictures.boxes import make_even_centres
from qkv.data.pictures.grids import read_grids
from qkv.decode import SearchConfig
from qkv.errors import QKVError
from qkv.model.vision import CNN, CNNConfig
from qkv.progress import NoProgress
from qkv.symbols import EOS
from qkv.task.caption.batches import draw_change_of_caption
from qkv.task.caption.examples import NamedObjects, read_splits, stack_inputs
from qkv.task.caption.grounding import find_cell_centres, make_attention_targets, name_objects_of_tokens
from qkv.task.caption.recipe import CaptionAugmentationConfig
from qkv.task.caption.strips import draw_strips
from qkv.task.recipe import parse_recipe
from qkv.task.registry import find_task
from tiny_pictures import (
    caption_files,
    caption_recipe,
    caption_shapes_recipe,
    encode,
    gan_recipe,
    noise,
    picture_recipe,
    write_captions,
    write_folder,
    write_zip,
)
from tiny_text import merged

PATCHES = {
    "kind": "patches",
    "patch": 4,
    "layers": 1,
    "width": 8,
    "heads": 2,
    "feedforward": 8,
    "dropout": 0.0,
}
TRANSFORMER = {
    "kind": "transformer",
    "encoder": PATCHES,
    "layers": 1,
    "width": 8,
    "heads": 2,
    "feedforward": 8,
    "dropout": 0.1,
    # of the other kind
    "embedding": None,
    "hidden": None,
}
HARD = {"attention": {"score": "additive", "select": {"name": "hard"}}}
LEARN = {"steps": 80, "lr": 0.02, "validate_every": 40}


def recipe_in(folder: Path, model: Any = None, **sections: Any) -> Any:
    """The tiny recipe with another model; keys of the other kind of model are left out."""
    if model is not None and model.get("kind") == "transformer":
        base = caption_recipe(folder, **sections)
        changed = {key: value for key, value in model.items() if value is not None}
        raw = {**base.model_dump(mode="json"), "model": changed}
        return parse_recipe(raw, "the recipe")
    return caption_recipe(folder, **sections, **({"model": model} if model else {}))


def fit(recipe: Any, run: Path, **options: Any) -> Any:
    return qkv.fit(recipe, run, quiet=True, **options)


def states(*runs: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(run / "training/state.pt", weights_only=True)["weights"] for run in runs]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caption")
    fit(caption_recipe(folder, train=LEARN), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    fit(caption_shapes_recipe(), folder / "run")
    return folder / "run"


def test_pictures_get_the_captions_of_their_kind(run: Path, tmp_path: Path) -> None:
    captioner = qkv.load(run)
    paths = []
    for name, level in (("bright", 200), ("dark", 60)):
        paths.append(tmp_path / f"{name}.png")
        paths[-1].write_bytes(encode(noise(5, (9, 14), level)))
    assert captioner.caption(paths[0]) in ("a bright picture", "it is bright .")
    bright, dark = captioner.caption(paths)
    assert (("bright" in bright), ("dark" in dark)) == (True, True)
    assert captioner.caption([]) == []
    pixels = np.full((8, 8, 3), 60, np.uint8)
    assert captioner.caption(pixels) == captioner.caption([pixels])[0]
    (best,) = captioner.n_best(paths[0], n=3)
    assert len(best) == 3
    assert sorted((one.score for one in best), reverse=True) == [one.score for one in best]
    for bad, message in (
        (np.zeros((9, 8, 3), np.uint8), r"are uint8 \[8, 8, 3\], got uint8 \[9, 8, 3\]"),
        (pixels.astype(np.float32), "got float32"),
        (tmp_path / "c.png", "cannot be read"),
        (Path(__file__), "cannot be used: not a picture"),
    ):
        with pytest.raises(QKVError, match=message):
            captioner.caption(bad)
    with pytest.raises(QKVError, match="3 answers need a beam of at least 3, got 2"):
        next(captioner.n_best(pixels, beam=2, n=3))


def test_scores_are_those_of_the_held_out_pictures(run: Path) -> None:
    scores = qkv.load(run).evaluate(beam=1)
    assert set(scores) == {"bleu1", "bleu2", "bleu3", "bleu4", "cider", "rouge_l"}
    assert scores["bleu1"] == pytest.approx(100)
    assert scores["rouge_l"] == pytest.approx(100)


def test_scores_of_generated_shapes_have_exact_match_and_pointing(shapes: Path) -> None:
    scores = qkv.load(shapes).evaluate()
    assert {"exact", "pointing", "attention_mass", "pointing_chance"} < set(scores)
    assert 0 < scores["pointing_chance"] < 50
    assert 0 <= scores["pointing"] <= 100


@pytest.mark.parametrize("kind", ["shapes", "files"])
def test_a_batch_is_captioned_like_its_pictures_one_by_one(kind: str, request: Any) -> None:
    captioner = qkv.load(request.getfixturevalue("shapes" if kind == "shapes" else "run"))
    data = read_splits(captioner.recipe.data, 1, NoProgress()).train
    inputs = stack_inputs([data.get_pixels(place) for place in range(7)])
    captioner.model.double()
    config = SearchConfig(beam=3, n_best=2)
    for row, together in enumerate(captioner.search(inputs, config, capture=True)):
        (alone,) = captioner.search(inputs[row : row + 1], config, capture=True)
        assert [h.tokens for h in together] == [h.tokens for h in alone]
        assert [h.score for h in together] == pytest.approx([h.score for h in alone], abs=1e-6)
        for one, other in zip(together[0].weights["cross.0"], alone[0].weights["cross.0"], strict=True):
            torch.testing.assert_close(one, other)


def test_a_trace_has_words_over_the_cells_of_the_picture(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise(99, (8, 8), 60)))
    trace = qkv.load(run).trace(path)
    example = trace.examples[0]
    words = example.named_axes["caption"]
    assert "".join(words[:-1]).strip() == example.meta["text"].replace(" ", "")
    assert words[-1] == "</s>"
    assert example.weights["cross.0"].shape == (1, len(words), 16)
    grid = example.named_axes["picture 4×4"]
    assert (grid.height, grid.width, grid.picture) == (4, 4, str(path))
    assert set(example.named_axes) == {"caption", "picture 4×4"}
    trace.save(tmp_path / "trace.npz")
    assert qkv.trace.Trace.load(tmp_path / "trace.npz").kind == "captioning"
    fit(recipe_in(tmp_path, model=TRANSFORMER, train={"steps": 1}), tmp_path / "run")
    example = qkv.load(tmp_path / "run").trace(path).examples[0]
    words = example.named_axes["caption"]
    assert example.weights["cross.0"].shape == (2, len(words), 4)
    assert example.weights["decoder.0"].shape == (2, len(words), len(words))
    assert example.weights["encoder.layer.0"].shape == (2, 4, 4)
    assert set(example.named_axes) == {"caption", "caption so far", "picture 2×2"}
    fit(recipe_in(tmp_path, model={"attention": None}, train={"steps": 1}), tmp_path / "mean")
    with pytest.raises(QKVError, match="no attention to trace"):
        qkv.load(tmp_path / "mean").trace(path)


@pytest.mark.parametrize("model", [{}, HARD, TRANSFORMER], ids=["soft", "hard", "transformer"])
def test_resuming_ends_with_the_same_weights(model: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, model=model, train={"steps": 12, "validate_every": 5})
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 7})})
    fit(recipe, tmp_path / "whole")
    fit(stopped, tmp_path / "parts")
    fit(recipe, tmp_path / "parts", resume=True)
    whole, parts = states(tmp_path / "whole", tmp_path / "parts")
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_other_captions_and_another_decoding_are_not_resumed(tmp_path: Path) -> None:
    recipe = caption_recipe(tmp_path, train={"steps": 2}, validation={"monitor": "cider"})
    fit(recipe, tmp_path / "run")
    for section, message in (
        ({"validation": {"monitor": "cider", "decode": 3}}, "another validation.decode"),
        ({"augment": {"crop": 0}}, "another augment"),
        ({"objective": {"coverage": 0.1}}, "another objective"),
    ):
        other = caption_recipe(
            tmp_path, train={"steps": 3}, **{"validation": {"monitor": "cider"}, **section}
        )
        with pytest.raises(QKVError, match=message):
            fit(other, tmp_path / "run", resume=True)
    _, rows = caption_files()
    rows[0]["captions"] = ["something else"]
    write_captions(tmp_path / "captions.jsonl", rows)
    with pytest.raises(QKVError, match="has other pictures, or its pictures in another order"):
        fit(recipe, tmp_path / "run", resume=True)
    shapes = caption_shapes_recipe(train={"steps": 1})
    fit(shapes, tmp_path / "shapes")
    with pytest.raises(QKVError, match=r"another data.shapes"):
        fit(caption_shapes_recipe(data={"shapes": {"seed": 1}}), tmp_path / "shapes", resume=True)


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
    with pytest.raises(QKVError, match=r"a grid of 4 cells|needs more positions|scope"):
        recipe_in(
            tmp_path, model={"attention": {"scope": {"name": "neighbourhood", "height": 2, "width": 2}}}
        )


def test_bad_pictures_and_captions_end_a_training_before_it_starts(tmp_path: Path) -> None:
    files, rows = caption_files()
    cut = dict(files)
    cut["bright-000.png"] = cut["bright-000.png"][:100]
    twice = {**files, "x/a.png": encode(noise(1)), "y/a.png": encode(noise(2))}
    blank = [{"image": row["image"], "captions": ["  "]} for row in rows]
    cases: list[tuple[dict[str, bytes], Any, str]] = [
        (files, [*rows, {"image": "x.png", "captions": ["no"]}], r"captions of 1 pictures that are missing"),
        (files, rows[1:], "1 pictures without a caption: bright-000.png"),
        (cut, rows, "1 of 40 pictures cannot be used: bright-000.png"),
        ({**files, "../a.png": b"x"}, rows, r"a\.png"),
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
    assert (
        "skipped 1 pictures: bright-000.png (0 bytes" in said or "skipped 1 pictures: bright-000.png" in said
    )
    assert "captions of 1 pictures that are missing: none.png" in said
    assert "longer than batch.max_length=6 tokens" in said
    with pytest.raises(QKVError, match=r"every one of \d+ captions is longer than batch.max_length=1"):
        fit(
            recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"max_length": 1})}),
            tmp_path / "x",
        )


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, level in zip(paths, (60, 200), strict=True):
        path.write_bytes(encode(noise(1, (9, 14), level)))
    trace = tmp_path / "trace.npz"
    assert tiny.call("caption", run, *paths, "--trace", trace, "--beam", 2) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines] == [str(path) for path in paths]
    assert "dark" in lines[0][0]
    assert trace.exists()
    strip = tmp_path / "strip.png"
    assert tiny.call("caption", run, *paths, "--png", strip, "--quiet") == 0
    with Image.open(strip) as picture:
        assert picture.width > picture.height > 200
    capsys.readouterr()
    assert tiny.call("caption", run, paths[0], "--n-best", 2) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2
    assert float(rows[0][1]) >= float(rows[1][1])
    assert tiny.call("evaluate", run) == 0
    assert "BLEU-4" in capsys.readouterr().out
    files, rows = caption_files(3)
    folder = write_folder(tmp_path / "test", files)
    captions = write_captions(tmp_path / "test.jsonl", rows)
    assert tiny.call("evaluate", run, "--source", folder, "--target", captions) == 0
    assert "6 pictures\n  BLEU-1" in capsys.readouterr().out
    for arguments, message in (
        (("caption", run, tmp_path / "c.png"), "c.png: cannot be read (No such file or directory)"),
        (("caption", run, *[paths[0]] * 21, "--trace", trace), "pass at most 20 pictures, got 21"),
        (("caption", run, *[paths[0]] * 21, "--png", strip), "--png keeps every weight: pass at most 20"),
        (("caption", run, paths[0], "--png", tmp_path / "strip.gif"), "not as 'strip.gif'"),
        (("caption", run, paths[0], "--beam", 1, "--n-best", 2), "2 answers need a beam of at least 2"),
        (("evaluate", run, "--source", folder), "--source and --target go together"),
        (("classify", run, paths[0]), "use `qkv caption"),
    ):
        assert tiny.call(*arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_a_captioner_starts_from_the_encoder_of_a_classifier_or_from_a_captioner(tmp_path: Path) -> None:
    encoder = {"kind": "cnn", "widths": [4, 8], "groups": 2}
    classifier = picture_recipe(
        tmp_path, model={**encoder, "attention": None, "pool": "mean"}, train={"steps": 2}
    )
    fit(classifier, tmp_path / "classifier")
    few = {"steps": 1, "lr": 1e-9}
    fit(caption_recipe(tmp_path, train=few), tmp_path / "run", initial=tmp_path / "classifier")
    fit(caption_recipe(tmp_path, train=few), tmp_path / "again", initial=tmp_path / "run")
    first, second, third = (qkv.load(tmp_path / name).model for name in ("classifier", "run", "again"))
    for name, value in first.encoder.state_dict().items():
        torch.testing.assert_close(second.encoder.state_dict()[name], value)
    for name, value in second.state_dict().items():
        torch.testing.assert_close(third.state_dict()[name], value)
    fit(gan_recipe(tmp_path, train={"steps": 1}, validation={"samples": 0}), tmp_path / "gan")
    with pytest.raises(QKVError, match="start from a run of 'caption' or 'classify-pictures'"):
        fit(caption_recipe(tmp_path), tmp_path / "x", initial=tmp_path / "gan")


def write_grids(folder: Path, suffix: str = ".npz", count: int = 20) -> str:
    """Grids whose vectors say whether the picture is bright."""
    random, path = np.random.RandomState(0), folder / f"grids{suffix}"
    grids = {
        name: (random.randn(2, 3, 4) / 8 + name.startswith("bright")).astype(np.float32)
        for name in caption_files(count)[0]
    }
    if suffix == ".npz":
        np.savez(path, **grids)  # pyright: ignore[reportArgumentType]
    else:
        save_file(grids, path)
    return str(path)


def grid_recipe(folder: Path, grids: str, **sections: Any) -> Any:
    raw = caption_recipe(folder).model_dump(mode="json")
    changes = {"data": {"train": {"pictures": grids}}, "augment": {"crop": 0, "flip": False}, "train": LEARN}
    raw = {**raw, "model": {**raw["model"], "encoder": {"kind": "grid", "width": 4}}}
    return parse_recipe(merged(merged(raw, changes), sections), "the recipe")


def test_a_caption_without_words_is_a_strip_without_frames(tmp_path: Path) -> None:
    fit(caption_recipe(tmp_path, train={"steps": 1}, decode={"max_length": 1}), tmp_path / "run")
    captioner = qkv.load(tmp_path / "run")
    with torch.no_grad():
        captioner.model.output.bias[EOS] = 1e4
    picture = np.full((8, 8, 3), 60, np.uint8)
    answers = list(captioner.n_best(picture, capture=True))
    assert answers[0][0].text == ""
    draw_strips(captioner, answers, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").exists()
    assert captioner.build_trace(answers).examples[0].named_axes["caption"] == ("</s>",)


def test_grids_from_files_are_captioned_like_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grids(tmp_path)
    fit(grid_recipe(tmp_path, path), tmp_path / "run")
    captioner = qkv.load(tmp_path / "run")
    captions = captioner.caption(path)
    names = sorted(caption_files()[0])
    assert sum(name.partition("-")[0] in text for name, text in zip(names, captions, strict=True)) >= 38
    assert captioner.evaluate(beam=1)["bleu1"] > 60
    with np.load(path) as grids:
        assert captioner.caption(grids[names[3]]) == captions[3]
    example = captioner.trace(path).examples[3]
    assert (example.named_axes["picture 2×3"].picture, example.meta["line"]) == (names[3], 4)
    assert tiny.call("caption", tmp_path / "run", path) == 0
    assert capsys.readouterr().out.splitlines()[3] == f"{captions[3]}\t{names[3]}"
    with pytest.raises(QKVError, match=r"floating-point \[rows, columns, 4\], got float64 \[2, 3, 5\]"):
        captioner.caption(np.zeros((2, 3, 5)))
    few = {"steps": 4, "validate_every": 4}
    for name, suffix in (("first", ".npz"), ("second", ".safetensors")):
        fit(grid_recipe(tmp_path, write_grids(tmp_path, suffix), train=few), tmp_path / name)
    first, second = states(tmp_path / "first", tmp_path / "second")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_grids_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_grids(tmp_path)
    for sections, message in (
        ({"data": {"train": {"pictures": "x.zip"}}}, "x.zip does not fit model.encoder of kind grid"),
        ({"augment": {"crop": 1}}, "augment changes pictures, and model.encoder reads grids"),
    ):
        with pytest.raises(QKVError, match=message):
            grid_recipe(tmp_path, path, **sections)
    good = np.zeros((2, 3, 4), np.float32)
    for arrays, message in (
        ({"a": good, "b": good[:1]}, r"b is float32 \[1, 3, 4\], but the first grid is float32 \[2, 3, 4\]"),
        ({"a": good.astype(int)}, r"a: expected a grid .* got int64"),
        ({"a": good, "b": good + np.nan}, "b holds values that are not finite"),
        ({}, "has no grid of these pictures"),
    ):
        np.savez(tmp_path / "bad.npz", **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(QKVError, match=message):
            read_grids(tmp_path / "bad.npz")
    for content in (b"", b"no", (tmp_path / "bad.npz").read_bytes()[:20]):
        for name in ("bad.npz", "bad.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(QKVError, match="cannot be read as grids"):
                read_grids(tmp_path / name)
    with pytest.raises(QKVError, match=r"grids have the shape \[batch, height, width, 5\]"):
        fit(grid_recipe(tmp_path, path, model={"encoder": {"width": 5}}), tmp_path / "run")
