"""The task `classify` for pictures: from labelled pictures to a classifier."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qkv.data.batching import BatchPlan
from qkv.data.pictures import AugmentedPlan, PixelStatistics
from qkv.errors import BadRun
from qkv.model.vision_classifier import VisionClassifier
from qkv.progress import Progress, show_progress
from qkv.task.base import Task, Training
from qkv.task.checksums import name_split
from qkv.task.classify.classifier import make_validator
from qkv.task.classify_pictures.classifier import PictureClassifier
from qkv.task.classify_pictures.pictures import (
    LabelledPictures,
    PictureSplits,
    fingerprint_pictures,
    list_classes,
    make_dataset,
    measure_used_pixels,
    number_labels,
    read_splits,
    read_test_pictures,
    spread_evenly,
)
from qkv.task.classify_pictures.recipe import PictureClassificationRecipe
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.fill_pictures.task import FILL_PICTURES
from qkv.task.initial_run import InitialRun
from qkv.task.patch_positions import refuse_other_positions
from qkv.train.objective.classification import Classification
from qkv.wording import plural

LABELS = "labels.json"


class Parsed(NamedTuple):
    """The names of the classes, and what pixels are normalised by."""

    classes: list[str]
    statistics: PixelStatistics


class ClassifyPictures(Task):
    """Classifiers of pictures."""

    name = "classify-pictures"
    recipe = PictureClassificationRecipe
    files = (LABELS,)
    initial_tasks = (FILL_PICTURES.name,)
    evaluate_options = ("data",)
    label_sections = ("model", "objective", "train")
    resume_keys = (
        "data.shapes",
        "data.label",
        "data.holdout",
        "data.labels",
        "augment",
        "batch",
        "model",
        "objective",
        "validation.monitor",
    )

    def read_data(self, recipe: PictureClassificationRecipe, report: Progress) -> PictureSplits:
        """The training and the held-out pictures."""
        return read_splits(recipe.data, recipe.train.seed, report)

    def compute_fingerprint(self, data: PictureSplits) -> dict[str, dict[str, Any]]:
        """The number and a digest of the pictures and labels of both splits."""
        return fingerprint_pictures(data)

    def name_data_part(self, part: str, recipe: PictureClassificationRecipe) -> str:
        """What a user calls the pictures of a split."""
        if recipe.data.shapes is not None:
            return "data.shapes"
        return name_split(part, has_valid=recipe.data.valid is not None)

    def learn_files(
        self, recipe: PictureClassificationRecipe, data: PictureSplits, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The classes and the statistics of the pixels, from the training pictures."""
        statistics = measure_used_pixels(data.train)
        labels = {"classes": list_classes(data.train), **statistics._asdict()}
        return {LABELS: json.dumps(labels).encode()}

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> Parsed:
        """The classes and the statistics of the pixels."""
        try:
            labels = json.loads(contents[LABELS])
            classes = [str(name) for name in labels["classes"]]
            return Parsed(classes, PixelStatistics.from_dict(labels))
        except (ValueError, KeyError, TypeError) as error:
            raise BadRun(f"{run / LABELS} is damaged ({error}): restore it from a copy") from None

    def build_training(
        self, recipe: PictureClassificationRecipe, data: PictureSplits, parsed: Parsed, report: Progress
    ) -> Training:
        """Wire the training; reports how the pictures were read, and sizes."""
        dataset = make_dataset(data.train, number_labels(data.train, parsed.classes))
        number_labels(data.valid, parsed.classes)  # raises if a label is unknown
        plan = BatchPlan(dataset, recipe.batch.plan, recipe.train.seed)
        torch.manual_seed(recipe.train.seed)
        model = self.build_model(recipe, parsed)
        size = sum(parameter.numel() for parameter in model.parameters())
        for note in (*data.train.notes, *data.valid.notes):
            report.print_line(note)
        side, (mean, sd) = recipe.data.size, (np.mean(values) for values in parsed.statistics)
        report.print_line(
            f"{len(data.train):,} pictures of {side} × {side} pixels to train on (mean {mean:.3f}, standard "
            f"deviation {sd:.3f}), {len(data.valid):,} held out; "
            f"{plural(len(parsed.classes), 'class', 'classes')}; {size:,} parameters; "
            f"{plural(plan.steps(0), 'update')} an epoch"
        )
        runner = PictureClassifier(recipe, parsed.classes, model)
        measured = spread_evenly(data.valid.rows, recipe.validation.attention).tolist()
        validate = make_validator(
            runner.evaluate,
            data.valid,
            lambda: runner.list_examples(map(data.valid.pixels.__getitem__, measured)),
        )
        objective = Classification(model, recipe.objective.smoothing, unit="pictures")
        batches = AugmentedPlan(plan, recipe.augment, recipe.train.seed)
        return Training(objective, batches, validate, recipe.validation.monitor)

    def list_usable_prefixes(self, parsed: Parsed, initial: InitialRun) -> tuple[str, ...]:
        """The encoder and the pooling; of a classifier into the same classes the output layer too."""
        is_classifier = isinstance(initial.parsed, Parsed)
        has_same_classes = is_classifier and parsed.classes == initial.parsed.classes
        return ("",) if has_same_classes else ("encoder.", "pool.")

    def adapt_training(
        self,
        recipe: PictureClassificationRecipe,
        training: Training,
        parsed: Parsed,
        initial: InitialRun | None,
    ) -> Training:
        """The training; refuses an initial run whose positions stand for other patches.

        Raises:
            BadRecipe: the positions of the patches do not mean the same in both.
        """
        refuse_other_positions(recipe, initial)
        return training

    def build_model(self, recipe: PictureClassificationRecipe, parsed: Parsed) -> nn.Module:
        """The model for the classes and the pixels of this run."""
        return VisionClassifier(recipe.model, len(parsed.classes), *parsed.statistics)

    def build_runner(
        self, recipe: PictureClassificationRecipe, parsed: Parsed, model: nn.Module
    ) -> PictureClassifier:
        """A classifier of pictures."""
        return PictureClassifier(recipe, parsed.classes, model)

    def read_test_data(
        self, recipe: PictureClassificationRecipe, options: EvaluateOptions
    ) -> LabelledPictures:
        """The labelled pictures to score."""
        return read_test_pictures(recipe, options.data)

    def evaluate(
        self, runner: PictureClassifier, data: LabelledPictures, options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """Accuracy, nats per label, F1, and the fraction of the commonest class."""
        with show_progress("evaluate", len(data), quiet=quiet) as bar:
            scores = runner.evaluate(data, on_progress=bar.update)
        return Evaluation(scores, len(data), "pictures", notes=data.notes, digits=4)

    def suggest_commands(self, run: Path) -> str:
        """Classify a picture, or score the run."""
        return f"qkv classify {run} PICTURE...    or: qkv evaluate {run}"


CLASSIFY_PICTURES = ClassifyPictures()
