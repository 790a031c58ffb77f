"""Brings public data sets into the folder that the recipes with the name of a data set read.

    python benchmarks/prepare_data.py DOWNLOADS OUT
    export QKV_DATA=OUT

DOWNLOADS holds what was downloaded, under the names that the publishers give it (docs/data.md has the pages):

    dataset/                        a clone of github.com/multi30k/dataset
    wikitext-2-v1.zip               WikiText-2, words
    input.txt                       Tiny Shakespeare
    aclImdb_v1.tar.gz               Large Movie Review Dataset (IMDb)
    cifar-10-binary.tar.gz          CIFAR-10
    Flickr8k_Dataset.zip, Flickr8k_text.zip

What is missing there is named and left out.  CIFAR-10 becomes the first 500 pictures of each class, as the
recipes say (`--per-class` changes that), and the photographs of Flickr8k become squares of 96 pixels.
"""

import argparse
import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

CIFAR_SIDE = 32
PHOTO_SIDE = 96


class Missing(Exception):
    """A download that is not there."""


def find(downloads: Path, name: str) -> Path:
    """The path of a download."""
    path = downloads / name
    if not path.exists():
        raise Missing(name)
    return path


def write_gzip(path: Path, content: bytes) -> None:
    """Write a compressed file, which is the same for the same content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """Write one JSON object per line."""
    write_gzip(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def prepare_multi30k(downloads: Path, out: Path) -> None:
    """Lower-cased, normalised and tokenised sentences in three languages."""
    folder = find(downloads, "dataset/data/task1/tok")
    for split in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de", "fr"):
            text = (folder / f"{split}.lc.norm.tok.{language}").read_bytes()
            write_gzip(out / "multi30k" / "tok" / f"{split}.{language}.gz", text)


def prepare_wikitext(downloads: Path, out: Path) -> None:
    """The training and validation text."""
    with zipfile.ZipFile(find(downloads, "wikitext-2-v1.zip")) as archive:
        for split in ("train", "valid"):
            name = f"wiki.{split}.tokens"
            write_gzip(out / "wikitext-2" / f"{name}.gz", archive.read(f"wikitext-2/{name}"))


def prepare_shakespeare(downloads: Path, out: Path) -> None:
    """The one text."""
    write_gzip(out / "tinyshakespeare" / "input.txt.gz", find(downloads, "input.txt").read_bytes())


def prepare_imdb(downloads: Path, out: Path) -> None:
    """Reviews with the label 1 where they are favourable, else 0; "test" becomes dev.jsonl.gz."""
    rows: dict[str, dict[str, dict[str, object]]] = defaultdict(dict)
    with tarfile.open(find(downloads, "aclImdb_v1.tar.gz")) as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if member.isfile() and len(parts) == 4 and parts[2] in ("pos", "neg"):
                file = archive.extractfile(member)
                assert file is not None
                rows[parts[1]][member.name] = {"text": file.read().decode(), "label": int(parts[2] == "pos")}
    for split, name in (("train", "train"), ("test", "dev")):
        write_rows(out / "imdb" / f"{name}.jsonl.gz", (rows[split][key] for key in sorted(rows[split])))


def prepare_cifar10(downloads: Path, out: Path, per_class: int) -> None:
    """PNG files in a folder per class, in one zip file."""
    target = out / "cifar10" / "train.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with zipfile.ZipFile(target, "w") as pictures:
        for name, pixels in read_cifar10(find(downloads, "cifar-10-binary.tar.gz")):
            if counts[name] < per_class:
                write_picture(pictures, f"{name}/{counts[name]:04}.png", pixels)
                counts[name] += 1


def read_cifar10(path: Path) -> Iterator[tuple[str, Image.Image]]:
    """The class and the picture of every record: a byte, then the red, green and blue planes."""
    plane = CIFAR_SIDE**2
    with tarfile.open(path) as archive:
        files = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
        names = _read_member(archive, files["batches.meta.txt"]).decode().split()
        for number in range(1, 6):
            records = _read_member(archive, files[f"data_batch_{number}.bin"])
            for start in range(0, len(records), 1 + 3 * plane):
                planes = [records[start + 1 + i * plane : start + 1 + (i + 1) * plane] for i in range(3)]
                channels = [Image.frombytes("L", (CIFAR_SIDE, CIFAR_SIDE), each) for each in planes]
                yield names[records[start]], Image.merge("RGB", channels)


def prepare_flickr8k(downloads: Path, out: Path) -> None:
    """Two zip files of square photographs, and their captions."""
    with zipfile.ZipFile(find(downloads, "Flickr8k_text.zip")) as texts:
        files = {PurePosixPath(name).name: name for name in texts.namelist() if "__MACOSX" not in name}
        captions: dict[str, list[str]] = defaultdict(list)
        for line in texts.read(files["Flickr8k.token.txt"]).decode().splitlines():
            name, _, caption = line.partition("\t")
            captions[name.partition("#")[0]].append(caption)
        splits = {
            split: texts.read(files[f"Flickr_8k.{split}Images.txt"]).decode().split()
            for split in ("train", "dev")
        }
    with zipfile.ZipFile(find(downloads, "Flickr8k_Dataset.zip")) as archive:
        photos = {PurePosixPath(name).name: name for name in archive.namelist() if "__MACOSX" not in name}
        for split, names in splits.items():
            folder = out / "flickr8k"
            folder.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(folder / f"images{PHOTO_SIDE}_{split}.zip", "w") as pictures:
                for name in names:
                    with Image.open(io.BytesIO(archive.read(photos[name]))) as photo:
                        upright = ImageOps.exif_transpose(photo).convert("RGB")
                        square = upright.resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
                    write_picture(pictures, name, square)
            write_rows(
                folder / f"captions_{split}.jsonl.gz",
                ({"image": name, "captions": captions[name]} for name in names),
            )


def write_picture(archive: zipfile.ZipFile, name: str, picture: Image.Image) -> None:
    """Add a picture, whose suffix decides its format, to a zip file."""
    content = io.BytesIO()
    picture.save(content, "PNG" if name.endswith(".png") else "JPEG", quality=90)
    archive.writestr(zipfile.ZipInfo(name), content.getvalue())


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("downloads", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=500, help="pictures of each class of CIFAR-10")
    options = parser.parse_args(arguments)
    steps: dict[str, Callable[[Path, Path], None]] = {
        "multi30k": prepare_multi30k,
        "wikitext-2": prepare_wikitext,
        "tinyshakespeare": prepare_shakespeare,
        "imdb": prepare_imdb,
        "cifar10": lambda downloads, out: prepare_cifar10(downloads, out, options.per_class),
        "flickr8k": prepare_flickr8k,
    }
    written = 0
    for name, prepare in steps.items():
        try:
            prepare(options.downloads, options.out)
        except Missing as missing:
            print(f"{name}: left out, {options.downloads / str(missing)} is missing")
            continue
        written += 1
        print(f"{name}: written to {options.out / name}")
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
