"""Schedules by hand, and what the training section of a recipe accepts."""

import pytest
from pydantic import ValidationError

from qkv.task.recipe_keys import read_meanings
from qkv.train import TrainConfig
from qkv.train.config import MAY_CHANGE, list_changed_keys_that_resuming_forbids
from qkv.train.schedule import (
    SCHEDULES,
    compute_constant_factor,
    compute_cosine_factor,
    compute_inverse_sqrt_factor,
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_warm_up_linearly_to_one(name):
    rates = [SCHEDULES[name](step, 4, 100) for step in (1, 2, 3, 4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_by_hand():
    assert [compute_constant_factor(step, 4, 100) for step in (5, 100)] == [1.0, 1.0]
    assert [compute_inverse_sqrt_factor(step, 4, 100) for step in (16, 64)] == [0.5, 0.25]
    assert [compute_inverse_sqrt_factor(step, 0, 100) for step in (1, 4)] == [1.0, 0.5]
    assert [compute_cosine_factor(step, 4, 104) for step in (54, 104, 200)] == pytest.approx([0.5, 0.0, 0.0])
    assert compute_cosine_factor(1, 0, 3) == pytest.approx(0.75)


def test_config_names_every_schedule():
    for name in SCHEDULES:
        assert TrainConfig.model_validate({"steps": 1, "schedule": name}).schedule == name


def test_config_needs_an_end():
    with pytest.raises(ValidationError, match="set `steps`"):
        TrainConfig()
    assert TrainConfig(epochs=3).epochs == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"betas": (0.9, 1.0)},
        {"validate_every": 0},
        {"precision": "8"},
        {"stepz": 1},
    ],
)
def test_config_refuses(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainConfig(**{"steps": 1, **wrong})


def test_every_option_says_what_it_is():
    assert read_meanings(TrainConfig).keys() == TrainConfig.model_fields.keys()


def test_changed_keys_leave_out_what_may_change():
    before = TrainConfig(steps=5, patience=1).model_dump(mode="json")
    assert (
        list_changed_keys_that_resuming_forbids(TrainConfig(epochs=9, save_every_seconds=1.0), before) == []
    )
    assert list_changed_keys_that_resuming_forbids(TrainConfig(steps=5, lr=0.5, clip=0.5), before) == [
        "clip",
        "lr",
    ]
    assert list_changed_keys_that_resuming_forbids(TrainConfig(steps=5), {**before, "gone": 1}) == ["gone"]
    assert set(TrainConfig.model_fields) >= MAY_CHANGE
