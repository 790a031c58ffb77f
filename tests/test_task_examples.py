"""The task `generate` on generated examples: only answers count, in training, validation and evaluation."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import qkv
from qkv.errors import QKVError
from qkv.progress import NoProgress
from qkv.task.evaluation import EvaluateOptions
from qkv.task.generate.examples import EncodedExamples, make_example_sets
from qkv.task.generate.task import GENERATE
from qkv.task.recipe import parse_recipe, read_recipe
from tiny_text import TRAIN, merged

SIZES = {"train": 400, "valid": 30, "test": 25}
RECALL = {"recall": {"pairs": 2, "keys": 4, "values": 4, **SIZES}}
COPYING = {"copying": {"symbols": 3, "min_length": 2, "max_length": 4, **SIZES}}


def example_recipe(source: dict[str, Any], **sections: Any) -> Any:
    raw: dict[str, Any] = {
        "task": "generate",
        "data": source,
        "tokens": {"kind": "word", "vocab": 20},
        "batch": {"streams": 16, "length": 12},
        "model": {"layers": 1, "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.0, "max_length": 12},
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("recall")
    qkv.fit(example_recipe(RECALL), folder / "run", quiet=True)
    return qkv.load(folder / "run")


def score_by_hand(run: Any) -> dict[str, float]:
    """nll and accuracy of the answers, one example and one answer at a time, from the words themselves."""
    log_probs, hits = [], []
    names = run.recipe.data.recall.list_symbols()
    for example in make_example_sets(run.recipe.data.recall).test:
        words = [names[number] for number in example.symbols.tolist()]
        mapping = dict(zip(words[0:4:2], words[1:4:2], strict=True))
        for position in (4, 6):
            read, answer = words[: position + 1], mapping[words[position]]
            ids = [3, *run.tokenizer.encode([" ".join(read)])[0]]
            with torch.inference_mode():
                scores = run.model.output(run.model(torch.tensor([ids])))[0, -1].log_softmax(-1)
            log_probs.append(float(scores[run.tokenizer.encode([answer])[0][0]]))
            hits.append(run.tokenizer.decode([int(scores.argmax())]) == answer)
    return {"nll": -sum(log_probs) / len(log_probs), "accuracy": sum(hits) / len(hits)}


def test_scores_are_those_of_the_answers_alone(run: Any) -> None:
    scores = run.evaluate()
    by_hand = score_by_hand(run)
    assert scores["nll"] == pytest.approx(by_hand["nll"], rel=1e-5)
    assert scores["accuracy"] == by_hand["accuracy"]
    options = EvaluateOptions()
    evaluation = GENERATE.evaluate(run, GENERATE.read_test_data(run.recipe, options), options, quiet=True)
    assert dict(evaluation.scores) == scores
    assert (evaluation.examples, evaluation.unit) == (25, "examples")


def test_training_counts_the_answers_alone(tmp_path: Path) -> None:
    """The loss of a batch is that of its answers: a model that knows them has none, whatever else it says."""
    recipe = example_recipe(RECALL)
    training = _build_training(recipe, tmp_path)
    (batch,) = training.batches.window(0, 0, 0, 1)
    assert training.batches.count(0, 0) == 2 * 16
    loss = training.objective(batch)
    assert loss.count == 2 * 16
    model: Any = training.objective.model
    log_probs = model.output(model(batch.inputs)).detach().log_softmax(-1)
    answers = [
        float(log_probs[row, t, batch.targets[row, t]])
        for row in range(16)
        for t in range(8)
        if t in (5, 7)  # behind the line end and two pairs: a query is read, and its answer predicted
    ]
    assert float(loss.total.detach()) == pytest.approx(-sum(answers), rel=1e-5)


def _build_training(recipe: Any, folder: Path) -> Any:
    from qkv.progress import show_progress

    data = GENERATE.read_data(recipe, NoProgress())
    parsed = GENERATE.parse_files(GENERATE.learn_files(recipe, data, {}), folder)
    with show_progress("prepare", quiet=True) as report:
        return GENERATE.build_training(recipe, data, parsed, report)


def test_copying_is_learnt_and_continued(tmp_path: Path) -> None:
    copying = {"copying": {"symbols": 4, "min_length": 3, "max_length": 3, **SIZES, "valid": 5, "test": 5}}
    sections = {"model": {"width": 32}, "train": {"steps": 200, "validate_every": 200}}
    recipe = example_recipe(copying, **sections)
    assert qkv.fit(recipe, tmp_path / "run", quiet=True).scores["accuracy"] > 0.9
    run = qkv.load(tmp_path / "run")
    for sequence in ("a b c", "d a a", "b d b"):
        assert run.generate(f"{sequence} |", stop=["\n"], temperature=0, length=8) == f" {sequence}"


def test_the_answer_continues_a_prompt(run: Any) -> None:
    """Untrained or not, what follows is a word of the vocabulary; the trace shows the whole example."""
    text = run.generate("k1 v2 k3 v0 k1", length=1, temperature=0)
    assert text.strip() in run.recipe.data.recall.list_symbols()
    assert run.trace("k1 v2 k3 v0 k1 v2").examples[0].weights["layer.0"].shape == (2, 6, 6)


@pytest.mark.parametrize("data", [RECALL, COPYING])
def test_resuming_ends_with_the_same_weights(tmp_path: Path, data: dict[str, Any]) -> None:
    recipe = example_recipe(data)
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


def test_resuming_with_other_examples_is_refused(tmp_path: Path) -> None:
    recipe = example_recipe(RECALL)
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 5})})
    qkv.fit(stopped, tmp_path / "run", quiet=True)
    with pytest.raises(QKVError, match=r"another data\.recall"):
        qkv.fit(example_recipe({"recall": {**RECALL["recall"], "seed": 9}}), tmp_path / "run", resume=True)


def test_encoded_examples_begin_with_a_line_end_and_may_end_with_one() -> None:
    recipe = example_recipe(COPYING)
    data = recipe.data.copying
    tokenizer = GENERATE.parse_files(GENERATE.learn_files(recipe, make_example_sets(data), {}), Path())
    for example in EncodedExamples(make_example_sets(data).valid, data, tokenizer):
        length = (len(example.scored) - 2) // 2
        words = tokenizer.decode(example.targets.tolist()).split()
        assert words[:length] == words[length + 1 :]
        assert example.inputs[0] == example.targets[-1] == 3  # the end symbol
        assert example.inputs[1:].tolist() == example.targets[:-1].tolist()


def test_a_vocabulary_without_the_symbols_is_refused(run: Any) -> None:
    data = example_recipe(RECALL).data.recall.model_copy(update={"keys": 6})
    with pytest.raises(QKVError, match="no token for the symbol 'k4'"):
        EncodedExamples([], data, run.tokenizer)


def test_the_scores_of_text_are_refused(run: Any) -> None:
    with pytest.raises(QKVError, match=r"mode has no meaning .* data\.recall"):
        run.evaluate(mode="sliding")
    with pytest.raises(QKVError, match="lines has no meaning"):
        run.evaluate(["k1 v1"])
    with pytest.raises(QKVError, match="data has no meaning"):
        GENERATE.read_test_data(run.recipe, EvaluateOptions(data=Path("text.txt")))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"copying": {}}}, "give either 'train'"),
        ({"data": {"valid": "text.txt"}}, "leave out 'valid'"),
        ({"tokens": {"kind": "char"}}, r"data\.recall needs every symbol .* \{kind: word, vocab: 12\}"),
        ({"tokens": {"vocab": 11}}, r"vocab: 12"),
        ({"batch": {"length": 7}}, r"batch\.length=7 is shorter than the examples of data\.recall, 8 tokens"),
        ({"batch": {"length": 13}}, r"model\.max_length=12"),
        ({"validation": {"mode": "sliding"}}, "independent: leave out batch.carry and validation.mode"),
        ({"model": {"mixer": "gru"}, "batch": {"carry": True}}, "independent: leave out batch.carry"),
        ({"data": {"recall": {"pair": 3}}}, "Did you mean 'pairs'"),
    ],
)
def test_a_recipe_that_cannot_work(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(QKVError, match=message):
        example_recipe(RECALL, **sections)


def test_a_masked_language_model_does_not_take_examples() -> None:
    with pytest.raises(QKVError, match=r"unknown key 'data\.recall'"):
        parse_recipe({"task": "fill", "data": RECALL}, "the recipe")


def test_held_out_scores_of_some_examples(tmp_path: Path) -> None:
    few = _build_training(example_recipe(RECALL, validation={"tokens": 24}), tmp_path).validate()
    everything = _build_training(example_recipe(RECALL), tmp_path).validate()
    assert few["accuracy"] * 6 == pytest.approx(round(few["accuracy"] * 6))  # of 3 examples
    assert few["nll"] != everything["nll"]
    assert math.isfinite(everything["nll"])


@pytest.mark.parametrize("name", ["softmax", "rfa", "rfa-gate", "elu", "window"])
def test_the_recipes_differ_in_their_attention_alone(name: str) -> None:
    recipe, softmax = (read_recipe(f"recall-{each}").model_dump() for each in (name, "softmax"))
    for each in (recipe, softmax):
        del each["model"]["attention"], each["description"]
    assert recipe == softmax
