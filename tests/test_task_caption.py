"""The task `caption`: training, captions, scores, traces, exact resume, and the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import qkv
import tiny
from caption_cases import HARD, LEARN, TRANSFORMER, recipe_in
from picture_trainings import check_resumed_weights, fit
from qkv.decode import SearchConfig
from qkv.errors import QKVError
from qkv.progress import NoProgress
from qkv.symbols import EOS
from qkv.task.caption.examples import read_splits, stack_inputs
from qkv.task.caption.strips import draw_strips
from tiny_pictures import (
    caption_files,
    caption_recipe,
    caption_shapes_recipe,
    check_bad_files_are_left_out,
    encode,
    gan_recipe,
    noise,
    picture_recipe,
    write_captions,
    write_folder,
)


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
    assert "bright" in bright
    assert "dark" in dark
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
    check_resumed_weights(recipe, tmp_path)


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


def test_files_that_are_no_pictures_are_left_out_and_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_bad_files_are_left_out("caption", run, tmp_path, capsys)


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
        tmp_path, model={**encoder, "self_attention": None, "pool": "mean"}, train={"steps": 2}
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
