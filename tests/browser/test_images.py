"""Weights over pictures on the page of `qkv view --output`, in headless Chromium."""

import numpy as np

from qkv.trace import Example, Grid, WeightAxes
from view_cases import grid_trace, write_trace

DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5E"
    "rkJggg=="
)
CROSS = {"cross.0": WeightAxes("text", "cells")}
# Mean lightness of red, green and blue at points on the diagonal, as fractions of the side of the overlay.
LIGHTNESS = """
fractions => {
  const canvas = document.getElementById("overlay-canvas");
  const context = canvas.getContext("2d");
  return fractions.map(at => {
    const pixel = context.getImageData(at * canvas.width, at * canvas.height, 1, 1).data;
    return (pixel[0] + pixel[1] + pixel[2]) / 3;
  });
}
"""


def test_images_have_overlays(open_page, tmp_path):
    trace = grid_trace(grid=Grid(3, 3, "dog.jpg"))
    page = open_page(write_trace(tmp_path, trace, {"dog.jpg": DOT}), "view=image")
    pictures = [page.locator("#overlay-canvas").screenshot()]
    for mode in ("cells", "one"):
        page.locator("#overlay").select_option(mode)
        pictures.append(page.locator("#overlay-canvas").screenshot())
    page.locator("#image-words .token").nth(1).click()
    pictures.append(page.locator("#overlay-canvas").screenshot())
    assert len(set(pictures)) == 4
    assert "dog: most at cell" in page.locator("#image-caption").inner_text()


def test_a_page_of_pictures_opens_with_them(open_page, tmp_path):
    trace = grid_trace(grid=Grid(3, 3, "dog.jpg"))
    page = open_page(write_trace(tmp_path, trace, {"dog.jpg": DOT}))
    assert page.locator("#overlay-canvas").is_visible()
    page.locator("#tab-matrix").click()
    page.reload()
    assert page.locator("#map").is_visible()


def test_cells_are_drawn_where_they_are(open_page, tmp_path):
    grid = Grid(2, 2, "dog.jpg", (-0.25, -0.25, 0.75, 0.75))
    example = Example({"text": ("a",), "cells": grid}, {"cross.0": np.eye(4)[None, 3:]}, CROSS)
    page = open_page(write_trace(tmp_path, example, {"dog.jpg": DOT}), "view=image")
    inside, outside = (0.3, 0.7), (0.05, 0.2, 0.8, 0.95)
    for mode in ("cells", "one"):
        page.locator("#overlay").select_option(mode)
        lightness = page.evaluate(LIGHTNESS, [*inside, *outside])
        assert min(lightness[:2]) > max(lightness[2:]) + 50


def test_a_query_point_is_picked_on_the_grid(open_page, tmp_path):
    axes = {"query points": ("(0, 0)", "(1, 2)"), "cells": Grid(2, 3)}
    weights = {"self.0": np.eye(6)[None, [0, 5]]}
    meta = {"points": [[0, 0], [1, 2]], "height": 2, "width": 3}
    example = Example(axes, weights, {"self.0": WeightAxes("query points", "cells")}, meta=meta)
    page = open_page(write_trace(tmp_path, example), "view=image")
    box = page.locator("#picker").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 5 / 6, box["y"] + box["height"] * 3 / 4)
    assert page.locator("#image-caption").inner_text() == "(1, 2): most at cell 1,2 with 1.000"
