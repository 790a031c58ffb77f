"""The page of a trace without a browser: its size, its numbers, and what it may contain."""

import base64
import hashlib
import json
import re
from importlib import import_module

import numpy as np
import pytest

import tiny
from qkv.errors import BadData
from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view import NamedTrace, embed_picture, format_html, heatmap
from qkv.view.bundle import bundle_modules
from qkv.view.measures import measure_head
from qkv.view.packing import pack_weights, unpack_weights
from view_cases import grid_trace, rows, trace_of

CSP = (
    "default-src 'none'; script-src '{}'; style-src '{}'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)


def soft(count, heads, size):
    """Softmax of random scores."""
    scores = np.random.default_rng(0).normal(size=(count, heads, size, size)).astype(np.float32)
    weights = np.exp(2 * scores)
    return weights / weights.sum(-1, keepdims=True)


def square_trace(size, layers=6, heads=8):
    axes = {"text": tuple(f"▁w{n}" for n in range(size))}
    weights = {f"layer.{n}": layer for n, layer in enumerate(soft(layers, heads, size))}
    return Trace(
        (Example(axes, weights, dict.fromkeys(weights, WeightAxes("text", "text"))),), "language model"
    )


def page_of(*traces, **options):
    return format_html([NamedTrace(f"t{n}.npz", trace) for n, trace in enumerate(traces)], **options)


@pytest.mark.parametrize(("size", "limit"), [(32, 0.2e6), (128, 0.5e6)])
def test_a_page_is_small(size, limit):
    assert len(page_of(square_trace(size)).encode()) < limit


@pytest.mark.slow
def test_a_large_page_is_small():
    assert len(page_of(square_trace(512)).encode()) < 4e6


@pytest.mark.parametrize("is_signed", [False, True])
def test_packing_moves_no_weight_by_more_than_a_step_of_its_square_root(is_signed):
    weights = soft(1, 2, 40)[0] * (np.where(np.arange(40) % 3, 1, -1) if is_signed else 1)
    [packed] = pack_weights([weights])
    assert packed.levels == (127 if is_signed else 255)
    restored = unpack_weights(packed, (2, 40, 40))
    scale = np.abs(weights).max((1, 2), keepdims=True)
    error = np.abs(np.sqrt(np.abs(restored) / scale) - np.sqrt(np.abs(weights) / scale)).max()
    assert error <= 0.5 / packed.levels + 1e-6
    assert (np.sign(restored) == np.sign(weights))[restored != 0].all()


def test_special_values_survive_packing():
    weights = np.stack([np.eye(4), np.zeros((4, 4)), np.full((4, 4), 0.25)])
    [packed] = pack_weights([weights])
    np.testing.assert_allclose(unpack_weights(packed, (3, 4, 4)), weights, atol=1e-7)
    assert pack_weights([np.zeros((2, 0, 3))])[0].scales == [0.0, 0.0]


def test_nothing_but_inline_code_with_known_hashes_may_run():
    page = page_of(trace_of(), grid_trace())
    scripts = re.findall(r"<script type=\"module\">(.*?)</script>", page, re.S)
    [style] = re.findall(r"<style>(.*?)</style>", page, re.S)
    hashes = [hashlib.sha256(text.encode()).digest() for text in (*scripts, style)]
    digests = [f"sha256-{base64.b64encode(digest).decode()}" for digest in hashes]
    assert f'http-equiv="Content-Security-Policy" content="{CSP.format(*digests)}"' in page
    assert scripts == [bundle_modules()]
    addresses = set(re.findall(r"https?://[^\"'\s>]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=", re.sub(r"<script.*?</script>", "", page, flags=re.S))
    assert not re.search(r"^\s*(import|export)\b", scripts[0], re.M)


def test_markup_in_tokens_and_names_stays_data():
    tokens = ("</script><script>x", "<!--", "<img onerror=x>", "\u2028", "&lt;")
    axes = {"</script>": tokens}
    example = Example(axes, {"w": rows(1, 5, 5)}, {"w": WeightAxes("</script>", "</script>")})
    page = format_html([NamedTrace("<script>n", Trace((example,), "<b>kind"))])
    assert page.count("</script>") == page.count("<script") == 3
    assert "<img" not in page
    assert "<b>" not in page
    [data] = re.findall(r'id="qkv-data">(.*?)</script>', page, re.S)
    assert json.loads(data)["traces"][0]["examples"][0]["axes"]["</script>"]["labels"][2] == tokens[2]


def test_a_picture_shows_attention_unless_occlusion_is_asked_for(tmp_path, monkeypatch):
    drawn = []
    module = import_module("qkv.view.heatmap")

    def draw(grid, path, **options):
        drawn.append(grid)
        return path

    monkeypatch.setattr(module, "draw_grid", draw)
    axes = {"a": ("x", "y"), "b": ("z",)}
    weights = {"cross.0": np.ones((1, 2, 1)), "occlusion.source": np.full((1, 2, 1), -2.0)}
    example = Example(axes, weights, dict.fromkeys(weights, WeightAxes("a", "b")))
    trace = Trace((example,), "translation", ("occlusion.source",))
    for layers in (None, "occlusion"):
        heatmap(trace, path=tmp_path / "p.png", layers=layers)
    assert [grid[0][0].title for grid in drawn] == ["cross.0, head 0", "occlusion.source, head 0"]


def test_measures():
    diagonal = measure_head(np.eye(4), is_self=True, is_grid=False)
    assert diagonal == pytest.approx((0, 1, 0, 1, 1, 0.25))
    flat = measure_head(np.full((2, 4), 0.25), is_self=False, is_grid=False)
    assert flat.entropy == pytest.approx(np.log(4))
    assert flat.coverage == 0.5
    assert flat.distance == 1.5
    sink = measure_head(np.tile([1.0, 0, 0], (3, 1)), is_self=True, is_grid=True)
    assert (sink.first, sink.coverage, sink.distance) == (1, pytest.approx(1 / 3), None)
    assert measure_head(np.zeros((2, 2)), is_self=True, is_grid=False).entropy == 0


def test_traces_without_weights_and_too_large_ones_are_refused(monkeypatch):
    with pytest.raises(BadData, match="no trace to show: pass one or more"):
        format_html([])
    empty = Trace((Example({"a": ()}, {}, {}),), "x")
    with pytest.raises(BadData, match=r"t0\.npz has no weights to show"):
        page_of(empty)
    monkeypatch.setattr("qkv.view.html_page.MAX_WEIGHTS", 100)
    with pytest.raises(
        BadData, match=r"up to 100 weights, got .* show fewer examples or layers .*, or capture"
    ):
        page_of(trace_of())


def test_pictures_are_embedded_or_named(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "dog.png")
    address, problem = embed_picture(Grid(7, 7, "dog.png"), [tmp_path])
    assert (address[:23], problem) == ("data:image/jpeg;base64,", "")
    assert address in page_of(grid_trace(grid=Grid(7, 7, "dog.png")), images={"dog.png": address})
    assert embed_picture(Grid(7, 7, "cat.png"), [tmp_path]) == (
        "",
        "there is no such file beside the trace or in this folder",
    )
    assert embed_picture(Grid(7, 7), [tmp_path]) == ("", "")
    assert embed_picture(Grid(7, 5, "dog.png"), [tmp_path])[1] == "the grid is 7×5, not square"
    (tmp_path / "bad.png").write_text("no picture")
    assert embed_picture(Grid(7, 7, "bad.png"), [tmp_path])[1].startswith("not a picture of a known format")


@pytest.fixture
def files(tmp_path):
    trace_of().save(tmp_path / "a.npz")
    (tmp_path / "other").mkdir()
    grid_trace(grid=Grid(3, 3, "dog.png")).save(tmp_path / "other/a.npz")
    return tmp_path / "a.npz", tmp_path / "other/a.npz"


def test_the_command_writes_a_page(files, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert tiny.call("view", *files, "--output", output) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dog.png: not in the page: there is no such file beside the trace or in this folder",
        str(output),
    ]
    page = output.read_text()
    assert str(files[1]) in page
    assert tiny.call("view", files[0], "-o", output, "--layers", "encoder", "--example", 1) == 0
    assert len(output.read_text()) < len(page)
    assert '"name":"cross.0"' not in output.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "page.png"), "--output writes a page, got 'page.png': name it .html"),
        (("--png", "p.png"), "a picture shows one trace, got 2: pass one, or --output page.html"),
        (("--output", "p.html", "--layers", "decoder"), "there is no layer 'decoder' in"),
        (("--output", "p.html", "--example", 9), "there is no example 9"),
        (("--output", "a.npz/p.html"), "cannot write a.npz/p.html"),
    ],
)
def test_mistakes_are_one_line(files, monkeypatch, tmp_path, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert tiny.call("view", *files, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "p.html").exists()
