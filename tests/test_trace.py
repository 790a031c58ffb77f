"""Traces as values: axes, weights, what is refused, and the programs of docs/trace.md."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from qkv.errors import BadData, UnknownName
from qkv.trace import Example, Grid, Trace, WeightAxes, stack_steps
from tiny import translation_example
from trace_cases import SOURCE, TARGET, captioned, causal, example, rows, same_values

DOCS = Path(__file__).parents[1] / "docs" / "trace.md"


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
    stacked = stack_steps(steps)
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


def test_the_programs_in_the_documentation_run_and_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    writer, reader, capturer = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(writer, {})
    trace = Trace.load("house.npz")
    assert trace.examples[0].target == ("▁das", "▁Haus", "</s>")
    assert trace.examples[0].weights["cross.0"].shape == (1, 3, 3)
    exec(reader, {})
    assert capsys.readouterr().out == "[('▁das', '▁the'), ('▁Haus', '▁house'), ('</s>', '</s>')]\n"
    exec(capturer, {})
    assert Trace.load("encoder.npz").unnormalised == ("self_attn",)


def test_the_documented_header_is_the_one_that_is_written(tmp_path):
    [documented] = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    example_header = json.loads(documented)
    Trace((example(),), "translation").save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz") as file:
        header = json.loads(file["header"].tobytes())
    assert list(header) == list(example_header)
    assert list(header["examples"][0]) == list(example_header["examples"][0])
    assert header["schema"] == example_header["schema"]


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"named_axes": {"text": ("a", "b")}}, "cross.0 names the axis 'image', which"),
        ({"named_axes": {"te\nxt": ("a", "b")}}, "printable characters"),
        ({"named_axes": {"text": ("a", "b"), "image": Grid(2, 2)}}, r"2 text and 4 image positions"),
        ({"weight_axes": {}}, "'cross.0' needs both an array"),
        ({"log_probs_axis": None}, "belong together"),
        ({"log_probs_axis": "image"}, r"log_probs has shape \(2,\) for 6 image positions"),
        ({"log_probs_axis": "txt"}, r"the axis 'txt', which.*Did you mean 'text'\?"),
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
    "area",
    [
        (0.0, 0.0, 0.0, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 11.0),
        (np.nan, 0.0, 1.0, 1.0),
        (-1e300, 0.0, 1.0, 1.0),
    ],
)
def test_the_area_of_a_grid_has_a_size_and_lies_near_the_picture(area):
    with pytest.raises(BadData, match=r"the area of a grid is .*: give its left, top, right and bottom edge"):
        Grid(2, 2, area=area)


def test_the_area_of_a_grid_is_kept_in_files(tmp_path):
    grid = Grid(2, 3, "dog.jpg", (-0.25, 0.0, 0.75, 1.0))
    example = captioned(named_axes={"text": ("▁a", "▁dog"), "image": grid})
    Trace((example,), "caption").save(tmp_path / "t.npz")
    assert Trace.load(tmp_path / "t.npz").examples[0].axes("cross.0")[1] == grid
