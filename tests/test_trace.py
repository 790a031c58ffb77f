import io
import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from qkv.errors import BadData, UnknownName
from qkv.trace import Example, Grid, Trace, WeightAxes, stack
from tiny import translation_example

DOCS = Path(__file__).parents[1] / "docs" / "trace.md"
SOURCE = ("▁the", "▁tall", "▁house", "s", "</s>")
TARGET = ("▁die", "▁hohen", "</s>")


def rows(*shape, seed=0):
    weights = np.random.default_rng(seed).random(shape)
    return weights / weights.sum(-1, keepdims=True)


def causal(heads, length):
    weights = np.tril(rows(heads, length, length)) + 1e-9
    return np.tril(weights) / np.tril(weights).sum(-1, keepdims=True)


def example(**changes):
    fields = {
        "source": SOURCE,
        "target": TARGET,
        "weights": {"encoder.0": rows(2, 5, 5), "cross.0": rows(2, 3, 5), "decoder.1": causal(2, 3)},
        "log_probs": np.log([0.5, 0.25, 0.9]),
        "meta": {"score": -0.7},
    }
    return translation_example(**(fields | changes))


def test_a_trace_comes_back_as_it_was_saved(tmp_path):
    bare = translation_example(("▁a", "数"), ("\ud800",), {"cross.3": rows(1, 1, 2)})
    trace = Trace((example(), bare), "translation", meta={"model": "transformer", "beam": 5, "tuple": (1, 2)})
    trace.save(tmp_path / "t.npz")
    read = Trace.load(tmp_path / "t.npz")
    assert (read.kind, read.unnormalised) == ("translation", ())
    assert read.meta == trace.meta == {"model": "transformer", "beam": 5, "tuple": [1, 2]}
    for ours, theirs in zip(trace.examples, read.examples, strict=True):
        assert (ours.source, ours.target, ours.meta) == (theirs.source, theirs.target, theirs.meta)
        assert list(ours.weights) == list(theirs.weights)
        for name, weight in ours.weights.items():
            assert theirs.weights[name].dtype == np.float32
            np.testing.assert_allclose(theirs.weights[name], weight, rtol=2**-11, atol=2**-25)
    np.testing.assert_array_equal(read.examples[0].log_probs, np.log([0.5, 0.25, 0.9]).astype(np.float32))
    assert read.examples[1].log_probs is None


def test_float16_halves_the_file_and_implied_weights_keep_float32(tmp_path):
    implied = np.array([[[1.7, -0.7], [100001.0, -100000.0]]])
    trace = Trace(
        (translation_example(("a", "b"), ("c", "d"), {"cross.0": implied, "encoder.0": rows(1, 2, 2)}),),
        "translation",
        ("cross.0",),
    )
    trace.save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        assert {name: file[name].dtype for name in file.files[1:]} == {
            "0/cross.0": np.float32,
            "0/encoder.0": np.float16,
        }
    np.testing.assert_array_equal(
        Trace.load(tmp_path / "t.npz").examples[0].weights["cross.0"], implied.astype(np.float32)
    )


def test_rows_and_columns_are_labelled_by_queries_and_keys():
    one = example()
    assert one.axes("encoder.0") == (SOURCE, SOURCE)
    assert one.axes("cross.0") == (TARGET, SOURCE)
    assert one.axes("decoder.1") == (TARGET, ("<s>", "▁die", "▁hohen"))


def test_a_row_without_keys_is_all_zero():
    weights = rows(1, 3, 5)
    weights[0, 1] = 0
    assert (
        not Trace((example(weights={"cross.0": weights}),), "translation")
        .examples[0]
        .weights["cross.0"][0, 1]
        .any()
    )


def test_steps_are_stacked_and_short_ones_filled_up():
    steps = [np.full((2, width), 1 / width) for width in (1, 2, 3)]
    stacked = stack(steps)
    assert stacked.shape == (2, 3, 3)
    np.testing.assert_allclose(stacked[1], [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3] * 3])


