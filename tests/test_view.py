"""Pictures of attention weights: sizes, labels, colours, files and errors."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from qkv.errors import BadData, BadShape, QKVError, UnknownName
from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view import canvas, colours, draw, figure, heatmap
from qkv.view.words import format_token
from tiny import translation_example
from view_cases import INK, PAPER, pixels, rows, trace_of


@pytest.fixture
def texts_in_picture(monkeypatch):
    """Every text that stands in the picture, as matplotlib's objects."""
    texts = []
    write = figure.Page.write

    def recorded(self, *arguments):
        texts.append(write(self, *arguments))
        return texts[-1]

    monkeypatch.setattr(figure.Page, "write", recorded)
    return lambda: [text for text in texts if text.figure is not None and text.get_text()]


def boxes(texts):
    renderer = texts[0].figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts]


@pytest.mark.parametrize("count", [2, 14, 80])
def test_pictures_grow_with_their_tokens_and_cut_nothing_off(count, tmp_path, texts_in_picture):
    source = ["▁a", "▁responsibilities", "▁in", "▁European"] * 20
    target = ["▁européenne", "▁été", "▁gjpqy", "▁L'"] * 20
    path = tmp_path / "p.png"
    assert (
        draw(rows(count, count), target[:count], source[:count], path=path, title="Where it looked") == path
    )
    picture = pixels(path)
    across, down = picture.shape[1] / canvas.DPI, picture.shape[0] / canvas.DPI
    assert max(0.1 * count, 1.5) < across < 3 + 0.42 * count
    assert max(0.1 * count, 1.0) < down < 3 + 0.42 * count
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == PAPER).all()
    texts = texts_in_picture()
    assert len([text for text in texts if text.get_text() in ("européenne", "été", "gjpqy", "L'")]) == count
    assert all(text.get_size() >= 4.6 for text in texts)
    title, *other_boxes = boxes(texts)
    assert all(title.y0 >= box.y1 for box in other_boxes)
    assert all(0 <= box.x0 < box.x1 <= picture.shape[1] and 0 <= box.y0 < box.y1 for box in other_boxes)
    left = boxes([text for text in texts if text.get_ha() == "right"])
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(left))


def test_labels_are_turned_only_where_they_must(tmp_path, texts_in_picture):
    angles = []
    for token, count in (("▁an", 5), ("▁house", 5), ("▁agreement", 14), ("▁agreement", 34)):
        draw(rows(count, count), ["a"] * count, [token] * count, path=tmp_path / "p.png")
        texts = [text for text in texts_in_picture() if text.get_text() == format_token(token)]
        angles.append(texts[-1].get_rotation())
        if angles[-1] == 0:
            rectangles = boxes(texts[-count:])
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(rectangles))
    assert angles == [0, 0, 45, 90]


def test_a_long_matrix_is_not_labelled_at_every_token(tmp_path, texts_in_picture):
    draw(rows(3, 400), ["a"] * 3, ["b"] * 400, path=tmp_path / "p.png")
    assert 30 < len([text for text in texts_in_picture() if text.get_text() == "b"]) < 140
    assert pixels(tmp_path / "p.png").shape[1] < 13 * canvas.DPI


@pytest.fixture
def middle_of(monkeypatch):
    """The pixel in the middle of cell (r, c) of the first matrix, which has `shape` rows and columns."""
    places = []
    axes = figure.Page.axes

    def recorded(self, *place):
        places.append(place)
        return axes(self, *place)

    def pixel(picture, shape, cell):
        left, bottom, width, height = (length * canvas.DPI for length in places[0])
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


def test_negative_weights_get_a_colour_of_their_own(tmp_path, middle_of, texts_in_picture):
    weights = np.array([[-0.4, 0.0, 1.4], [0.0, 0.0, 0.0]])
    picture = pixels(draw(weights, ["a", "b"], ["x", "y", "z"], path=tmp_path / "p.png"))
    below, zero, above = (middle_of(picture, (2, 3), (0, place)) for place in range(3))
    assert below[0] > below[2] + 20
    assert above[2] > above[0] + 20
    assert np.abs(zero - PAPER).max() <= 2
    assert [text.get_text() for text in texts_in_picture()][-4:] == [
        "0",
        "\N{MINUS SIGN}0.4",
        "1.4",
        "weight",
    ]


