"""The page of `qkv view --output`, in headless Chromium from a file."""

import csv
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qkv.trace import Example, Trace, WeightAxes
from qkv.view import NamedTrace, write_html
from view_cases import INK, PAPER, rows, trace_of, write_trace

MARKUP = (
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror='window.hacked=1'>",
    "\"'`&amp;",
    "\u200fمرحبا\u202e",
)


def with_occlusion(trace):
    [example] = trace.examples
    effects = np.random.default_rng(1).normal(0.2, 0.8, (1, len(example.target), len(example.source)))
    return Trace(
        (
            Example(
                example.named_axes,
                {**example.weights, "occlusion.source": effects},
                {**example.weight_axes, "occlusion.source": WeightAxes("target", "source")},
                np.log(np.full(len(example.target), 0.5)),
                "target",
            ),
        ),
        trace.kind,
        ("occlusion.source",),
    )


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Two translations: the second has a head on the diagonal."""
    source, target = ("▁the", "▁tall", "▁house", "s", "</s>"), ("▁die", "▁hoh", "en", "▁Häuser", "</s>")
    diagonal = {"cross.0": np.stack([np.eye(5), np.full((5, 5), 0.2)])}
    axes = {"source": source, "target": target}
    other = Example(axes, diagonal, {"cross.0": WeightAxes("target", "source")})
    path = tmp_path_factory.mktemp("page") / "page.html"
    traces = [
        NamedTrace("rnn", with_occlusion(trace_of())),
        NamedTrace("known", Trace((other,), "translation")),
    ]
    return write_html(traces, path)


def pixel(page, row, column, selector="#map"):
    """The colour in the middle of a cell of a heat map of 5 × 5 cells, from the picture of the page."""
    box = page.locator(selector).bounding_box()
    picture = np.array(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB"))
    area = page.evaluate(CELLS)
    x = box["x"] + area["left"] + (column + 0.5) * area["cell"] + page.evaluate("scrollX")
    y = box["y"] + area["top"] + (row + 0.5) * area["cell"] + page.evaluate("scrollY")
    return picture[round(y), round(x)].astype(int)


# The frame of the matrix is found from its pixels: the page does not publish its layout.
CELLS = """() => {
  const canvas = document.getElementById("map");
  const context = canvas.getContext("2d");
  const {width, height} = canvas;
  const data = context.getImageData(0, 0, width, height).data;
  const frame = (x, y) => data[4 * (y * width + x)] === 138 && data[4 * (y * width + x) + 1] === 146;
  let left = width, right = 0, top = height, bottom = 0;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (frame(x, y)) {
    left = Math.min(left, x); right = Math.max(right, x);
    top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  return {left: left + 1, top: top + 1, cell: (right - left) / 5, right, bottom};
}"""


def hover(page, row, column):
    box, area = page.locator("#map").bounding_box(), page.evaluate(CELLS)
    x, y = (
        start + area[side] + (place + 0.5) * area["cell"]
        for start, side, place in ((box["x"], "left", column), (box["y"], "top", row))
    )
    page.mouse.move(x, y)


def test_a_known_matrix_has_its_colours_and_hovering_reads_it(page_file, open_page):
    page = open_page(page_file, "trace=1&head=0", color_scheme="light")
    assert np.abs(np.subtract(pixel(page, 1, 1), INK)).max() <= 3
    assert np.abs(np.subtract(pixel(page, 1, 3), PAPER)).max() <= 3
    hover(page, 2, 2)
    assert page.locator("#readout").inner_text() == "\u2068en\u2069 → \u2068house\u2069: 1.000"
    hover(page, 2, 0)
    assert page.locator("#readout").inner_text().endswith(": 0")
    assert "row=2" in page.url
    assert "column=0" in page.url


def test_keys_move_the_cell_and_the_view(page_file, open_page):
    page = open_page(page_file, "trace=1&head=0")
    page.locator("#map").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "End", "PageUp"):
        page.keyboard.press(key)
    assert "⟨end⟩\u2069: 0" in page.locator("#readout").inner_text()
    page.keyboard.press("+")
    page.keyboard.press("0")
    page.locator("#tab-matrix").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#view-text").is_visible()
    assert page.evaluate("document.activeElement.id") == "tab-text"
    page.locator("#tab-table").click()
    assert page.locator("#table-rows tr").count() == 5
    assert page.locator("#table-rows tr").nth(3).inner_text().split("\t")[:2] == ["Häuser", "s 1.000"]


def test_the_address_restores_the_state(page_file, open_page):
    page = open_page(page_file, "view=wall&sort=entropy&theme=dark&merge=1&special=0&layer=cross.0&head=1")
    assert page.locator("#view-wall").is_visible()
    assert page.locator("#sort").input_value() == "entropy"
    assert page.locator("#head").input_value() == "1"
    assert page.locator("#merge").is_checked()
    assert not page.locator("#special").is_checked()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    page.goto(f"{page.url.split('#')[0]}#view=nonsense&trace=99&layer=no&head=12&row=1e9")
    assert page.locator("#layer").input_value() == "cross.1"
    assert page.locator("#view-matrix").is_visible()


def test_words_merge_and_special_tokens_hide(page_file, open_page):
    page = open_page(page_file, "trace=1&head=0&view=table")
    page.locator("#merge").check()
    lines = [line.split("\t")[:3] for line in page.locator("#table-rows tr").all_inner_texts()]
    assert [line[0] for line in lines] == ["die", "hohen", "Häuser", "⟨end⟩"]
    assert lines[1][1:] == ["tall 0.500", "houses 0.500"]
    assert lines[2][1] == "houses 1.000"
    page.locator("#special").uncheck()
    assert page.locator("#table-rows tr").count() == 3


def test_the_wall_sorts_and_opens_a_head(page_file, open_page):
    page = open_page(page_file, "trace=1&view=wall")
    assert page.locator(".tile").count() == 2
    page.locator("#sort").select_option("entropy")
    names = page.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.name)")
    assert names == ["cross.0/1", "cross.0/0"]
    page.locator("#sort").select_option("diagonality")
    names = page.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.name)")
    assert names == ["cross.0/0", "cross.0/1"]
    page.locator(".tile").first.click()
    assert page.locator("#view-matrix").is_visible()
    assert page.locator("#head").input_value() == "0"


def test_the_slider_steps_through_the_translation(page_file, open_page):
    page = open_page(page_file, "view=text")
    page.locator("#step").fill("3")
    assert page.locator("#step-text").inner_text() == "4 of 5: Häuser, log p −0.693"
    assert page.locator("#text-rows .later").count() == 1
    assert page.locator("#text-lines path").count() > 0
    assert page.locator("#occlusion-word").inner_text() == "Häuser"
    assert page.locator("#occlusion-rows tr").count() == 5
    page.locator("#text-columns .token").nth(2).hover()
    assert page.locator("#text-columns .token.selected").inner_text() == "house"
    page.locator("#step").fill("4")
    page.locator("#play").click()
    page.wait_for_function("document.getElementById('step').value !== '4'")
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "Play"


def test_two_traces_are_compared(page_file, open_page):
    page = open_page(page_file, "trace=1&head=0&compare=side&traceB=0")
    assert page.locator("#map-b").is_visible()
    hover(page, 1, 1)
    assert page.locator("#readout").inner_text().startswith("A: ")
    page.locator("#compare").select_option("difference")
    assert page.locator("#map-b").is_hidden()
    assert "minus" in page.locator("#title-a").inner_text()
    page.locator("#layerB").select_option("decoder.0")
    assert page.locator("#mismatch").is_hidden()


def test_a_trace_beside_an_example_without_weights_is_shown(open_page, tmp_path):
    example = Example({"source": ("a",), "target": ("b",)}, {}, {})
    other = Trace((example, trace_of().examples[0]), "any")
    path = write_html([NamedTrace("a", trace_of()), NamedTrace("b", other)], tmp_path / "p.html")
    page = open_page(path, "compare=side")
    assert page.locator("#map").is_visible()
    assert page.locator("#map-b").is_hidden()


def test_exports_are_files(page_file, open_page, tmp_path):
    page = open_page(page_file, "trace=1&head=0")
    for kind in ("png", "svg", "csv"):
        with page.expect_download() as download:
            page.locator(f"#export-{kind}").click()
        assert download.value.suggested_filename == f"cross.0-head-0.{kind}"
        download.value.save_as(tmp_path / f"x.{kind}")
    with Image.open(tmp_path / "x.png") as picture:
        pixels, size = np.array(picture.convert("RGB")).astype(int), picture.size
    drawing = (tmp_path / "x.svg").read_text()
    assert size == tuple(2 * int(re.findall(rf'{side}="(\d+)"', drawing)[0]) for side in ("width", "height"))
    assert drawing.count("<rect") == 26
    corner = 2 * np.array([float(re.findall(rf' {axis}="([\d.]+)"', drawing)[1]) for axis in ("y", "x")])
    dark = [
        [pixels[tuple((corner + 32 * np.array([r, c]) + 16).astype(int))].sum() < 300 for c in range(5)]
        for r in range(5)
    ]
    assert dark == np.eye(5, dtype=bool).tolist()
    table = list(csv.reader(io.StringIO((tmp_path / "x.csv").read_text())))
    assert table[0] == ["", "the", "tall", "house", "s", "⟨end⟩"]
    assert [line[1:] for line in table[1:]] == np.eye(5, dtype=int).astype(str).tolist()


def test_tokens_with_markup_are_text(open_page, tmp_path):
    axes = {"tokens": MARKUP, "</title><script>window.hacked=2</script>": ("▁a",) * 4}
    pair = WeightAxes("tokens", "</title><script>window.hacked=2</script>")
    trace = Trace((Example(axes, {"x": rows(1, 4, 4)}, {"x": pair}),), "<script>window.hacked=3</script>")
    path = write_html([NamedTrace("</title><script>window.hacked=4</script>", trace)], tmp_path / "p.html")
    page = open_page(path)
    for view in ("text", "wall", "document", "image", "table", "matrix"):
        page.locator(f"#tab-{view}").click()
        page.wait_for_timeout(50)
    assert page.evaluate("window.hacked") is None
    page.locator("#tab-text").click()
    assert page.locator("#text-rows .token").first.inner_text() == MARKUP[0]
    with page.expect_download():
        page.locator("#tab-matrix").click()
        page.locator("#export-svg").click()


def test_sentences_are_cut_beside_a_matrix_and_in_lists(open_page, tmp_path):
    sentences = tuple(f"{n} is a sentence of more letters than a label has" for n in range(4))
    axes = {"label": ("good",), "sentences": sentences}
    example = Example(axes, {"pool": rows(1, 1, 4)}, {"pool": WeightAxes("label", "sentences")})
    page = open_page(write_trace(tmp_path, example), "view=document")
    assert page.locator("#document-text span").all_inner_texts() == list(sentences)
    assert (
        page.locator("#document-strongest button")
        .first.inner_text()
        .startswith("0 is a sentence of more let… (0)")
    )
    page.locator("#tab-matrix").click()
    with page.expect_download() as download:
        page.locator("#export-svg").click()
    picture = Path(download.value.path()).read_text()
    assert "0 is a sentence of more let…" in picture
    assert sentences[0] not in picture


def test_a_long_document_is_built_where_it_is_read(open_page, tmp_path):
    words = tuple(f"▁word{n}" for n in range(5000))
    weights = rows(1, 1, 5000)
    weights[0, 0] *= 0.5
    weights[0, 0, 4321] += 0.5
    axes = {"class": ("good",), "words": words}
    example = Example(axes, {"pool": weights}, {"pool": WeightAxes("class", "words")})
    page = open_page(write_trace(tmp_path, example))
    assert 0 < page.locator("#document-text span").count() < 3000
    assert page.locator("#document-strongest button").first.inner_text() == "word4321 (4321): 0.498"
    page.locator("#document-strongest button").first.click()
    page.wait_for_selector("#document-text span:text-is('word4321')")


def test_the_query_of_a_document_is_chosen_with_a_slider_or_in_the_text(open_page, tmp_path):
    count = 1200
    words = tuple(f"▁word{n}" for n in range(count))
    weights = np.tril(np.ones((1, count, count)))
    weights[0, np.arange(count), np.arange(count) // 2] += 2 * np.arange(count)
    weights /= weights.sum(-1, keepdims=True)
    axes = WeightAxes("words", "words", causal=True)
    example = Example({"words": words}, {"self.0": weights}, {"self.0": axes})
    page = open_page(write_trace(tmp_path, example))
    step, strongest = page.locator("#document-step-text"), page.locator("#document-strongest button").first
    assert step.inner_text() == "1200 of 1200: word1199"  # the last query sees most
    assert strongest.inner_text().startswith("word599 (599)")
    page.locator("#document-step").fill("800")
    assert step.inner_text() == "801 of 1200: word800"
    assert strongest.inner_text().startswith("word400 (400)")
    page.locator("#document-text span:text-is('word20')").click()
    assert step.inner_text() == "21 of 1200: word20"
    assert strongest.inner_text().startswith("word10 (10)")
    assert page.locator("#document-text .selected").all_inner_texts() == ["word20"]
    assert "row=20" in page.evaluate("location.hash")
    page.locator("#document-step").press("ArrowRight")
    assert step.inner_text() == "22 of 1200: word21"


def test_the_text_view_leaves_long_texts_to_the_document_view(open_page, tmp_path):
    words = tuple(f"▁word{n}" for n in range(4000))
    axes = {"class": ("good",), "words": words}
    example = Example(axes, {"pool": rows(1, 1, 4000)}, {"pool": WeightAxes("class", "words")})
    page = open_page(write_trace(tmp_path, example), "view=text")
    assert page.locator("#text-long").is_visible()
    assert not page.locator("#text-stage").is_visible()
    assert page.locator("#text-columns span").count() == 0


def test_small_numbers_have_one_kind_of_minus_sign(open_page, tmp_path):
    weights = {"cross.0": np.array([[[0.5, 8.3e-4, -8.3e-4]]])}
    example = Example(
        {"target": ("▁a",), "source": ("▁x", "▁y", "▁z")},
        weights,
        {"cross.0": WeightAxes("target", "source")},
    )
    trace = NamedTrace("small", Trace((example,), "translation", ("cross.0",)))
    page = open_page(write_html([trace], tmp_path / "page.html"), "row=0&column=2")
    assert re.search(r": −\d\.\de−4$", page.locator("#readout").inner_text())


def test_a_notebook_shows_the_page_in_a_frame(open_page, tmp_path):
    frame = trace_of()._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><body data-ready>{frame}</body>")
    page = open_page(tmp_path / "notebook.html")
    inner = page.frame_locator("iframe")
    inner.locator("body[data-ready]").wait_for()
    inner.locator("#tab-text").click()
    assert inner.locator("#text-rows .token").first.inner_text() == "die"
    inner.locator("#layer").select_option("decoder.0")
    assert inner.locator("#layer").input_value() == "decoder.0"


def test_an_empty_axis_is_explained(open_page, tmp_path):
    axes = {"a": (), "b": ("x",), "c": ("</s>",)}
    weights = {"none": np.zeros((1, 0, 1)), "some": np.ones((1, 1, 1))}
    pairs = {"none": WeightAxes("a", "b"), "some": WeightAxes("c", "b")}
    page = open_page(write_trace(tmp_path, Example(axes, weights, pairs)))
    page.locator("#layer").select_option("none")
    assert page.locator("#empty").is_visible()
    page.locator("#layer").select_option("some")
    assert page.locator("#empty").is_hidden()
    page.locator("#special").uncheck()
    assert page.locator("#empty").is_visible()


def find_serious(page):
    """The violations that axe-core finds: what, and where."""
    return [
        (violation["id"], [node["html"][:120] for node in violation["nodes"]])
        for violation in page.evaluate("axe.run()")["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_the_window_and_is_accessible(page_file, open_page, width, theme):
    page = open_page(page_file, viewport={"width": width, "height": 900}, color_scheme=theme)
    axe = Path(os.environ.get("QKV_AXE", Path(__file__).parent / "node_modules/axe-core/axe.min.js"))
    if axe.exists():
        page.evaluate(axe.read_text())
    for view in ("text", "wall", "document", "image", "table", "matrix"):
        page.locator(f"#tab-{view}").click()
        page.wait_for_timeout(30)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not axe.exists() or find_serious(page) == []
    if not axe.exists():
        pytest.skip("axe-core is not installed: npm install --prefix tests/browser")
