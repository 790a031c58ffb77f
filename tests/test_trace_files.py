"""Files of traces: headers that break the schema, damage, and files of version 1."""

import io
import json
import re
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from qkv.errors import BadData
from qkv.trace import Grid, Trace
from trace_cases import SOURCE, TARGET, example, headed, rows, same_values, write


@pytest.mark.parametrize(
    ("header", "entries", "message"),
    [
        (
            headed(schema="qkv-trace/3"),
            {},
            "schema qkv-trace/3, but this qkv reads up to qkv-trace/2.*upgrade qkv",
        ),
        (headed(schema="other/1"), {}, "is not a trace: its schema is 'other/1'"),
        ([1, 2], {}, "is not a trace: its header is not a JSON object"),
        (headed(schema="qkv-trace/0"), {}, "its schema is 'qkv-trace/0'"),
        (b"\xff\xfe", {}, "not UTF-8 JSON"),
        (b"{", {}, "not UTF-8 JSON"),
        (headed(examples=None), {}, "lists no examples"),
        (headed(examples=[]), {}, "at least one example"),
        (headed(examples=[3]), {}, "example 0: its entry in the header is not a mapping"),
        (headed(examples=[{"source": ["a"]}]), {}, "example 0: target is not a list of strings"),
        (
            headed(examples=[{"source": ["a"], "target": [1]}]),
            {},
            "example 0: target is not a list of strings",
        ),
        (headed(exampels=[]), {}, r"unknown key 'exampels'. Did you mean 'examples'\?"),
        (headed(examples=[{"sauce": [], "target": []}]), {}, r"unknown key 'sauce'. Did you mean 'source'\?"),
        (headed(unnormalised="cross.0"), {}, "unnormalised is not a list of strings"),
        (headed(meta=[]), {}, "meta is not a mapping"),
        (headed(kind=7), {}, "kind is not a string"),
        (headed(), {"1/cross.0": rows(1, 3, 5)}, "entry '1/cross.0'.*with 1 examples"),
        (headed(), {"cross.0": rows(1, 3, 5)}, "entry 'cross.0'"),
        (headed(), {"0/log_prob": np.zeros(3)}, "example 0: weights are named .*not 'log_prob'"),
        (headed(), {"0/cross.0": np.ones((1, 3, 5), int)}, "'0/cross.0' holds int64, not floating-point"),
        (headed(), {"0/cross.0": rows(1, 3, 4)}, r"example 0: cross.0 has shape \(1, 3, 4\)"),
        (headed(), {"0/cross.0": np.array([[["a"]]], object)}, "damaged.*allow_pickle"),
    ],
)
def test_files_that_break_the_schema_say_where(tmp_path, header, entries, message):
    path = write(tmp_path / "t.npz", header, **entries)
    with pytest.raises(BadData, match=f"^{re.escape(str(path))}: .*{message}"):
        Trace.load(path)


def test_files_that_are_no_trace(tmp_path):
    text, array, plain, folder = (tmp_path / name for name in ("a.txt", "b.npy", "c.npz", "d"))
    text.write_text("hello")
    np.save(array, rows(2, 2))
    np.savez(plain, weights=rows(2, 2))
    folder.mkdir()
    for path, message in (
        (text, "is not a trace"),
        (array, "is not a trace"),
        (plain, "without the `header`"),
    ):
        with pytest.raises(BadData, match=message):
            Trace.load(path)
    with pytest.raises(BadData, match="there is no such file"):
        Trace.load(tmp_path / "missing.npz")
    with pytest.raises(BadData, match="cannot be read"):
        Trace.load(folder)


def test_damage_anywhere_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "t.npz"
    Trace((example(),), "translation").save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(BadData, match=r"t\.npz: "):
            Trace.load(path)
    for place in range(0, len(content), 23):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with suppress(BadData):  # names and dates inside the archive may change without harm
            Trace.load(path)


def test_archive_members_that_are_no_arrays(tmp_path):
    path = tmp_path / "t.npz"
    Trace((example(),), "translation").save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("0/cross.1.npy", b"not an array")
    with pytest.raises(BadData, match=r"entry '0/cross.1' is not an \.npy array"):
        Trace.load(path)


