"""AttentionSpec: a frozen value that is checked when it is made, and read from what people write."""

from dataclasses import FrozenInstanceError, replace

import pytest

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
    with pytest.raises(BadShape, match=r"this spec names no width.*replace"):
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
