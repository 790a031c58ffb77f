"""The task `generate`: training, exact resume, scores in every mode, continuations and traces."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qkv
import tiny
from qkv.decode.sample import SampleConfig, next_token_probabilities
from qkv.errors import QKVError
from qkv.model.language import LanguageModel, LanguageModelConfig
from qkv.symbols import UNK
from qkv.task.generate.scoring import Total, choose_windows, compute_scores, score_ids
from qkv.task.generate.windows import Windows
from qkv.task.recipe import list_builtin_recipes, parse_recipe, read_recipe
from qkv.task.texts import VocabularyConfig, _split, decode_text, encode_prompt, encode_text, learn_tokenizer
from qkv.trace import Trace
from tiny_text import language_recipe, sentences

MIXERS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "rfa with gate": {"attention": {"kernel": {"name": "rfa", "features": 8, "gate": True}}},
    "gru": {"mixer": "gru"},
    "convolution": {"mixer": "convolution"},
}


@pytest.mark.parametrize("name", MIXERS)
def test_training_learns_and_continues(tmp_path: Path, name: str) -> None:
    recipe = language_recipe(tmp_path, model=MIXERS[name], train={"steps": 250, "validate_every": 250})
    result = qkv.fit(recipe, tmp_path / "run", quiet=True)
    assert result.scores["nll"] < 1.9  # a table of letter frequencies has 2.6
    assert result.scores["bits_per_byte"] == pytest.approx(result.scores["nll"] / math.log(2))
    run = qkv.load(tmp_path / "run")
    text = run.generate("", length=60, temperature=0.2)
    assert text == run.generate("", length=60, temperature=0.2)
    assert len(text) == 60


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe"])
def test_text_becomes_tokens_and_text_again(tmp_path: Path, kind: str) -> None:
    recipe = language_recipe(tmp_path, tokens={"kind": kind, "vocab": 60})
    lines = sentences(200)
    tokenizer = learn_tokenizer(lines, recipe.tokens)
    text = encode_text(lines, tokenizer)
    assert decode_text(text.ids.tolist(), tokenizer) == "\n".join(lines) + "\n"
    assert text.bytes == len("\n".join(lines)) + 1
    assert text.words == 4 * len(lines) + len(lines)
    assert (
        encode_prompt("\n".join(lines[:2]), tokenizer)[1:]
        == text.ids.tolist()[: len(encode_prompt("\n".join(lines[:2]), tokenizer)) - 1]
    )


def test_words_are_counted_as_published_word_level_scores_count_them() -> None:
    lines = [" = A title = ", " ", " the <unk> of 3 @.@ 5 is <unk> . "]
    words = 4 + 0 + 9 + len(lines)  # a line end each; <unk> is a word
    tokenizer = learn_tokenizer(lines, VocabularyConfig(kind="word"))
    text = encode_text(lines, tokenizer)
    assert text.words == len(text.ids) == words
    assert UNK not in text.ids
    for kind in ("bpe", "word"):
        tokenizer = learn_tokenizer(lines * 9, VocabularyConfig(kind=kind, vocab=60))
        text = encode_text(lines, tokenizer)
        scores = compute_scores(Total(30.0, 0.0, len(text.ids)), text, tokenizer)
        assert scores["word_perplexity"] == pytest.approx(math.exp(30.0 / words))
    unknown = encode_text(["the cat"], tokenizer)
    assert "word_perplexity" not in compute_scores(Total(30.0, 0.0, 3), unknown, tokenizer)


def test_the_rows_of_the_comparison_of_mixers_have_equal_sizes_and_budgets() -> None:
    names = [name for name in list_builtin_recipes() if name.startswith("lm-wikitext2-")]
    recipes = [read_recipe(name) for name in names]
    assert len(recipes) == 6
    with torch.device("meta"):
        bodies = [LanguageModel(recipe.model, 20_000).blocks for recipe in recipes]
    sizes = [sum(parameter.numel() for parameter in body.parameters()) for body in bodies]
    assert max(sizes) < 1.02 * min(sizes)
    assert len({recipe.train.model_dump_json() for recipe in recipes}) == 1
    assert len({(recipe.batch.streams, recipe.batch.length) for recipe in recipes}) == 1
    assert len({recipe.tokens.model_dump_json() for recipe in recipes}) == 1


def scored(windows: Windows, length: int = 61) -> tuple[float, list[float]]:
    """The nll of `score_ids`, and the log-probabilities of a loop over tokens that reads the same."""
    torch.manual_seed(0)
    model = LanguageModel(
        LanguageModelConfig(layers=1, width=8, heads=2, feedforward=8, positions="none"), 12
    ).eval()
    ids = np.random.RandomState(0).randint(4, 12, length)
    text = [4, *ids.tolist()]
    terms = []
    for t in range(1, len(text)):
        if windows.mode == "segments":
            begin = (t - 1) // windows.segment * windows.segment
        elif windows.mode == "carry":
            begin = 0
        else:
            first = min(windows.segment, len(text) - 1)
            end = first + -(-max(0, t - first) // windows.stride) * windows.stride
            begin = max(0, min(end, len(text) - 1) - windows.segment)
        with torch.no_grad():
            log_probs = model.output(model(torch.tensor([text[begin:t]])))[0, -1].log_softmax(-1)
        terms.append(float(log_probs[text[t]]))
    total = score_ids(model, ids, 4, windows)
    assert total.count == length
    return total.nll, terms


@pytest.mark.parametrize("mode", ["segments", "sliding", "carry"])
@pytest.mark.parametrize(("segment", "stride"), [(10, 5), (7, 3), (100, 50), (1, 1), (61, 61)])
def test_every_token_is_scored_once_with_what_the_mode_reads(mode: Any, segment: int, stride: int) -> None:
    nll, terms = scored(Windows(mode, segment, stride))
    assert nll == pytest.approx(-sum(terms), rel=1e-5)


@pytest.mark.parametrize("sections", [{}, {"model": {"mixer": "lstm"}, "batch": {"carry": True}}])
def test_resuming_ends_with_the_same_weights(tmp_path: Path, sections: dict[str, Any]) -> None:
    recipe = language_recipe(tmp_path, **sections)
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 11})})
    qkv.fit(recipe, tmp_path / "whole", quiet=True)
    qkv.fit(stopped, tmp_path / "parts", quiet=True)
    qkv.fit(recipe, tmp_path / "parts", resume=True, quiet=True)
    states = [
        torch.load(tmp_path / name / "training/state.pt", weights_only=True)["weights"]
        for name in ("whole", "parts")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_carrying_the_state_helps_a_model_that_sees_short_segments(tmp_path: Path) -> None:
    options = {"model": {"mixer": "gru"}, "train": {"steps": 120, "validate_every": 120}}
    alone = language_recipe(tmp_path, batch={"length": 3}, **options)
    carried = language_recipe(tmp_path, batch={"length": 3, "carry": True}, **options)
    scores = [
        qkv.fit(recipe, tmp_path / name, quiet=True).scores["nll"]
        for name, recipe in (("alone", alone), ("carried", carried))
    ]
    assert scores[1] < scores[0] - 0.05


def test_a_state_that_grows_is_not_carried(tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=r"grows with the text.*batch.carry=false"):
        language_recipe(tmp_path, batch={"carry": True})
    with pytest.raises(QKVError, match=r"grows with the text.*validation.mode to segments or sliding"):
        language_recipe(tmp_path, validation={"mode": "carry"})


def test_a_text_is_not_carried_beyond_the_learned_positions(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, model={"attention": {"kernel": "elu"}})
    with pytest.raises(QKVError, match=r"mode carry needs more positions than model.max_length=64 holds"):
        choose_windows(recipe, "carry")


@pytest.mark.parametrize(
    ("carry", "scored"),
    [
        (False, "separate segments of 16 tokens"),
        (True, "state carried over the whole text, read 16 tokens at a time"),
    ],
)
def test_what_is_scored_stands_beside_the_scores(
    carry: bool, scored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = language_recipe(tmp_path, batch={"carry": carry}, model={"mixer": "gru"})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    run = tmp_path / "run"
    command = ("train", tmp_path / "recipe.yaml", "--out", run, "--quiet", "--set", "train.steps=2")
    assert tiny.call(*command) == 0
    assert f"({scored})" in capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line.get("scored") for line in lines if line["kind"] == "validation"} == {scored}


def test_attention_that_samples_does_not_carry_a_state(tmp_path: Path) -> None:
    attention = {"select": "hard", "scope": {"name": "window", "half_width": 3}}
    model = {"attention": attention, "positions": "none"}
    recipe = language_recipe(tmp_path, batch={"carry": True}, model=model)
    with pytest.raises(QKVError, match="cannot carry a state"):
        qkv.fit(recipe, tmp_path / "run", quiet=True)


def test_coverage_without_a_source_is_refused(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, objective={"coverage": 0.5})
    with pytest.raises(QKVError, match=r"objective.coverage=0.5.*leave it out"):
        qkv.fit(recipe, tmp_path / "run", quiet=True)


def test_a_line_whose_end_would_be_lost_is_refused(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path)
    (tmp_path / "train.txt").write_text("a\n" + "b" * 1_100_000 + "\n")
    with pytest.raises(QKVError, match="line 2: longer than 250,000 characters"):
        qkv.fit(recipe, tmp_path / "run", quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("language")
    qkv.fit(language_recipe(folder, train={"steps": 150}), folder / "run", quiet=True)
    return qkv.load(folder / "run")


def test_stop_strings_end_a_continuation(run: Any) -> None:
    free = run.generate("ann ", length=80)
    assert "\n" in free
    assert run.generate("ann ", length=80, stop=["\n"]) == free.partition("\n")[0]
    assert run.generate("ann ", length=80, stop=[".\n", "zz"]) == free.partition(".\n")[0]
    pieces = [piece.text for piece in run.stream(["ann "], length=80, stop=[".\n"])]
    assert "".join(pieces) == free.partition(".\n")[0]


def test_prompts_in_a_batch_do_not_change_each_other(run: Any) -> None:
    prompts = ["ann ", "b", "cat likes "]
    together = run.generate(prompts, length=20)
    assert together[0] == run.generate(prompts[0], length=20)
    assert together == run.generate(prompts, length=20)


def test_the_trace_shows_every_layer(run: Any, tmp_path: Path) -> None:
    trace = run.trace("ann sees bob .")
    example = trace.examples[0]
    assert set(example.weights) == {"layer.0"}
    assert example.weights["layer.0"].shape == (2, 14, 14)
    trace.save(tmp_path / "trace.npz")
    assert len(Trace.load(tmp_path / "trace.npz").examples) == 1


def test_evaluation_says_the_scores_of_other_text(run: Any) -> None:
    seen = run.evaluate(sentences(50))
    strange = run.evaluate(["zzz qqq xxx"] * 20)
    assert seen["nll"] < strange["nll"]
    assert run.evaluate(sentences(50), mode="sliding", stride=4)["nll"] < strange["nll"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"train": None}}, "give either 'train'"),
        ({"batch": {"length": 65}}, "model.max_length=64"),
        (
            {"batch": {"carry": True}, "model": {"attention": {"kernel": "elu"}}},
            "carrying the state needs more positions",
        ),
        ({"model": {"mixer": "transformer"}}, "model.mixer"),
        ({"sample": {"top_p": 0}}, "sample.top_p"),
        (
            {"batch": {"carry": True}, "model": {"mixer": "gru"}, "train": {"strategy": "fsdp"}},
            "fsdp cannot carry a state",
        ),
    ],
)
def test_a_recipe_that_cannot_work(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(QKVError, match=message):
        language_recipe(tmp_path, **sections)


def test_bad_input_is_refused_with_its_reason(run: Any, tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=r"prompt 1 has 101 tokens.*at most 64"):
        run.generate("a" * 100)
    with pytest.raises(QKVError, match="temprature"):
        run.generate("a", temprature=1)
    with pytest.raises(QKVError, match="stride"):
        run.evaluate(["a"], mode="sliding", stride=1000)
    with pytest.raises(QKVError, match="no text"):
        run.evaluate([])
    with pytest.raises(QKVError, match="text 1 is empty"):
        run.trace("")
    (tmp_path / "empty.txt").write_text("\n\n")
    recipe = parse_recipe({"task": "generate", "data": {"train": str(tmp_path / "empty.txt")}}, "it")
    with pytest.raises(QKVError, match="there is no text"):
        qkv.fit(recipe, tmp_path / "x", quiet=True)


def test_a_run_keeps_the_attention_of_single_layers(tmp_path: Path) -> None:
    model = {"layers": 2, "attention": {"kernel": "elu"}, "attention_by_layer": {1: {}}}
    recipe = language_recipe(tmp_path, model=model, train={"steps": 3, "validate_every": 3})
    qkv.fit(recipe, tmp_path / "run", quiet=True)
    layers = qkv.load(tmp_path / "run").model.attention_layers()
    assert [layer.spec.kernel.name for layer in layers.values()] == ["elu", "softmax"]


def test_unknown_letters_are_not_sampled(tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, train={"steps": 1, "validate_every": 1})
    qkv.fit(recipe, tmp_path / "run", quiet=True)
    run = qkv.load(tmp_path / "run")
    text = run.generate("", length=400, temperature=5.0)  # almost every token alike
    assert len(text) >= 350
    assert "<" not in text


def test_held_out_text_begins_at_the_nearest_line_end() -> None:
    assert [len(part) for part in _split(["x" * 10] * 10, 0.1)] == [9, 1]
    assert [len(part) for part in _split(["x" * 10] * 20, 0.1)] == [18, 2]
    assert [len(part) for part in _split(["x"] * 3, 0.9)] == [1, 2]
    long_line_last = _split([*["x" * 10] * 100, "x" * 100_000], 0.1)
    assert [len(part) for part in long_line_last] == [100, 1]


@pytest.mark.parametrize("kind", ["byte", "char"])
def test_bits_per_byte_of_a_part_are_those_of_its_own_bytes(kind: Any, tmp_path: Path) -> None:
    valid = tmp_path / "valid.txt"
    valid.write_text("ann sees bob .\n" * 20 + "我喜欢我喜欢 .\n" * 20)
    tokens = {"kind": "byte"} if kind == "byte" else {"kind": kind, "vocab": 60}
    recipe = language_recipe(
        tmp_path,
        data={"valid": str(valid)},
        tokens=tokens,
        validation={"tokens": 250},  # 16 lines of 15 tokens
        train={"steps": 2, "validate_every": 2},
    )
    shown = qkv.fit(recipe, tmp_path / "run", quiet=True).scores
    scores = qkv.load(tmp_path / "run").evaluate(["ann sees bob ."] * 16)
    assert shown["bits_per_byte"] == pytest.approx(scores["bits_per_byte"], rel=1e-5)


def test_a_stride_needs_a_sliding_window(run: Any) -> None:
    with pytest.raises(QKVError, match="a stride has no meaning in the mode segments"):
        run.evaluate(["ann sees bob ."], stride=4)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_no_space_is_doubled(kind: Any, tmp_path: Path) -> None:
    recipe = language_recipe(
        tmp_path,
        tokens={"kind": kind, "vocab": 60},
        train={"steps": 30, "validate_every": 30},
    )
    qkv.fit(recipe, tmp_path / "run", quiet=True)
    generator = qkv.load(tmp_path / "run")
    for prompt in ("ann ", "ann sees ", "ann\t"):
        continued = generator.generate([prompt] * 8, length=4, seed=1)
        assert not any(text.startswith(" ") for text in continued)
    assert any(text.startswith(" ") for text in generator.generate(["ann"] * 8, length=4, seed=1))


def test_the_smallest_temperature_takes_the_best_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0]])
    for temperature in (1e-310, 1e-30):
        assert next_token_probabilities(logits, SampleConfig(temperature=temperature)).tolist() == [[0, 1, 0]]
