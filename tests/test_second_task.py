"""A second task, defined here alone: the reversal of words as a character language model."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

import qkv
import tiny
from qkv.data import BatchConfig, BatchPlan, Dataset, Ragged, iterate_by_length
from qkv.decode import SearchConfig, search
from qkv.model.stepper import Step
from qkv.progress import NoProgress, Progress
from qkv.strict import Strict
from qkv.task.base import Recipe, Task, Training
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.registry import TASKS
from qkv.train import Loss, Objective, TrainConfig

LETTERS = "_abcd|."  # padding, letters, "read on backwards", the end
PADDING, END = 0, 6


class ModelConfig(Strict):
    """The size of the model."""

    width: int = 32


class ReversalRecipe(Recipe):
    """`words` words of a few letters are learnt."""

    task: Literal["reverse"] = "reverse"
    words: int = 400
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig(batch_tokens=128)
    train: TrainConfig


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, len(LETTERS))

    def forward(self, characters: Tensor) -> Tensor:
        return self.output(self.gru(self.embedding(characters))[0])

    def start(self, *, batch: int, capture: bool = False) -> Tensor:
        return torch.zeros(batch, self.gru.hidden_size)

    def read(self, tokens: Tensor, state: Tensor, *, capture: bool = False) -> Step:
        hidden, last = self.gru(self.embedding(tokens), state[None])
        return Step(self.output(hidden[:, -1]), last[0], {})

    def step(self, tokens: Tensor, state: Tensor, *, capture: bool = False) -> Step:
        return self.read(tokens[:, None], state)


class LanguageModel(Objective):
    unit = "characters"

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Loss:
        scores, labels = self.model(batch[:, :-1]), batch[:, 1:]
        total = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=0, reduction="sum")
        return Loss(total, int((labels != 0).sum()), {"nll": total.detach()})

    def saved_module(self) -> nn.Module:
        return self.model


def text_of(word: str) -> str:
    return f"{word}|{word[::-1]}."


def encode(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def collate(rows: list[Any]) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def dataset_of(words: list[str]) -> Dataset[Tensor]:
    """Every word with its reversal; the loss counts the characters after the first."""
    texts = Ragged([encode(text_of(word)) for word in words])
    return Dataset((texts,), collate, positions=texts.lengths, counts=texts.lengths - 1, row_name="word")


class Generator:
    """What `load` returns."""

    commands = ("generate",)

    def __init__(self, model: Any) -> None:
        self.model = model

    def generate(self, *prompts: str) -> list[str]:
        """The most likely continuation of every prompt."""
        config = SearchConfig(beam=1, max_length=20, forbid_unknown=False)
        ids = [encode(prompt) for prompt in prompts]
        results = search(self.model, prompts=ids, config=config, bos=None, eos=END, pad=PADDING)
        return ["".join(LETTERS[token] for token in best.tokens) for [best] in results]


class Reverse(Task):
    name = "reverse"
    recipe = ReversalRecipe
    evaluate_options = ("data",)

    def read_data(self, recipe: ReversalRecipe, report: Progress) -> list[str]:
        draw = random.Random(0)
        return ["".join(draw.choices("abcd", k=draw.randint(2, 3))) for _ in range(recipe.words)]

    def compute_fingerprint(self, data: list[str]) -> dict[str, dict[str, Any]]:
        return {"train.words": {"lines": len(data), "digest": " ".join(data)}}

    def name_data_part(self, part: str, recipe: ReversalRecipe) -> str:
        return "words"

    def build_training(
        self, recipe: ReversalRecipe, data: list[str], parsed: Any, report: Progress
    ) -> Training:
        torch.manual_seed(recipe.train.seed)
        objective = LanguageModel(self.build_model(recipe, parsed))
        dataset = dataset_of(data)

        def validate() -> dict[str, float]:
            losses = [objective(batch) for _, batch in iterate_by_length(dataset, 512)]
            return {"nll": sum(float(loss.total) for loss in losses) / sum(loss.count for loss in losses)}

        return Training(objective, BatchPlan(dataset, recipe.batch, recipe.train.seed), validate, "nll")

    def build_model(self, recipe: ReversalRecipe, parsed: Any) -> Model:
        return Model(recipe.model.width)

    def build_runner(self, recipe: ReversalRecipe, parsed: Any, model: Any) -> Generator:
        return Generator(model)

    def read_test_data(self, recipe: ReversalRecipe, options: EvaluateOptions) -> list[str]:
        return options.data.read_text().split() if options.data else self.read_data(recipe, NoProgress())

    def evaluate(
        self, runner: Generator, data: list[str], options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        answers = runner.generate(*(f"{word}|" for word in data))
        matches = sum(answer == word[::-1] for word, answer in zip(data, answers, strict=True))
        return Evaluation({"reversed": 100 * matches / len(data)}, len(data), "words")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Task]:
    """The task is known within a test."""
    monkeypatch.setitem(TASKS, "reverse", Reverse())
    return TASKS


def written(folder: Path, **sections: Any) -> Path:
    """A recipe of the task."""
    train = {"steps": 240, "lr": 0.03, "warmup": 10, "schedule": "cosine", "validate_every": 80}
    path = folder / "reverse.yaml"
    path.write_text(
        yaml.safe_dump({"task": "reverse", "train": {**train, "precision": "32", "threads": 1}, **sections})
    )
    return path


def test_train_and_load_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert tiny.call("train", written(tmp_path), "--out", run) == 0
    captured = capsys.readouterr()
    assert f"next: qkv evaluate {run}" in captured.out
    assert "characters_per_second" in (run / "metrics.jsonl").read_text()
    model = qkv.load(run)
    assert model.generate("ab|", "dc|", "bda|a") == ["ba", "cd", "db"]


def test_evaluate_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    qkv.fit(written(tmp_path), run, quiet=True)
    (tmp_path / "words").write_text("ab\ncd\n")
    capsys.readouterr()
    result = tmp_path / "scores.json"
    assert tiny.call("evaluate", run, "--data", tmp_path / "words", "--json", result) == 0
    assert capsys.readouterr().out == f"2 words\n  {'reversed':<22} 100.00\n"
    expected = {"run": str(run), "task": "reverse", "examples": 2, "scores": {"reversed": 100}}
    assert json.loads(result.read_text()) == expected
    assert tiny.call("evaluate", run) == 0
    assert capsys.readouterr().out.startswith("400 words\n")


@pytest.mark.parametrize("option", [("--beam", 3), ("--source", "a"), ("--tokenize", "char"), ("--strict",)])
def test_evaluate_refuses_options_of_other_tasks(
    option: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qkv.fit(written(tmp_path), tmp_path / "run", changes=["train.steps=2"], quiet=True)
    capsys.readouterr()
    assert tiny.call("evaluate", tmp_path / "run", *option) == 2
    message = f"qkv: {option[0]} has no meaning for a run of the task 'reverse': leave it out. "
    assert capsys.readouterr().err == f"{message}Options of this task: --data\n"


def test_translate_names_the_commands_that_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    qkv.fit(written(tmp_path), run, changes=["train.steps=2"], quiet=True)
    capsys.readouterr()
    assert tiny.call("translate", run, stdin=b"ab\n") == 2
    message = f"qkv translate cannot use {run}, a run of the task 'reverse'"
    usable = f"use `qkv generate {run}` or `qkv evaluate {run}`"
    assert capsys.readouterr().err == f"qkv: {message}: {usable}\n"


def test_it_resumes_exactly(tmp_path: Path) -> None:
    path = written(tmp_path)
    qkv.fit(path, tmp_path / "whole", changes=["train.steps=20"], quiet=True)
    qkv.fit(path, tmp_path / "parts", changes=["train.steps=9"], quiet=True)
    qkv.fit(path, tmp_path / "parts", changes=["train.steps=20"], resume=True, quiet=True)
    states = [
        torch.load(tmp_path / name / "training/state.pt", weights_only=True) for name in ("whole", "parts")
    ]
    for name, value in states[0]["weights"].items():
        assert torch.equal(value, states[1]["weights"][name]), name


def test_resuming_as_another_task_is_refused(tmp_path: Path) -> None:
    qkv.fit(written(tmp_path), tmp_path / "run", changes=["train.steps=2"], quiet=True)
    with pytest.raises(qkv.QKVError, match="was trained with another task"):
        qkv.fit(tiny.recipe_in(tmp_path), tmp_path / "run", resume=True, quiet=True)


def test_an_unknown_key_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(qkv.QKVError, match="unknown key 'wrods'"):
        qkv.fit(written(tmp_path, wrods=3), tmp_path / "run", quiet=True)
