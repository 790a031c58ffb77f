"""A run directory belongs to one training at a time, and files of somebody else are not overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from qkv.errors import BadRun
from qkv.task.directory_lock import LOCK, lock_directory
from qkv.task.training import fit

HOLD = """
import sys, time
from pathlib import Path
from qkv.task.directory_lock import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_in_use_is_refused_before_anything_is_written(resume: bool, tmp_path: Path) -> None:
    recipe, run = tiny.recipe_in(tmp_path), tmp_path / "run"
    with lock_directory(run):
        if resume:  # a state to resume, whose content nobody looks at
            (run / "training/state.pt").write_bytes(b"")
        before = tiny.tree(tmp_path)
        with pytest.raises(BadRun, match=rf"{run} is in use: another process is training into it") as caught:
            fit(recipe, run, resume=resume, quiet=True)
        assert "\n" not in str(caught.value)
        assert tiny.tree(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_death_releases_the_lock(tmp_path: Path) -> None:
    recipe, run = tiny.recipe_in(tmp_path), tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BadRun, match="is in use"):
            fit(recipe, run, quiet=True)
        process.kill()
    assert (run / LOCK).exists()
    fit(recipe, run, changes=["train.steps=1"], quiet=True)
    assert not (run / LOCK).exists()


def test_the_lock_leaves_nothing(tmp_path: Path) -> None:
    with (
        lock_directory(tmp_path / "run"),
        pytest.raises(BadRun, match="is in use"),
        lock_directory(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with lock_directory(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_whose_file_was_removed_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another training ends between our opening of its lock file and our locking of it."""
    import fcntl

    path, lock, left = tmp_path / "run" / LOCK, fcntl.flock, [1]

    def removed_first(handle: int, how: int) -> None:
        if left:
            left.pop()
            path.unlink()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with lock_directory(tmp_path / "run"):
        assert path.exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "metrics.jsonl", "model.safetensors"])
def test_files_of_somebody_else_are_not_overwritten(name: str, tmp_path: Path) -> None:
    recipe, run = tiny.recipe_in(tmp_path), tmp_path / "run"
    run.mkdir()
    (run / name).write_text("mine")
    (run / "notes.txt").write_text("mine too")
    before = tiny.tree(tmp_path)
    with pytest.raises(
        BadRun, match=f"{name} does not belong to a training, and would be overwritten: choose another"
    ):
        fit(recipe, run, quiet=True)
    assert tiny.tree(tmp_path) == before
    (run / name).rename(run / "moved away")
    fit(recipe, run, changes=["train.steps=1"], quiet=True)
    assert (run / "notes.txt").read_text() == "mine too"


def test_a_link_is_somebody_else_s(tmp_path: Path) -> None:
    recipe, run = tiny.recipe_in(tmp_path), tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadRun, match="would be overwritten"):
        fit(recipe, run, quiet=True)
