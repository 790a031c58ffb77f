"""Small trainings of the text tasks and of pictures in float64, which one process or several can run."""

from pathlib import Path
from typing import Any

from torch import nn

import tiny_pictures
import tiny_text
from qkv.progress import NoProgress
from qkv.task.registry import find_task
from qkv.train import fit

SMALL = {"width": 6, "heads": 2, "feedforward": 6}
GATED = {"kernel": {"name": "rfa", "features": 4, "gate": True, "redraw": False}}
# an odd number of streams: two processes read different numbers of rows
TRAININGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "generate": (tiny_text.language_recipe, {"model": SMALL, "batch": {"streams": 5}}),
    "carry": (
        tiny_text.language_recipe,
        {
            "model": {**SMALL, "attention": GATED, "positions": "none"},
            "batch": {"streams": 5, "length": 9, "carry": True},
        },
    ),
    "fill": (tiny_text.fill_recipe, {"model": SMALL, "batch": {"streams": 5}}),
    "classify": (
        tiny_text.classify_recipe,
        {"model": {**SMALL, "pool": "attention"}, "batch": {"batch_tokens": 30}},
    ),
    "sentences": (
        tiny_text.classify_recipe,
        {"model": {**SMALL, "kind": "hierarchical", "encoder": "attention"}, "batch": {"batch_tokens": 30}},
    ),
    "pictures": (tiny_pictures.picture_recipe, {"batch": {"pictures": 7}}),
    "adversarial": (tiny_pictures.gan_recipe, {"batch": {"pictures": 7}}),
    "captions": (
        tiny_pictures.caption_recipe,
        {"batch": {"pictures": 7}, "model": {"dropout": 0.0}, "objective": {"coverage": 0.1}},
    ),
    "hidden": (tiny_pictures.fill_pictures_recipe, {"model": {"dropout": 0.0}, "batch": {"pictures": 7}}),
}
OPTIONS = {"steps": 9, "validate_every": 4, "average": 2, "log_every": 3, "eps": 1e-4, "device": "cpu"}


def train_text(name: str, run: Path, resume: bool = False, **options: Any) -> nn.Module:
    """Train the model of one name into a run directory; its data goes into the folder above."""
    make, sections = TRAININGS[name]
    folder = run.parent / f"{run.name}-data"
    folder.mkdir(exist_ok=True)
    recipe = make(folder, **sections, train={**OPTIONS, **options})
    task = find_task(recipe.task)
    data = task.read_data(recipe, NoProgress())
    parsed = task.parse_files(task.learn_files(recipe, data, {}), run)
    training = task.build_training(recipe, data, parsed, NoProgress())
    objective: Any = training.objective.double()
    fit(
        objective,
        training.batches,
        recipe.train,
        run=run,
        validate=training.validate,
        monitor=training.monitor,
        resume=resume,
        quiet=True,
    )
    return objective
