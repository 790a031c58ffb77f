import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from qkv.errors import BadData, BadShape, QKVError, UnknownName
from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view import colours, draw, figure, heatmap, merge_words, page
from qkv.view import heatmap as heatmap_module_function
from qkv.view.words import Side, label, side, words
from tiny import translation_example

HEATMAP = sys.modules[heatmap_module_function.__module__]
SOURCE = ("▁the", "▁tall", "▁house", "s", "</s>")
TARGET = ("▁die", "▁hoh", "en", "▁Häuser", "</s>")
PAPER, INK = (255, 255, 255), (7, 42, 87)


def rows(*shape, seed=0):
    weights = np.random.default_rng(seed).random(shape) ** 4
    return weights / weights.sum(-1, keepdims=True)


def trace_of(source=SOURCE, target=TARGET, layers=2, heads=3):
    names = {f"cross.{n}": rows(heads, len(target), len(source), seed=n) for n in range(layers)}
    past = np.tril(rows(heads, len(target), len(target))) + np.eye(len(target))
    names["decoder.0"] = past / past.sum(-1, keepdims=True)
    names["encoder.0"] = rows(heads, len(source), len(source))
    return Trace((translation_example(tuple(source), tuple(target), names),), "translation")


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


@pytest.fixture
def written(monkeypatch):
    """Every text that stands in the picture, as matplotlib's objects."""
    texts = []
    write = figure.Page.write

    def recorded(self, *arguments):
        texts.append(write(self, *arguments))
        return texts[-1]

    monkeypatch.setattr(figure.Page, "write", recorded)
    return lambda: [text for text in texts if text.figure is not None and text.get_text()]


@pytest.fixture
def panels(monkeypatch):
    """What would be drawn: the arguments of `draw_grid`."""
    calls = []

    def recorded(grid, path, *, sides=(), title="", dark=False):
        calls.append((grid, list(sides)))
        return path

    monkeypatch.setattr(HEATMAP, "draw_grid", recorded)
    return calls


def boxes(texts):
    renderer = texts[0].figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts]


@pytest.mark.parametrize("count", [2, 14, 80])
def test_pictures_grow_with_their_tokens_and_cut_nothing_off(count, tmp_path, written):
    source = ["▁a", "▁responsibilities", "▁in", "▁European"] * 20
    target = ["▁européenne", "▁été", "▁gjpqy", "▁L'"] * 20
    path = tmp_path / "p.png"
    assert (
        draw(rows(count, count), target[:count], source[:count], path=path, title="Where it looked") == path
    )
    picture = pixels(path)
    across, down = picture.shape[1] / page.DPI, picture.shape[0] / page.DPI
    assert max(0.1 * count, 1.5) < across < 3 + 0.42 * count
    assert max(0.1 * count, 1.0) < down < 3 + 0.42 * count
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == PAPER).all()
    texts = written()
    assert len([text for text in texts if text.get_text() in ("européenne", "été", "gjpqy", "L'")]) == count
    assert all(text.get_size() >= 4.6 for text in texts)
    title, *others = boxes(texts)
    assert all(title.y0 >= box.y1 for box in others)
    assert all(0 <= box.x0 < box.x1 <= picture.shape[1] and 0 <= box.y0 < box.y1 for box in others)
    left = boxes([text for text in texts if text.get_ha() == "right"])
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(left))


def test_labels_are_turned_only_where_they_must(tmp_path, written):
    angles = []
    for token, count in (("▁an", 5), ("▁house", 5), ("▁agreement", 14), ("▁agreement", 34)):
        draw(rows(count, count), ["a"] * count, [token] * count, path=tmp_path / "p.png")
        texts = [text for text in written() if text.get_text() == label(token)]
        angles.append(texts[-1].get_rotation())
        if angles[-1] == 0:
            found = boxes(texts[-count:])
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(found))
    assert angles == [0, 0, 45, 90]


def test_a_long_matrix_is_not_labelled_at_every_token(tmp_path, written):
    draw(rows(3, 400), ["a"] * 3, ["b"] * 400, path=tmp_path / "p.png")
    assert 30 < len([text for text in written() if text.get_text() == "b"]) < 140
    assert pixels(tmp_path / "p.png").shape[1] < 13 * page.DPI


@pytest.fixture
def middle_of(monkeypatch):
    """The pixel in the middle of cell (r, c) of the first matrix, which has `shape` rows and columns."""
    places = []
    axes = figure.Page.axes

    def recorded(self, *place):
        places.append(place)
        return axes(self, *place)

    def pixel(picture, shape, cell):
        left, bottom, width, height = (length * page.DPI for length in places[0])
        down = picture.shape[0] - bottom - height + height * (cell[0] + 0.5) / shape[0]
        return picture[round(down), round(left + width * (cell[1] + 0.5) / shape[1])].astype(int)

    monkeypatch.setattr(figure.Page, "axes", recorded)
    return pixel


