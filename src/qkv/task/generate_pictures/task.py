"""The task `generate` for pictures: from pictures to a generator of others."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qkv.data.batching import BatchPlan
from qkv.data.pictures import AugmentedPlan, NoisePlan
from qkv.errors import BadData
from qkv.model.gan import GAN
from qkv.progress import NoProgress, Progress, show_progress
from qkv.task.base import Task, Training
from qkv.task.classify_pictures.pictures import (
    LabelledPictures,
    PictureSplits,
    fingerprint_pictures,
    make_dataset,
    permute,
)
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.generate_pictures.frechet import compare_features
from qkv.task.generate_pictures.generator import PictureGenerator, check_features, embed_pictures
from qkv.task.generate_pictures.recipe import GeneratePicturesRecipe
from qkv.task.output_files import write_picture
from qkv.task.unlabelled_pictures import name_pictures, read_unlabelled_splits, read_unlabelled_test
from qkv.train.objective.adversarial import Adversarial
from qkv.view.sheet import draw_sheet
from qkv.wording import plural

SHEETS = "samples"  # the folder in a run directory


class GeneratePictures(Task):
    """Generative adversarial networks."""

    name = "generate-pictures"
    recipe = GeneratePicturesRecipe
    evaluate_options = ("data", "features")
    label_sections = ("model", "objective", "train")
    resume_keys = (
        "data.shapes",
        "data.holdout",
        "augment",
        "batch",
        "model",
        "objective",
        "validation.features",
    )

    def read_data(self, recipe: GeneratePicturesRecipe, report: Progress) -> PictureSplits:
        """The training and the held-out pictures."""
        return read_unlabelled_splits(recipe.data, recipe.train.seed, report)

    def compute_fingerprint(self, data: PictureSplits) -> dict[str, dict[str, Any]]:
        """The number and a digest of the pictures of both splits."""
        return fingerprint_pictures(data)

    def name_data_part(self, part: str, recipe: GeneratePicturesRecipe) -> str:
        """What a user calls the pictures of a split."""
        return name_pictures(part, recipe.data)

    def build_training(
        self, recipe: GeneratePicturesRecipe, data: PictureSplits, parsed: None, report: Progress
    ) -> Training:
        """Wire the training; reports how the pictures were read, and sizes."""
        seed, dataset = recipe.train.seed, make_dataset(data.train, np.zeros(len(data.train), np.int64))
        plan = BatchPlan(dataset, recipe.batch.plan, seed)
        batches = NoisePlan(AugmentedPlan(plan, recipe.augment, seed), recipe.model.noise, seed)
        torch.manual_seed(seed)
        model: Any = self.build_model(recipe, parsed)
        for note in (*data.train.notes, *data.valid.notes):
            report.print_line(note)
        sizes = [sum(each.numel() for each in part.parameters()) for part in model.children()]
        report.print_line(
            f"{len(data.train):,} pictures of {recipe.data.size} × {recipe.data.size} pixels to train on, "
            f"{len(data.valid):,} held out; {sizes[0]:,} parameters of the generator, {sizes[1]:,} of the "
            f"discriminator; {plural(plan.steps(0), 'update')} an epoch"
        )
        objective = Adversarial(model, recipe.objective.rate_ratio)
        return _add_validation(recipe, data.valid, objective, batches)

    def build_model(self, recipe: GeneratePicturesRecipe, parsed: None) -> nn.Module:
        """A generator and a discriminator."""
        return GAN(recipe.model)

    def build_runner(
        self, recipe: GeneratePicturesRecipe, parsed: None, model: nn.Module
    ) -> PictureGenerator:
        """A generator of pictures."""
        return PictureGenerator(recipe, model)

    def read_test_data(self, recipe: GeneratePicturesRecipe, options: EvaluateOptions) -> LabelledPictures:
        """The real pictures that samples are compared with: those of a folder, or the held-out ones."""
        if options.data is not None:
            return read_unlabelled_test(recipe.data, recipe.train.seed, options.data)
        return read_unlabelled_splits(recipe.data, recipe.train.seed, NoProgress()).valid

    def evaluate(
        self, runner: PictureGenerator, data: LabelledPictures, options: EvaluateOptions, quiet: bool
    ) -> Evaluation:
        """The Fréchet distance by the features of a classifier."""
        run = options.features or runner.recipe.validation.features
        if run is None:
            raise BadData(
                "samples are compared with pictures by the features of a classifier: name its run with "
                "--features"
            )
        features, recipe = _load_features(run), runner.recipe
        with show_progress("evaluate", len(data), quiet=quiet) as bar:
            scores = runner.evaluate(data, features, on_progress=bar.update)
        remarks = {"fid": f"by the features of {run}; compare only with the same classifier and pictures"}
        if options.data is None:
            train = read_unlabelled_splits(recipe.data, recipe.train.seed, NoProgress()).train
            chosen = sorted(permute(len(train), recipe.train.seed)[: len(data)])  # files are ordered by class
            both = (train.select(chosen), data)
            scores["fid_train"] = compare_features(
                *(embed_pictures(features, each, recipe.batch.pictures) for each in both)
            )
            remarks["fid_train"] = "of as many training pictures: what a perfect generator has"
        return Evaluation(scores, len(data), "pictures", remarks=remarks, notes=data.notes, digits=4)

    def suggest_commands(self, run: Path) -> str:
        """Generate pictures, or score the run."""
        return f"qkv generate {run} --output samples.png    or: qkv evaluate {run} --features CLASSIFIER"


def _add_validation(
    recipe: GeneratePicturesRecipe, valid: LabelledPictures, objective: Adversarial, batches: NoisePlan
) -> Training:
    """The training: with features the best distance decides; without them the last weights are kept."""
    runner, features = PictureGenerator(recipe, objective.model), None
    if recipe.validation.features is not None:
        features = _load_features(recipe.validation.features)
        check_features(features, recipe)

    def validate() -> dict[str, float]:
        scores = {} if features is None else runner.evaluate(valid, features)
        return {**scores, "updates": float(objective.updates)}

    def write_samples(run: Path) -> None:
        count = recipe.validation.samples
        if count:
            sheet = draw_sheet(list(runner.generate(count)), columns=max(1, round(count**0.5)))
            write_picture(run / SHEETS / f"{objective.updates:06}.png", sheet)

    return Training(objective, batches, validate, recipe.monitor, write_samples)


def _load_features(run: str | Path) -> Any:
    # imported here: the module imports the registry of tasks, and the registry this one
    from qkv.task.run_directory import load

    return load(run)


GENERATE_PICTURES = GeneratePictures()
