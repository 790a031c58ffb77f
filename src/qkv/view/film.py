"""Film strips of captions: a picture, then one frame for every word with its weights over the picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qkv.errors import BadShape
from qkv.view.canvas import LINE, Page, check_output
from qkv.view.colours import DARK, LIGHT
from qkv.view.fonts import find_fonts
from qkv.view.words import format_token

FRAMES_PER_ROW, MAX_FRAMES = 8, 64
_FRAME, _BETWEEN, _MARGIN, _GAP = 1.15, 0.12, 0.12, 0.05  # inches
_WORD, _NUMBER, _TITLE = 8.5, 6.5, 9.0  # points
_FAINTEST = 0.15  # how much of the picture stays visible at weight 0


class Film(NamedTuple):
    """A picture with its caption, and where every word attends.

    Args:
        pixels: uint8 [H,W,3].
        words: the words of the caption.
        weights: [T,Y,X], of every word over the cells.
        rows: the centre of every row of cells, as a fraction of the height.
        columns: the centre of every column, as a fraction of the width.
        title: a line above the strip.
    """

    pixels: np.ndarray
    words: Sequence[str]
    weights: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    title: str = ""


def draw_films(films: Sequence[Film], path: str | Path, *, dark: bool = False) -> Path:
    """Draw film strips below each other to a .png, .svg or .pdf, and return the path.

    The picture fades to the colour of the paper where a word does not attend. The largest weight of a word is
    written below its frame, and has the full colours. Between the centres of cells weights are interpolated.
    A word that attends to a single cell, as hard attention does, shows it alone, with a line around it.

    Args:
        films: one strip or more; of each, at most MAX_FRAMES words are drawn.
        path: the picture to write; its suffix selects the format.
        dark: use colours for dark backgrounds.

    Raises:
        BadShape: weights, words and cells do not fit each other, or there is no strip.
        BadData: for another suffix, or a path that cannot be written.
        QKVError: without matplotlib.

    Example:
        >>> import numpy as np
        >>> from qkv.data.pictures.boxes import make_even_centres
        >>> pixels, weights = np.full((32, 32, 3), 120, np.uint8), np.array([[[0.7, 0.1], [0.1, 0.1]]])
        >>> film = Film(pixels, ["square"], weights, *make_even_centres(2, 2))
        >>> draw_films([film], "strip.png").name
        'strip.png'
    """
    path = Path(path)
    check_output(path)
    _check(films)
    films = [film._replace(words=[format_token(word) for word in film.words[:MAX_FRAMES]]) for film in films]
    texts = {text for film in films for text in (film.title, *film.words)}
    page = Page(DARK if dark else LIGHT, find_fonts("".join(sorted(texts)) + "picture0123456789."))
    heights = [_measure(film) for film in films]
    most = min(FRAMES_PER_ROW, max(len(film.words) for film in films) + 1)
    width = 2 * _MARGIN + most * (_FRAME + _BETWEEN) - _BETWEEN
    page.figure.set_size_inches(width, 2 * _MARGIN + sum(heights) + _BETWEEN * (len(films) - 1))
    top = page.figure.get_size_inches()[1] - _MARGIN
    for film, height in zip(films, heights, strict=True):
        _draw_film(page, film, top)
        top -= height + _BETWEEN
    page.save(path)
    return path


def fade(film: Film, number: int, paper: np.ndarray) -> np.ndarray:
    """The picture [H,W,3] from 0 to 1, faded to the colour of the paper where a word does not attend.

    Args:
        film: the strip.
        number: the number of the word.
        paper: red, green and blue, from 0 to 1.
    """
    weights = np.clip(np.asarray(film.weights[number], np.float64), 0, None)
    height, width = film.pixels.shape[:2]
    places = [(np.arange(size) + 0.5) / size for size in (height, width)]
    if is_single_cell(weights):
        nearest = [_find_nearest(*pair) for pair in zip(places, (film.rows, film.columns), strict=True)]
        spread = weights[nearest[0]][:, nearest[1]]
    else:
        across = np.stack([np.interp(places[1], film.columns, row) for row in weights])
        spread = np.stack([np.interp(places[0], film.rows, column) for column in across.T], 1)
    share = _FAINTEST + (1 - _FAINTEST) * spread / max(float(weights.max()), 1e-12)
    return film.pixels / 255 * share[..., None] + paper * (1 - share[..., None])


def is_single_cell(weights: np.ndarray) -> bool:
    """Whether one cell has all the weight.

    Args:
        weights: [Y,X].
    """
    return int((weights > 0).sum()) == 1 and weights.size > 1


def _check(films: Sequence[Film]) -> None:
    if not films:
        raise BadShape("there is no film strip to draw: pass one or more")
    for film in films:
        expected = (len(film.words), len(film.rows), len(film.columns))
        if np.shape(film.weights) != expected or film.pixels.ndim != 3 or film.pixels.shape[2] != 3:
            raise BadShape(
                f"a strip of {expected[0]} words over {expected[1]} × {expected[2]} cells needs weights of "
                f"that shape and pixels [H,W,3], got {np.shape(film.weights)} and {film.pixels.shape}: pass "
                "both of one caption"
            )


def _find_nearest(places: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.abs(places[:, None] - centres).argmin(1)


def _measure(film: Film) -> float:
    """The height of a strip."""
    rows = -(-(len(film.words) + 1) // FRAMES_PER_ROW)
    return bool(film.title) * (_TITLE * LINE + _GAP) + rows * _measure_row() + (rows - 1) * _BETWEEN


def _measure_row() -> float:
    return _FRAME + (_WORD + _NUMBER) * LINE + 2 * _GAP


def _draw_film(page: Page, film: Film, top: float) -> None:
    from matplotlib.colors import to_rgb

    paper = np.array(to_rgb(page.theme.paper))
    if film.title:
        page.write(film.title, _MARGIN, top - 0.8 * _TITLE * LINE, _TITLE)
        top -= _TITLE * LINE + _GAP
    for place in range(len(film.words) + 1):
        row, column = divmod(place, FRAMES_PER_ROW)
        left = _MARGIN + column * (_FRAME + _BETWEEN)
        bottom = top - row * (_measure_row() + _BETWEEN) - _WORD * LINE - _GAP - _FRAME
        axes = page.axes(left, bottom, _FRAME, _FRAME)
        word = film.words[place - 1] if place else "picture"
        page.write(word, left, bottom + _FRAME + _GAP + 0.2 * _WORD * LINE, _WORD)
        axes.imshow(film.pixels if place == 0 else fade(film, place - 1, paper), aspect="auto")
        if place:
            number = f"{float(np.max(film.weights[place - 1])):.2f}"
            page.write(number, left, bottom - _GAP - 0.75 * _NUMBER * LINE, _NUMBER)
            _frame_single_cell(axes, film, place - 1, page.theme.ink)


def _frame_single_cell(axes: Any, film: Film, number: int, colour: str) -> None:
    """Draw a line around the cell that a word attends to, if it is a single one."""
    weights = film.weights[number]
    if not is_single_cell(weights):
        return
    row, column = np.unravel_index(int(weights.argmax()), weights.shape)
    height, width = film.pixels.shape[:2]
    top, bottom = _find_edges(film.rows, int(row), height)
    left, right = _find_edges(film.columns, int(column), width)
    x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
    axes.plot(x, y, color=colour, linewidth=1.0, scalex=False, scaley=False)


def _find_edges(centres: np.ndarray, number: int, size: int) -> tuple[float, float]:
    """The first and the last edge of a cell among others, in pixels of `imshow`."""
    inner = [0.0, *((centres[:-1] + centres[1:]) / 2).tolist(), 1.0]
    return inner[number] * size - 0.5, inner[number + 1] * size - 0.5
