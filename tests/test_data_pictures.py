"""Pictures from folders and zip files: every colour mode, what is refused, skipped and counted, and speed."""

import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import qkv.data.pictures.decoding as decoding
from qkv.data.pictures import PictureConfig, Pictures, check_pixels, load_pictures, measure_pixels
from qkv.errors import BadData, QKVError, TooLarge
from qkv.picture_decoding import decode_picture
from qkv.progress import NoProgress
from tiny_pictures import class_files, encode, noise, write_folder, write_zip

GOOD = {"a.png": encode(noise(0)), "b.png": encode(noise(1))}


def load(path: str | Path, **config: Any) -> Pictures:
    return load_pictures(path, PictureConfig(**{"size": 8, **config}), NoProgress())


def square(image: Image.Image, kind: str = "PNG", size: int = 8, **options: Any) -> np.ndarray:
    decoded = decode_picture(encode(image, kind, **options), size)
    assert decoded.problem == ""
    assert decoded.pixels is not None
    assert decoded.pixels.shape == (size, size, 3)
    assert decoded.pixels.dtype == np.uint8
    return decoded.pixels


def half(mode: str, left: Any, right: Any) -> Image.Image:
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


# --- colour modes -----------------------------------------------------------------------------------------


def test_a_square_of_the_right_size_is_unchanged() -> None:
    image = noise(0, (8, 8))
    np.testing.assert_array_equal(square(image), np.asarray(image))


def test_the_shorter_side_is_resized_and_the_centre_cropped() -> None:
    image = Image.new("RGB", (40, 16), "black")
    image.paste("white", (12, 0, 28, 16))
    assert (square(image)[:, 1:7] > 240).all()
    assert (square(image.transpose(Image.Transpose.ROTATE_90))[1:7] > 240).all()


@pytest.mark.parametrize(
    ("mode", "left", "right", "expected"),
    [
        ("L", 10, 200, (10, 200)),
        ("1", 0, 1, (0, 255)),
        ("LA", (0, 255), (0, 0), (0, 255)),
        ("RGBA", (0, 0, 0, 255), (0, 0, 0, 0), (0, 255)),
        ("RGBA", (255, 0, 0, 255), (0, 0, 0, 128), (76, 127)),
        ("I;16", 0, 65_535, (0, 255)),
        ("I;16", 257 * 100, 257 * 7, (100, 7)),
    ],
)
def test_modes(mode: str, left: Any, right: Any, expected: tuple[int, int]) -> None:
    pixels = square(half(mode, left, right))
    grey = np.asarray(Image.fromarray(pixels).convert("L")).astype(int)
    assert abs(grey[4, 1] - expected[0]) <= 1
    assert abs(grey[4, 6] - expected[1]) <= 1


def test_palettes_with_and_without_transparency() -> None:
    image = half("RGB", (255, 0, 0), (0, 0, 255)).quantize(4)
    assert square(image)[4, 1].tolist() == [255, 0, 0]
    transparent = image.getpixel((1, 1))
    assert square(image, transparency=transparent)[4, 1].tolist() == [255, 255, 255]
    assert square(image, transparency=transparent)[4, 6].tolist() == [0, 0, 255]


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_exif_turns_the_picture(turn: int) -> None:
    turned = {1: None, 3: 2, 6: 3, 8: 1}[turn]  # quarters to the left that undo it
    image = half("RGB", "white", "black")
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = square(image, "JPEG", exif=exif, quality=95)
    expected = np.rot90(np.asarray(image), turned or 0)
    assert np.abs(pixels.astype(int) - expected).mean() < 10


