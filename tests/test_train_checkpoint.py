"""Files are whole or untouched, ties stay tied, and every kind of damage is one clear line."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from qkv.errors import BadRun
from qkv.train import load_weights, save_weights
from qkv.train.checkpoint import (
    STATE,
    load_state,
    remove_drafts,
    save_state,
    write_atomically,
    write_drafts_then_move_into_place,
)
from qkv.train.weights import average_weights, copy_weights_to_cpu, group_names_by_tensor, restore_weights
from test_train_toy import ToyModel


@contextmanager
def small_files():
    """Writing more than 4 kB into a file fails, as on a full disk (no fixture: pytest writes a log too)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_state_round_trips(tmp_path):
    state = {"standing": {}, "weights": {"a": torch.arange(3)}, "last": [], "none": None, "score": 0.5}
    save_state(tmp_path, state)
    assert torch.equal(load_state(tmp_path)["weights"]["a"], torch.arange(3))
    assert load_state(tmp_path)["score"] == 0.5


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_previous_state(tmp_path, monkeypatch, step):
    save_state(tmp_path, {"standing": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full_disk)
        with pytest.raises(
            BadRun, match=r"cannot write .*state\.pt: No space left on device; the previous version"
        ):
            save_state(tmp_path, {"standing": 2})
    assert load_state(tmp_path) == {"standing": 1}
    assert os.listdir((tmp_path / STATE).parent) == ["state.pt"]


def test_write_that_fails_halfway_leaves_the_previous_state(tmp_path):
    save_state(tmp_path, {"standing": 1})
    with (
        pytest.raises(BadRun, match=r"cannot write .*: File too large; .* is intact") as raised,
        small_files(),
    ):
        save_state(tmp_path, {"big": torch.zeros(10_000)})
    assert "\n" not in str(raised.value)
    assert load_state(tmp_path) == {"standing": 1}
    assert os.listdir((tmp_path / STATE).parent) == ["state.pt"]


def test_full_disk_at_the_first_write_leaves_nothing(tmp_path):
    with pytest.raises(BadRun, match="nothing was written"), small_files():
        save_weights(nn.Linear(100, 100), tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_interrupted_write_leaves_no_litter(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", interrupted)
    assert os.listdir(tmp_path) == []


def test_a_killed_write_leaves_nothing_after_the_next_one(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from qkv.train.checkpoint import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "x"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    (tmp_path / ".x.tmp").touch()
    remove_drafts(tmp_path, ["x"])
    assert os.listdir(tmp_path) == []


def test_files_are_staged_until_the_block_ends(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with (
        pytest.raises(KeyboardInterrupt),
        write_drafts_then_move_into_place(tmp_path, {"a": b"new", "b": b"new"}),
    ):
        raise KeyboardInterrupt
    assert [(tmp_path / name).read_bytes() for name in os.listdir(tmp_path)] == [b"old"]
    with write_drafts_then_move_into_place(tmp_path, {"a": b"new", "b": b"new"}):
        assert (tmp_path / "a").read_bytes() == b"old"
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {
        "a": b"new",
        "b": b"new",
    }


def test_no_state_says_how_to_start(tmp_path):
    with pytest.raises(BadRun, match=r"no training to resume in .*state\.pt is missing. Leave out --resume"):
        load_state(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"junk" * 100])
def test_damaged_state(tmp_path, damage):
    save_state(tmp_path, {"standing": torch.zeros(100)})
    path = tmp_path / STATE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadRun, match=r"state\.pt is damaged") as raised:
        load_state(tmp_path)
    assert "\n" not in str(raised.value)


def test_state_runs_no_code(tmp_path):
    (tmp_path / "training").mkdir()
    torch.save({"standing": nn.Linear(1, 1)}, tmp_path / STATE)
    with pytest.raises(BadRun, match="is damaged"):
        load_state(tmp_path)


def test_a_file_that_is_no_state(tmp_path):
    save_state(tmp_path, {"epoch": 3})
    with pytest.raises(BadRun, match="does not hold a training state"):
        load_state(tmp_path)


def test_weights_round_trip_with_their_ties(tmp_path):
    path = tmp_path / "model.safetensors"
    model, other = ToyModel(), ToyModel()
    model.calls += 3
    save_weights(model, path)
    load_weights(other, path)
    assert other.output.weight is other.embedding.weight
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_a_shared_tensor_is_written_once(tmp_path):
    from safetensors import safe_open

    save_weights(ToyModel(), tmp_path / "m")
    with safe_open(tmp_path / "m", "pt") as file:
        assert sorted(file.keys()) == [
            "calls",
            "embedding.weight",
            "inner.bias",
            "inner.weight",
            "output.bias",
        ]
    assert ["embedding.weight", "output.weight"] in group_names_by_tensor(ToyModel())


def test_a_view_of_a_weight_is_not_a_tie(tmp_path):
    model = nn.Module()
    model.a = nn.Parameter(torch.arange(9.0).view(3, 3))
    model.register_buffer("b", model.a.data.T)
    save_weights(model, tmp_path / "m")
    other = nn.Module()
    other.a = nn.Parameter(torch.zeros(3, 3))
    other.register_buffer("b", torch.zeros(3, 3))
    load_weights(other, tmp_path / "m")
    assert_close(other.b, other.a.data.T)


def test_weights_of_another_model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(nn.Linear(3, 4), path)
    with pytest.raises(BadRun, match=r"another model: weight has shape \[4, 3\], the model expects \[5, 3\]"):
        load_weights(nn.Linear(3, 5), path)
    with pytest.raises(BadRun, match=r"it lacks 0\.weight, 0\.bias; it has the unknown bias, weight"):
        load_weights(nn.Sequential(nn.Linear(3, 4)), path)
    untied = ToyModel()
    untied.output.weight = nn.Parameter(torch.zeros_like(untied.embedding.weight))
    save_weights(ToyModel(), path)
    with pytest.raises(BadRun, match=r"it lacks output\.weight; load it into"):
        load_weights(untied, path)


def test_a_refused_file_changes_nothing(tmp_path):
    save_weights(nn.Linear(3, 4, bias=False), tmp_path / "m")
    model = nn.Linear(3, 4)
    before = model.weight.detach().clone()
    with pytest.raises(BadRun, match="lacks bias"):
        load_weights(model, tmp_path / "m")
    assert torch.equal(model.weight, before)


def test_missing_or_truncated_weights(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(BadRun, match=r"model\.safetensors is missing"):
        load_weights(ToyModel(), path)
    save_weights(ToyModel(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadRun, match=r"model\.safetensors is damaged"):
        load_weights(ToyModel(), path)


def test_snapshots_are_copies_and_their_mean_is_exact():
    model = ToyModel()
    shots = []
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(model.embedding.weight, value)
        model.calls.fill_(int(value))
        shots.append(copy_weights_to_cpu(model))
    restore_weights(model, average_weights(shots))
    assert torch.equal(model.output.weight, torch.full_like(model.output.weight, 3.0))
    assert model.output.weight is model.embedding.weight
    assert model.calls.item() == 6
