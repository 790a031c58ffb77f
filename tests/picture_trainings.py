"""Trainings that the tests of tasks with pictures run, stop and resume."""

from pathlib import Path
from typing import Any

import torch

import qkv


def fit(recipe: Any, run: Path, **options: Any) -> Any:
    return qkv.fit(recipe, run, quiet=True, **options)


def load_weights(*runs: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of the last update of every run, which are not always those that it chose."""
    return [torch.load(run / "training/state.pt", weights_only=True)["weights"] for run in runs]


def check_resumed_weights(recipe: Any, folder: Path) -> None:
    """Train into `complete`, and with a stop after 7 updates into `parts`: the weights are the same bits."""
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 7})})
    fit(recipe, folder / "complete")
    fit(stopped, folder / "parts")
    fit(recipe, folder / "parts", resume=True)
    complete, parts = load_weights(folder / "complete", folder / "parts")
    assert complete.keys() == parts.keys()
    for name, value in complete.items():
        assert torch.equal(value, parts[name]), name
