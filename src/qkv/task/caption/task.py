"""The task `caption`: from pictures with captions to a captioner."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qkv.data.batching import BatchPlan
from qkv.data.pairs import count_predicted_tokens
from qkv.data.pictures import PixelStatistics
from qkv.model.captioner import build_captioner
from qkv.model.captioner_encoder import GridConfig
from qkv.progress import Progress, show_progress
from qkv.task.base import Task, Training
from qkv.task.caption.batches import CaptionPlan, encode_captions, make_dataset
from qkv.task.caption.captioner import Captioner
from qkv.task.caption.examples import (
    CaptionedExamples,
    CaptionSplits,
    fingerprint_splits,
    measure_used_pixels,
    read_splits,
    read_test_examples,
)
from qkv.task.caption.grounding import find_cell_centres
from qkv.task.caption.recipe import CaptionRecipe
from qkv.task.caption.validator import Validator
from qkv.task.checksums import name_split
from qkv.task.classify_pictures.task import CLASSIFY_PICTURES
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.fill_pictures.task import FILL_PICTURES
from qkv.task.initial_run import InitialRun
from qkv.task.output_bias import set_bias_to_frequencies
from qkv.task.patch_positions import refuse_other_positions
from qkv.task.pixel_statistics import STATISTICS, format_statistics, parse_statistics
from qkv.task.texts import (
    AnyTokenizer,
    learn_tokenizer,
    measure_unknown_share,
    tokenizer_from_json,
    tokenizer_to_json,
)
from qkv.train.objective.captioning import Captioning
from qkv.wording import plural

TOKENIZER = "tokenizer.json"
TITLES = {
    **{f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)},
    "cider": "CIDEr-D × 100",
    "rouge_l": "ROUGE-L",
    "exact": "exact match",
    "pointing": "pointing accuracy",
    "attention_mass": "attention in the box",
    "pointing_chance": "the same by chance",
}


class Parsed(NamedTuple):
    """The vocabulary, and what pixels are normalised by."""

    tokenizer: AnyTokenizer
    statistics: PixelStatistics


class Caption(Task):
    """Captioners of pictures."""

    name = "caption"
    recipe = CaptionRecipe
    files = (TOKENIZER, STATISTICS)
    vocabulary_files = (TOKENIZER,)
    evaluate_options = ("source", "target", "beam")
    initial_tasks = (CLASSIFY_PICTURES.name, FILL_PICTURES.name)
    label_sections = ("model", "tokens", "objective", "train")
    resume_keys = (
        "data.shapes",
        "data.holdout",
        "augment",
        "tokens",
        "batch",
        "model",
        "objective",
        "validation.monitor",
    )

    def read_data(self, recipe: CaptionRecipe, report: Progress) -> CaptionSplits:
        """The training and the held-out pictures with their captions."""
        return read_splits(recipe.data, recipe.train.seed, report)

    def compute_fingerprint(self, data: CaptionSplits) -> dict[str, dict[str, Any]]:
        """The number and a digest of the pictures and captions of both splits."""
        return fingerprint_splits(data)

    def name_data_part(self, part: str, recipe: CaptionRecipe) -> str:
        """What a user calls the pictures of a split."""
        if recipe.data.shapes is not None:
            return "data.shapes"
        return name_split(part, has_valid=recipe.data.valid is not None)

    def learn_files(
        self, recipe: CaptionRecipe, data: CaptionSplits, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The tokenizer and the statistics of the pixels, from the training pictures."""
        files = vocabulary or {
            TOKENIZER: tokenizer_to_json(learn_tokenizer(_list_captions(data.train), recipe.tokens)).encode()
        }
        return {**files, **format_statistics(measure_used_pixels(data.train))}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> Parsed:
        """The tokenizer and the statistics of the pixels."""
        tokenizer = tokenizer_from_json(contents[TOKENIZER], run / TOKENIZER)
        return Parsed(tokenizer, parse_statistics(contents, run))

    def measure_unknown_share(self, data: CaptionSplits, parsed: Parsed) -> float:
        """The share of unknown tokens in the training captions."""
        return measure_unknown_share(_list_captions(data.train), parsed.tokenizer)

    def build_training(
        self, recipe: CaptionRecipe, data: CaptionSplits, parsed: Parsed, report: Progress
    ) -> Training:
        """Wire the training; reports how the pictures were read, and sizes."""
        captions = encode_captions(data.train, parsed.tokenizer, recipe.batch.max_length)
        dataset = make_dataset(data.train, captions)
        plan = BatchPlan(dataset, recipe.batch.plan, recipe.train.seed)
        torch.manual_seed(recipe.train.seed)
        model: Any = self.build_model(recipe, parsed)
        targets: Any = dataset.columns[1]
        set_bias_to_frequencies(model.output, count_predicted_tokens(targets, parsed.tokenizer.size))
        for note in (*data.train.notes, *data.valid.notes, *captions.notes):
            report.print_line(note)
        size = sum(parameter.numel() for parameter in model.parameters())
        report.print_line(
            f"{_describe_pictures(recipe, data, parsed)}; {len(captions.ids):,} captions; vocabulary "
            f"{parsed.tokenizer.size:,}; {size:,} parameters; {plural(plan.steps(0), 'update')} an epoch"
        )
        objective = Captioning(model, recipe.objective.smoothing, recipe.objective)
        centres = find_cell_centres(model, recipe.data.size) if recipe.objective.supervise > 0 else None
        batches = CaptionPlan(plan, data.train, captions, recipe, parsed.tokenizer, centres)
        captioner = Captioner(recipe, parsed.tokenizer, model)
        validate = Validator(objective, captioner, data.valid, report)
        return Training(objective, batches, validate, recipe.validation.monitor)

    def list_usable_prefixes(self, parsed: Parsed, initial: InitialRun) -> tuple[str, ...]:
        """Everything of a captioner, whose vocabulary stays; the encoder of another model of pictures."""
        return ("",) if initial.recipe.task == self.name else ("encoder.",)

    def adapt_training(
        self, recipe: CaptionRecipe, training: Training, parsed: Any, initial: InitialRun | None
    ) -> Training:
        """The training; refuses an initial run whose positions stand for other patches."""
        refuse_other_positions(recipe, initial)
        return training

    def build_model(self, recipe: CaptionRecipe, parsed: Parsed) -> nn.Module:
        """The model for the vocabulary and the pixels of this run."""
        return build_captioner(recipe.model, parsed.tokenizer.size, *parsed.statistics)

    def build_runner(self, recipe: CaptionRecipe, parsed: Parsed, model: nn.Module) -> Captioner:
        """A captioner."""
        return Captioner(recipe, parsed.tokenizer, model)

    def read_test_data(self, recipe: CaptionRecipe, options: EvaluateOptions) -> CaptionedExamples:
        """The pictures to caption, with their captions."""
        return read_test_examples(recipe, options)

    def evaluate(
        self, runner: Captioner, data: CaptionedExamples, options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """BLEU-1 to 4, CIDEr-D and ROUGE-L; for generated shapes also exact match and pointing."""
        with show_progress("evaluate", len(data), quiet=quiet) as bar:
            result = runner.score(data, beam=options.beam, on_progress=bar.update)
        return Evaluation(
            result.scores,
            len(data),
            "pictures",
            titles=TITLES,
            remarks={"bleu4": result.signature},
            notes=data.notes,
        )

    def find_changed_keys(self, old: Any, new: Any) -> Iterator[str]:
        """The keys that resuming may not change, those of a monitored score of captions among them."""
        yield from super().find_changed_keys(old, new)
        if new.validation.monitor != "nll" and old.validation.decode != new.validation.decode:
            yield "validation.decode"

    def suggest_commands(self, run: Path) -> str:
        """Caption a picture, or score the run."""
        return f"qkv caption {run} PICTURE...    or: qkv evaluate {run}"


CAPTION = Caption()


def _list_captions(examples: CaptionedExamples) -> list[str]:
    return [text for place in range(len(examples)) for text in examples.get_captions(place)]


def _describe_pictures(recipe: CaptionRecipe, data: CaptionSplits, parsed: Parsed) -> str:
    side, (mean, sd) = recipe.data.size, (np.mean(values) for values in parsed.statistics)
    if isinstance(recipe.model.encoder, GridConfig):
        height, width, _ = data.train.get_pixels(0).shape
        return (
            f"{len(data.train):,} grids of {height} × {width} cells to train on, {len(data.valid):,} held out"
        )
    return (
        f"{len(data.train):,} pictures of {side} × {side} pixels to train on (mean {mean:.3f}, standard "
        f"deviation {sd:.3f}), {len(data.valid):,} held out"
    )
