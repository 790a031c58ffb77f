"""The benchmarks of pictures: networks of equal size, and test pictures that no training reads."""

import zipfile
from pathlib import Path

import torch

from qkv.model.vision_classifier import VisionClassifier
from qkv.task.recipe import read_recipe
from script_loading import load_script
from tiny_pictures import class_files, write_zip


def test_the_networks_have_the_same_size_within_one_percent() -> None:
    benchmark, sizes = load_script("benchmarks", "picture_attention"), []
    for row in benchmark.NETWORKS:
        recipe = read_recipe(benchmark.RECIPE, benchmark.list_model_changes(row))
        with torch.device("meta"):
            model = VisionClassifier(recipe.model, 10)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert max(sizes) <= 1.01 * min(sizes)


def test_every_fifth_picture_of_a_class_is_a_test_picture(tmp_path: Path) -> None:
    sample = write_zip(tmp_path / "sample.zip", class_files(11))
    parts = load_script("benchmarks", "cifar_split").split_sample(sample, tmp_path / "out")
    names = [zipfile.ZipFile(path).namelist() for path in parts]
    assert not set(names[0]) & set(names[1])
    assert sorted(names[0] + names[1]) == sorted(class_files(11))
    assert names[1] == [f"{label}/{i:03}.png" for label in ("bright", "dark") for i in (0, 5, 10)]


def test_seeds_have_a_mean_and_a_deviation() -> None:
    results = load_script("benchmarks", "benchmark_results")
    scores = [{"accuracy": share, "nll": share, "minutes": 2.0} for share in (0.5, 0.6)]
    assert results.format_accuracies(scores) == ["55.0", "7.1", "50.0 60.0", "0.550", "2.0"]
    assert results.format_seeds([1.0], ".3g") == ["1", "–", "1"]