def test_cmyk_and_animations_are_converted_and_named(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    files = {
        **GOOD,
        "c.jpg": encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
        "d.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }
    pictures = load(write_zip(tmp_path / "a.zip", files))
    assert pictures.pixels[2, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=4)
    assert pictures.pixels[3, 4, 4].tolist() == [255, 0, 0]
    assert "1 picture is animated, the first frame taken: d.gif" in pictures.notes
    assert "1 picture is CMYK, converted to RGB: c.jpg" in pictures.notes
    assert load(tmp_path / "a.zip", unusual="skip").names == ["a.png", "b.png"]
    with pytest.raises(
        BadData, match=r"2 of 4 pictures are animated or CMYK: d.gif \(animated\), c.jpg \(CMYK\)"
    ):
        load(tmp_path / "a.zip", unusual="refuse")


# --- files that cannot be used ----------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG file of this size, without pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return header + struct.pack(">I", 99) + b"IDAT"


BAD = {
    "empty.jpg": (b"", "0 bytes"),
    "text.jpg": (b"hello", "not a picture of a known format"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known format"),
    "cut.jpg": (encode(noise(0, (64, 64)), "JPEG")[:-200], "damaged: .*truncated"),
    "cut.png": (encode(noise(0, (64, 64)))[:-200], "damaged: .*truncated"),
    "bomb.png": (png_header(20_000, 20_000), "more than 89,478,485 pixels, Pillow's limit"),
    "large.png": (png_header(20_000, 5_000), "more than 89,478,485 pixels, Pillow's limit"),
    "float.tif": (encode(Image.new("F", (8, 8)), "TIFF"), "pixels are floating-point"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_named_refused_or_skipped(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    folder = write_folder(tmp_path / "x", {**GOOD, name: content})
    expected = rf"x: 1 of 3 pictures cannot be used: {name} \({message}.*set .*unusable: skip"
    with pytest.raises(BadData, match=expected):
        load(folder)
    pictures = load(folder, unusable="skip")
    assert pictures.names == ["a.png", "b.png"]
    assert any(note.startswith(f"skipped 1 picture: {name} (") for note in pictures.notes)


def test_many_bad_pictures_are_counted_and_the_first_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {**GOOD, **{f"c{i}.png": b"" for i in range(5)}})
    with pytest.raises(
        BadData, match=r"5 of 7 pictures .*: c0.png .*, c1.png .*, c2.png \(0 bytes\) and 2 more;"
    ):
        load(folder)
    with pytest.raises(BadData, match="none of 5 pictures can be used"):
        load(write_folder(tmp_path / "only", {f"c{i}.png": b"" for i in range(5)}), unusable="skip")


def test_a_wide_jpeg_is_decoded_at_a_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(noise(0, (8000, 64)).resize((20_000, 160)), "JPEG")
    sizes = []
    resized = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda x, *a, **k: sizes.append(x.size) or resized(x, *a, **k))
    decoded = decode_picture(content, 8)
    assert decoded.pixels is not None
    assert sizes[0] == (2500, 20)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "..\\a.png", "C:/a.png"])
def test_names_that_point_outside_the_zip_file(name: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {**GOOD, name: encode(noise(2))})
    with pytest.raises(BadData, match=r"1 of 3 .*the name points outside the zip file"):
        load(path)
    assert load(path, unusable="skip").names == ["a.png", "b.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_used_neither_time(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", encode(noise(2)))
    with pytest.raises(BadData, match=r"a.png \(the name occurs twice\)"):
        load(path)
    assert load(path, unusable="skip").names == ["b.png"]


def test_encrypted_and_damaged_entries(tmp_path: Path) -> None:
    path = Path(write_zip(tmp_path / "a.zip", GOOD))
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1
    (tmp_path / "encrypted.zip").write_bytes(content)
    with pytest.raises(BadData, match=r"a.png \(encrypted\)"):
        load(tmp_path / "encrypted.zip")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"IDAT") + 8] ^= 255
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(BadData, match=r"a.png \(cannot be unpacked: Bad CRC-32"):
        load(tmp_path / "damaged.zip")


def test_folders_hidden_files_and_other_files(tmp_path: Path) -> None:
    files = {**GOOD, "x/": b"", "notes.txt": b"", ".DS_Store": b"", "__MACOSX/._a.png": b"", "x/c.JPG": b""}
    files["x/c.JPG"] = encode(noise(2), "JPEG")
    pictures = load(write_zip(tmp_path / "a.zip", files))
    assert pictures.names == ["a.png", "b.png", "x/c.JPG"]
    assert pictures.notes[1:] == ["ignored, no suffix of a picture: notes.txt"]


def test_hidden_folders_are_left_out_and_links_are_followed(tmp_path: Path) -> None:
    for name in ("pics/a/a.png", "pics/a/.ipynb_checkpoints/b.png", "pics/@eaDir/c.png", "elsewhere/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(GOOD["a.png"])
    (tmp_path / "pics" / "d").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "pics")
    assert load(tmp_path / "pics").names == ["a/a.png", "d/d.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such folder or zip file"), (b"text", "neither a folder nor a zip file")],
)
def test_bad_sources(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadData, match=message):
        load(path)
    with pytest.raises(BadData, match=r"has no pictures; no suffix of a picture: a.txt"):
        load(write_folder(tmp_path / "folder", {"a.txt": b""}))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("PNG", "P"), ("GIF", "P"), ("BMP", "RGB")])
