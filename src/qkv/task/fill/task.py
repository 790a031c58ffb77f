"""The task `fill`: from text to a model that guesses hidden words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qkv.data.streams import StreamPlan
from qkv.model.encoder import MaskedLanguageModel
from qkv.progress import Progress, show_progress
from qkv.task.attention_measures import list_segments, measure_examples
from qkv.task.base import Task, Training
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.fill.filler import Filler, masked_plan, score_masked
from qkv.task.fill.recipe import FillRecipe
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
from qkv.train.objective.masked import MaskedLanguageModeling
from qkv.wording import plural

TOKENIZER = "tokenizer.json"


class Fill(Task):
    """Masked language models."""

    name = "fill"
    recipe = FillRecipe
    files = (TOKENIZER,)
    vocabulary_files = (TOKENIZER,)
    label_sections = ("model", "tokens", "objective", "train")
    evaluate_options = ("data",)
    resume_keys = ("data.holdout", "data.phrases", "tokens", "batch", "model", "objective")

    def read_data(self, recipe: FillRecipe, report: Progress) -> Texts:
        """The training and the held-out text."""
        return read_texts(recipe.data)

    def compute_fingerprint(self, data: Texts) -> dict[str, dict[str, Any]]:
        """The number and a digest of the lines of both texts."""
        return fingerprint_texts(data)

    def name_data_part(self, part: str, recipe: FillRecipe) -> str:
        """What a user calls the text of a split."""
        return name_text(part, recipe.data)

    def learn_files(
        self, recipe: FillRecipe, data: Texts, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The tokenizer, learnt from the training text."""
        if vocabulary:
            return dict(vocabulary)
        return {TOKENIZER: tokenizer_to_json(learn_tokenizer(data.train, recipe.tokens)).encode()}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> AnyTokenizer:
        """The tokenizer."""
        return tokenizer_from_json(contents[TOKENIZER], run / TOKENIZER)

    def measure_unknown_share(self, data: Texts, parsed: AnyTokenizer) -> float:
        """The share of unknown tokens in the training text."""
        return measure_unknown_share(data.train, parsed)

    def build_training(
        self, recipe: FillRecipe, data: Texts, parsed: AnyTokenizer, report: Progress
    ) -> Training:
        """Wire the training; reports the sizes of the text and the model."""
        ids, seed = encode_text(data.train, parsed).ids, recipe.train.seed
        batches = masked_plan(StreamPlan(ids, recipe.batch, seed), recipe, parsed, seed)
        torch.manual_seed(seed)
        model: Any = self.build_model(recipe, parsed)
        size = sum(parameter.numel() for parameter in model.parameters())
        report.print_line(
            f"{len(ids):,} tokens to train on; vocabulary {parsed.size:,}; {size:,} parameters; "
            f"{plural(batches.steps(0), 'update')} an epoch; {recipe.objective.rate:.0%} of the "
            "tokens are hidden"
        )

        runner, held_out = Filler(recipe, parsed, model), encode_text(data.valid, parsed).ids
        segments = list_segments(held_out, recipe.batch.length, recipe.validation.attention)

        def validate() -> dict[str, float]:
            scores = score_masked(recipe, parsed, model, data.valid)
            return scores | measure_examples(runner.trace_tokens(ids) for ids in segments if len(ids) > 1)

        return Training(MaskedLanguageModeling(model, recipe.objective.smoothing), batches, validate, "nll")

    def build_model(self, recipe: FillRecipe, parsed: AnyTokenizer) -> nn.Module:
        """The model for the vocabulary of this run and [MASK]."""
        return MaskedLanguageModel(recipe.model, parsed.size + 1)

    def build_runner(self, recipe: FillRecipe, parsed: AnyTokenizer, model: nn.Module) -> Filler:
        """A guesser of hidden words."""
        return Filler(recipe, parsed, model)

    def read_test_data(self, recipe: FillRecipe, options: EvaluateOptions) -> list[str]:
        """The lines of the text to score."""
        return read_test_text(recipe.data, options.data)

    def evaluate(self, runner: Filler, data: list[str], options: EvaluateOptions, quiet: bool) -> Evaluation:
        """Nats per hidden token and accuracy; the same tokens are hidden at every call."""
        with show_progress("evaluate", None, quiet=quiet) as bar:
            scores = runner.evaluate(data, on_progress=bar.update)
        return Evaluation(scores, len(data), "lines", digits=4)

    def suggest_commands(self, run: Path) -> str:
        """Fill a blank, or score the run."""
        return f"qkv generate {run} --fill '... [MASK] ...'    or: qkv evaluate {run}"


FILL = Fill()
