"""Mutated recipes, hostile traces and damaged data files: refused in one line, or read as they say."""

import gzip
import io
import json
import random
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from qkv.data import ParallelData, read_pairs
from qkv.errors import QKVError
from qkv.task.recipe import read_recipe
from qkv.task.translate.recipe import TranslationRecipe
from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view import heatmap
from qkv.yaml_input import load_yaml

pytestmark = pytest.mark.slow
SECONDS = 20  # of CPU for any one input
FRAGMENTS = (
    *(
        "&a",
        "*a",
        "<<: *a",
        "!!int ''",
        "!!python/object:x y",
        "? ",
        "- ",
        "[" * 500,
        "{a: " * 300,
        "---",
        "%TAG",
    ),
    *("9" * 25, "9" * 6000, "1e999", ".nan", "-.inf", "null", "~", "2026-99-99", "0x" + "f" * 30, "1:" * 50),
    *("\t", "\0", "\ud7ff", "\u2028", '"\\ud800"', "'", '"', "|", ">", "#", ": :", "x" * 5000, "é" * 50, ""),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63 - 1, -(2**63) + 1, 1e308, 5e-324, "", "x", "12", "nan", "🙂" * 40),
    *([], {}, [1, "a"], {"kind": "rnn"}, {"name": "rfa"}, "rfa", [[[]]], {"a": {"b": {}}}, "\ud800", "a\nb"),
)


def refused_or_read(read: Callable[[], Any], counts: Counter[str]) -> Any:
    """The value, or None where it was refused in one short line; anything else fails the test."""
    start = time.process_time()
    try:
        value = read()
    except QKVError as error:
        value, message = None, str(error)
        counts["refused"] += 1
    else:
        message = ""
        counts["read"] += 1
    assert "union" not in message
    assert "literal[" not in message
    assert time.process_time() - start < SECONDS
    return value


def mutated_text(text: str, draw: random.Random) -> str:
    for _ in range(draw.randint(1, 3)):
        at, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        how = draw.randrange(5)
        lines = text.splitlines(keepends=True)
        if how == 0:
            text = text[:at] + draw.choice(FRAGMENTS) + text[at:]
        elif how == 1:
            text = text[:at] + text[min(end, at + draw.randint(1, 30)) :]
        elif how == 2 and lines:
            lines.insert(draw.randrange(len(lines)), draw.choice(lines))
            text = "".join(lines)
        elif how == 3 and lines:
            draw.shuffle(lines)
            text = "".join(lines)
        else:
            text = text.replace(":", ": " + draw.choice(FRAGMENTS), 1)
    return text