def test_damaged_bytes_are_a_problem_and_not_a_crash(kind: str, mode: str) -> None:
    content = encode(noise(0, (40, 30)).convert(mode), kind)
    draw = random.Random(0)
    problems = 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 6)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        decoded = decode_picture(bytes(damaged[: draw.randint(1, len(damaged))]), 8)
        assert (decoded.pixels is None) == bool(decoded.problem)
        problems += bool(decoded.problem)
    assert problems > 20


# --- pixels -----------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    pixels = load(write_folder(tmp_path, class_files())).pixels
    statistics = measure_pixels(pixels)
    np.testing.assert_allclose(statistics.mean, pixels.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(statistics.sd, pixels.std((0, 1, 2)) / 255)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.random.RandomState(0).randint(0, 2, (4, 8, 8, 3)), "of type uint8, 0 to 255, got int64"),
        (np.random.RandomState(0).randint(0, 2, (4, 8, 8, 3)).astype(np.uint8), "mean 0.002 and standard"),
        (np.full((4, 8, 8, 3), 128, np.uint8), "deviation 0.000"),
        (np.zeros((0, 8, 8, 3), np.uint8), "expected pixels"),
        (np.zeros((4, 3, 8, 8), np.uint8), "expected pixels"),
    ],
)
def test_pixels_that_are_no_pictures(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(BadData, match=message):
        check_pixels(pixels, "the data")


# --- many files -------------------------------------------------------------------------------------------


def test_folder_zip_and_worker_processes_give_the_same(tmp_path: Path) -> None:
    files = {**class_files(20), "bright/x.png": b""}
    folder = load(write_folder(tmp_path / "x", files), unusable="skip")
    archive = load(write_zip(tmp_path / "x.zip", files), unusable="skip", workers=2)
    np.testing.assert_array_equal(folder.pixels, archive.pixels)
    assert folder.names == archive.names == sorted(class_files(20))
    assert "40 pictures decoded in" in archive.notes[0]
    assert "2 processes)" in archive.notes[0]


def test_worker_processes_are_for_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "count_cores", lambda: 7)
    entries = [decoding.Entry("a", 2**24, 0)] * 3
    assert decoding.choose_worker_count(entries[:2], None) == 1
    assert decoding.choose_worker_count(entries, None) == 7
    assert decoding.choose_worker_count(entries, 3) == 3


def test_a_worker_that_ends_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ignore_interrupts", exit)
    with pytest.raises(QKVError, match=r"if __name__ == '__main__'.*workers: 1"):
        load(write_folder(tmp_path, GOOD), workers=1 + 1)


def test_the_cache_is_used_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "x", {**GOOD, "c.png": b""})
    cache = {"cache": str(tmp_path / "cache"), "unusable": "skip"}
    first = load(folder, **cache)
    assert isinstance(first.pixels, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_pictures", None)
        second = load(folder, **cache)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert second.names == first.names
    assert second.notes == [f"{folder}: 2 pictures, decoded before", "skipped 1 picture: c.png (0 bytes)"]
    (tmp_path / "x/b.png").write_bytes(encode(noise(3)))
    assert not np.array_equal(load(folder, **cache).pixels, first.pixels)
    assert load(folder, **cache, size=9).pixels.shape == (2, 9, 9, 3)
    for file in (tmp_path / "cache").glob("*.rgb"):
        file.write_bytes(file.read_bytes()[:-1])
    np.testing.assert_array_equal(load(folder, **cache).pixels[0], first.pixels[0])


def test_a_refusal_leaves_no_cache(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", {**GOOD, "c.png": b""})
    with pytest.raises(BadData):
        load(folder, cache=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_too_many_pixels_for_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise MemoryError

    folder = write_folder(tmp_path, GOOD)
    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(TooLarge, match=r"2 pictures of 8 × 8 pixels need 0.0 GiB: set data.pictures.cache"):
        load(folder)


def test_progress_is_reported(tmp_path: Path) -> None:
    lines = []

    class Report(NoProgress):
        def update(self, completed: int, note: str = "") -> None:
            lines.append((completed, note))

    load_pictures(write_folder(tmp_path, GOOD), PictureConfig(size=8), Report())
    assert [completed for completed, _ in lines] == [1, 2]
    assert lines[1][1].startswith("2 of 2 pictures decoded, ")


def test_only_wanted_pictures_are_decoded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {**GOOD, "c.png": b""})
    wanted = load_pictures(folder, PictureConfig(size=8), NoProgress(), is_wanted=lambda name: name < "c")
    assert wanted.names == ["a.png", "b.png"]
