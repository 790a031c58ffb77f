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
from qkv.progress import Progress
from qkv.strict import Strict
from qkv.task.base import Recipe, Task, Training
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.registry import TASKS
from qkv.train import Loss, Objective, TrainConfig

LETTERS = "_abcd|."  # padding, letters, "read on backwards", the end


class ModelConfig(Strict):
    """The size of the model."""

    width: int = 24


class ReversalRecipe(Recipe):
    """`words` words of a few letters are learnt."""

    task: Literal["reverse"] = "reverse"
    words: int = 64
    model: ModelConfig = ModelConfig()
    train: TrainConfig


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, len(LETTERS))

    def forward(self, characters: Tensor) -> Tensor:
        return self.output(self.gru(self.embedding(characters))[0])


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


class Words:
    """One update a batch of eight words, in the order of the epoch."""

    def __init__(self, words: list[str], seed: int) -> None:
        self.words, self.seed = words, seed

    def steps(self, epoch: int) -> int:
        return len(self.words) // 8

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Tensor]:
        rows = self._rows(epoch, index)[rank::world]
        return [encode(rows)] if rows else []

    def tokens(self, epoch: int, index: int) -> int:
        return sum(len(text_of(word)) - 1 for word in self._rows(epoch, index))

    def _rows(self, epoch: int, index: int) -> list[str]:
        order = random.Random(f"{self.seed}/{epoch}").sample(self.words, len(self.words))
        return order[8 * index : 8 * index + 8]


def text_of(word: str) -> str:
    return f"{word}|{word[::-1]}."


def encode(words: list[str]) -> Tensor:
    rows = [torch.tensor([LETTERS.index(letter) for letter in text_of(word)]) for word in words]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


class Generator:
    """What `load` returns."""

    commands = ("generate",)

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def generate(self, prompt: str) -> str:
        """The most likely continuation, a letter at a time."""
        text = prompt
        while len(text) < 20 and not text.endswith("."):
            ids = torch.tensor([[LETTERS.index(letter) for letter in text]])
            text += LETTERS[int(self.model(ids)[0, -1].argmax())]
        return text[len(prompt) :]


class Reverse(Task):
    name = "reverse"
    recipe = ReversalRecipe
    evaluate_options = ("data",)

    def read_data(self, recipe: ReversalRecipe) -> list[str]:
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

        def validate() -> dict[str, float]:
            loss = objective(encode(data))
            return {"nll": float(loss.total) / loss.count}

        return Training(objective, Words(data, recipe.train.seed), validate, "nll")

    def build_model(self, recipe: ReversalRecipe, parsed: Any) -> Model:
        return Model(recipe.model.width)

    def build_runner(self, recipe: ReversalRecipe, parsed: Any, model: Any) -> Generator:
        return Generator(model)

    def read_test_data(self, recipe: ReversalRecipe, options: EvaluateOptions) -> list[str]:
        return options.data.read_text().split() if options.data else self.read_data(recipe)

    def evaluate(
        self, runner: Generator, data: list[str], options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        matches = sum(runner.generate(f"{word}|") == f"{word[::-1]}." for word in data)
        return Evaluation({"reversed": 100 * matches / len(data)}, len(data), "words")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Task]:
    """The task is known within a test."""
    monkeypatch.setitem(TASKS, "reverse", Reverse())
    return TASKS


def written(folder: Path, **sections: Any) -> Path:
    """A recipe of the task."""
    train = {"steps": 240, "lr": 0.02, "warmup": 10, "schedule": "cosine", "validate_every": 80}
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
    assert [model.generate(f"{word}|") for word in ("ab", "dc", "bd")] == ["ba.", "cd.", "db."]


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
    assert capsys.readouterr().out.startswith("64 words\n")


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
