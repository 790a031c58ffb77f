"""The task `fill` for pictures: from pictures without labels to an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qkv.data.batching import BatchPlan
from qkv.data.pictures import AugmentedPlan, HiddenPlan, PixelStatistics
from qkv.model.masked_pictures import MaskedPictureModel
from qkv.progress import Progress, show_progress
from qkv.task.base import Task, Training
from qkv.task.classify_pictures.pictures import (
    LabelledPictures,
    PictureSplits,
    fingerprint_pictures,
    make_dataset,
    measure_used_pixels,
)
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.fill_pictures.filler import PictureFiller
from qkv.task.fill_pictures.recipe import FillPicturesRecipe
from qkv.task.initial_run import InitialRun
from qkv.task.patch_positions import refuse_other_positions
from qkv.task.pixel_statistics import STATISTICS, format_statistics, parse_statistics
from qkv.task.unlabelled_pictures import (
    name_pictures,
    read_unlabelled_splits,
    read_unlabelled_test,
)
from qkv.train.objective.reconstruction import Reconstruction
from qkv.wording import plural


class FillPictures(Task):
    """Encoders of pictures, trained on hidden patches."""

    name = "fill-pictures"
    recipe = FillPicturesRecipe
    files = (STATISTICS,)
    label_sections = ("model", "objective", "train")
    evaluate_options = ("data",)
    resume_keys = ("data.shapes", "data.holdout", "augment", "batch", "model", "objective")

    def read_data(self, recipe: FillPicturesRecipe, report: Progress) -> PictureSplits:
        """The training and the held-out pictures."""
        return read_unlabelled_splits(recipe.data, recipe.train.seed, report)

    def compute_fingerprint(self, data: PictureSplits) -> dict[str, dict[str, Any]]:
        """The number and a digest of the pictures of both splits."""
        return fingerprint_pictures(data)

    def name_data_part(self, part: str, recipe: FillPicturesRecipe) -> str:
        """What a user calls the pictures of a split."""
        return name_pictures(part, recipe.data)

    def learn_files(
        self, recipe: FillPicturesRecipe, data: PictureSplits, vocabulary: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """The statistics of the pixels of the training pictures."""
        return format_statistics(measure_used_pixels(data.train))

    def parse_files(self, contents: Mapping[str, bytes], run: Path) -> PixelStatistics:
        """The statistics of the pixels."""
        return parse_statistics(contents, run)

    def build_training(
        self, recipe: FillPicturesRecipe, data: PictureSplits, parsed: PixelStatistics, report: Progress
    ) -> Training:
        """Wire the training; reports how the pictures were read, and sizes."""
        seed, dataset = recipe.train.seed, make_dataset(data.train, np.zeros(len(data.train), np.int64))
        plan = BatchPlan(dataset, recipe.batch.plan, seed)
        batches = HiddenPlan(
            AugmentedPlan(plan, recipe.augment, seed), recipe.grid, recipe.objective.share, seed
        )
        torch.manual_seed(seed)
        model = self.build_model(recipe, parsed)
        for note in (*data.train.notes, *data.valid.notes):
            report.print_line(note)
        size = sum(parameter.numel() for parameter in model.parameters())
        rows, columns = recipe.grid
        report.print_line(
            f"{len(data.train):,} pictures of {recipe.data.size} × {recipe.data.size} pixels to train on, "
            f"{len(data.valid):,} held out; {recipe.objective.share:.0%} of {rows} × {columns} cells are "
            f"hidden; {size:,} parameters; {plural(plan.steps(0), 'update')} an epoch"
        )
        runner = PictureFiller(recipe, model)
        return Training(Reconstruction(model), batches, lambda: runner.evaluate(data.valid), recipe.monitor)

    def adapt_training(
        self, recipe: FillPicturesRecipe, training: Training, parsed: Any, initial: InitialRun | None
    ) -> Training:
        """The training; refuses an initial run whose positions stand for other patches."""
        refuse_other_positions(recipe, initial)
        return training

    def build_model(self, recipe: FillPicturesRecipe, parsed: PixelStatistics) -> nn.Module:
        """The model for the pixels of this run."""
        return MaskedPictureModel(recipe.model, *parsed)

    def build_runner(
        self, recipe: FillPicturesRecipe, parsed: PixelStatistics, model: nn.Module
    ) -> PictureFiller:
        """A model that fills pictures."""
        return PictureFiller(recipe, model)

    def read_test_data(self, recipe: FillPicturesRecipe, options: EvaluateOptions) -> LabelledPictures:
        """The pictures to score."""
        return read_unlabelled_test(recipe.data, recipe.train.seed, options.data)

    def evaluate(
        self, runner: PictureFiller, data: LabelledPictures, options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """The mean squared error of hidden pixels."""
        with show_progress("evaluate", len(data), quiet=quiet) as bar:
            scores = runner.evaluate(data, on_progress=bar.update)
        remarks = {"mse": "of hidden pixels; 1 is the error of the mean colour"}
        return Evaluation(scores, len(data), "pictures", remarks=remarks, notes=data.notes, digits=4)

    def suggest_commands(self, run: Path) -> str:
        """Train a classifier from it, or look at filled pictures."""
        return f"qkv train RECIPE --from {run}    or: qkv generate {run} --fill PICTURE --output filled.png"


FILL_PICTURES = FillPictures()
