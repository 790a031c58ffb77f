"""Training from another run's weights: what is copied, what is refused, and exact resume without that run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import qkv
import tiny
from qkv.errors import BadData, BadRecipe, BadRun
from qkv.train import STATE
from tiny_text import classify_recipe, fill_recipe, labelled_file, language_recipe, text_file

FEW = {"steps": 2, "warmup": 0, "validate_every": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    positions = {"positions": "learned", "max_length": 32}
    recipes = {
        "lm": language_recipe(folder, train=FEW),
        "mlm": fill_recipe(folder, train=FEW, model=positions),
        "labels": classify_recipe(folder, train=FEW, model=positions),
    }
    for name, recipe in recipes.items():
        qkv.fit(recipe, folder / name, quiet=True)
    (folder / "translator").mkdir()
    small = {"steps": 2, "lr": 0.02, "precision": "32", "threads": 1}
    model = {"kind": "transformer", "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    recipe = tiny.recipe_in(folder / "translator", train=small, model=model)
    qkv.fit(recipe, folder / "translator/run", quiet=True)
    return {**{name: folder / name for name in recipes}, "translator": folder / "translator/run"}


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def first_weights(
    recipe: Any, run: Path, initial: Path | None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """The weights of the first state of a training, before any update."""

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qkv.train.loop.TrainingLoop.train", stopped)
        with pytest.raises(KeyboardInterrupt):
            qkv.fit(recipe, run, initial=initial, quiet=True)
    state = torch.load(run / STATE, weights_only=True)["weights"]
    return {name.removeprefix("model."): value for name, value in state.items()}


def record_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "initial.json").read_text())


def test_a_classifier_takes_the_encoder_of_a_masked_language_model(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"positions": "learned", "max_length": 40}
    recipe = classify_recipe(tmp_path, model=model)
    weights = first_weights(recipe, tmp_path / "run", runs["mlm"], monkeypatch)
    before = weights_of(runs["mlm"])
    outcome = record_of(tmp_path / "run")["outcome"]
    assert outcome["resized"] == {
        "encoder.embedding.weight": [
            len(before["encoder.embedding.weight"]),
            len(weights["encoder.embedding.weight"]),
        ],
        "encoder.positions.table": [32, 40],
    }
    assert set(outcome["new"]) == {"output.weight", "output.bias"}
    assert set(outcome["unused"]) == {
        *(
            "transform.weight",
            "transform.bias",
            "transform_norm.weight",
            "transform_norm.bias",
            "output.bias",
        ),
    }
    assert all(torch.equal(weights[name], before[name]) for name in outcome["loaded"])
    assert {"encoder.norm.weight", "encoder.layers.0.attention.to_q.weight"} <= outcome["loaded"].keys()
    assert torch.equal(weights["encoder.positions.table"][:32], before["encoder.positions.table"])
    rows = len(weights["encoder.embedding.weight"])  # [MASK] has the last row
    assert torch.equal(weights["encoder.embedding.weight"], before["encoder.embedding.weight"][:rows])
    assert (tmp_path / "run/tokenizer.json").read_bytes() == (runs["mlm"] / "tokenizer.json").read_bytes()
    assert set(outcome["loaded"]) | set(outcome["resized"]) | set(outcome["new"]) == set(weights)


@pytest.mark.parametrize("name", ["lm", "mlm"])
def test_a_run_of_the_same_task_gives_all_weights(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make = {"lm": language_recipe, "mlm": fill_recipe}[name]
    recipe = make(
        tmp_path, **({"model": {"positions": "learned", "max_length": 32}} if name == "mlm" else {})
    )
    weights, before = first_weights(recipe, tmp_path / "run", runs[name], monkeypatch), weights_of(runs[name])
    outcome = record_of(tmp_path / "run")["outcome"]
    assert not outcome["new"]
    assert not outcome["unused"]
    assert all(torch.equal(weights[name], value) for name, value in before.items())


@pytest.mark.parametrize("kernel", ["rfa", "favor", "elu"])
def test_another_attention_keeps_the_projections(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    options = {"rfa": {"features": 8, "gate": True}, "favor": {"features": 8}, "elu": {}}[kernel]
    recipe = language_recipe(tmp_path, model={"attention": {"kernel": {"name": kernel, **options}}})
    weights, before = first_weights(recipe, tmp_path / "run", runs["lm"], monkeypatch), weights_of(runs["lm"])
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    new = set(record_of(tmp_path / "run")["outcome"]["new"])
    assert new == set(weights) - set(before) - {"output.weight"}
    fresh = first_weights(recipe, tmp_path / "fresh", None, monkeypatch)
    assert bool(new) == (kernel != "elu")
    assert all(torch.equal(weights[name], fresh[name]) for name in new)


def test_classes_with_other_names_get_an_output_layer_of_their_own(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = classify_recipe(tmp_path, model={"positions": "learned", "max_length": 32})
    first_weights(recipe, tmp_path / "same", runs["labels"], monkeypatch)
    assert not record_of(tmp_path / "same")["outcome"]["new"]
    file = Path(labelled_file(tmp_path))
    file.write_text(file.read_text().replace('"label": 1', '"label": 7'))
    first_weights(recipe, tmp_path / "other", runs["labels"], monkeypatch)
    assert set(record_of(tmp_path / "other")["outcome"]["new"]) == {"output.weight", "output.bias"}


def test_a_translator_takes_another_attention(runs: dict[str, Path], tmp_path: Path) -> None:
    recipe = runs["translator"].parent / "tiny.yaml"
    changes = ["model.cross={kernel: {name: rfa, features: 8}}", "train.steps=4"]
    qkv.fit(recipe, tmp_path / "run", changes=changes, initial=runs["translator"], quiet=True)
    outcome = record_of(tmp_path / "run")["outcome"]
    assert {name.partition(".core.")[0] for name in outcome["new"]} == {"decoder.0.cross"}
    assert not outcome["unused"]
    assert isinstance(qkv.load(tmp_path / "run").translate("one two"), str)


def test_the_tokens_come_from_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    raw = language_recipe(tmp_path).model_dump(mode="json", include={"task", "data", "batch", "model"})
    text = json.dumps({**raw, "train": FEW})
    path.write_text(text)
    qkv.fit(path, tmp_path / "run", initial=runs["lm"], quiet=True)
    assert qkv.load(tmp_path / "run").recipe.tokens == qkv.load(runs["lm"]).recipe.tokens
    # resuming completes the recipe in the same way
    qkv.fit(path, tmp_path / "run", changes=["train.steps=4"], resume=True, quiet=True)


def test_what_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    def refusal(recipe: Any, initial: Path) -> str:
        with pytest.raises((BadRecipe, BadRun)) as caught:
            qkv.fit(recipe, tmp_path / "run", initial=initial, quiet=True)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    lm, mlm = language_recipe(tmp_path), fill_recipe(tmp_path)
    assert "a run of the task 'fill', and its model has no weights for the task 'generate'" in refusal(
        lm, runs["mlm"]
    )
    assert "there is no run directory" in refusal(lm, tmp_path / "none")
    other = language_recipe(tmp_path, tokens={"kind": "word"})
    assert "tokens.kind is 'word', but" in refusal(other, runs["lm"])
    other = fill_recipe(tmp_path, tokens={"kind": "word", "vocab": 60})
    assert "tokens.vocab is 60, but" in refusal(other, runs["mlm"])
    half = shutil.copytree(runs["mlm"], tmp_path / "half")
    (half / "model.safetensors").unlink()
    assert "is not a finished run (model.safetensors is missing): finish it with" in refusal(mlm, half)
    wide = language_recipe(tmp_path, model={"width": 24, "feedforward": 20, "max_length": 48})
    assert "fits this model (model.feedforward: 16 there, 20 here" in refusal(wide, runs["lm"])
    whole = fill_recipe(tmp_path, tokens={"kind": "bpe"}, objective={"whole_words": True})
    raw = whole.model_copy(update={"tokens": type(whole.tokens)()})
    assert "objective.whole_words needs tokens.kind: bpe" in refusal(raw, runs["mlm"])


@pytest.mark.parametrize("writes", [1, 6])
def test_resuming_needs_neither_the_run_nor_its_name(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    model = {"positions": "learned", "max_length": 40}
    recipe = classify_recipe(tmp_path, model=model, train={"steps": 8, "validate_every": 4, "log_every": 2})
    initial = shutil.copytree(runs["mlm"], tmp_path / "mlm")
    qkv.fit(recipe, tmp_path / "whole", initial=initial, quiet=True)
    with monkeypatch.context() as patch:
        tiny.full_after(patch, writes)
        with pytest.raises(BadRun, match="No space left"):
            qkv.fit(recipe, tmp_path / "parts", initial=initial, quiet=True)
    if (tmp_path / "parts" / STATE).exists():
        shutil.rmtree(initial)
        qkv.fit(recipe, tmp_path / "parts", resume=True, quiet=True)
    else:
        qkv.fit(recipe, tmp_path / "parts", initial=initial, quiet=True)
    whole, parts = (torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", "parts"))
    assert parts["origin"] == whole["origin"]
    assert all(torch.equal(parts["weights"][name], value) for name, value in whole["weights"].items())
    names = ("tokenizer.json", "labels.json", "recipe.yaml", "initial.json", "model.safetensors")
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_resuming_from_another_run_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, train=FEW)
    longer = language_recipe(tmp_path, train={**FEW, "steps": 4})
    initial = shutil.copytree(runs["lm"], tmp_path / "lm")
    qkv.fit(recipe, tmp_path / "run", initial=initial, quiet=True)
    other = language_recipe(tmp_path, train={**FEW, "seed": 2})
    qkv.fit(other, tmp_path / "random", quiet=True)
    with pytest.raises(BadRun, match=r"was started from .*lm, not from the weights that .*random has"):
        qkv.fit(longer, tmp_path / "run", initial=tmp_path / "random", resume=True, quiet=True)
    with pytest.raises(BadRun, match="was started from random weights, not from"):
        qkv.fit(other, tmp_path / "random", initial=initial, resume=True, quiet=True)
    moved = initial.rename(tmp_path / "moved")
    qkv.fit(longer, tmp_path / "run", initial=moved, resume=True, quiet=True)
    shutil.rmtree(moved)
    with pytest.raises(BadRun, match=r"not from the weights that .*moved has"):
        qkv.fit(longer, tmp_path / "run", initial=moved, resume=True, quiet=True)
    qkv.fit(longer, tmp_path / "run", initial=initial, resume=True, quiet=True)


def test_frozen_weights_are_those_of_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    freeze = {"freeze": ("encoder.*",), "weight_decay": 0.1}
    recipe = classify_recipe(tmp_path, model={"positions": "learned", "max_length": 32}, train=freeze)
    qkv.fit(recipe, tmp_path / "run", initial=runs["labels"], quiet=True)
    before, weights = weights_of(runs["labels"]), weights_of(tmp_path / "run")
    same = {name for name, value in before.items() if torch.equal(value, weights[name])}
    assert same == {name for name in before if name.startswith("encoder.")}


def test_the_vocabulary_stays_where_the_text_is_another(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = language_recipe(tmp_path, train=FEW)
    text = Path(text_file(tmp_path))
    text.write_text("zoë sees bob .\n" * 100)
    qkv.fit(recipe, tmp_path / "run", initial=runs["lm"])
    shown = capsys.readouterr().err
    share = "18.18%"  # z and ë of eleven letters
    assert f"{share} of the tokens of the training text are unknown to {runs['lm']}" in shown
    text.write_text("ζωή\n" * 100)
    with pytest.raises(BadData, match="100% of the tokens of the training text are unknown"):
        qkv.fit(recipe, tmp_path / "greek", initial=runs["lm"], quiet=True)
    assert not (tmp_path / "greek").exists()
    assert (tmp_path / "run/tokenizer.json").read_bytes() == (runs["lm"] / "tokenizer.json").read_bytes()
