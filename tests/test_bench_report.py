"""Comparisons: exponents and crossings of curves, tables and pictures."""

import math
from pathlib import Path

import pytest
import torch

from qkv.bench import (
    Cell,
    Comparison,
    Setting,
    describe_machine,
    find_crossing,
    fit_exponent,
    read_contenders,
)
from qkv.bench.plot import draw as draw_picture
from qkv.bench.scales import fit_axis, format_duration, make_time_ticks, select_ticks, spread_apart
from qkv.bench.table import format_comparison
from qkv.errors import BadData

SMALL = Setting(width=32, heads=4, batch=2, repeats=2)


# Curves


def test_the_exponent_is_that_of_the_longest_lengths() -> None:
    assert fit_exponent([(n, 3e-6 * n**1.5) for n in (64, 128, 512)]) == pytest.approx(1.5)
    bent = [(n, 1.0 + 0 * n) for n in (1, 2, 4)] + [(n, float(n) ** 2) for n in (128, 256, 1024)]
    assert fit_exponent(bent) == pytest.approx(2.0)
    assert fit_exponent([(64, 1.0)]) is None
    assert fit_exponent([]) is None
    assert fit_exponent([(8, 1.0), (1024, 2.0)]) is None


def test_a_crossing_is_found_between_lengths() -> None:
    square, line = [[(n, a * n**p) for n in (128, 256, 512)] for a, p in ((1e-6, 2), (2e-4, 1))]
    crossing = find_crossing(square, line)
    assert crossing is not None
    assert crossing.length == pytest.approx(200)
    assert crossing.faster_above
    other_way = find_crossing(line, square)
    assert other_way is not None
    assert (round(other_way.length), other_way.faster_above) == (200, False)
    assert find_crossing(square[:1], line) is None
    assert find_crossing(line, [(n, 2 * s) for n, s in line]) is None


def test_the_last_crossing_counts() -> None:
    flat = [(n, 1.0) for n in (1, 2, 4, 8)]
    crossing = find_crossing(flat, [(1, 0.5), (2, 2.0), (4, 2.0), (8, 0.5)])
    assert crossing is not None
    assert crossing.length == pytest.approx(4 * math.sqrt(2))
    assert crossing.rounded == 5


# Tables


def compare_cells(*cells: Cell, labels: tuple[str, ...] = ("sdpa", "rfa")) -> Comparison:
    return Comparison(describe_machine(), SMALL, read_contenders(labels, SMALL), cells)


def test_the_table_of_passes() -> None:
    cells = [Cell("forward", "sdpa", n, 1e-9 * n * n) for n in (512, 1024)]
    cells += [Cell("forward", "rfa", 512, 5.12e-4), Cell("forward", "rfa", 1024, failure="out of memory")]
    assert list(format_comparison(compare_cells(*cells))) == [
        "  rfa   {kernel: rfa}",
        "",
        "forward: one pass over the whole sequence; milliseconds, how many times as fast as sdpa",
        "  tokens     sdpa            rfa",
        "     512    0.262   0.512  0.51×",
        "   1,024     1.05              –",
        "grows as   N^2.00              –",
        "rfa is slower than sdpa at every length measured",
        "",
        "– forward, rfa, 1,024 tokens: out of memory",
    ]


def test_the_table_of_steps_and_of_memory() -> None:
    cells = [
        Cell("decode", "sdpa", 2048, 1e-3, state=8_388_608, peak=20_000_000),
        Cell("decode", "rfa", 2048, 2.5e-4, state=266_240, peak=40_000),
    ]
    lines = list(format_comparison(compare_cells(*cells)))[2:]
    assert lines == [
        "decode: one step of the whole layer after so many tokens; tokens per second, how many times as fast "
        "as sdpa, bytes of state",
        "  tokens             sdpa                     rfa",
        "   2,048   2,000  8.39 MB   8,000   4.0×   266 kB",
        "grows as                –                       –",
        "rfa is faster than sdpa at every length measured",
        "",
        "decode: peak memory beyond what was there before the call",
        "tokens      sdpa         rfa",
        " 2,048   20.0 MB   < 1.00 MB",
    ]