def test_a_grid_labels_its_columns_where_they_change(tmp_path, texts_in_picture):
    heatmap(trace_of(), path=tmp_path / "p.png", heads="all", layers=["encoder", "cross", "decoder"])
    texts = [text.get_text() for text in texts_in_picture()]
    assert texts.count("␣tall") == 1 + 3  # at the left of the encoder's row, above its three heads
    assert texts.count("␣Häuser") == 3 + 3  # at the left of three rows, above the decoder's heads
    assert texts.count("⟨start⟩") == 3
    for name, count in (("source (keys)", 1), ("target so far (keys)", 1), ("target (queries)", 3)):
        assert texts.count(name) == count
    picture = pixels(tmp_path / "p.png")
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == PAPER).all()


def test_a_picture_marks_where_words_begin(tmp_path, texts_in_picture):
    plain, pieces = ["▁a", "▁b", "▁c"], ["▁a", "▁b", "c"]
    pictures = [
        pixels(draw(np.zeros((3, 3)), names, plain, path=tmp_path / "p.png")) for names in (plain, pieces)
    ]
    word = np.array([int(colours.LIGHT.word[i : i + 2], 16) for i in (1, 3, 5)])
    counts = [int((np.abs(picture.astype(int) - word).max(-1) <= 6).sum()) for picture in pictures]
    assert counts[1] > counts[0] + 100
    assert [text.get_text() for text in texts_in_picture()][-9:][:3] == ["␣a", "␣b", "c"]


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_names_fit_beside_small_matrices(tmp_path, texts_in_picture, merge, count):
    tokens = ["▁a", "▁b"][:count]
    heatmap(trace_of(tokens, tokens), path=tmp_path / "p.png", heads="all", merge=merge)
    picture = pixels(tmp_path / "p.png")
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == PAPER).all()
    rectangles = boxes(texts_in_picture())
    for first, second in itertools.combinations(rectangles, 2):
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
    scale = colours.make_scale([np.array([weights])], colours.LIGHT)
    assert (scale.lowest, scale.highest) == pytest.approx((lowest, highest))
    assert scale.limits == pytest.approx((-max(highest, -lowest) if lowest else 0, max(highest, -lowest)))


def test_dollar_signs_are_no_formulas(tmp_path, texts_in_picture):
    draw(rows(2, 2), ["$\\frac{$", "a"], ["▁$x$", "▁b"], path=tmp_path / "p.png", title="$\\alpha$ $")
    assert {"$\\frac{$", "$x$", "$\\alpha$ $"} <= {text.get_text() for text in texts_in_picture()}


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
    ("options", "error", "message"),
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
def test_errors_name_what_cannot_be_drawn(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
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
    ignored = ["-W", "ignore::DeprecationWarning"]  # old versions of matplotlib use old names of others
    subprocess.run([sys.executable, "-W", "error", *ignored, "-c", program], check=True)


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
def test_grids_are_drawn_in_full_wherever_they_stand(
    tmp_path, texts_in_picture, rows_axis, columns_axis, size, dark
):
    axes = {"text": ("▁a", "▁dog"), "image": Grid(2, 3), "cell": Grid(1, 1, "x" * 300)}
    pair = WeightAxes(rows_axis, columns_axis)
    trace = Trace((Example(axes, {"attention": rows(2, *size)}, {"attention": pair}),), "any")
    path = heatmap(trace, path=tmp_path / "p.png", merge=True, dark=dark)
    picture = pixels(path)
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == picture[0, 0]).all()
    texts = [text for text in texts_in_picture() if text.get_text().strip()]
    for first, second in itertools.combinations(boxes(texts), 2):
        assert not first.overlaps(second)
    assert (rows_axis != "image") or "1,2" in [text.get_text() for text in texts]