def mutated_value(value: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    value = json.loads(json.dumps(value))
    section: Any = value
    while isinstance(section, dict) and section:
        key = draw.choice(sorted(section))
        if not isinstance(section[key], dict) or draw.random() < 0.2:
            break
        section = section[key]
    else:
        key = "more"
    if isinstance(section, dict):
        section[draw.choice((key, key, key, key + "s", "kind", "name"))] = draw.choice(VALUES)
    return value


def test_500_mutated_recipes(tmp_path: Path) -> None:
    """One that is read says the same again when it is written and read back."""
    draw, counts = random.Random(1), Counter()
    plain = load_yaml(tiny.recipe_in(tmp_path).read_text())
    complete = json.loads(read_recipe(tmp_path / "tiny.yaml").model_dump_json())
    path = tmp_path / "mutated.yaml"
    for number in range(500):
        if number % 2:
            path.write_text(mutated_text((tmp_path / "tiny.yaml").read_text(), draw), errors="surrogatepass")
        else:
            path.write_text(json.dumps(mutated_value(draw.choice((plain, complete)), draw)))
        recipe = refused_or_read(lambda: read_recipe(path), counts)
        if recipe is not None:
            assert TranslationRecipe(**load_yaml(recipe.to_yaml())) == recipe
    print(f"\n500 mutated recipes: {counts['read']} read, {counts['refused']} refused in one line")
    assert sum(counts.values()) == 500
    assert min(counts.values()) > 30


def small_trace() -> Trace:
    axes = {
        "source": ("▁a", "b", "</s>"),
        "target": ("▁c", "</s>"),
        "target so far": ("<s>", "▁c"),
        "image": Grid(2, 3, "dog.jpg"),
    }
    weights = {
        "encoder.0": np.full((2, 3, 3), 1 / 3, dtype=np.float32),
        "cross.0": np.full((2, 2, 3), 1 / 3, dtype=np.float32),
        "cross.1": np.full((2, 2, 6), 1 / 6, dtype=np.float32),
        "decoder.0": np.tril(np.ones((2, 2, 2), dtype=np.float32)) / np.array([[1], [2]]),
    }
    weight_axes = {
        "encoder.0": WeightAxes("source", "source"),
        "cross.0": WeightAxes("target", "source"),
        "cross.1": WeightAxes("target", "image"),
        "decoder.0": WeightAxes("target", "target so far", causal=True),
    }
    log_probs = np.array([-0.5, -0.1])
    return Trace((Example(axes, weights, weight_axes, log_probs, "target", {"text": "c"}),), "translation")


def hostile_header(header: dict[str, Any], draw: random.Random) -> str:
    texts = ["\ud800", "\0", "\n" * 9, "x" * 3000, "ش", "e" + "\u0301" * 60, "$x^2$", "\\frac", "🙂", ""]
    how = draw.randrange(6)
    example = header["examples"][0]
    if how == 0:
        example["axes"][draw.choice(["source", "target"])][0] = draw.choice(texts)
    elif how == 1:
        header[draw.choice(sorted(header))] = draw.choice(VALUES)
    elif how == 2:
        example[draw.choice(sorted(example))] = draw.choice(VALUES)
    elif how == 3:
        header["examples"] = [mutated_value(example, draw)]
    elif how == 4:
        header["schema"] = f"qkv-trace/{draw.choice(['9' * 5000, '3', '1', '٣', '-1', '1.5'])}"
    else:
        return draw.choice(["[" * 100_000, "9" * 5000, "{", "nan", '{"a": 1, "a": 2}', "\ufeff{}", "null"])
    return json.dumps(header)


def hostile_arrays(entries: dict[str, np.ndarray], draw: random.Random) -> dict[str, np.ndarray]:
    name = draw.choice(sorted(set(entries) - {"header"}))
    array = entries.pop(name)
    names = [
        "9" * 5000,
        "0" * 50,
        "٣",
        "-1",
        "1",
        "0/" + "cross." + "9" * 5000,
        "0/x",
        "0",
        "/",
        "0/cross.01",
    ]
    arrays: list[Any] = [
        *(
            array.astype("U8"),
            array.astype(complex),
            array * np.nan,
            array * 2,
            array[..., :0],
            array.ravel(),
        ),
        *(array.astype(">f8"), array.astype(np.longdouble), np.zeros((2, 0, 3)), np.float32(1), array[:0]),
    ]
    how = draw.randrange(3)
    if how == 0:
        number = draw.choice(names)
        entries[number if "/" in number else f"{number}/cross.0"] = array
    elif how == 1:
        entries[name] = draw.choice(arrays)
    return entries


def hostile_npz(good: bytes, draw: random.Random) -> bytes:
    how = draw.randrange(4)
    if how == 0:
        damaged = bytearray(good)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        return bytes(damaged[: draw.choice((len(damaged), draw.randrange(4, len(damaged))))])
    with np.load(io.BytesIO(good)) as file:
        entries = {name: file[name] for name in file.files}
    if how == 1:
        text = hostile_header(json.loads(entries["header"].tobytes()), draw)
        entries["header"] = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    elif how == 2:
        entries = hostile_arrays(entries, draw)
    content = io.BytesIO()
    np.savez(content, **entries)  # pyright: ignore[reportArgumentType]
    return content.getvalue() if how < 3 else hostile_shape(content.getvalue(), draw)


def hostile_shape(content: bytes, draw: random.Random) -> bytes:
    """An array's header that promises more, or other things, than its data."""
    shapes = [
        "(9999999999,)",
        "(-1, 3)",
        "(2, 99999999, 3)",
        "()",
        "((",
        "(2,'a')",
        "(2, 2, " + "9" * 30 + ")",
    ]
    kinds = ["|O", "<f4", "V8", "<f99", "", "<M8[ns]"]
    result = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        victim = draw.choice(old.namelist())
        for name in old.namelist():
            data = old.read(name)
            if name == victim:
                kind, shape = draw.choice(kinds), draw.choice(shapes)
                header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"
                padded = header.encode().ljust(117) + b"\n"
                data = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data[128:]
            new.writestr(name, data)
    return result.getvalue()


def test_500_hostile_traces(tmp_path: Path) -> None:
    """One that is read holds the same again when it is saved and loaded; a tenth of them are drawn."""
    pytest.importorskip("matplotlib")
    draw, counts = random.Random(2), Counter()
    path = tmp_path / "t.npz"
    small_trace().save(path)
    good = path.read_bytes()
    for _ in range(500):
        path.write_bytes(hostile_npz(good, draw))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace = refused_or_read(lambda: Trace.load(path), counts)
            if trace is None:
                continue
            trace.save(tmp_path / "again.npz")
            again = Trace.load(tmp_path / "again.npz")
            assert [e.named_axes for e in again.examples] == [e.named_axes for e in trace.examples]
            if counts["read"] % 5 == 0:
                drawn = Counter()
                refused_or_read(lambda trace=trace: heatmap(trace, path=tmp_path / "t.png"), drawn)
                counts.update({f"drawn, {how}": number for how, number in drawn.items()})
    total = counts["read"] + counts["refused"]
    print(f"\n{total} hostile traces: {dict(counts)}")
    assert total == 500
    assert min(counts["read"], counts["refused"]) > 50


def damaged_data(name: str, rows: list[tuple[str, str]], draw: random.Random) -> bytes:
    if name == "rows.tsv":
        text = "".join(f"{a}\t{b}\n" for a, b in rows)
    else:
        text = "".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in rows)
    data = bytearray(text.encode())
    junk = [
        b"\0",
        b"\xff\xfe",
        b"\x1f\x8b",
        b"\r",
        b"\n\n",
        b"\xef\xbb\xbf",
        b"\t",
        b"x" * 2_000_000,
        b"9" * 6000,
        b"[",
    ]
    for _ in range(draw.randint(0, 2)):
        at = draw.randrange(len(data))
        data[at : at + draw.randint(0, 3)] = draw.choice(junk)
    if draw.random() < 0.4:
        data = bytearray(gzip.compress(bytes(data), 1))
        if draw.random() < 0.6:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.3:
            data = data[: draw.randrange(1, len(data))]
    return bytes(data)


def test_200_damaged_data_files(tmp_path: Path) -> None:
    """Pairs that are read are those of the file: pair i is line i + 1."""
    draw, counts = random.Random(3), Counter()
    for _ in range(200):
        name = draw.choice(("rows.tsv", "rows.jsonl"))
        path = tmp_path / name
        content = damaged_data(name, tiny.pairs_of(20, draw.randrange(99)), draw)
        path.write_bytes(content)
        pairs = refused_or_read(lambda path=path: read_pairs(ParallelData(file=str(path))), counts)
        if pairs is None:
            continue
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        lines = plain.removeprefix(b"\xef\xbb\xbf").decode().removesuffix("\n").split("\n")
        assert len(pairs) == len(lines)
        for (source, target), line in zip(pairs, lines, strict=True):
            assert (
                (source in line and target.removesuffix("\r") in line) or len(line) > 10_000 or "\\" in line
            )
    print(f"\n200 damaged data files: {counts['read']} read, {counts['refused']} refused in one line")
    assert sum(counts.values()) == 200
    assert min(counts.values()) > 20