def test_room_that_a_state_reserves_is_reported() -> None:
    cells = [
        *(Cell("decode", "sdpa", n, 1e-3, state=1000, allocated=1000) for n in (512, 1024, 2048)),
        Cell("decode", "rfa", 512, 1e-3, state=1000, allocated=1500),
        Cell("decode", "rfa", 1024, 1e-3, state=2000, allocated=4000),
        Cell("decode", "rfa", 2048, failure="out of memory"),
    ]
    notes = [line for line in format_comparison(compare_cells(*cells)) if "room" in line]
    assert notes == ["rfa allocates 4.00 kB for 2.00 kB of state at 1,024 tokens: room for further tokens"]


def test_wide_tables_are_folded() -> None:
    labels = ("sdpa", "rfa", "favor", "elu", "cosine")
    cells = [Cell("forward", label, 512, 1e-3) for label in labels]
    lines = list(format_comparison(compare_cells(*cells, labels=labels), 50))
    assert [line.split() for line in lines if line.startswith("  tokens")] == [
        ["tokens", "sdpa", "rfa", "favor"],
        ["tokens", "elu", "cosine"],
    ]
    assert max(len(line) for line in lines if line.startswith(("  tokens", "     512"))) <= 50


def test_json_holds_everything() -> None:
    cells = [Cell("forward", label, n, n**p * 1e-6) for label, p in (("sdpa", 2), ("rfa", 1)) for n in (1, 8)]
    data = compare_cells(*cells).to_dict()
    assert data["machine"]["torch"] == torch.__version__
    assert data["setting"]["width"] == 32
    assert [c["label"] for c in data["contenders"]] == ["sdpa", "rfa"]
    assert data["cells"][0]["seconds"] == 1e-6
    assert data["curves"][1]["exponent"] == pytest.approx(1.0)


# Pictures


def test_a_picture_in_both_themes(tmp_path: Path) -> None:
    from PIL import Image

    cells = [Cell(what, "sdpa", n, n**2 * 1e-8) for what in ("forward", "backward") for n in (64, 1024, 4096)]
    cells += [Cell("forward", "rfa", n, n * 1e-6) for n in (64, 1024, 4096)]
    cells += [Cell("backward", "rfa", 64, 1e-5)]
    corners = {}
    for dark in (False, True):
        path = draw_picture(compare_cells(*cells), tmp_path / f"{dark}.png", dark)
        with Image.open(path) as picture:
            corners[dark] = picture.convert("L").getpixel((3, 3)), picture.width > picture.height
    assert corners == {False: (255, True), True: (pytest.approx(23, abs=2), True)}


def test_a_picture_of_nothing_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="nothing was measured"):
        draw_picture(compare_cells(Cell("forward", "sdpa", 8, failure="out of memory")), tmp_path / "p.png")
    with pytest.raises(BadData, match="change the suffix"):
        draw_picture(compare_cells(), tmp_path / "p.gif")


def test_names_keep_apart_and_in_order() -> None:
    assert spread_apart([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert spread_apart([2.0, 2.0, 2.0], 1.0) == [1.0, 2.0, 3.0]
    assert spread_apart([5.0, 1.0, 1.2], 1.0) == pytest.approx([5.0, 0.6, 1.6])
    assert spread_apart([0.0, 0.9, 1.0, 4.0], 1.0) == pytest.approx([-0.3667, 0.6333, 1.6333, 4.0], abs=1e-3)
    assert spread_apart([], 1.0) == []


def test_labels_without_room_are_left_out() -> None:
    places = {1: 0.0, 2: 1.0, 4: 1.1, 8: 2.0}
    assert select_ticks([1, 2, 4, 8], places, dict.fromkeys(places, 0.5)) == [1, 4, 8]


def test_ticks_are_round_and_on_the_axis() -> None:
    axis, marks = make_time_ticks([1.1e-4, 0.9])
    assert [name for _, name in marks] == ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]
    assert all(0 <= axis.fraction(math.log10(seconds)) <= 1 for seconds, _ in marks)
    assert len(make_time_ticks([1e-3, 1.3e-3])[1]) >= 2
    assert fit_axis([3.0]).fraction(3.0) == pytest.approx(0.5)


def test_durations() -> None:
    durations = [format_duration(s) for s in (2.0, 1.0, 0.1, 1e-3, 1.5e-6, 2e-8)]
    assert durations == ["2 s", "1 s", "100 ms", "1 ms", "1.5 µs", "20 ns"]


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.free <= machine.memory
    assert f"torch {torch.__version__}" in str(machine)
