"""AttentionSpec: a frozen value that is checked when it is made, and read from what people write."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import qkv
from qkv.errors import BadRecipe, BadShape, IncompatibleParts, UnknownName
from qkv.kernel import RFA
from qkv.score import Additive, ScaledDot
from qkv.spec import AttentionSpec


def test_defaults_are_the_attention_of_the_transformer() -> None:
    spec = AttentionSpec(512, 8)
    assert spec == AttentionSpec.from_dict({"d_model": 512, "heads": 8, "kernel": "softmax"})
    assert spec.score == ScaledDot()
    assert spec.dims == (8, 64, 64, 64)


def test_what_a_person_writes() -> None:
    spec = AttentionSpec.from_dict({"d_model": 8, "kernel": {"name": "rfa", "features": 7}, "causal": True})
    assert spec == AttentionSpec(8, kernel=RFA(features=7), causal=True)
    assert AttentionSpec.from_dict({"score": "additive"}).score == Additive()
    assert AttentionSpec.from_dict({"score": {"name": "additive", "hidden": 3}}).score == Additive(3)


def test_to_dict_tells_what_differs_from_the_defaults() -> None:
    told = AttentionSpec(8, 2, score=Additive(3), causal=True, kv_heads=1).to_dict()
    assert told == {
        "d_model": 8,
        "heads": 2,
        "score": {"name": "additive", "hidden": 3},
        "scope": {"name": "global"},
        "select": {"name": "soft"},
        "kernel": {"name": "softmax"},
        "causal": True,
        "kv_heads": 1,
    }


def test_frozen_and_checked_again_when_replaced() -> None:
    spec = AttentionSpec(score=Additive())
    with pytest.raises(FrozenInstanceError):
        spec.heads = 2  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(spec, d_model=6).width == 6
    with pytest.raises(IncompatibleParts, match="kernel and score clash"):
        replace(spec, kernel=RFA())
    with pytest.raises(BadShape, match=r"d_model of this spec is None.*replace"):
        spec.build()


def test_dims_without_projections_are_those_of_what_comes_in() -> None:
    assert AttentionSpec(6, score=Additive(), d_memory=4, project=False).dims == (1, 6, 4, 4)
    assert AttentionSpec(6, 3, d_memory=4).dims == (3, 2, 2, 2)


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ({"kernal": "rfa"}, UnknownName, "unknown key of an attention: 'kernal'. Did you mean 'kernel'"),
        ({"kernel": "rfaa"}, UnknownName, "unknown kernel: 'rfaa'. Did you mean 'rfa'"),
        (
            {"kernel": {"name": "rfa", "featurs": 3}},
            UnknownName,
            "kernel=rfa: 'featurs'. Did you mean 'features'",
        ),
        (
            {"kernel": {"name": "rfa", "features": 0}},
            BadRecipe,
            "kernel=rfa: 'features' is 0: .*greater than 0",
        ),
        ({"kernel": {"name": "rfa", "kernel": "cubic"}}, BadRecipe, "kernel=rfa: 'kernel' is 'cubic'"),
        ({"kernel": {"features": 3}}, UnknownName, "unknown kernel: None"),
        ({"heads": 2.0}, BadRecipe, "heads must be a positive whole number, got 2.0"),
        ({"heads": True}, BadRecipe, "heads must be a positive whole number, got True"),
        ({"causal": "yes"}, BadRecipe, "causal must be true or false, got 'yes'"),
        ({"dropout": -0.1}, BadRecipe, "dropout must be a probability, 0 to 1, got -0.1"),
        ({"score": "additive", "kernel": "rfa"}, IncompatibleParts, "kernel and score clash"),
        ({"dropout": 0.5, "kernel": "rfa"}, IncompatibleParts, "kernel and dropout clash"),
    ],
)
def test_mistakes_are_named(written: dict, error: type, message: str, unchecked: None) -> None:
    with pytest.raises(error, match=message):
        AttentionSpec.from_dict(written)


# ---- parts by name ----

WRITTEN = [
    ("kernel", "rfa", qkv.RFA()),
    ("kernel", {"name": "rfa", "features": 16}, qkv.RFA(16)),
    ("kernel", MappingProxyType({"name": "elu"}), qkv.Elu()),
    ("score", "additive", qkv.Additive()),
    ("score", {"name": "location", "length": 9}, qkv.Location(9)),
    ("scope", {"name": "window", "half_width": 2}, qkv.Window(2)),
    ("select", "sparsemax", qkv.Sparsemax()),
    ("select", {"name": "topk", "k": 3}, qkv.TopK(3)),
]


@pytest.mark.parametrize(("axis", "written", "part"), WRITTEN)
def test_python_takes_parts_as_recipes_write_them(axis: str, written: Any, part: Any) -> None:
    by_name, by_part = {axis: written}, {axis: part}
    spec = AttentionSpec(8, 2, **by_name)
    assert spec == AttentionSpec(8, 2, **by_part) == AttentionSpec.from_dict(spec.to_dict())
    assert hash(spec) == hash(AttentionSpec(8, 2, **by_part))
    assert replace(spec, **by_name) == spec
    assert qkv.Attention(8, heads=2, **by_name).spec == spec
    layer = qkv.MultiheadAttention(8, 2, **by_name)
    assert layer.spec == qkv.MultiheadAttention(8, 2, **by_part).spec
    copy = qkv.MultiheadAttention.from_torch(nn.MultiheadAttention(8, 2), **by_name)
    assert copy.spec == layer.spec
    if not getattr(part, "learns", False):
        x = torch.randn(1, 2, 5, 4)
        assert_close(qkv.attend(x, x, x, **by_name).out, qkv.attend(x, x, x, **by_part).out)


@pytest.mark.parametrize(
    "make", [partial(qkv.Attention, 8), partial(qkv.MultiheadAttention, 8, 2), AttentionSpec]
)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "rfb"}, UnknownName, "unknown kernel: 'rfb'. Did you mean 'rfa'?"),
        ({"kernel": {"name": "rfa", "feature": 1}}, UnknownName, "Did you mean 'features'?"),
        ({"kernel": {"features": 1}}, UnknownName, "unknown kernel: None"),
        ({"kernel": {"name": "rfa", "features": 0}}, BadRecipe, "'features' is 0"),
        ({"kernel": qkv.RFA}, UnknownName, r"is not a kernel. Known: .*RFA \('rfa'\)"),
        ({"kernel": None}, UnknownName, "kernel=None is not a kernel"),
        ({"select": 3}, UnknownName, "select=3 is not a select"),
        ({"score": "dot", "kernel": "rfa"}, IncompatibleParts, "kernel and score clash"),
    ],
)
def test_a_part_that_is_not_one_is_refused(make: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_a_gate_by_name_is_refused_by_torchs_layer_in_its_own_words() -> None:
    with pytest.raises(IncompatibleParts, match="torch's layer has no weights"):
        qkv.MultiheadAttention(8, 2, kernel={"name": "rfa", "gate": True})


def test_a_spec_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, checks = AttentionSpec(8, 2, kernel="rfa"), []
    monkeypatch.setattr(AttentionSpec, "__post_init__", lambda self: checks.append(self))
    layer = spec.build()
    assert layer.spec is spec
    assert not checks


def test_a_spec_alone_builds_its_layer() -> None:
    program = "from qkv.spec import AttentionSpec; print(type(AttentionSpec(8, 2).build()).__name__)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout == "Attention\n"