@pytest.mark.parametrize(
    ("dark", "zero", "one"), [(False, PAPER, INK), (True, (20, 23, 28), (242, 250, 255))]
)
def test_rows_go_down_columns_go_right_and_zero_is_paper(tmp_path, middle_of, dark, zero, one):
    weights = np.zeros((3, 4))
    weights[0, 1], weights[2, 3] = 1.0, 0.5
    picture = pixels(draw(weights, list("abc"), list("wxyz"), path=tmp_path / "p.png", dark=dark))
    for cell in np.ndindex(3, 4):
        distance = [np.abs(middle_of(picture, (3, 4), cell) - colour).max() for colour in (zero, one)]
        assert [near <= 2 for near in distance] == [weights[cell] == 0, weights[cell] == 1]
    assert (picture[2, 2] == zero).all()


def test_negative_weights_get_a_colour_of_their_own(tmp_path, middle_of, written):
    weights = np.array([[-0.4, 0.0, 1.4], [0.0, 0.0, 0.0]])
    picture = pixels(draw(weights, ["a", "b"], ["x", "y", "z"], path=tmp_path / "p.png"))
    below, zero, above = (middle_of(picture, (2, 3), (0, place)) for place in range(3))
    assert below[0] > below[2] + 20
    assert above[2] > above[0] + 20
    assert np.abs(zero - PAPER).max() <= 2
    assert [text.get_text() for text in written()][-4:] == [
        "0",
        "\N{MINUS SIGN}0.4",
        "1.4",
        "weight",
    ]


def test_mean_head_and_all_heads(tmp_path, panels):
    trace = trace_of()
    weights = trace.examples[0].weights["cross.1"]
    heatmap(trace, path=tmp_path / "p.png")
    heatmap(trace, path=tmp_path / "p.png", heads=2)
    heatmap(trace, path=tmp_path / "p.png", heads="all", layers="cross.1")
    (mean, _), (one, _), (every, sides) = panels
    np.testing.assert_allclose(mean[0][0].weights, weights.mean(0))
    np.testing.assert_array_equal(one[0][0].weights, weights[2])
    np.testing.assert_array_equal([panel.weights for panel in every[0]], weights)
    assert mean[0][0].rows == Side(
        ("␣die", "␣hoh", "en", "␣Häuser", "⟨end⟩"), "target (queries)", (0, 1, 3, 4)
    )
    assert mean[0][0].columns == Side(
        ("␣the", "␣tall", "␣house", "s", "⟨end⟩"), "source (keys)", (0, 1, 2, 4)
    )
    assert (mean[0][0].title, one[0][0].title) == ("cross.1, mean of 3 heads", "cross.1, head 2")
    assert ([panel.title for panel in every[0]], sides) == (
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


def test_a_grid_labels_its_columns_where_they_change(tmp_path, written):
    heatmap(trace_of(), path=tmp_path / "p.png", heads="all", layers=["encoder", "cross", "decoder"])
    shown = [text.get_text() for text in written()]
    assert shown.count("␣tall") == 1 + 3  # at the left of the encoder's row, above its three heads
    assert shown.count("␣Häuser") == 3 + 3  # at the left of three rows, above the decoder's heads
    assert shown.count("⟨start⟩") == 3
    for name, count in (("source (keys)", 1), ("target so far (keys)", 1), ("target (queries)", 3)):
        assert shown.count(name) == count
    picture = pixels(tmp_path / "p.png")
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == PAPER).all()


