"""Comparisons: what is read, what is called, how it is timed, and what curves and tables say."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import qkv
from qkv.bench import (
    Cell,
    Comparison,
    Contender,
    Setting,
    compare,
    crossing,
    exponent,
    in_turn,
    peak,
    read,
    this_machine,
    timing,
)
from qkv.bench.calls import STEPS, draw, ready, state_bytes
from qkv.bench.memory import FULL, Unmeasured, bounded, reason
from qkv.bench.plot import draw as draw_picture
from qkv.bench.scales import axis_of, duration, spread, thinned, time_ticks
from qkv.bench.table import lines_of
from qkv.errors import BadData, BadRecipe, IncompatibleParts, UnknownName
from qkv.kernel.pairs import BLOCK
from qkv.state import Shared

SMALL = Setting(width=32, heads=4, batch=2, repeats=2)


def split(x: Tensor, heads: int = 4) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def one(text: str, setting: Setting = SMALL) -> Contender:
    return read([text], setting)[0]


# What is written


@pytest.mark.parametrize(
    ("text", "label", "written"),
    [
        ("sdpa", "sdpa", "sdpa"),
        ("rfa", "rfa", "{kernel: rfa}"),
        ("softmax", "softmax", "{kernel: softmax}"),
        ("window", "window", "{scope: {name: window, half_width: 64}}"),
        ("near=window", "near", "{scope: {name: window, half_width: 64}}"),
        ("base = sdpa", "base", "sdpa"),
        ("{kernel: {name: rfa, features: 8}}", "rfa features=8", "{kernel: {name: rfa, features: 8}}"),
        ("r 8={kernel: {name: rfa, features: 8}}", "r 8", "{kernel: {name: rfa, features: 8}}"),
        ("{kv_heads: 2}", "kv_heads=2", "{kv_heads: 2}"),
    ],
)
def test_a_spec_is_read_and_named(text: str, label: str, written: str) -> None:
    contender = one(text)
    assert (contender.label, contender.written) == (label, written)
    assert contender.fused == (written == "sdpa")
    assert (contender.spec.d_model, contender.spec.heads, contender.spec.causal) == (32, 4, True)


def test_a_spec_may_say_its_own_heads_and_order() -> None:
    spec = one("{causal: false, heads: 2}").spec
    assert (spec.causal, spec.heads) == (False, 2)
    assert not one("rfa", Setting(causal=False)).spec.causal


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("rfaa", UnknownName, "rfaa: no such attention. Did you mean 'rfa'"),
        ("{kernel: rfaa}", UnknownName, "Did you mean 'rfa'"),
        ("{kernel: [", BadRecipe, "this is no mapping like"),
        ("{kernl: rfa}", UnknownName, "Did you mean 'kernel'"),
        ("{kernel: rfa, score: dot}", IncompatibleParts, "kernel and score clash"),
        ("predictive", IncompatibleParts, "causal=False"),
        ("{d_model: 64}", BadRecipe, "say --width"),
        ("{heads: 5}", qkv.QKVError, "d_model=32 cannot be split into heads=5"),
        ("a=", UnknownName, "no such attention"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        one(text)
    assert said in str(caught.value)


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(BadRecipe, match=r"two specs are called 'rfa': name one of them, other=rfa"):
        read(["rfa", "sdpa", "rfa"], SMALL)


# What is called


def test_the_forward_call_is_the_core_on_what_a_layer_would_split() -> None:
    inputs = draw(9, SMALL)
    q, k, v = map(split, inputs)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ready("forward", one("sdpa"), inputs, SMALL).call(), expected)
    near = ready("forward", one("{scope: {name: window, half_width: 2}}"), inputs, SMALL).call()
    torch.testing.assert_close(near, qkv.attend(q, k, v, scope=qkv.Window(2), causal=True).out)


def test_the_call_of_a_layer_is_the_layer() -> None:
    setting = Setting(width=32, heads=4, layer=True)
    inputs, contender = draw(9, setting), one("additive", setting)
    torch.manual_seed(setting.seed)
    layer = contender.spec.build().eval()
    torch.testing.assert_close(ready("forward", contender, inputs, setting).call(), layer(inputs.q))
    fused = ready("forward", one("sdpa", setting), inputs, setting).call()
    torch.testing.assert_close(fused, ready("forward", one("softmax", setting), inputs, setting).call())


def test_grouped_and_gated_inputs_have_their_shapes() -> None:
    inputs = draw(9, SMALL)
    grouped = ready("forward", one("{kv_heads: 2}"), inputs, SMALL).call()
    q, k, v = split(inputs.q), split(inputs.k[..., :16], 2), split(inputs.v[..., :16], 2)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(grouped, expected)
    gated = ready("forward", one("{kernel: {name: rfa, gate: true}}"), inputs, SMALL).call()
    assert gated.shape == (2, 4, 9, 8)


@pytest.mark.parametrize(("layer", "count"), [(False, 3), (True, 1)])
def test_backward_reaches_inputs_and_parameters(layer: bool, count: int) -> None:
    setting = Setting(width=32, heads=4, layer=layer)
    inputs = draw(9, setting)
    plain = ready("backward", one("sdpa", setting), inputs, setting).call()
    learns = ready("backward", one("additive", setting), inputs, setting).call()
    assert all(grad is not None and grad.abs().max() > 0 for grad in plain)
    assert len(plain) == count + 6 * layer
    assert len(learns) > len(plain)
    assert inputs.q.grad is None
    assert not inputs.q.requires_grad
    if not layer:
        leaves = [x.clone().requires_grad_() for x in inputs]
        q, k, v = map(split, leaves)
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        for found, leaf in zip(plain, leaves, strict=True):
            torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize("name", ["sdpa", "softmax", "rfa", "window", "{kernel: {name: rfa, gate: true}}"])
def test_decoding_goes_on_from_the_context(name: str) -> None:
    inputs = draw(12, SMALL)
    made = ready("decode", one(name), inputs, SMALL)
    after = made.call()
    assert made.passes == STEPS
    if name in ("sdpa", "softmax", "window"):
        assert made.state == 2 * 2 * 12 * 32 * 4
        assert state_bytes(after) == 2 * 2 * (12 + STEPS) * 32 * 4
    else:
        assert made.state == state_bytes(after) == ready("decode", one(name), draw(24, SMALL), SMALL).state


def test_torch_steps_as_it_does_all_at_once() -> None:
    layer = qkv.Attention(32, heads=4, causal=True).eval()
    x = torch.randn(2, 7, 32)
    whole = layer(x)
    layer.core = qkv.bench.sdpa.FusedSoftmax(causal=True)
    state = layer.start(batch=2)
    for t in range(7):
        out, state = layer.step(x[:, t], state)
        torch.testing.assert_close(out, whole[:, t])


def test_what_all_rows_share_is_no_state_of_theirs() -> None:
    state = (torch.zeros(3), Shared(torch.zeros(100)), {"a": torch.zeros(2, dtype=torch.bfloat16)}, None, 7)
    assert state_bytes(state) == 12 + 4


# How it is timed


def test_calls_take_turns_and_one_that_fails_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    order: list[str] = []

    def broken() -> None:
        order.append("broken")
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    calls = {"a": lambda: order.append("a"), "broken": broken, "b": lambda: order.append("b")}
    times, failed = in_turn(calls, repeats=3)
    assert order == ["a", "a", "broken", "b", "b"] + ["a", "b"] * 3
    assert failed == {"broken": FULL}
    assert {label: len(took) for label, took in times.items()} == {"a": 3, "b": 3}


def test_short_calls_are_timed_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST_SECONDS", 1e9)
    count = [0]

    def call() -> None:
        count[0] += 1

    times, _ = in_turn({"a": call}, repeats=2)
    assert count[0] == 2 + 2 * timing.MOST_CALLS
    assert len(times["a"]) == 2


def test_what_cannot_do_a_length_says_why_and_the_rest_goes_on() -> None:
    rows = compare(
        read(["sdpa", "location", "{causal: false}"], SMALL), [70, 8], ["forward", "decode"], SMALL
    )
    assert [(cell.label, cell.length) for cell in rows.cells[:3]] == [
        ("sdpa", 8),
        ("location", 8),
        ("causal=False", 8),
    ]
    missing = {(cell.what, cell.label, cell.length): cell.why for cell in rows.cells if cell.seconds is None}
    assert set(missing) == {
        ("forward", "location", 70),
        ("decode", "location", 70),
        ("decode", "causal=False", 8),
        ("decode", "causal=False", 70),
    }
    assert "knows 64 positions" in missing["forward", "location", 70]
    assert "stepping through self-attention needs causal=True" in missing["decode", "causal=False", 8]
    for cell in rows.cells:
        if cell.seconds is not None:
            assert sorted([cell.slowest or 0, cell.seconds, cell.fastest or 0])[1] == cell.seconds
            assert (cell.fastest or 0) <= (cell.slowest or 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_an_allocation_too_large_fails_instead_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr("qkv.bench.memory.memory_bytes", lambda: (2**34, 2**26))
    with bounded("cpu"), pytest.raises(RuntimeError) as caught:
        torch.empty(2**28).zero_()
    assert reason(caught.value) == FULL
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert torch.empty(2**25).numel() == 2**25


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_counts_what_a_call_forms_and_no_more() -> None:
    held = torch.ones(2**26)  # what this process occupies must not show
    setting = Setting(width=32, heads=4, causal=False)
    block = 4 * BLOCK
    assert block < peak("forward", one("cosine", setting), 1500, setting) < 16 * block
    assert held.numel() * 4 > 16 * block


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_of_what_forms_no_weights_is_small() -> None:
    setting = Setting(width=32, heads=4, causal=False)
    assert peak("forward", one("elu", setting), 1500, setting) < 1500 * 1500 * 4


def test_peak_memory_says_why_there_is_none() -> None:
    with pytest.raises(Unmeasured, match="knows 64 positions, got 70 keys"):
        peak("forward", one("location"), 70, SMALL)


# What the curves say


def test_the_exponent_is_that_of_the_longest_lengths() -> None:
    assert exponent([(n, 3e-6 * n**1.5) for n in (64, 128, 512)]) == pytest.approx(1.5)
    bent = [(n, 1.0 + 0 * n) for n in (1, 2, 4)] + [(n, float(n) ** 2) for n in (128, 256, 1024)]
    assert exponent(bent) == pytest.approx(2.0)
    assert exponent([(64, 1.0)]) is None
    assert exponent([]) is None
    assert exponent([(8, 1.0), (1024, 2.0)]) is None


def test_a_crossing_is_found_between_lengths() -> None:
    square, line = [[(n, a * n**p) for n in (128, 256, 512)] for a, p in ((1e-6, 2), (2e-4, 1))]
    met = crossing(square, line)
    assert met is not None
    assert met.length == pytest.approx(200)
    assert met.faster_above
    other_way = crossing(line, square)
    assert other_way is not None
    assert (round(other_way.length), other_way.faster_above) == (200, False)
    assert crossing(square[:1], line) is None
    assert crossing(line, [(n, 2 * s) for n, s in line]) is None


def test_the_last_crossing_counts() -> None:
    flat = [(n, 1.0) for n in (1, 2, 4, 8)]
    met = crossing(flat, [(1, 0.5), (2, 2.0), (4, 2.0), (8, 0.5)])
    assert met is not None
    assert met.length == pytest.approx(4 * math.sqrt(2))
    assert met.rounded == 5


# How it is told


def made(*cells: Cell, labels: tuple[str, ...] = ("sdpa", "rfa")) -> Comparison:
    return Comparison(this_machine(), SMALL, read(labels, SMALL), cells)


def test_the_table_of_passes() -> None:
    cells = [Cell("forward", "sdpa", n, 1e-9 * n * n) for n in (512, 1024)]
    cells += [Cell("forward", "rfa", 512, 5.12e-4), Cell("forward", "rfa", 1024, why="out of memory")]
    assert list(lines_of(made(*cells))) == [
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
    told = list(lines_of(made(*cells)))[2:]
    assert told == [
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


def test_wide_tables_are_folded() -> None:
    labels = ("sdpa", "rfa", "favor", "elu", "cosine")
    cells = [Cell("forward", label, 512, 1e-3) for label in labels]
    told = list(lines_of(made(*cells, labels=labels), 50))
    assert [line.split() for line in told if line.startswith("  tokens")] == [
        ["tokens", "sdpa", "rfa", "favor"],
        ["tokens", "elu", "cosine"],
    ]
    assert max(len(line) for line in told if line.startswith(("  tokens", "     512"))) <= 50


def test_json_holds_everything() -> None:
    cells = [Cell("forward", label, n, n**p * 1e-6) for label, p in (("sdpa", 2), ("rfa", 1)) for n in (1, 8)]
    told = made(*cells).to_dict()
    assert told["machine"]["torch"] == torch.__version__
    assert told["setting"]["width"] == 32
    assert [c["label"] for c in told["contenders"]] == ["sdpa", "rfa"]
    assert told["cells"][0]["seconds"] == 1e-6
    assert told["curves"][1]["exponent"] == pytest.approx(1.0)


# How it is drawn


def test_a_picture_in_both_themes(tmp_path: Path) -> None:
    from PIL import Image

    cells = [Cell(what, "sdpa", n, n**2 * 1e-8) for what in ("forward", "backward") for n in (64, 1024, 4096)]
    cells += [Cell("forward", "rfa", n, n * 1e-6) for n in (64, 1024, 4096)]
    cells += [Cell("backward", "rfa", 64, 1e-5)]
    corners = {}
    for dark in (False, True):
        path = draw_picture(made(*cells), tmp_path / f"{dark}.png", dark)
        with Image.open(path) as picture:
            corners[dark] = picture.convert("L").getpixel((3, 3)), picture.width > picture.height
    assert corners == {False: (255, True), True: (pytest.approx(23, abs=2), True)}


def test_a_picture_of_nothing_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="nothing was measured"):
        draw_picture(made(Cell("forward", "sdpa", 8, why="out of memory")), tmp_path / "p.png")
    with pytest.raises(BadData, match="change the suffix"):
        draw_picture(made(), tmp_path / "p.gif")


def test_names_keep_apart_and_in_order() -> None:
    assert spread([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert spread([2.0, 2.0, 2.0], 1.0) == [1.0, 2.0, 3.0]
    assert spread([5.0, 1.0, 1.2], 1.0) == pytest.approx([5.0, 0.6, 1.6])
    assert spread([0.0, 0.9, 1.0, 4.0], 1.0) == pytest.approx([-0.3667, 0.6333, 1.6333, 4.0], abs=1e-3)
    assert spread([], 1.0) == []


def test_labels_without_room_are_left_out() -> None:
    places = {1: 0.0, 2: 1.0, 4: 1.1, 8: 2.0}
    assert thinned([1, 2, 4, 8], places, dict.fromkeys(places, 0.5)) == [1, 4, 8]


def test_ticks_are_round_and_on_the_axis() -> None:
    axis, marks = time_ticks([1.1e-4, 0.9])
    assert [name for _, name in marks] == ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]
    assert all(0 <= axis.share(math.log10(seconds)) <= 1 for seconds, _ in marks)
    assert len(time_ticks([1e-3, 1.3e-3])[1]) >= 2
    assert axis_of([3.0]).share(3.0) == pytest.approx(0.5)


def test_durations() -> None:
    told = [duration(s) for s in (2.0, 1.0, 0.1, 1e-3, 1.5e-6, 2e-8)]
    assert told == ["2 s", "1 s", "100 ms", "1 ms", "1.5 µs", "20 ns"]


def test_the_machine_is_told() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.free <= machine.memory
    assert f"torch {torch.__version__}" in str(machine)
