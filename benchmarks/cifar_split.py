"""The CIFAR sample in two parts: pictures to train on, and pictures to test with that no training reads."""

import argparse
import zipfile
from pathlib import Path, PurePosixPath

from qkv.data.lines import expand_path
from qkv.files import open_output

TEST_SHARE = 5  # every fifth picture of a class


def add_sample_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sample", default="$QKV_DATA/cifar10/train.zip", help="a zip file with a folder per class"
    )


def split_sample(sample: str, out: Path) -> tuple[Path, Path]:
    """Write the pictures to train on and those to test with, as zip files; files that exist are kept."""
    train_file, test_file = out / "train.zip", out / "test.zip"
    if train_file.exists() and test_file.exists():
        return train_file, test_file
    with zipfile.ZipFile(expand_path(sample)) as archive:
        numbers: dict[str, int] = {}
        parts: dict[Path, list[str]] = {train_file: [], test_file: []}
        for name in sorted(each for each in archive.namelist() if not each.endswith("/")):
            label = PurePosixPath(name).parent.name
            numbers[label] = numbers.get(label, -1) + 1
            parts[test_file if numbers[label] % TEST_SHARE == 0 else train_file].append(name)
        for file, names in parts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with open_output(file) as stream, zipfile.ZipFile(stream, "w") as part:
                for name in names:
                    part.writestr(name, archive.read(name))
    return train_file, test_file
