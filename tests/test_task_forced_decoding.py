"""Forced decoding and the effect of leaving source words out, on untrained translators."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from qkv.decode import SearchConfig
from qkv.task.training import fit
from qkv.task.translate.attention_measures import measure_attention
from qkv.task.translate.forced_decoding import measure_occlusion, score_tokens
from qkv.task.translate.translator import Translator
from qkv.train import METRICS
from untrained_translators import MODELS, build_translator


@pytest.fixture(params=MODELS)
def translator(request: pytest.FixtureRequest) -> Translator:
    return build_translator(request.param, decode=SearchConfig(beam=2, max_length=9))


def test_forced_decoding_gives_the_log_probs_of_the_search(translator: Translator) -> None:
    lines = ["one two three", "four"]
    hypotheses = [best[0].hypothesis for best in translator.n_best(lines)]
    ids = [translator.tokens.source.encode([line])[0] for line in lines]
    targets = [hypothesis.tokens for hypothesis in hypotheses if hypothesis]
    scores = score_tokens(translator.model, ids, targets)
    for row, hypothesis in zip(scores, hypotheses, strict=True):
        assert hypothesis is not None
        count = len(hypothesis.log_probs)
        np.testing.assert_allclose(row[:count].numpy(), hypothesis.log_probs, atol=1e-5)
        assert not row[len(hypothesis.tokens) + 1 :].any()


def test_occlusion_is_the_difference_of_two_forced_decodings(translator: Translator) -> None:
    source, target = [4, 5, 6, 7], [5, 6]
    pieces = ["▁one", "▁tw", "o", "▁three"]
    falls = measure_occlusion(translator.model, source, pieces, target, 3)
    assert falls.shape == (1, 3, 5)
    complete = score_tokens(translator.model, [source], [target])[0]
    for word in ([0], [1, 2], [3]):
        shorter = [token for i, token in enumerate(source) if i not in word]
        fall = complete - score_tokens(translator.model, [shorter], [target])[0]
        np.testing.assert_allclose(falls[0, :, word].sum(0), fall.numpy(), atol=1e-5)
    assert not falls[0, :, 4].any()


def test_a_trace_has_the_effects_beside_the_weights(translator: Translator) -> None:
    trace = translator.trace(["one two three"], occlude=True)
    [example] = trace.examples
    assert tuple(example.weight_axes["occlusion.source"])[:2] == ("target", "source")
    assert example.weights["occlusion.source"].any()
    assert "occlusion.source" in trace.unnormalised
    assert "occlusion.source" not in translator.trace(["one two three"]).examples[0].weights


def test_attention_is_measured_for_the_records_of_a_training(translator: Translator) -> None:
    ids = [translator.tokens.source.encode([line])[0] for line in ("one two three", "four")]
    targets = [translator.tokens.target.encode([line])[0] for line in ("un deux trois", "quatre")]
    measures = measure_attention(translator.model, ids, targets)
    layers = {name.rsplit(".", 1)[0] for name in measures}
    assert layers == {f"attention.{name}" for name in translator.model.attention_places()}
    assert all(0 <= value <= (2 if "entropy" in name else 1) for name, value in measures.items())
    assert measure_attention(translator.model, [], []) == {}


def test_a_training_records_the_measures(tmp_path: Path) -> None:
    validation = {"decode": 0, "attention": 2}
    recipe = tiny.recipe_in(tmp_path, validation=validation, train={"epochs": 1})
    fit(recipe, tmp_path / "run", quiet=True)
    records = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    [scores, *_] = [record for record in records if record["kind"] == "validation"]
    assert 0 < scores["attention.cross.0.entropy"] < 3
    assert 0 < scores["attention.cross.0.coverage"] <= 1
