"""Which panels a heat map draws: layers, heads, merged words and image grids."""

from importlib import import_module

import numpy as np
import pytest

from qkv.trace import Example, Trace, WeightAxes
from qkv.view import heatmap, merge_words
from qkv.view.words import Side
from view_cases import SOURCE, TARGET, grid_trace, rows, trace_of


@pytest.fixture
def panels(monkeypatch):
    """What would be drawn: the arguments of `draw_grid`."""
    calls = []

    def recorded(grid, path, *, sides=(), title="", dark=False):
        calls.append((grid, list(sides)))
        return path

    monkeypatch.setattr(import_module("qkv.view.heatmap"), "draw_grid", recorded)
    return calls


def test_mean_head_and_all_heads(tmp_path, panels):
    trace = trace_of()
    weights = trace.examples[0].weights["cross.1"]
    heatmap(trace, path=tmp_path / "p.png")
    heatmap(trace, path=tmp_path / "p.png", heads=2)
    heatmap(trace, path=tmp_path / "p.png", heads="all", layers="cross.1")
    (mean, _), (one, _), (all_heads, sides) = panels
    np.testing.assert_allclose(mean[0][0].weights, weights.mean(0))
    np.testing.assert_array_equal(one[0][0].weights, weights[2])
    np.testing.assert_array_equal([panel.weights for panel in all_heads[0]], weights)
    assert mean[0][0].rows == Side(
        ("␣die", "␣hoh", "en", "␣Häuser", "⟨end⟩"), "target (queries)", (0, 1, 3, 4)
    )
    assert mean[0][0].columns == Side(
        ("␣the", "␣tall", "␣house", "s", "⟨end⟩"), "source (keys)", (0, 1, 2, 4)
    )
    assert (mean[0][0].title, one[0][0].title) == ("cross.1, mean of 3 heads", "cross.1, head 2")
    assert ([panel.title for panel in all_heads[0]], sides) == (
        ["cross.1, head 0", "cross.1, head 1", "cross.1, head 2"],
        [],
    )


def test_layers_by_heads_are_a_grid(tmp_path, panels):
    heatmap(trace_of(), path=tmp_path / "p.png", heads="all")
    heatmap(trace_of(), path=tmp_path / "p.png", heads="all", layers=["encoder", "decoder.0"])
    heatmap(trace_of(layers=12), path=tmp_path / "p.png", layers=["cross", "decoder"])
    (grid, sides), (places, names), (means, _) = panels
    assert (sides, [len(row) for row in grid]) == (["cross.0", "cross.1"], [3, 3])
    assert [[panel.title for panel in row] for row in grid] == [["head 0", "head 1", "head 2"], [""] * 3]
    assert names == ["encoder.0", "decoder.0"]
    assert places[0][0].rows.name == "source (queries)"
    assert places[1][0].columns.labels == ("⟨start⟩", "␣die", "␣hoh", "en", "␣Häuser")
    assert places[1][0].columns.name == "target so far (keys)"
    titles = [[panel.title.removesuffix(", mean of 3 heads") for panel in row] for row in means]
    assert titles == [
        ["cross.0", "cross.1", "cross.2", "cross.3"],
        ["cross.4", "cross.5", "cross.6", "cross.7"],
        ["cross.8", "cross.9", "cross.10", "cross.11"],
        ["decoder.0"],
    ]


def test_word_pieces_are_merged_and_rows_stay_distributions(tmp_path, panels):
    weights = rows(2, 5, 5)
    merged, names, keys = merge_words(weights, TARGET, SOURCE)
    assert (names, keys) == (["▁die", "▁hohen", "▁Häuser", "</s>"], ["▁the", "▁tall", "▁houses", "</s>"])
    np.testing.assert_allclose(merged.sum(-1), 1)
    np.testing.assert_allclose(merged[:, 1, 2], (weights[:, 1:3, 2] + weights[:, 1:3, 3]).mean(1))
    heatmap(trace_of(), path=tmp_path / "p.png", merge=True)
    [(grid, _)] = panels
    assert grid[0][0].weights.shape == (4, 4)
    assert grid[0][0].rows.labels == ("die", "hohen", "Häuser", "⟨end⟩")


def test_weights_over_a_grid_are_a_strip_of_heat_maps(tmp_path, panels):
    trace = grid_trace()
    heatmap(trace, path=tmp_path / "p.png")
    [([strip], sides)] = panels
    mean = trace.examples[0].weights["cross.0"].mean(0)
    assert [panel.title for panel in strip] == ["a", "dog"]
    assert sides == []
    for panel, weights in zip(strip, mean, strict=True):
        np.testing.assert_array_equal(panel.weights, weights.reshape(2, 3))
        assert panel.rows == Side((" ", " "), "cross.0, mean of 2 heads")
        assert panel.columns == Side((" ",) * 3, "text (queries) over image (keys), dog.jpg")


def test_each_head_and_layer_starts_a_line_of_its_own(tmp_path, panels):
    heatmap(grid_trace("abcde"), path=tmp_path / "p.png", heads="all", layers=["cross", "self"])
    [(grid, _)] = panels
    assert [len(line) for line in grid] == [4, 1, 4, 1, 2]
    names = [line[0].rows.name for line in grid]
    assert names == ["cross.0, head 0"] * 2 + ["cross.0, head 1"] * 2 + ["text (queries)"]


def test_a_long_strip_shows_some_queries_and_says_how_many(tmp_path, panels):
    heatmap(grid_trace(["x"] * 99 + ["last"]), path=tmp_path / "p.png")
    [(grid, _)] = panels
    strip = [panel for line in grid for panel in line]
    assert len(strip) == 48
    assert strip[0].rows.name == "cross.0, mean of 2 heads, 48 of 100 queries"
    assert strip[-1].title == "last"


def test_the_last_layer_between_different_axes_is_drawn_by_default(tmp_path, panels):
    axes = {"text": tuple("abc")}
    names = ["self.2", "self.10", "self.1"]
    weights = {name: np.tril(np.ones((1, 3, 3))) / [[1], [2], [3]] for name in names}
    example = Example(axes, weights, dict.fromkeys(names, WeightAxes("text", "text", causal=True)))
    heatmap(Trace((example,), "language model"), path=tmp_path / "p.png")
    heatmap(Trace((example,), "language model"), path=tmp_path / "p.png", heads="all", layers="self")
    (last, _), (_, layers) = panels
    assert last[0][0].title == "self.10, head 0"
    assert last[0][0].columns.name == "text (keys)"
    assert layers == ["self.1", "self.2", "self.10"]
