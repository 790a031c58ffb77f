"""The formulas of operations beside the parts, against torch's counter on the plain operators."""

from typing import Any

import pytest
import torch

import flop_counting
from qkv.catalogue import build_example, list_part_classes
from qkv.compatibility import list_variants
from qkv.errors import IncompatibleParts
from qkv.kernel import RFA, Softmax
from qkv.part import Part
from qkv.scope import Neighbourhood, Window
from qkv.score import Additive, Cosine, General
from qkv.spec import AttentionSpec

PARTS = [part for part_class in list_part_classes() for part in list_variants(part_class)]
LENGTHS = ((9, 9), (130, 130), (580, 580), (5, 300))


def count_on_meta(spec: AttentionSpec, queries: int, keys: int) -> int:
    with torch.device("meta"):
        layer = spec.build().eval()
        x, memory = torch.empty(1, queries, spec.width), torch.empty(1, keys, spec.memory_width)
    with torch.no_grad(), flop_counting.make_counter() as counter:
        layer(x, None if queries == keys else memory)
    return counter.get_total_flops()


def make_specs(part: Part) -> list[AttentionSpec]:
    options: dict[str, Any] = {part.axis: part}
    specs = []
    for causal in (False, True):
        try:
            specs.append(AttentionSpec(24, heads=4, causal=causal, **options))
        except IncompatibleParts:
            continue
    return specs


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_the_formula_of_every_part_equals_the_counter(part: Part) -> None:
    specs = make_specs(part)
    assert specs
    limit = min(spec.key_limit[0] if spec.key_limit else 10**9 for spec in specs)
    grid = part.grid[0] * part.grid[1] if part.grid else None
    for spec in specs:
        for queries, keys in LENGTHS:
            if keys > limit or (grid and (queries, keys) != (grid, grid)):
                continue
            assert spec.count_operations(queries, keys) == count_on_meta(spec, queries, keys), (queries, keys)


@pytest.mark.parametrize(
    "spec",
    [
        AttentionSpec(32, heads=8, kv_heads=2, kernel=RFA(16), causal=True),
        AttentionSpec(32, heads=8, kv_heads=2, score=General()),
        AttentionSpec(32, heads=4, d_memory=48, score=Additive(hidden=6)),
        AttentionSpec(32, score=Additive(hidden=6), project=False),
        AttentionSpec(32, heads=2, scope=Window(20), score=Cosine(), causal=True),
        AttentionSpec(32, heads=2, scope=Window(20), score=General()),
        AttentionSpec(32, heads=2, kernel=RFA(8, kernel="arccos", normalise=False)),
        AttentionSpec(32, heads=2, kernel=Softmax(), bias=False),
    ],
    ids=repr,
)
def test_widths_shared_heads_and_blocks_are_counted(spec: AttentionSpec) -> None:
    for queries, keys in ((300, 300), (40, 520)):
        if spec.memory_width == spec.width or queries != keys:
            assert spec.count_operations(queries, keys) == count_on_meta(spec, queries, keys)


def test_a_grid_is_counted_in_tiles() -> None:
    spec = AttentionSpec(16, heads=2, scope=Neighbourhood(24, 20, 2))
    assert (
        spec.count_operations(480, 480)
        == count_on_meta(spec, 480, 480)
        < count_on_meta(AttentionSpec(16, heads=2), 480, 480)
    )


def test_an_example_of_every_part_was_counted() -> None:
    assert {type(part) for part in PARTS} == {type(build_example(each)) for each in list_part_classes()}
