"""The script that prepares public data sets for the recipes, on small archives of the same layout."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qkv.data.pictures.captioned import load_captioned_pictures
from qkv.data.pictures.captions import CaptionConfig
from qkv.data.pictures.config import PictureConfig
from qkv.data.pictures.loading import load_pictures
from qkv.progress import NoProgress
from qkv.task.classify.documents import LabelledData, read_documents
from script_loading import load_script

CLASSES = ["airplane", "cat"]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def make_downloads(folder: Path) -> Path:
    """Small files of the names and the layout that the publishers use."""
    tok = folder / "dataset" / "data" / "task1" / "tok"
    tok.mkdir(parents=True)
    for split in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de", "fr"):
            (tok / f"{split}.lc.norm.tok.{language}").write_text(f"{split} in {language} .\n")
    with zipfile.ZipFile(folder / "wikitext-2-v1.zip", "w") as texts:
        for split in ("train", "valid", "test"):
            texts.writestr(f"wikitext-2/wiki.{split}.tokens", f" = {split} = \n")
    (folder / "input.txt").write_text("First Citizen:\n")
    with tarfile.open(folder / "aclImdb_v1.tar.gz", "w:gz") as reviews:
        for split in ("train", "test"):
            add(reviews, f"aclImdb/{split}/pos/0_9.txt", f"good, {split}".encode())
            add(reviews, f"aclImdb/{split}/neg/0_2.txt", f"bad, {split}: é".encode())
        add(reviews, "aclImdb/train/unsup/0_0.txt", b"no label")
        add(reviews, "aclImdb/README", b"about")
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as cifar:
        add(cifar, "cifar-10-batches-bin/batches.meta.txt", "\n".join([*CLASSES, ""]).encode())
        for number in range(1, 6):
            records = b"".join(bytes([label, *[50 * number] * 1024, *[20] * 2048]) for label in (0, 1))
            add(cifar, f"cifar-10-batches-bin/data_batch_{number}.bin", records)
    photo = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(photo, "JPEG")
    with zipfile.ZipFile(folder / "Flickr8k_Dataset.zip", "w") as photos:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            photos.writestr(f"Flicker8k_Dataset/{name}", photo.getvalue())
    with zipfile.ZipFile(folder / "Flickr8k_text.zip", "w") as texts:
        texts.writestr("Flickr8k.token.txt", "a.jpg#0\tA dog .\na.jpg#1\tA cat .\nb.jpg#0\tA bird .\n")
        texts.writestr("Flickr_8k.trainImages.txt", "a.jpg\n")
        texts.writestr("Flickr_8k.devImages.txt", "b.jpg\n")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    downloads = make_downloads(tmp_path / "downloads")
    arguments = [str(downloads), str(tmp_path / "out"), "--per-class", "3"]
    assert load_script("benchmarks", "prepare_data").main(arguments) == 0
    return tmp_path / "out"


def test_texts(out: Path) -> None:
    tok = out / "multi30k" / "tok"
    assert len(list(tok.iterdir())) == 9
    assert gzip.decompress((tok / "val.fr.gz").read_bytes()) == b"val in fr .\n"
    assert gzip.decompress((out / "wikitext-2" / "wiki.valid.tokens.gz").read_bytes()) == b" = valid = \n"
    assert gzip.decompress((out / "tinyshakespeare" / "input.txt.gz").read_bytes()) == b"First Citizen:\n"
    documents = read_documents(LabelledData(file=str(out / "imdb" / "dev.jsonl.gz")))
    assert [(each.texts[0], each.label) for each in documents] == [("bad, test: é", "0"), ("good, test", "1")]
    assert len(read_documents(LabelledData(file=str(out / "imdb" / "train.jsonl.gz")))) == 2


def test_pictures(out: Path) -> None:
    config = PictureConfig(size=32, workers=1)
    pictures = load_pictures(out / "cifar10" / "train.zip", config, NoProgress())
    assert pictures.names == [f"{name}/{i:04}.png" for name in CLASSES for i in range(3)]
    assert np.asarray(pictures.pixels)[1, 0, 0].tolist() == [100, 20, 20]
    folder = out / "flickr8k"
    captions = CaptionConfig(file=str(folder / "captions_train.jsonl.gz"))
    loaded = load_captioned_pictures(folder / "images96_train.zip", captions, config, NoProgress())
    assert loaded.names == ["a.jpg"]
    assert loaded.captions == [["A dog .", "A cat ."]]
    with zipfile.ZipFile(folder / "images96_dev.zip") as archive, archive.open("b.jpg") as file:
        assert Image.open(file).size == (96, 96)


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.txt").write_text("text")
    script = load_script("benchmarks", "prepare_data")
    assert script.main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert f"imdb: left out, {tmp_path / 'aclImdb_v1.tar.gz'} is missing" in capsys.readouterr().out
    assert script.main([str(tmp_path / "out"), str(tmp_path / "none")]) == 1
