"""Comparisons: parsing of specs, the timed calls, and timing."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import qkv
from qkv.bench import (
    Contender,
    Setting,
    compare,
    measure_peak,
    read_contenders,
    time_calls,
    timing,
)
from qkv.bench.calls import STEPS, allocated_bytes, draw_inputs, prepare_call, state_bytes
from qkv.bench.memory import OUT_OF_MEMORY, MeasurementFailed, describe_failure, limit_memory
from qkv.errors import BadRecipe, IncompatibleParts, UnknownName
from qkv.kernel.query_blocks import BLOCK_NUMBERS
from qkv.state import Shared

SMALL = Setting(width=32, heads=4, batch=2, repeats=2)


def split(x: Tensor, heads: int = 4) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def one(text: str, setting: Setting = SMALL) -> Contender:
    return read_contenders([text], setting)[0]


# Parsing


@pytest.mark.parametrize(
    ("text", "label", "recipe"),
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
def test_a_spec_is_read_and_named(text: str, label: str, recipe: str) -> None:
    contender = one(text)
    assert (contender.label, contender.text) == (label, recipe)
    assert contender.is_fused == (recipe == "sdpa")
    assert (contender.spec.d_model, contender.spec.heads, contender.spec.causal) == (32, 4, True)


def test_a_spec_may_say_its_own_heads_and_order() -> None:
    spec = one("{causal: false, heads: 2}").spec
    assert (spec.causal, spec.heads) == (False, 2)
    assert not one("rfa", Setting(causal=False)).spec.causal


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("rfaa", UnknownName, "rfaa: there is no such attention. Did you mean 'rfa'"),
        ("{kernel: rfaa}", UnknownName, "Did you mean 'rfa'"),
        ("{kernel: [", BadRecipe, "this is not a mapping like"),
        ("{kernl: rfa}", UnknownName, "Did you mean 'kernel'"),
        ("{kernel: rfa, score: dot}", IncompatibleParts, "kernel and score clash"),
        ("predictive", IncompatibleParts, "causal=False"),
        ("{d_model: 64}", BadRecipe, "pass --width"),
        ("{heads: 5}", qkv.QKVError, "d_model=32 cannot be split into heads=5"),
        ("a=", UnknownName, "no such attention"),
    ],
)
def test_an_impossible_spec_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as error_info:
        one(text)
    assert message in str(error_info.value)


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(BadRecipe, match=r"two specs have the label 'rfa': name one of them, other=rfa"):
        read_contenders(["rfa", "sdpa", "rfa"], SMALL)


# Timed calls


def test_the_forward_call_is_the_core_on_what_a_layer_would_split() -> None:
    inputs = draw_inputs(9, SMALL)
    q, k, v = map(split, inputs)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(prepare_call("forward", one("sdpa"), inputs, SMALL).call(), expected)
    near = prepare_call("forward", one("{scope: {name: window, half_width: 2}}"), inputs, SMALL).call()
    torch.testing.assert_close(near, qkv.attend(q, k, v, scope=qkv.Window(2), causal=True).out)


def test_the_call_of_a_layer_is_the_layer() -> None:
    setting = Setting(width=32, heads=4, layer=True)
    inputs, contender = draw_inputs(9, setting), one("additive", setting)
    torch.manual_seed(setting.seed)
    layer = contender.spec.build().eval()
    torch.testing.assert_close(prepare_call("forward", contender, inputs, setting).call(), layer(inputs.q))
    fused = prepare_call("forward", one("sdpa", setting), inputs, setting).call()
    torch.testing.assert_close(
        fused, prepare_call("forward", one("softmax", setting), inputs, setting).call()
    )


def test_grouped_and_gated_inputs_have_their_shapes() -> None:
    inputs = draw_inputs(9, SMALL)
    grouped = prepare_call("forward", one("{kv_heads: 2}"), inputs, SMALL).call()
    q, k, v = split(inputs.q), split(inputs.k[..., :16], 2), split(inputs.v[..., :16], 2)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(grouped, expected)
    gated = prepare_call("forward", one("{kernel: {name: rfa, gate: true}}"), inputs, SMALL).call()
    assert gated.shape == (2, 4, 9, 8)


@pytest.mark.parametrize(("layer", "count"), [(False, 3), (True, 1)])
def test_backward_reaches_inputs_and_parameters(layer: bool, count: int) -> None:
    setting = Setting(width=32, heads=4, layer=layer)
    inputs = draw_inputs(9, setting)
    plain = prepare_call("backward", one("sdpa", setting), inputs, setting).call()
    learns = prepare_call("backward", one("additive", setting), inputs, setting).call()
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
    inputs = draw_inputs(12, SMALL)
    timed_call = prepare_call("decode", one(name), inputs, SMALL)
    after = timed_call.call()
    assert timed_call.passes == STEPS
    if name in ("sdpa", "softmax", "window"):
        assert timed_call.state == 2 * 2 * 12 * 32 * 4
        assert state_bytes(after) == 2 * 2 * (12 + STEPS) * 32 * 4
    else:
        assert (
            timed_call.state
            == state_bytes(after)
            == prepare_call("decode", one(name), draw_inputs(24, SMALL), SMALL).state
        )


@pytest.mark.parametrize(
    ("name", "positions", "width"),
    [
        ("sdpa", 48, 64),
        ("additive", 48, 64),
        ("{kv_heads: 2}", 48, 32),
        ("{scope: {name: window, half_width: 8}}", 9, 64),
        ("{scope: {name: window, half_width: 8}, score: additive}", 9, 64),
        ("{scope: {name: window, half_width: 8}, score: {name: location, length: 300}}", 48, 32),
    ],
)
def test_a_state_is_as_large_as_what_decoding_keeps(name: str, positions: int, width: int) -> None:
    inputs = draw_inputs(48, SMALL)
    timed_call = prepare_call("decode", one(name), inputs, SMALL)
    assert timed_call.state == 2 * positions * width * 4
    layer = one(name).spec.build().eval()
    state = layer.start(batch=2)
    with torch.no_grad():
        for t in range(48):
            _, state = layer.step(inputs.q[:, t], state)
    assert timed_call.state == state_bytes(state)
    assert timed_call.state <= timed_call.allocated <= 3 * timed_call.state


def test_memory_behind_a_state_counts_once_and_with_its_room() -> None:
    memory = torch.zeros(100)
    state = (memory[:10], memory[50:60], Shared(torch.zeros(7)), torch.zeros(5))
    assert state_bytes(state) == 4 * (10 + 10 + 5)
    assert allocated_bytes(state) == 4 * (100 + 5)


@pytest.mark.parametrize("name", ["sdpa", "softmax", "rfa", "favor", "elu", "window", "topk"])
def test_a_context_of_one_token_can_be_decoded_from(name: str) -> None:
    timed_call = prepare_call("decode", one(name), draw_inputs(1, SMALL), SMALL)
    timed_call.call()
    assert timed_call.state > 0


def test_torch_steps_as_it_does_all_at_once() -> None:
    layer = qkv.Attention(32, heads=4, causal=True).eval()
    x = torch.randn(2, 7, 32)
    expected = layer(x)
    layer.core = qkv.bench.sdpa.FusedSoftmax(causal=True)
    state = layer.start(batch=2)
    for t in range(7):
        out, state = layer.step(x[:, t], state)
        torch.testing.assert_close(out, expected[:, t])


def test_what_all_rows_share_is_no_state_of_theirs() -> None:
    state = (torch.zeros(3), Shared(torch.zeros(100)), {"a": torch.zeros(2, dtype=torch.bfloat16)}, None, 7)
    assert state_bytes(state) == 12 + 4


# Timing


def test_calls_take_turns_and_one_that_fails_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.0)
    order: list[str] = []

    def broken() -> None:
        order.append("broken")
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    calls = {"a": lambda: order.append("a"), "broken": broken, "b": lambda: order.append("b")}
    times, failed = time_calls(calls, repeats=3)
    assert order == ["a", "a", "broken", "b", "b"] + ["a", "b"] * 3
    assert failed == {"broken": OUT_OF_MEMORY}
    assert {label: len(took) for label, took in times.items()} == {"a": 3, "b": 3}


def test_short_calls_are_timed_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_SECONDS", 1e9)
    count = [0]

    def call() -> None:
        count[0] += 1

    times, _ = time_calls({"a": call}, repeats=2)
    assert count[0] == 2 + 2 * timing.MAX_CALLS
    assert len(times["a"]) == 2


def test_what_cannot_do_a_length_says_why_and_the_rest_goes_on() -> None:
    rows = compare(
        read_contenders(["sdpa", "location", "{causal: false}"], SMALL), [70, 8], ["forward", "decode"], SMALL
    )
    assert [(cell.label, cell.length) for cell in rows.cells[:3]] == [
        ("sdpa", 8),
        ("location", 8),
        ("causal=False", 8),
    ]
    missing = {
        (cell.mode, cell.label, cell.length): cell.failure for cell in rows.cells if cell.seconds is None
    }
    assert set(missing) == {
        ("forward", "location", 70),
        ("decode", "location", 70),
        ("decode", "causal=False", 8),
        ("decode", "causal=False", 70),
    }
    assert "scores at most 64 keys" in missing["forward", "location", 70]
    assert "stepping through self-attention needs causal=True" in missing["decode", "causal=False", 8]
    for cell in rows.cells:
        if cell.seconds is not None:
            assert sorted([cell.slowest or 0, cell.seconds, cell.fastest or 0])[1] == cell.seconds
            assert (cell.fastest or 0) <= (cell.slowest or 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_an_allocation_too_large_fails_instead_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr("qkv.bench.memory.read_memory_sizes", lambda: (2**34, 2**26))
    with limit_memory("cpu"), pytest.raises(RuntimeError) as error_info:
        torch.empty(2**28).zero_()
    assert describe_failure(error_info.value) == OUT_OF_MEMORY
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert torch.empty(2**25).numel() == 2**25


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_counts_what_a_call_forms_and_no_more() -> None:
    unrelated = torch.ones(2**26)  # what this process occupies must not show
    setting = Setting(width=32, heads=4, causal=False)
    block = 4 * BLOCK_NUMBERS
    assert block < measure_peak("forward", one("cosine", setting), 1500, setting) < 16 * block
    assert unrelated.numel() * 4 > 16 * block


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_of_what_forms_no_weights_is_small() -> None:
    setting = Setting(width=32, heads=4, causal=False)
    assert measure_peak("forward", one("elu", setting), 1500, setting) < 1500 * 1500 * 4


def test_peak_memory_says_why_there_is_none() -> None:
    with pytest.raises(MeasurementFailed, match="scores at most 64 keys, got 70"):
        measure_peak("forward", one("location"), 70, SMALL)
