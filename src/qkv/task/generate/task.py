"""The task `generate`: from text to a language model that continues it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qkv.model.language import LanguageModel
from qkv.progress import Progress, show_progress
from qkv.symbols import UNK
from qkv.task.attention_measures import measure_examples
from qkv.task.base import Task, Training
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.generate.examples import (
    EncodedExamples,
    ExampleSets,
    fingerprint_examples,
    list_vocabulary_words,
    make_example_sets,
    refuse_text_options,
    score_examples,
)
from qkv.task.generate.generator import Generator
from qkv.task.generate.plans import DataPlan, plan_examples, plan_text
from qkv.task.generate.recipe import LanguageObjectiveConfig, LanguageRecipe
from qkv.task.generate.scoring import choose_windows, score_text
from qkv.task.initial_run import InitialRun
from qkv.task.texts import (
    AnyTokenizer,
    Texts,
    encode_text,
    fingerprint_texts,
    learn_tokenizer,
    measure_unknown_share,
    name_text,
    read_test_text,
    read_texts,
    tokenizer_from_json,
    tokenizer_to_json,
)
from qkv.task.transfer import build_transfer
from qkv.train.objective.language import LanguageModeling
from qkv.train.objective.transfer import read_language_batch
from qkv.train.planning import count_planned_updates
from qkv.wording import plural

TOKENIZER = "tokenizer.json"
FEW_UPDATES = 1000
ANSWERS_COUNT = "the answers alone count; no example was trained on"


class Generate(Task):
    """Language models: attention, recurrence or convolution over text."""

    name = "generate"
    recipe = LanguageRecipe
    files = (TOKENIZER,)
    vocabulary_files = (TOKENIZER,)
    label_sections = ("model", "tokens", "objective", "transfer", "train")
    evaluate_options = ("data", "mode", "stride")
    resume_keys = (
        *("data.holdout", "data.phrases", "data.recall", "data.copying", "tokens", "batch", "model"),
        "transfer",
        *(f"objective.{name}" for name in LanguageObjectiveConfig.model_fields),
        *("validation.mode", "validation.stride", "validation.tokens"),
    )

    def read_data(self, recipe: LanguageRecipe, report: Progress) -> Texts | ExampleSets:
        """The training and the held-out text, or the generated examples."""
        examples = recipe.data.examples
        return read_texts(recipe.data) if examples is None else make_example_sets(examples)

    def compute_fingerprint(self, data: Texts | ExampleSets) -> dict[str, dict[str, Any]]:
        """The number and a digest of the lines of both texts, or of the examples."""
        return fingerprint_examples(data) if isinstance(data, ExampleSets) else fingerprint_texts(data)

    def name_data_part(self, part: str, recipe: LanguageRecipe) -> str:
        """What a user calls the text of a split."""
        return recipe.data.examples_key if recipe.data.examples else name_text(part, recipe.data)

    def learn_files(
        self, recipe: LanguageRecipe, data: Texts | ExampleSets, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The tokenizer, learnt from the training text, or from the symbols of the examples."""
        if vocabulary:
            return dict(vocabulary)
        lines = list_vocabulary_words(data.data) if isinstance(data, ExampleSets) else data.train
        return {TOKENIZER: tokenizer_to_json(learn_tokenizer(lines, recipe.tokens)).encode()}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> AnyTokenizer:
        """The tokenizer."""
        return tokenizer_from_json(contents[TOKENIZER], run / TOKENIZER)

    def measure_unknown_share(self, data: Texts | ExampleSets, parsed: AnyTokenizer) -> float:
        """The share of unknown tokens in the training text, or in the symbols of the examples."""
        lines = list_vocabulary_words(data.data) if isinstance(data, ExampleSets) else data.train
        return measure_unknown_share(lines, parsed)

    def build_training(
        self, recipe: LanguageRecipe, data: Texts | ExampleSets, parsed: AnyTokenizer, report: Progress
    ) -> Training:
        """Wire the training; reports the sizes of the data and the model, and what is scored."""
        is_text = not isinstance(data, ExampleSets)
        plan = plan_text(recipe, data, parsed) if is_text else plan_examples(recipe, data, parsed)
        torch.manual_seed(recipe.train.seed)
        model = LanguageModel(recipe.model, parsed.size)
        size = sum(parameter.numel() for parameter in model.parameters())
        report.print_line(
            f"{plan.sizes}; vocabulary {parsed.size:,}; {size:,} parameters; "
            f"{plural(plan.batches.steps(0), 'update')} an epoch"
        )
        updates = count_planned_updates(plan.batches, recipe.train)
        if is_text and updates < FEW_UPDATES:
            report.print_line(
                f"this training makes only {updates:,} updates, and a language model needs some "
                f"{FEW_UPDATES:,}: raise train.steps or train.epochs, or lower batch.streams"
            )
        objective = LanguageModeling(
            model, recipe.objective.smoothing, recipe.objective, carries_state=recipe.batch.carry
        )
        report.print_line(f"held-out scores: {plan.scored}")
        return Training(objective, plan.batches, _make_validator(plan, model, parsed, recipe, report), "nll")

    def adapt_training(
        self, recipe: LanguageRecipe, training: Training, parsed: AnyTokenizer, initial: InitialRun | None
    ) -> Training:
        """Attention transfer instead of the likelihood, where the recipe has the section."""

        def build_trained_model(trained: LanguageRecipe) -> nn.Module:
            return self.build_model(trained, parsed)

        return build_transfer(recipe.transfer, training, initial, build_trained_model, read_language_batch)

    def build_model(self, recipe: LanguageRecipe, parsed: AnyTokenizer) -> nn.Module:
        """The model for the vocabulary of this run."""
        return LanguageModel(recipe.model, parsed.size)

    def build_runner(self, recipe: LanguageRecipe, parsed: AnyTokenizer, model: nn.Module) -> Generator:
        """A generator of text."""
        return Generator(recipe, parsed, model)

    def read_test_data(self, recipe: LanguageRecipe, options: EvaluateOptions) -> list[str] | ExampleSets:
        """The lines of the text to score, or the generated examples."""
        if recipe.data.examples is None:
            return read_test_text(recipe.data, options.data)
        refuse_text_options(recipe, data=options.data, mode=options.mode, stride=options.stride)
        return make_example_sets(recipe.data.examples)

    def evaluate(
        self, runner: Generator, data: list[str] | ExampleSets, options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """Perplexity, nats per token, accuracy, bits per byte, and how the text was read.

        Of generated examples: nats per answer and accuracy.
        """
        if isinstance(data, ExampleSets):
            examples = EncodedExamples(data.test, data.data, runner.tokenizer)
            with show_progress("evaluate", len(examples), quiet=quiet) as bar:
                scores = score_examples(runner.model, examples, bar.update)
            return Evaluation(scores, len(examples), "examples", notes=(ANSWERS_COUNT,), digits=4)
        windows = choose_windows(runner.recipe, options.mode, options.stride)
        text = encode_text(data, runner.tokenizer)
        with show_progress("evaluate", len(text.ids), quiet=quiet) as bar:
            scores = score_text(runner.model, text, runner.tokenizer, windows, bar.update)
        notes = (str(windows), *_describe_unknown(text.ids))
        return Evaluation(scores, len(text.ids), "tokens", notes=notes, digits=4)

    def suggest_commands(self, run: Path) -> str:
        """Continue a prompt, or score the run."""
        return f"qkv generate {run} --prompt '...'    or: qkv evaluate {run}"


GENERATE = Generate()


def _describe_unknown(ids: np.ndarray) -> Iterator[str]:
    """A line about the tokens that the vocabulary does not know, where there are any."""
    if unknown := int((ids == UNK).sum()):
        share = unknown / len(ids)
        yield (
            f"{unknown:,} tokens ({share:.2%}) are unknown: all are one, which is easy to guess, so that the "
            "scores are better than those of a vocabulary that knows them"
        )


def _make_validator(
    plan: DataPlan, model: LanguageModel, tokenizer: AnyTokenizer, recipe: LanguageRecipe, report: Progress
) -> Callable[[], dict[str, float]]:
    generator = Generator(recipe, tokenizer, model)
    segments = plan.list_segments(recipe.validation.attention) if model.attention_layers() else []

    def validate() -> dict[str, float]:
        scores = plan.score(model)
        for _ in range(recipe.validation.samples):
            report.print_line(f"    {generator.generate('', length=200)}")
        return scores | measure_examples(generator.trace_tokens(ids) for ids in segments if len(ids) > 1)

    return validate
