"""The task `translate`: trains and evaluates a model that reads a source line and writes a target line."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qkv.data import (
    BatchPlan,
    Pairs,
    TokenizerPair,
    compute_max_characters,
    count_predicted_tokens,
    train_tokenizers,
)
from qkv.progress import Progress
from qkv.task.base import Task, Training
from qkv.task.checksums import digest_lines
from qkv.task.evaluation import Answers, AnswersTestData, EvaluateOptions, Evaluation
from qkv.task.initial_run import InitialRun
from qkv.task.output_bias import set_bias_to_frequencies
from qkv.task.texts import measure_unknown_share
from qkv.task.transfer import build_transfer
from qkv.task.translate.defaults import FEW_UPDATES, KEYS, Machine, fill_defaults, measure_size, take_defaults
from qkv.task.translate.evaluation import choose_test_pairs, evaluate_translator
from qkv.task.translate.model_building import build_model
from qkv.task.translate.pairs import Lines, Splits, build_batches, read_splits
from qkv.task.translate.recipe import ObjectiveConfig, TranslationRecipe
from qkv.task.translate.translator import Translator
from qkv.task.translate.validator import Validator
from qkv.train import TrainConfig, Translation
from qkv.train.devices import can_multiply_bf16_in_hardware, choose_device
from qkv.train.objective.transfer import read_translation_batch
from qkv.wording import plural

TOKENIZER = "tokenizer.json"


class Translate(Task, AnswersTestData):
    """Translation, by every kind of sequence-to-sequence model."""

    name = "translate"
    recipe = TranslationRecipe
    files = (TOKENIZER,)
    vocabulary_files = (TOKENIZER,)
    label_sections = ("model", "tokens", "objective", "transfer", "train")
    resume_keys = (
        *("data.holdout", "data.phrases", "tokens", "batch", "model", "transfer", "validation.monitor"),
        *(f"objective.{name}" for name in ObjectiveConfig.model_fields),
    )

    keys_from_data = KEYS
    evaluate_options = ("source", "target", "data", "beam", "tokenize", "strict")

    def read_data(self, recipe: TranslationRecipe, report: Progress) -> Splits:
        """The training and held-out pairs."""
        return read_splits(recipe.data, recipe.train.seed)

    def compute_fingerprint(self, data: Splits) -> dict[str, dict[str, Any]]:
        """The number and the digest of the lines on both sides of the training and the held-out pairs."""
        return {
            f"{split}.{side}": {"lines": len(pairs), "digest": digest_lines(pair[i] for pair in pairs)}
            for split, pairs in data._asdict().items()
            for i, side in enumerate(("source", "target"))
        }

    def name_data_part(self, part: str, recipe: TranslationRecipe) -> str:
        """The key of the recipe that names the lines of this side of a split."""
        data = recipe.data
        if data.phrases is not None:
            return "data.phrases"
        split, _, side = part.partition(".")
        is_held_out = split == "valid" and data.valid is None
        files = data.train if split == "train" or is_held_out else data.valid
        name = "file" if files is not None and files.file is not None else side
        return f"data.train.{name}, of which some is held out," if is_held_out else f"data.{split}.{name}"

    def complete_recipe(self, recipe: TranslationRecipe, data: Splits, report: Progress) -> TranslationRecipe:
        """The recipe with its defaults for these pairs; reports each with its reason."""
        recipe, defaults = fill_defaults(recipe, measure_size(data.train), _describe_machine(recipe.train))
        if defaults:
            report.print_line(f"not in the recipe, so chosen for {len(data.train):,} pairs:")
        width = max((len(default.setting) for default in defaults), default=0)
        for default in defaults:
            report.print_line(f"    {default.setting:<{width}}  {default.reason}")
        return recipe

    def complete_recipe_from(
        self, recipe: TranslationRecipe, trained: TranslationRecipe
    ) -> TranslationRecipe:
        """The recipe with the keys that it leaves out as in the recipe of the run to resume."""
        return take_defaults(recipe, trained)

    def learn_files(
        self, recipe: TranslationRecipe, data: Splits, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The tokenizers of both sides, learnt from the training pairs."""
        if vocabulary:
            return dict(vocabulary)
        tokens = train_tokenizers(data.train, recipe.tokens, compute_max_characters(recipe.batch.max_length))
        return {TOKENIZER: tokens.to_json().encode()}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> TokenizerPair:
        """The tokenizers of both sides."""
        return TokenizerPair.from_json(contents[TOKENIZER], run / TOKENIZER)

    def measure_unknown_share(self, data: Splits, parsed: TokenizerPair) -> float:
        """The share of unknown tokens in the training pairs, the larger one of both sides."""
        sides = zip(zip(*data.train, strict=True), parsed, strict=True)
        return max(measure_unknown_share(lines, tokenizer) for lines, tokenizer in sides)

    def build_training(
        self, recipe: TranslationRecipe, data: Splits, tokens: TokenizerPair, report: Progress
    ) -> Training:
        """Build the training; reports the numbers of pairs, parameters and updates."""
        batches = build_batches(data.train, tokens, recipe, report)
        torch.manual_seed(recipe.train.seed)
        model: Any = build_model(recipe.model, tokens)
        targets: Any = batches.dataset.columns[1]
        set_bias_to_frequencies(model.output, count_predicted_tokens(targets, tokens.target.size))
        size = sum(p.numel() for p in model.parameters())
        report.print_line(
            f"{len(data.train):,} pairs to train on, {len(data.valid):,} held out; vocabulary "
            f"{tokens.source.size:,} → {tokens.target.size:,}; {size:,} parameters; "
            f"{plural(batches.steps(0), 'update')} an epoch"
        )
        _warn_of_few_updates(recipe, batches, report)
        objective = Translation(model, recipe.objective.smoothing, recipe.objective)
        validate = Validator(objective, tokens, data.valid, recipe, report)
        return Training(objective, batches, validate, recipe.validation.monitor)

    def adapt_training(
        self, recipe: TranslationRecipe, training: Training, parsed: TokenizerPair, initial: InitialRun | None
    ) -> Training:
        """Attention transfer instead of the likelihood, where the recipe has the section."""

        def build_trained_model(trained: TranslationRecipe) -> nn.Module:
            return self.build_model(trained, parsed)

        return build_transfer(recipe.transfer, training, initial, build_trained_model, read_translation_batch)

    def build_model(self, recipe: TranslationRecipe, tokens: TokenizerPair) -> nn.Module:
        """The model for the vocabularies of this run."""
        return build_model(recipe.model, tokens)

    def build_runner(self, recipe: TranslationRecipe, tokens: TokenizerPair, model: nn.Module) -> Translator:
        """A translator."""
        return Translator(recipe, tokens, model)

    def read_test_data(self, recipe: TranslationRecipe, options: EvaluateOptions) -> Lines:
        """The pairs of the files that the options name, or else the recipe's test data."""
        return choose_test_pairs(recipe.data, options)

    def evaluate(self, runner: Translator, data: Lines, options: EvaluateOptions, quiet: bool) -> Evaluation:
        """BLEU, chrF, TER and exact match, in total and by source length."""
        return evaluate_translator(runner, data, options, quiet)

    def answer_test_data(self, runner: Translator, data: Lines) -> Answers:
        """The translations of the test data."""
        sources, references = [source for source, _ in data], [target for _, target in data]
        translations = [best[0].text for best in runner.n_best(sources)]
        return Answers(sources, references, translations, runner.build_scorer(references))

    def find_changed_keys(self, old: Any, new: Any) -> Iterator[str]:
        """The keys that resuming may not change, those of a monitored score of translations among them."""
        yield from super().find_changed_keys(old, new)
        for name in ("decode", "tokenize") if new.validation.monitor != "nll" else ():
            if getattr(old.validation, name) != getattr(new.validation, name):
                yield f"validation.{name}"

    def suggest_commands(self, run: Path) -> str:
        """Translate a line, or score the run."""
        return f"echo '...' | qkv translate {run}    or: qkv evaluate {run}"


TRANSLATE = Translate()


def _describe_machine(config: TrainConfig) -> Machine:
    device = choose_device(config.device)
    return Machine(device, torch.get_num_threads(), can_multiply_bf16_in_hardware(device))


def _warn_of_few_updates(recipe: TranslationRecipe, batches: BatchPlan[Pairs], report: Progress) -> None:
    steps, epochs = recipe.train.steps or math.inf, recipe.train.epochs or math.inf
    in_epochs = epochs * batches.steps(0)
    updates = min(steps, in_epochs)
    if updates < FEW_UPDATES and recipe.data.phrases is None:
        advice = (
            "raise train.steps" if steps < in_epochs else "raise train.epochs or lower batch.batch_tokens"
        )
        report.print_line(
            f"this training makes only {updates:,} updates, and translation seldom succeeds with fewer than "
            f"about {FEW_UPDATES:,}: {advice}"
        )
