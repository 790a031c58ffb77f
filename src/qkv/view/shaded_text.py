"""Weights over a document as shaded text. All lengths are inches, all text sizes points, y grows upwards."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from qkv.errors import BadData
from qkv.view.canvas import LINE, Page, check_output
from qkv.view.colours import DARK, LIGHT, Scale, make_scale
from qkv.view.figure import draw_bar, measure_bar
from qkv.view.fonts import find_fonts
from qkv.view.layout import GAP, MARGIN
from qkv.view.protocols import ExampleLike, GridLike, TraceLike
from qkv.view.selection import check_head, natural_order, select_example, select_layers
from qkv.view.words import MARK, format_token, merge_words

MANY_WORDS = 30  # a row of more weights than this is easier to read as text
WIDTH, SIZE, TITLE = 6.2, 9.0, 8.0
PAD, SPREAD = 0.02, 1.55  # around the shade of a word, and from line to line in heights of a line
BOX = 0.14  # the shade of the weight of a whole passage
DARKEST = 0.45  # the lightness below which text on a shade is light


class Passage(NamedTuple):
    """A part of a document, which begins on a new line.

    Args:
        words: its words; one that follows another without a space has no MARK before it.
        weights: [words].
        weight: of the whole passage, where it has one.
    """

    words: Sequence[str]
    weights: np.ndarray
    weight: float | None = None


class Placed(NamedTuple):
    """A word on a page: its number, the left edge and width, and its line, from 0."""

    number: int
    left: float
    width: float
    line: int


def is_document(example: ExampleLike, layers: str | Sequence[str] | None) -> bool:
    """Whether the selected weights are those of one query over many tokens.

    Args:
        example: the example.
        layers: as in `qkv.view.heatmap`.
    """
    names = select_layers(example, layers, select_all=False)
    if _find_levels(example) is not None and layers is None:
        return True
    return all(
        example.weights[name].shape[1] == 1
        and example.weights[name].shape[2] > MANY_WORDS
        and not isinstance(example.axes(name)[1], GridLike)
        for name in names
    )


def document(
    trace: TraceLike,
    *,
    path: str | Path,
    example: int = 0,
    layers: str | Sequence[str] | None = None,
    heads: int | Literal["mean", "all"] = "mean",
    title: str = "",
    dark: bool = False,
) -> Path:
    """Draw weights of one query over the words of a document as shaded text, and return the path.

    A word has the sum of the weights of its pieces. Of a document in sentences, with a query for words and
    one for sentences, the box before a sentence shows the weight of the sentence, and the words show theirs
    times the square root of that, as in Yang et al. 2016: rare but strong words of weak sentences stay pale.

    Args:
        trace: the trace to draw from.
        path: the picture to write (.png, .svg or .pdf).
        example: number of the example, from 0.
        layers: the weights to draw; None takes the last ones of one query.
        heads: "mean", or the number of a head; "all" is the mean too.
        title: a line above everything; by default the name of the weights.
        dark: use colours for dark backgrounds.

    Raises:
        UnknownName: for a layer, head or example that the trace does not have.
        BadData: the weights have more than one query, or the picture cannot be written.
    """
    path = Path(path)
    check_output(path)
    selected = select_example(trace, example)
    levels = _find_levels(selected) if layers is None else None
    name, passages = (
        _read_text(selected, layers, heads) if levels is None else _read_sentences(selected, levels, heads)
    )
    texts = [format_token(word) for passage in passages for word in passage.words]
    page = Page(DARK if dark else LIGHT, find_fonts("".join(sorted({*texts, title, name}))))
    _compose(page, passages, title or name)
    page.save(path)
    return path


def _find_levels(example: ExampleLike) -> tuple[str, list[str]] | None:
    """The names of the weights of sentences and of their words, in the order of the sentences."""
    for name, weights in example.weights.items():
        match = re.fullmatch(r"(.*?)sentences\.(\w+)", name)
        if match and weights.shape[1] == 1:
            words = [f"{match[1]}words.{number + 1}.{match[2]}" for number in range(weights.shape[2])]
            if all(word in example.weights for word in words):
                return name, words
    return None


def _read_text(
    example: ExampleLike, layers: str | Sequence[str] | None, heads: int | str
) -> tuple[str, list[Passage]]:
    name = sorted(select_layers(example, layers, select_all=False), key=natural_order)[-1]
    weights, head = _select_head(example, name, heads)
    if len(weights) != 1:
        raise BadData(
            f"{name} has {len(weights)} queries, and shaded text shows one: choose the weights of a pooling, "
            "or draw a matrix with qkv.view.heatmap"
        )
    return f"{name}{head}", [_make_passage(weights, example.axes(name)[1])]


def _read_sentences(
    example: ExampleLike, levels: tuple[str, list[str]], heads: int | str
) -> tuple[str, list[Passage]]:
    name, word_names = levels
    sentences, head = _select_head(example, name, heads)
    passages = []
    for word_name, weight in zip(word_names, sentences[0], strict=True):
        words = _make_passage(_select_head(example, word_name, heads)[0], example.axes(word_name)[1])
        shaded = words.weights * float(weight) ** 0.5
        passages.append(words._replace(weights=shaded, weight=float(weight)))
    highest = max(float(passage.weight or 0.0) for passage in passages)
    return f"words{head}, times the root of their sentence; boxes: {name}, at most {highest:.2g}", passages


def _select_head(example: ExampleLike, name: str, heads: int | str) -> tuple[np.ndarray, str]:
    """The weights [rows, columns] of a head or of the mean, and what the title says about that."""
    weights = example.weights[name]
    check_head(name, weights, heads)
    if isinstance(heads, int):
        return weights[heads], f", head {heads}"
    return weights.mean(0), f", mean of {len(weights)} heads" * (len(weights) > 1)


def _make_passage(weights: np.ndarray, axis: Sequence[str] | GridLike) -> Passage:
    tokens: Sequence[str] = [] if isinstance(axis, GridLike) else axis
    merged, _, words = merge_words(weights, ["query"] * len(weights), tokens)
    has_marks = any(word.startswith(MARK) for word in words)
    return Passage([word if has_marks else MARK + word for word in words], merged[0])


def _compose(page: Page, passages: Sequence[Passage], title: str) -> None:
    scale = make_scale([passage.weights for passage in passages], page.theme)
    boxes = make_scale([np.array([passage.weight or 0.0]) for passage in passages], page.theme)
    left = MARGIN + (BOX + 2 * GAP) * any(passage.weight is not None for passage in passages)
    placed, lines = [], 0
    for passage in passages:
        placed.append(list(_place_words(page, passage.words, left, lines)))
        lines = placed[-1][-1].line + 1 if placed[-1] else lines + 1
    line_height = SIZE * LINE * SPREAD
    top = MARGIN + TITLE * LINE + 2 * GAP
    height = max(top + lines * line_height, top + 1.0) + MARGIN
    page.figure.set_size_inches(MARGIN + WIDTH + 3 * GAP + measure_bar(page, scale) + MARGIN, height)
    page.write(title, left, height - MARGIN - 0.75 * TITLE * LINE, TITLE)
    for passage, words in zip(passages, placed, strict=True):
        _draw_passage(page, passage, words, (scale, boxes), (height - top, line_height))
    draw_bar(page, MARGIN + WIDTH + 3 * GAP, height - top - 0.9, 0.8, scale)


def _place_words(page: Page, words: Sequence[str], left: float, line: int) -> Iterator[Placed]:
    """Put words one after the other, and onto a new line where they do not fit; leftwards in such scripts."""
    space, x = page.measure("n n", SIZE)[0] - page.measure("nn", SIZE)[0], left
    widths = {text: page.measure(text, SIZE)[0] for text in {format_token(word) for word in words}}
    leftwards = _runs_leftwards("".join(words))
    for number, word in enumerate(words):
        width = widths[format_token(word)] + 2 * PAD
        x += space if word.startswith(MARK) and x > left else 0.0
        if x > left and x + width > MARGIN + WIDTH:
            x, line = left, line + 1
        yield Placed(number, left + MARGIN + WIDTH - x - width if leftwards else x, width, line)
        x += width


def _runs_leftwards(text: str) -> bool:
    """Whether the first letter belongs to a script that is written from right to left."""
    directions = (unicodedata.bidirectional(letter) for letter in text)
    return next((each in ("R", "AL") for each in directions if each in ("L", "R", "AL")), False)


def _draw_passage(
    page: Page,
    passage: Passage,
    words: Sequence[Placed],
    scales: tuple[Scale, Scale],
    place: tuple[float, float],
) -> None:
    """Draw shades and words; `scales` are those of words and of passages, `place` has the top of the first
    line and the height of a line.
    """
    (scale, boxes), (top, line_height) = scales, place
    if passage.weight is not None and words:
        bottom = top - (words[0].line + 1) * line_height
        _shade(page, boxes, passage.weight, (MARGIN, bottom + 0.1 * line_height, BOX, 0.8 * line_height))
    for number, left, width, line in words:
        bottom = top - (line + 1) * line_height
        box = (left, bottom + 0.1 * line_height, width, 0.8 * line_height)
        colour = _shade(page, scale, float(passage.weights[number]), box)
        artist = page.write(
            format_token(passage.words[number]), left + PAD, bottom + 0.32 * line_height, SIZE
        )
        artist.set_color(colour)


def _shade(page: Page, scale: Scale, weight: float, box: tuple[float, float, float, float]) -> str:
    """Draw the shade of a weight, and return the colour of text on it."""
    from matplotlib.patches import Rectangle

    low, high = scale.limits
    colour = scale.colour_map((weight - low) / (high - low))
    left, bottom, width, height = box
    page.figure.add_artist(
        Rectangle(
            (left, bottom),
            width,
            height,
            facecolor=colour,
            linewidth=0,
            transform=page.figure.dpi_scale_trans,
        )
    )
    red, green, blue, _ = colour
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < DARKEST
    inks = sorted((page.theme.ink, page.theme.paper))  # colours of text begin with their brightness
    return inks[-1] if is_dark else inks[0]