def test_a_trace_does_not_change_with_the_arrays_it_was_made_of():
    weights = rows(1, 3, 5).astype(np.float32)
    one = example(weights={"cross.0": weights})
    weights[:] = 0
    assert one.weights["cross.0"].any()
    with pytest.raises(ValueError, match="read-only"):
        one.weights["cross.0"][0] = 0
    with pytest.raises(AttributeError):
        one.weights = {}  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weights": {"cross.0": rows(2, 5, 3)}},
            r"cross.0 has shape \(2, 5, 3\).*3 target and 5 source.*\(heads, 3, 5",
        ),
        ({"weights": {"cross.0": rows(3, 5)}}, r"must be \(heads, 3, 5\)"),
        ({"weights": {"cross.0": np.full((1, 3, 5), np.nan)}}, "cross.0 holds values that are not finite"),
        ({"weights": {"cross.0": np.full((1, 3, 5), 1e300)}}, "not finite"),
        (
            {"weights": {"cross.0": rows(1, 3, 5) * 0.9}},
            r"example 0, cross.0 has 3 of 3 rows that do not sum to 1",
        ),
        (
            {"weights": {"cross.0": rows(1, 3, 5) - 0.4}},
            r"values from -0.\d+ to 0.\d+, .*in \[0, 1\].*unnormal",
        ),
        ({"weights": {"decoder.0": rows(1, 3, 3)}}, "decoder.0 is causal, but attends to later keys"),
        ({"log_probs": np.zeros(4)}, r"log_probs has shape \(4,\) for 3 target positions"),
        ({"log_probs": np.array([-1.0, 0.5, -1.0])}, "finite and not above 0"),
        ({"log_probs": np.array([-1.0, -np.inf, -1.0])}, "finite and not above 0"),
        ({"meta": {"score": float("nan")}}, "meta holds JSON values only"),
        ({"meta": {"model": object()}}, "meta holds JSON values only"),
    ],
)
def test_examples_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(BadData, match=message):
        Trace((example(**changes),), "translation")


def test_traces_that_are_none_are_refused():
    with pytest.raises(BadData, match="at least one example"):
        Trace((), "translation")


def write(path, header, **entries):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    np.savez(path, header=np.frombuffer(header, np.uint8), **entries)
    return path


def headed(**changes):
    one = {"source": list(SOURCE), "target": list(TARGET)}
    return {"schema": "qkv-trace/1", "kind": "translation", "examples": [one]} | changes