def test_word_pieces_are_merged_and_rows_stay_distributions(tmp_path, panels):
    weights = rows(2, 5, 5)
    merged, names, seen = merge_words(weights, TARGET, SOURCE)
    assert (names, seen) == (["▁die", "▁hohen", "▁Häuser", "</s>"], ["▁the", "▁tall", "▁houses", "</s>"])
    np.testing.assert_allclose(merged.sum(-1), 1)
    np.testing.assert_allclose(merged[:, 1, 2], (weights[:, 1:3, 2] + weights[:, 1:3, 3]).mean(1))
    heatmap(trace_of(), path=tmp_path / "p.png", merge=True)
    [(grid, _)] = panels
    assert grid[0][0].weights.shape == (4, 4)
    assert grid[0][0].rows.labels == ("die", "hohen", "Häuser", "⟨end⟩")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["▁a", "b", "▁c"], [[0, 1], [2]]),
        (["a", "b", "▁c"], [[0, 1], [2]]),
        (["<s>", "▁a", "</s>"], [[0], [1], [2]]),
        (["<unk>", "b", "</s>", "▁"], [[0], [1], [2], [3]]),
        (["a", "b", "</s>"], [[0], [1], [2]]),
        (["▁20", "28", "年", "7", "月", "4", "日"], [[0, 1], [2], [3], [4], [5], [6]]),
        (["▁我", "喜欢", "Py", "thon", "。"], [[0], [1], [2, 3], [4]]),
        (
            ["▁コ", "ンピ", "ュ", "ータ", "を", "買", "っ", "た", "・", "ア"],
            [[0, 1, 2, 3], [4], [5, 6], [7], [8], [9]],
        ),
        (["▁เธอ", "ไป", "โ", "รง", "เ", "ร", "ียน", "น้", "ำ"], [[0], [1], [2, 3], [4, 5, 6], [7, 8]]),
        (["▁한", "국어", "▁책"], [[0, 1], [2]]),
        (["▁", "日", "本"], [[0, 1], [2]]),
        (["▁និង", "\u00a0", "ម", "េ", "\u200bក", "ប្", "ត"], [[0], [1, 2, 3], [4], [5, 6]]),
        (["▁20", "16", "\u2009–", "\u2009Feb", "\u202f%"], [[0, 1], [2], [3], [4]]),
        ([], []),
    ],
)
def test_words_begin_at_marks_around_special_tokens_and_in_unspaced_scripts(tokens, expected):
    assert words(tokens) == expected


def test_word_starts_are_marked_only_where_words_have_pieces():
    assert side(["▁the", "▁house"], "source") == Side(("the", "house"), "source")
    assert side(["▁the", "▁hou", "se", "▁"]) == Side(("␣the", "␣hou", "se", "␣"), "", (0, 1, 3))
    assert side(["the", "house"]).starts == ()


def test_a_picture_marks_where_words_begin(tmp_path, written):
    plain, pieces = ["▁a", "▁b", "▁c"], ["▁a", "▁b", "c"]
    pictures = [
        pixels(draw(np.zeros((3, 3)), names, plain, path=tmp_path / "p.png")) for names in (plain, pieces)
    ]
    word = np.array([int(colours.LIGHT.word[i : i + 2], 16) for i in (1, 3, 5)])
    counts = [int((np.abs(picture.astype(int) - word).max(-1) <= 6).sum()) for picture in pictures]
    assert counts[1] > counts[0] + 100
    assert [text.get_text() for text in written()][-9:][:3] == ["␣a", "␣b", "c"]


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_names_fit_beside_small_matrices(tmp_path, written, merge, count):
    tokens = ["▁a", "▁b"][:count]
    heatmap(trace_of(tokens, tokens), path=tmp_path / "p.png", heads="all", merge=merge)
    picture = pixels(tmp_path / "p.png")
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == PAPER).all()
    found = boxes(written())
    for first, second in itertools.combinations(found, 2):
        assert not first.overlaps(second)