def test_nothing_is_pickled(tmp_path):
    Trace((example(),), "translation").save(tmp_path / "t.npz")
    with zipfile.ZipFile(tmp_path / "t.npz") as archive:
        for name in archive.namelist():
            np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "t.npz"
    Trace((example(),), "translation").save(path)
    before = path.read_bytes()

    def full_disk(file, **entries):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(BadData, match=r"cannot write the trace .*t\.npz: No space left on device"):
        Trace((example(),), "translation").save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadData, match="No such file or directory"):
        Trace((example(),), "translation").save(tmp_path / "nowhere" / "t.npz")


def test_a_file_of_version_1_loads_into_the_same_value(tmp_path):
    one = example()
    arrays = {f"0/{name}": weight for name, weight in one.weights.items()}
    path = write(
        tmp_path / "old.npz",
        headed(examples=[{"source": SOURCE, "target": TARGET, "meta": {"score": -0.7}}]),
        **arrays,
        **{"0/log_probs": one.log_probs},
    )
    read = Trace.load(path)
    same_values(Trace((one,), "translation"), read)
    read.save(tmp_path / "new.npz")
    same_values(read, Trace.load(tmp_path / "new.npz"))
    with np.load(tmp_path / "new.npz") as file:
        assert json.loads(file["header"].tobytes())["schema"] == "qkv-trace/2"


@pytest.mark.parametrize("name", ["self.0", "cross.first", "cross.01"])
def test_version_1_knows_the_weights_of_translation_only(tmp_path, name):
    path = write(tmp_path / "t.npz", headed(), **{f"0/{name}": rows(1, 3, 5)})
    with pytest.raises(BadData, match=f"weights are named .*not '{name}'"):
        Trace.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {"text": 3, "image": {"height": 2, "width": 3}}}, "'text' is not a list of tokens"),
        ({"axes": {"text": [1, 2], "image": []}}, "'text' is not a list of strings"),
        ({"axes": {"text": ["a", "b"], "image": {"hight": 2}}}, r"Did you mean 'height'\?"),
        ({"axes": {"text": ["a", "b"], "image": {"width": 2}}}, "'image' is a grid: it needs `height`"),
        ({"axes": {"text": ["a", "b"], "image": {"height": 2.0, "width": 3}}}, "is a grid: it needs"),
        ({"axes": {"text": ["a", "b"], "image": {"height": 0, "width": 3}}}, "a grid has height and width"),
        ({"axes": {"image": {"height": 2, "width": 3, "picture": 7}}}, "'image' must be a path or file name"),
        ({"axes": None}, "axes is not a mapping"),
        ({"weights": {}}, "does not describe its entry 'cross.0'"),
        ({"weights": {"cross.0": {"rows": "text"}}}, "expected the names of two axes"),
        ({"weights": {"cross.0": {"rows": "text", "columns": "image", "causal": 1}}}, "true or false"),
        ({"weights": {"cross.0": {"row": "text"}}}, r"Did you mean 'rows'\?"),
        (
            {"weights": {name: {"rows": "text", "columns": "image"} for name in ("cross.0", "x")}},
            "describes 'x', but the file has no such entry",
        ),
        ({"log_probs": "text"}, "describes 'log_probs', but"),
        ({"log_probs": 3}, "must be the name of an axis or null, not 3"),
        ({"source": []}, "unknown key 'source'"),
    ],
)
def test_headers_of_version_2_that_break_the_schema_say_where(tmp_path, change, message):
    entry = {
        "axes": {"text": ["a", "b"], "image": {"height": 2, "width": 3}},
        "weights": {"cross.0": {"rows": "text", "columns": "image"}},
    }
    header = {"schema": "qkv-trace/2", "kind": "caption", "examples": [entry]}
    path = write(tmp_path / "t.npz", header, **{"0/cross.0": rows(1, 2, 6)})
    assert Trace.load(path).examples[0].axes("cross.0") == (("a", "b"), Grid(2, 3))
    write(path, header | {"examples": [entry | change]}, **{"0/cross.0": rows(1, 2, 6)})
    with pytest.raises(BadData, match=f"example 0: .*{message}"):
        Trace.load(path)
