"""The benchmarks of pictures: networks of equal size, and test pictures that no training reads."""

import importlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from qkv.model.vision_classifier import VisionClassifier
from qkv.task.recipe import read_recipe
from tiny_pictures import class_files, write_zip

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")


def load_benchmark(name: str) -> Any:
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(BENCHMARKS)


def test_the_networks_have_the_same_size_within_one_percent() -> None:
    benchmark, sizes = load_benchmark("picture_attention"), []
    for row in benchmark.NETWORKS:
        recipe = read_recipe(benchmark.RECIPE, benchmark.list_model_changes(row))
        with torch.device("meta"):
            model = VisionClassifier(recipe.model, 10)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert max(sizes) <= 1.01 * min(sizes)


def test_every_fifth_picture_of_a_class_is_a_test_picture(tmp_path: Path) -> None:
    sample = write_zip(tmp_path / "sample.zip", class_files(11))
    parts = load_benchmark("cifar_split").split_sample(sample, tmp_path / "out")
    names = [zipfile.ZipFile(path).namelist() for path in parts]
    assert not set(names[0]) & set(names[1])
    assert sorted(names[0] + names[1]) == sorted(class_files(11))
    assert names[1] == [f"{label}/{i:03}.png" for label in ("bright", "dark") for i in (0, 5, 10)]