@pytest.mark.parametrize(
    ("weights", "lowest", "highest"),
    [
        ([0.0, 0.113], 0, 0.12),
        ([0.97, 0.0], 0, 0.97),
        ([1.0], 0, 1),
        ([2e-4, 1e-4], 0, 2e-4),
        ([0.0], 0, 1),
        ([-0.031, 1.32], -0.031, 1.4),
        ([-0.2, -0.1], -0.2, 0),
        ([-1e-7, 0.5], 0, 0.5),
    ],
)
def test_colours_span_the_weights(weights, lowest, highest):
    scale = colours.scale_of([np.array([weights])], colours.LIGHT)
    assert (scale.lowest, scale.highest) == pytest.approx((lowest, highest))
    assert scale.ends == pytest.approx((-max(highest, -lowest) if lowest else 0, max(highest, -lowest)))


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("▁Haus", "Haus"),
        ("ung", "ung"),
        ("</s>", "⟨end⟩"),
        ("<s>", "⟨start⟩"),
        ("▁", "␣"),
        ("", "␣"),
        ("a\tb\n", "a␣b␣"),
        ("\u2009–", "–"),
        ("\u00a0", "␣"),
        ("▁New▁York", "New York"),
        ("x" * 40, "x" * 27 + "…"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_labels_are_what_people_read(token, shown):
    assert label(token) == shown


def test_dollar_signs_are_no_formulas(tmp_path, written):
    draw(rows(2, 2), ["$\\frac{$", "a"], ["▁$x$", "▁b"], path=tmp_path / "p.png", title="$\\alpha$ $")
    assert {"$\\frac{$", "$x$", "$\\alpha$ $"} <= {text.get_text() for text in written()}


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_the_suffix_chooses_the_format_and_pictures_repeat(tmp_path, suffix, magic):
    first, second = (heatmap(trace_of(), path=tmp_path / f"{name}{suffix}") for name in "ab")
    assert first.read_bytes().startswith(magic)
    assert first.read_bytes() == second.read_bytes()
    assert b"CreationDate" not in first.read_bytes()


def test_settings_of_the_user_do_not_leak_in(tmp_path):
    import matplotlib

    plain = heatmap(trace_of(), path=tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"savefig.bbox": "tight", "axes.grid": True, "savefig.facecolor": "red"}):
        assert heatmap(trace_of(), path=tmp_path / "b.png").read_bytes() == plain


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layers": "cros"}, UnknownName, r"no layer 'cros' in this trace. Did you mean 'cross.1'\?"),
        ({"layers": ["cross", "cross.7"]}, UnknownName, "no layer 'cross.7'"),
        ({"heads": 3}, UnknownName, "no head 3 in cross.1: it has 3, counted from 0"),
        ({"heads": -1}, UnknownName, "no head -1"),
        ({"example": 1}, UnknownName, "no example 1: the trace has 1, counted from 0"),
        ({"path": "p.gif"}, BadData, r"written as .png, .svg, .pdf, not as 'p.gif'"),
        ({"path": "nowhere/p.png"}, BadData, "cannot write the picture nowhere/p.png: No such file"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, monkeypatch, options, error, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        heatmap(trace_of(), **{"path": "p.png", **options})


def test_nothing_to_draw(tmp_path):
    with pytest.raises(BadData, match="no weights to draw"):
        heatmap(Trace((translation_example(("a",), ("b",), {}),), "translation"), path=tmp_path / "p.png")
    with pytest.raises(BadData, match=r"cross.0 has no weights to draw: its shape is \(1, 0, 1\)"):
        heatmap(
            Trace((translation_example(("a",), (), {"cross.0": np.zeros((1, 0, 1))}),), "translation"),
            path=tmp_path / "p.png",
        )
    with pytest.raises(BadShape, match=r"shape \(2, 3\) for 3 row and 2 column tokens"):
        draw(rows(2, 3), list("abc"), list("xy"), path=tmp_path / "p.png")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(QKVError, match=r"not installed: \S+ -m pip install matplotlib$"):
        heatmap(trace_of(), path=tmp_path / "p.png")


def test_importing_needs_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    program = f"""
import sys, numpy, qkv.view
assert "matplotlib" not in sys.modules
qkv.view.draw(numpy.eye(2), ["a", "b"], ["x", "y"], path={str(tmp_path / "p.png")!r})
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def grid_trace(queries=("▁a", "▁dog"), grid=None, heads=2):
    grid = Grid(2, 3, "photos/dog.jpg") if grid is None else grid
    axes = {"text": tuple(queries), "image": grid}
    weights = {
        "cross.0": rows(heads, len(queries), len(grid)),
        "self.0": rows(heads, len(queries), len(queries)),
    }
    pairs = {"cross.0": WeightAxes("text", "image"), "self.0": WeightAxes("text", "text")}
    return Trace((Example(axes, weights, pairs),), "caption")


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


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("rows_axis", "columns_axis", "size"),
    [
        ("image", "image", (6, 6)),
        ("image", "text", (6, 2)),
        ("text", "image", (2, 6)),
        ("text", "cell", (2, 1)),
        ("cell", "cell", (1, 1)),
    ],
)
def test_grids_are_drawn_in_full_wherever_they_stand(tmp_path, written, rows_axis, columns_axis, size, dark):
    axes = {"text": ("▁a", "▁dog"), "image": Grid(2, 3), "cell": Grid(1, 1, "x" * 300)}
    pair = WeightAxes(rows_axis, columns_axis)
    trace = Trace((Example(axes, {"attention": rows(2, *size)}, {"attention": pair}),), "any")
    path = heatmap(trace, path=tmp_path / "p.png", merge=True, dark=dark)
    picture = pixels(path)
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == picture[0, 0]).all()
    shown = [text for text in written() if text.get_text().strip()]
    for first, second in itertools.combinations(boxes(shown), 2):
        assert not first.overlaps(second)
    assert (rows_axis != "image") or "1,2" in [text.get_text() for text in shown]


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
