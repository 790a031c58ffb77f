"""The task `generate`: from text to a language model that continues it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qkv.data.streams import StreamPlan
from qkv.errors import BadRecipe
from qkv.model.language import LanguageModel
from qkv.progress import Progress, show_progress
from qkv.task.base import Task, Training
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.generate.generator import Generator
from qkv.task.generate.recipe import LanguageObjectiveConfig, LanguageRecipe
from qkv.task.generate.scoring import choose_windows, score_text
from qkv.task.texts import (
    AnyTokenizer,
    EncodedText,
    Texts,
    encode_text,
    fingerprint_texts,
    learn_tokenizer,
    name_text,
    read_test_text,
    read_texts,
    tokenizer_from_json,
    tokenizer_to_json,
)
from qkv.train.objective.language import LanguageModeling
from qkv.train.planning import count_planned_updates

TOKENIZER = "tokenizer.json"
FEW_UPDATES = 1000


class Generate(Task):
    """Language models: attention, recurrence or convolution over text."""

    name = "generate"
    recipe = LanguageRecipe
    files = (TOKENIZER,)
    vocabulary_files = (TOKENIZER,)
    label_sections = ("model", "tokens", "objective", "train")
    evaluate_options = ("data", "mode", "stride")
    resume_keys = (
        *("data.holdout", "data.phrases", "tokens", "batch", "model"),
        *(f"objective.{name}" for name in LanguageObjectiveConfig.model_fields),
        *("validation.mode", "validation.stride", "validation.tokens"),
    )

    def read_data(self, recipe: LanguageRecipe) -> Texts:
        """The training and the held-out text."""
        return read_texts(recipe.data)

    def compute_fingerprint(self, data: Texts) -> dict[str, dict[str, Any]]:
        """The number and a digest of the lines of both texts."""
        return fingerprint_texts(data)

    def name_data_part(self, part: str, recipe: LanguageRecipe) -> str:
        """What a user calls the text of a split."""
        return name_text(part, recipe.data)

    def learn_files(
        self, recipe: LanguageRecipe, data: Texts, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The tokenizer, learnt from the training text."""
        if vocabulary:
            return dict(vocabulary)
        return {TOKENIZER: tokenizer_to_json(learn_tokenizer(data.train, recipe.tokens)).encode()}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> AnyTokenizer:
        """The tokenizer."""
        return tokenizer_from_json(contents[TOKENIZER], run / TOKENIZER)

    def build_training(
        self, recipe: LanguageRecipe, data: Texts, parsed: AnyTokenizer, report: Progress
    ) -> Training:
        """Wire the training; reports the sizes of the text and the model, and how it is scored."""
        refuse_growing_state(recipe)
        train, valid = (encode_text(lines, parsed) for lines in data)
        batches = StreamPlan(train.ids, recipe.batch, recipe.train.seed)
        torch.manual_seed(recipe.train.seed)
        model = LanguageModel(recipe.model, parsed.size)
        size = sum(parameter.numel() for parameter in model.parameters())
        report.print_line(
            f"{len(train.ids):,} tokens to train on, {len(valid.ids):,} held out; vocabulary "
            f"{parsed.size:,}; {size:,} parameters; {batches.steps(0):,} updates an epoch"
        )
        updates = count_planned_updates(batches, recipe.train)
        if updates < FEW_UPDATES:
            report.print_line(
                f"this training makes only {updates:,} updates, and a language model needs some "
                f"{FEW_UPDATES:,}: raise train.steps or train.epochs, or lower batch.streams"
            )
        objective = LanguageModeling(
            model, recipe.objective.smoothing, recipe.objective, carries_state=recipe.batch.carry
        )
        return Training(objective, batches, _make_validator(model, valid, parsed, recipe, report), "nll")

    def build_model(self, recipe: LanguageRecipe, parsed: AnyTokenizer) -> nn.Module:
        """The model for the vocabulary of this run."""
        return LanguageModel(recipe.model, parsed.size)

    def build_runner(self, recipe: LanguageRecipe, parsed: AnyTokenizer, model: nn.Module) -> Generator:
        """A generator of text."""
        return Generator(recipe, parsed, model)

    def read_test_data(self, recipe: LanguageRecipe, options: EvaluateOptions) -> list[str]:
        """The lines of the text to score."""
        return read_test_text(recipe.data, options.data)

    def evaluate(
        self, runner: Generator, data: list[str], options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """Perplexity, nats per token, accuracy, bits per byte, and how the text was read."""
        windows = choose_windows(runner.recipe, options.mode, options.stride)
        text = encode_text(data, runner.tokenizer)
        with show_progress("evaluate", len(text.ids), quiet=quiet) as bar:
            scores = score_text(runner.model, text, runner.tokenizer, windows, bar.update)
        return Evaluation(scores, len(text.ids), "tokens", notes=(str(windows),), digits=4)

    def suggest_commands(self, run: Path) -> str:
        """Continue a prompt, or score the run."""
        return f"qkv generate {run} --prompt '...'    or: qkv evaluate {run}"


GENERATE = Generate()


def refuse_growing_state(recipe: LanguageRecipe) -> None:
    """Raise BadRecipe where a state is carried that grows with the text."""
    if recipe.batch.carry and not recipe.model.has_bounded_state:
        raise BadRecipe(
            "batch.carry: the state of softmax attention over all keys grows with the text: set "
            "batch.carry=false, or choose a feature map such as kernel: {name: rfa}, a window as scope, or "
            "mixer: gru, lstm or convolution"
        )


def _make_validator(
    model: LanguageModel,
    valid: EncodedText,
    tokenizer: AnyTokenizer,
    recipe: LanguageRecipe,
    report: Progress,
) -> Callable[[], dict[str, float]]:
    windows = choose_windows(recipe)
    limit = recipe.validation.tokens
    if limit and limit < len(valid.ids):
        fraction = limit / len(valid.ids)
        valid = EncodedText(valid.ids[:limit], round(valid.bytes * fraction), round(valid.words * fraction))
    report.print_line(f"held-out scores: {len(valid.ids):,} tokens, {windows}")

    def validate() -> dict[str, float]:
        scores = score_text(model, valid, tokenizer, windows)
        for _ in range(recipe.validation.samples):
            text = Generator(recipe, tokenizer, model).generate("", length=200)
            report.print_line(f"    {text}")
        return scores

    return validate
