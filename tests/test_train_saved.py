"""A saved state that does not fit the training is refused in one line, before any of it is used."""

import copy
import math
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.errors import BadRun
from qkv.train import fit
from qkv.train.checkpoint import STATE, save_state
from qkv.train.state_check import read_and_check_state
from test_train_resume import assert_same
from test_train_toy import ToyBatches, config_of, scores_of, toy

CONFIG = config_of(steps=7, validate_every=3, average=2)
Damage = Callable[[dict[str, Any]], object]


def train(run: Path, resume: bool) -> None:
    objective = toy()
    fit(
        objective,
        ToyBatches(),
        CONFIG,
        run=run,
        validate=lambda: scores_of(objective),
        resume=resume,
        quiet=True,
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("run")
    train(run, resume=False)
    return read_and_check_state(run)


def put_value(*path: Any) -> Damage:
    """Put the last of these where the others lead."""
    *keys, last, value = path

    def damage(state: dict[str, Any]) -> None:
        for key in keys:
            state = state[key]
        state[last] = value

    return damage


def remove_key(*path: Any) -> Damage:
    *keys, last = path

    def damage(state: dict[str, Any]) -> None:
        for key in keys:
            state = state[key]
        del state[last]

    return damage


def moments(change: Callable[[torch.Tensor], Any]) -> Damage:
    def damage(state: dict[str, Any]) -> None:
        for values in state["optimizer"]["state"].values():
            values["exp_avg"], values["exp_avg_sq"] = change(values["exp_avg"]), change(values["exp_avg_sq"])

    return damage


EMBEDDING = "model.embedding.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "moments of one number": (
        moments(lambda m: torch.zeros(1)),
        r"optimizer\.state\.0\.exp_avg has shape \[1\], expected \[12, 8\]",
    ),
    "moments that are too large": (moments(lambda m: torch.zeros(99, *m.shape)), "has shape"),
    "moments in float64": (moments(torch.Tensor.double), "has dtype torch.float64"),
    "moments of integers": (moments(lambda m: m.long()), "has dtype torch.int64"),
    "moments that are lists": (moments(lambda m: m.tolist()), "of type list, expected a tensor"),
    "sparse moments": (moments(lambda m: m.to_sparse()), "not a plain tensor"),
    "one parameter without moments": (remove_key("optimizer", "state", 1), r"optimizer\.state lacks 1"),
    "moments of a parameter too many": (put_value("optimizer", "state", 9, {}), "has the unknown 9"),
    "no exp_avg_sq": (remove_key("optimizer", "state", 0, "exp_avg_sq"), "lacks exp_avg_sq"),
    "a moment too many": (
        put_value("optimizer", "state", 0, "max_exp_avg_sq", torch.zeros(2)),
        "unknown max_exp",
    ),
    "a step that is a number": (
        put_value("optimizer", "state", 0, "step", 7),
        "of type int, expected a tensor",
    ),
    "a step that is NaN": (put_value("optimizer", "state", 0, "step", torch.tensor(math.nan)), "step is nan"),
    "a step from the future": (put_value("optimizer", "state", 0, "step", torch.tensor(8.0)), "at most 7"),
    "parameters in another order": (
        put_value("optimizer", "param_groups", 0, "params", [1, 0]),
        "does not list the model's parameters",
    ),
    "groups that are no list": (put_value("optimizer", "param_groups", 3), "does not list"),
    "a group without a rate": (remove_key("optimizer", "param_groups", 0, "lr"), "lr is None"),
    "an optimizer that is a list": (put_value("optimizer", []), "optimizer is of type list"),
    "an optimizer without state": (remove_key("optimizer", "state"), "optimizer lacks state"),
    "a weight too few": (remove_key("weights", EMBEDDING), "another model: its state lacks"),
    "a weight of another shape": (put_value("weights", EMBEDDING, torch.zeros(12, 9)), "another model"),
    "a weight of integers": (put_value("weights", EMBEDDING, torch.zeros(12, 8).long()), "another model"),
    "a weight that is text": (put_value("weights", EMBEDDING, "zeros"), "of type str, expected a tensor"),
    "weights that are None": (put_value("weights", None), "weights is of type NoneType"),
    "last weights too many": (lambda s: s["last"].append(s["last"][0]), "at most 2"),
    "last weights of another shape": (put_value("last", 0, EMBEDDING, torch.zeros(1)), r"last\.0\.model"),
    "last weights that are a tensor": (put_value("last", 0, torch.zeros(1)), r"last\.0 is of type Tensor"),
    "kept weights that are missing": (remove_key("kept"), "the state lacks kept"),
    "kept weights of another shape": (put_value("kept", "inner.bias", torch.zeros(1)), r"kept\.inner\.bias"),
    "kept weights that are a list": (put_value("kept", []), "kept is of type list"),
    "a step that is text": (put_value("standing", "step", "7"), "standing.step is '7'"),
    "a step that is a tensor": (put_value("standing", "step", torch.tensor(7)), "standing.step is tensor"),
    "a step that is true": (put_value("standing", "step", True), "standing.step is True"),
    "a step below zero": (put_value("standing", "step", -1), "standing.step is -1"),
    "an epoch that is a fraction": (put_value("standing", "epoch", 0.5), "standing.epoch is 0.5"),
    "an update the epoch does not have": (
        put_value("standing", "index", 5),
        "the training data does not have",
    ),
    "a score that is text": (put_value("standing", "best", "good"), "standing.best is 'good'"),
    "scores that are a list": (put_value("standing", "scores", [1]), "standing.scores is of type list"),
    "a field too few": (remove_key("standing", "bad"), "standing lacks bad"),
    "a field too many": (put_value("standing", "worst", 1), "standing has the unknown worst"),
    "a standing that is None": (put_value("standing", None), "standing is of type NoneType"),
    "a tally of text": (put_value("tally", {"loss": "low"}), "tally.loss is 'low'"),
    "a tally with numbers for names": (put_value("tally", {3: 4}), "tally.3 is 4"),
    "bytes below zero": (put_value("metrics_bytes", -1), "metrics_bytes is -1"),
    "bytes that are a float": (put_value("metrics_bytes", 1.5), "metrics_bytes is of type float"),
    "a configuration of tensors": (
        put_value("config", "lr", torch.zeros(2)),
        "config does not hold plain values",
    ),
    "a configuration with numbers for names": (
        put_value("config", 3, 4),
        "config does not hold plain values",
    ),
    "a configuration that is a list": (put_value("config", []), "config is of type list"),
    "a loss scale": (put_value("precision", {"scale": 2.0}), "precision has the unknown scale"),
    "a key too many": (put_value("more", 1), "the state has the unknown more"),
    "a key too few": (remove_key("tally"), "the state lacks tally"),
    "an earlier version": (
        remove_key("format"),
        r"written by another version of qkv \(format 1, expected 2\)",
    ),
    "a later version": (put_value("format", 9), "format 9, expected 2"),
    "a version that is a tensor": (put_value("format", torch.zeros(2)), "written by another version"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_state_that_does_not_fit_is_refused(name: str, state: dict[str, Any], tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    damaged = copy.deepcopy(state)
    damage(damaged)
    save_state(tmp_path, damaged)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(BadRun, match=message) as raised:
        train(tmp_path, resume=True)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert (tmp_path / STATE).read_bytes() == before


def test_the_state_itself_is_taken(state: dict[str, Any], tmp_path: Path) -> None:
    save_state(tmp_path, {**copy.deepcopy(state), "config": OrderedDict(state["config"])})
    train(tmp_path, resume=True)
    assert_same({**read_and_check_state(tmp_path), "config": dict(state["config"])}, state)


def test_moments_get_memory_of_their_own(state: dict[str, Any], tmp_path: Path) -> None:
    """Expanded or shared moments are legal tensors, and the fused step would write past their memory."""
    contiguous, expanded = tmp_path / "contiguous", tmp_path / "expanded"
    for run, change in ((contiguous, torch.zeros_like), (expanded, lambda m: torch.zeros(1).expand(m.shape))):
        damaged = copy.deepcopy(state)
        moments(change)(damaged)
        damaged["standing"].update(step=3, epoch=0, index=3, validated=3)
        for values in damaged["optimizer"]["state"].values():
            values["step"] = torch.tensor(3.0)
        save_state(run, damaged)
        train(run, resume=True)
    assert_same(read_and_check_state(expanded), read_and_check_state(contiguous))


def positions_of_content(path: Path) -> list[int]:
    """Where the archive's entries have their bytes.  Between them are fields that nothing reads."""
    positions: list[int] = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            start = entry.header_offset + 30 + name_length + extra_length
            positions.extend(range(start, start + entry.compress_size))
    return positions


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8])
def test_a_flipped_bit_is_noticed(fraction: float, state: dict[str, Any], tmp_path: Path) -> None:
    save_state(tmp_path, state)
    path = tmp_path / STATE
    content = bytearray(path.read_bytes())
    positions = positions_of_content(path)
    content[positions[int(fraction * len(positions))]] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadRun, match=r"state\.pt is damaged"):
        train(tmp_path, resume=True)
