"""Film strips of captions: what is faded, single cells, sizes, and strips that cannot be drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qkv.data.pictures.boxes import CellCentres, make_even_centres
from qkv.errors import BadShape
from qkv.view.film import MAX_FRAMES, Film, draw_films, fade, is_single_cell

WHITE = np.ones(3)
BLACK = np.zeros((16, 16, 3), np.uint8)
EVEN = make_even_centres(2, 2)


def film(weights: Any, centres: CellCentres = EVEN, words: Any = None, **fields: Any) -> Film:
    weights = np.array(weights, float)
    words = [f"word{i}" for i in range(len(weights))] if words is None else words
    return Film(BLACK, words, weights, *centres, **fields)


def test_a_picture_fades_where_a_word_does_not_attend() -> None:
    """On white paper a black picture shows 1 - share."""
    share = 1 - fade(film([[[0.6, 0.2], [0.2, 0.0]]]), 0, WHITE)[..., 0]
    assert share[4, 3] > share[4, 12] > share[12, 12]
    assert share[0, 0] == pytest.approx(1)  # beyond the outer centres weights stay
    assert share[15, 15] == pytest.approx(0.15)
    middle = (share[:, 7] + share[:, 8]) / 2
    assert middle == pytest.approx((share[:, 0] + share[:, 15]) / 2)
    implied = fade(film([[[0.6, -0.2], [0.2, 0.4]]]), 0, WHITE)
    assert 0 <= implied.min() <= implied.max() <= 1
    assert np.isfinite(fade(film([[[0.0, 0.0], [0.0, 0.0]]]), 0, WHITE)).all()


def test_weights_lie_where_the_cells_are() -> None:
    moved = CellCentres(EVEN.rows, EVEN.columns - 0.2)
    weights = [[[0.2, 0.8], [0.0, 0.0]]]
    even, left = (1 - fade(film(weights, centres), 0, WHITE)[0, :, 0] for centres in (EVEN, moved))
    assert left[8] > even[8]


def test_a_single_cell_is_shown_alone() -> None:
    share = 1 - fade(film([[[0, 1], [0, 0]]]), 0, WHITE)[..., 0]
    expected = np.full((16, 16), 0.15)
    expected[:8, 8:] = 1
    np.testing.assert_allclose(share, expected)
    assert is_single_cell(np.array([[0, 1.0]]))
    assert not is_single_cell(np.array([[0.5, 0.5]]))
    assert not is_single_cell(np.array([[1.0]]))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_strips_of_captions_of_different_lengths(suffix: str, tmp_path: Path) -> None:
    hard = np.zeros((12, 2, 2))
    hard[:, 0, 1] = 1
    empty = film(np.zeros((0, 2, 2)))
    films = [film(hard, title="a.png"), film(np.full((2, 2, 2), 0.25), words=["▁ein", "</s>"]), empty]
    path = draw_films(films, tmp_path / f"strip{suffix}", dark=suffix == ".svg")
    again = draw_films(films, tmp_path / f"again{suffix}", dark=suffix == ".svg")
    assert path.read_bytes() == again.read_bytes()
    if suffix == ".png":
        with Image.open(path) as picture:
            wide = picture.size
        with Image.open(draw_films(films[1:2], tmp_path / "short.png")) as picture:
            short = picture.size
        assert wide[0] > 2 * short[0]
        assert wide[1] > 2.5 * short[1]


def test_long_captions_are_cut(tmp_path: Path) -> None:
    sizes = []
    for count in (MAX_FRAMES, MAX_FRAMES + 3):
        with Image.open(draw_films([film(np.full((count, 2, 2), 0.25))], tmp_path / "a.png")) as picture:
            sizes.append(picture.size)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "films",
    [
        [],
        [film(np.ones((2, 2, 2)), words=["one"])],
        [film(np.ones((1, 2, 3)))],
        [film(np.ones((1, 2, 2)))._replace(pixels=BLACK[..., 0])],
    ],
)
def test_strips_that_cannot_be_drawn(films: list[Film], tmp_path: Path) -> None:
    with pytest.raises(BadShape, match="strip"):
        draw_films(films, tmp_path / "strip.png")
