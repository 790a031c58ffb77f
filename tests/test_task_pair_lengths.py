"""A model that holds a fixed number of positions: decoding stops there, and training says so beforehand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qkv
import tiny
from qkv import AttentionSpec
from qkv.data import TokenizerConfig, train_tokenizers
from qkv.decode import SearchConfig
from qkv.errors import BadData
from qkv.model.length_limits import LengthLimit, LengthLimits
from qkv.symbols import EOS
from qkv.task.training import fit
from qkv.task.translate.decoding import decode_ids, limit_output_lengths
from qkv.task.translate.model_building import build_model
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.translator import Translator

SMALL = {"kind": "transformer", "encoder_layers": 1, "decoder_layers": 1, "width": 16, "heads": 2}
SMALL |= {"feedforward": 16, "dropout": 0.0}
LOCATION = {"score": {"name": "location", "length": 9}}
MODELS: dict[str, tuple[dict[str, Any], LengthLimits]] = {
    "learned": (
        {**SMALL, "positions": "learned", "max_length": 9},
        LengthLimits(LengthLimit(9, "model.max_length"), LengthLimit(9, "model.max_length")),
    ),
    "location in the decoder": (
        {**SMALL, "decoder": LOCATION},
        LengthLimits(None, LengthLimit(9, "model.decoder.score.length")),
    ),
    "location across": (
        {**SMALL, "cross": LOCATION},
        LengthLimits(LengthLimit(9, "model.cross.score.length"), None),
    ),
    "location in the encoder, learned": (
        {**SMALL, "encoder": LOCATION, "positions": "learned", "max_length": 12},
        LengthLimits(LengthLimit(9, "model.encoder.score.length"), LengthLimit(12, "model.max_length")),
    ),
    "rnn": (
        {"kind": "rnn", "embedding": 8, "hidden": 8, "attention": LOCATION},
        LengthLimits(LengthLimit(9, "model.attention.score.length"), None),
    ),
    "no limit": (SMALL, LengthLimits(None, None)),
}


def untrained(model: dict[str, Any], **decode: Any) -> Translator:
    told: dict[str, Any] = {"data": {"train": {"file": "none"}}, "model": model}
    recipe = TranslationRecipe(**told, decode=SearchConfig(**decode))
    tokens = train_tokenizers(tiny.pairs_of(40, seed=3), TokenizerConfig(kind="word"))
    return Translator(recipe, tokens, build_model(recipe.model, tokens).eval())


def never_ending(translator: Translator) -> nn.Linear:
    """An output layer that always scores the end symbol last."""
    output = nn.Linear(translator.model.config.width, translator.tokens.target.size)
    nn.init.zeros_(output.bias)
    output.bias.data[EOS] = -1e3
    return output


@pytest.mark.parametrize("name", MODELS)
def test_a_model_knows_what_it_can_hold(name: str) -> None:
    model, capacity = MODELS[name]
    assert untrained(model).model.length_limits == capacity


@pytest.mark.parametrize("options", [{"beam": 1}, {"beam": 3}, {"beam": 2, "max_length": 40}])
@pytest.mark.parametrize("name", ["learned", "location in the decoder", "location in the encoder, learned"])
def test_decoding_stops_at_what_the_model_can_hold(name: str, options: dict[str, Any]) -> None:
    translator = untrained(MODELS[name][0], **options)
    limit = MODELS[name][1].target
    assert limit is not None
    translator.model.output = never_ending(translator)
    lines = ["one two three four", "six"]
    answers = [best[0].hypothesis for best in translator.n_best(lines)]
    assert max(len(h.log_probs) for h in answers if h is not None) == limit.positions
    example = translator.trace(lines).examples[0]
    assert len(example.target) <= limit.positions


def test_a_shorter_limit_of_the_search_still_holds() -> None:
    translator = untrained(MODELS["learned"][0])
    ids = translator.tokens.source.encode(["one two three"])
    [[best]] = decode_ids(translator.model, ids, SearchConfig(beam=1, max_length=3))
    assert len(best.log_probs) <= 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {**SMALL, "positions": "learned", "max_length": 5},
            r"of 300 training pairs have a source longer .* model.max_length is 5, and the longest takes 7 "
            r"positions; raise model.max_length to 7 or more, or set batch.max_length to 4",
        ),
        (
            {**SMALL, "decoder": {"score": {"name": "location", "length": 6}}},
            r"have a target longer .* model.decoder.score.length is 6, and the longest takes 7",
        ),
        (
            {"kind": "rnn", "attention": {"score": {"name": "location", "length": 1}}},
            r"model.attention.score.length is 1, and the longest takes 7 positions; raise \S+ to 7 or more$",
        ),
    ],
)
def test_pairs_beyond_it_are_refused_before_training(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadData, match=message):
        fit(tiny.recipe_in(tmp_path, model=model), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "capacity", "expected"),
    [
        (SearchConfig(), LengthLimits(), [12, 16]),
        (SearchConfig(max_length=6), LengthLimits(), [6, 6]),
        (SearchConfig(), LengthLimits(target=LengthLimit(14, "model.max_length")), [12, 14]),
        (SearchConfig(max_length=20), LengthLimits(target=LengthLimit(14, "model.max_length")), [14, 14]),
    ],
)
def test_translations_are_limited_by_source_config_and_model(
    config: SearchConfig, capacity: LengthLimits, expected: list[int]
) -> None:
    keep = torch.tensor([[True, False, False], [True, True, True]])
    assert limit_output_lengths(keep, config, capacity).tolist() == expected


def test_held_out_pairs_beyond_it_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.recipe_in(tmp_path, model={**SMALL, "positions": "learned", "max_length": 9})
    for side, word in (("en", "one"), ("fr", "un")):
        path = tmp_path / f"valid.{side}"
        path.write_text(path.read_text() + " ".join([word] * 11) + "\n" + " ".join([word] * 13) + "\n")
    result = fit(recipe, tmp_path / "run", changes=["train.steps=2", "validation.decode=20"])
    assert result.scores["bleu"] >= 0
    said = capsys.readouterr().err
    assert "held-out: dropped 1 of 22 pairs: 1 longer than 12 tokens (first: line 22)" in said
    assert "held-out: left out 1 of 21 pairs, longer than the model can hold" in said
    assert qkv.load(tmp_path / "run").evaluate(tiny.pairs_of(5, seed=9)).scores


def test_no_held_out_pair_that_fits_is_refused(tmp_path: Path) -> None:
    recipe = tiny.recipe_in(tmp_path, model={**SMALL, "positions": "learned", "max_length": 9})
    for side, word in (("en", "one"), ("fr", "un")):
        (tmp_path / f"valid.{side}").write_text(" ".join([word] * 11) + "\n")
    with pytest.raises(BadData, match="every held-out pair is longer than the model can hold"):
        fit(recipe, tmp_path / "run", quiet=True)


def test_a_spec_says_which_option_limits_its_keys() -> None:
    assert AttentionSpec(score=qkv.Location(7)).key_limit == (7, "score.length")
    assert AttentionSpec().key_limit is None
    assert AttentionSpec(kernel=qkv.RFA(8)).key_limit is None