@pytest.mark.parametrize(
    ("header", "entries", "message"),
    [
        (
            headed(schema="qkv-trace/3"),
            {},
            "schema qkv-trace/3, but this qkv reads up to qkv-trace/2.*upgrade qkv",
        ),
        (headed(schema="other/1"), {}, "is no trace: its schema is 'other/1'"),
        ([1, 2], {}, "is no trace: its header is no JSON object"),
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
    for path, message in ((text, "is no trace"), (array, "is no trace"), (plain, "without the `header`")):
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
    with pytest.raises(BadData, match=r"entry '0/cross.1' is no \.npy array"):
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


def test_the_programs_in_the_documentation_run_and_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    writer, reader = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(writer, {})
    trace = Trace.load("house.npz")
    assert trace.examples[0].target == ("▁das", "▁Haus", "</s>")
    assert trace.examples[0].weights["cross.0"].shape == (1, 3, 3)
    exec(reader, {})
    assert capsys.readouterr().out == "[('▁das', '▁the'), ('▁Haus', '▁house'), ('</s>', '</s>')]\n"


def test_the_documented_header_is_the_one_that_is_written(tmp_path):
    [documented] = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    example_header = json.loads(documented)
    Trace((example(),), "translation").save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        header = json.loads(file["header"].tobytes())
    assert list(header) == list(example_header)
    assert list(header["examples"][0]) == list(example_header["examples"][0])
    assert header["schema"] == example_header["schema"]


# ---- axes of version 2, and files of version 1 ----


def same_values(one, other):
    assert one.kind == other.kind
    for ours, theirs in zip(one.examples, other.examples, strict=True):
        assert ours.named_axes == theirs.named_axes
        assert ours.weight_axes == theirs.weight_axes
        assert (ours.log_probs_axis, ours.meta) == (theirs.log_probs_axis, theirs.meta)
        for name, weight in ours.weights.items():
            np.testing.assert_allclose(theirs.weights[name], weight, rtol=2**-11, atol=2**-24)


def captioned(**changes):
    fields = {
        "named_axes": {"text": ("▁a", "▁dog"), "image": Grid(2, 3, "dog.jpg")},
        "weights": {"cross.0": rows(2, 2, 6), "vision.attention": rows(1, 6, 6)},
        "weight_axes": {
            "cross.0": WeightAxes("text", "image"),
            "vision.attention": WeightAxes("image", "image"),
        },
        "log_probs": np.log([0.5, 0.25]),
        "log_probs_axis": "text",
    }
    return Example(**(fields | changes))


def test_a_grid_comes_back_as_it_was_saved(tmp_path):
    written = Trace((captioned(),), "caption")
    written.save(tmp_path / "t.npz")
    read = Trace.load(tmp_path / "t.npz")
    same_values(written, read)
    assert read.examples[0].axes("cross.0") == (("▁a", "▁dog"), Grid(2, 3, "dog.jpg"))
    with pytest.raises(UnknownName, match=r"no axis 'source' of tokens. Its axes: image, text"):
        _ = read.examples[0].source
    with pytest.raises(UnknownName, match=r"no weights 'cros.0'.*Did you mean 'cross.0'\?"):
        read.examples[0].axes("cros.0")


def language(weights):
    length = weights.shape[1]
    axes = {"prompt": tuple("abcdef"[: weights.shape[2]]), "text": tuple("abcdef"[:length])}
    return Example(axes, {"self.0": weights}, {"self.0": WeightAxes("text", "prompt", causal=True)})


def test_a_language_model_has_one_causal_axis(tmp_path):
    axes = {"text": tuple("abc")}
    example = Example(axes, {"self.0": causal(2, 3)}, {"self.0": WeightAxes("text", "text", True)})
    Trace((example,), "language model").save(tmp_path / "t.npz")
    read = Trace.load(tmp_path / "t.npz")
    same_values(Trace((example,), "language model"), read)
    assert read.examples[0].weight_axes["self.0"].causal


def test_causal_weights_align_the_last_query_with_the_last_key():
    weights = np.full((1, 2, 4), 1 / 4)
    weights[0, 0] = [1 / 3, 1 / 3, 1 / 3, 0]
    assert language(weights).weights["self.0"].shape == (1, 2, 4)
    with pytest.raises(BadData, match=r"self.0 is causal, but attends to later keys"):
        language(np.full((1, 2, 4), 1 / 4))


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
    ("changes", "message"),
    [
        ({"named_axes": {"text": ("a", "b")}}, "cross.0 lies along an axis 'image' that"),
        ({"named_axes": {"te\nxt": ("a", "b")}}, "printable characters"),
        ({"named_axes": {"text": ("a", "b"), "image": Grid(2, 2)}}, r"2 text and 4 image positions"),
        ({"weight_axes": {}}, "'cross.0' needs both an array"),
        ({"log_probs_axis": None}, "belong together"),
        ({"log_probs_axis": "image"}, r"log_probs has shape \(2,\) for 6 image positions"),
        ({"log_probs_axis": "txt"}, r"an axis 'txt' that.*Did you mean 'text'\?"),
    ],
)
def test_axes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(BadData, match=message):
        captioned(**changes)


@pytest.mark.parametrize("name", ["log_probs", "a/b", "", "x.npy", "é", "a" * 101])
def test_names_of_weights_are_names_of_files(name):
    with pytest.raises(BadData, match="weights have names as"):
        captioned(weights={name: rows(1, 2, 6)}, weight_axes={name: WeightAxes("text", "image")})


@pytest.mark.parametrize("sides", [(0, 1), (1, -1), (True, 2), (2**21, 1), (10**40, 1)])
def test_sides_of_a_grid_are_positive_integers(sides):
    with pytest.raises(BadData, match="a grid has height and width from 1"):
        Grid(*sides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {"text": 3, "image": {"height": 2, "width": 3}}}, "'text' is no list of tokens"),
        ({"axes": {"text": [1, 2], "image": []}}, "'text' is not a list of strings"),
        ({"axes": {"text": ["a", "b"], "image": {"hight": 2}}}, r"Did you mean 'height'\?"),
        ({"axes": {"text": ["a", "b"], "image": {"width": 2}}}, "'image' is a grid and needs `height`"),
        ({"axes": {"text": ["a", "b"], "image": {"height": 2.0, "width": 3}}}, "is a grid and needs"),
        ({"axes": {"text": ["a", "b"], "image": {"height": 0, "width": 3}}}, "a grid has height and width"),
        ({"axes": {"image": {"height": 2, "width": 3, "picture": 7}}}, "'image' is no path or file name"),
        ({"axes": None}, "axes is not a mapping"),
        ({"weights": {}}, "does not describe its entry 'cross.0'"),
        ({"weights": {"cross.0": {"rows": "text"}}}, "cross.0 needs the names"),
        ({"weights": {"cross.0": {"rows": "text", "columns": "image", "causal": 1}}}, "true or false"),
        ({"weights": {"cross.0": {"row": "text"}}}, r"Did you mean 'rows'\?"),
        (
            {"weights": {name: {"rows": "text", "columns": "image"} for name in ("cross.0", "x")}},
            "describes 'x', but the file has no such entry",
        ),
        ({"log_probs": "text"}, "describes 'log_probs', but"),
        ({"log_probs": 3}, "not the name of an axis"),
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
