"""Files that are either the old version or the new one, never half of each; the state that resume needs."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from qkv.errors import BadRun

STATE = Path("training") / "state.pt"
METRICS = Path("metrics.jsonl")
WEIGHTS = Path("model.safetensors")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a neighbour of `path`, force it to disk, then rename it over `path`.

    Raises BadRun where that fails (a full disk, no permission): `path` is as it was, the neighbour gone.
    """
    draft = _draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_directory(path.parent)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch.save turns the OSError of a full disk into a RuntimeError
        raise _cannot_write(path, error) from error
    finally:
        draft.unlink(missing_ok=True)  # after the rename there is none


@contextmanager
def staged(run: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Have drafts of these files on disk before the block, and move them into place after it.

    So a full disk shows before the block commits to anything.  Where the block raises, no draft is left.
    Raises BadRun where a file cannot be written.
    """
    paths = [run / name for name in files]
    path = run
    try:
        run.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, files.values(), strict=True):
            with _draft_of(path).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        yield
        for path in paths:
            os.replace(_draft_of(path), path)
        _sync_directory(run)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        for path in paths:
            _draft_of(path).unlink(missing_ok=True)


def remove_drafts(run: Path, names: Iterable[str]) -> None:
    """Remove what writes of these files left half done when their process was killed."""
    for name in names:
        _draft_of(run / name).unlink(missing_ok=True)


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write the training state: one dict of tensors and plain values."""
    write_atomically(run / STATE, lambda file: torch.save(state, file))


def load_state(run: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.  Raises BadRun where there is none or it is damaged."""
    path = run / STATE
    if not path.is_file():
        raise BadRun(
            f"there is no training to resume in {run}: {path} is missing. Leave out --resume to start one."
        )
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise half a dozen kinds, and which one depends on the damage
        raise damaged(path, str(error)) from error
    if not isinstance(state, dict) or "standing" not in state:
        raise damaged(path, "it does not hold a training state")
    return state


def refuse_started(run: Path, files: Iterable[str] = ()) -> None:
    """Raise BadRun where `run` already holds a training, or anything that one would overwrite."""
    if (run / STATE).exists():
        raise BadRun(
            f"{run} already holds a training ({run / STATE} exists). Continue it with --resume, "
            "or choose another --out."
        )
    for name in (*files, METRICS, WEIGHTS):
        if os.path.lexists(run / name):
            raise BadRun(
                f"{run / name} is not that of a run, and would be overwritten: choose another --out, or move "
                "it away"
            )


def damaged(path: Path, reason: str) -> BadRun:
    """The error for a file of a run that cannot be right."""
    first = (reason.splitlines() or [""])[0][:160]
    return BadRun(f"{path} is damaged ({first}). Restore it from a copy, or train anew in another directory.")


def _check_sums(path: Path) -> None:
    """Compare every entry of the archive with its checksum, which torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        name = archive.testzip()
    if name is not None:
        raise ValueError(f"the checksum of {name} is wrong")


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _cannot_write(path: Path, error: BaseException) -> BadRun:
    kept = "the previous version is intact" if path.exists() else "nothing was written"
    return BadRun(f"cannot write {path}: {_reason(error)}; {kept}. Free some space or choose another --out.")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return _reason(cause) if cause else str(error).splitlines()[0]


def _sync_directory(path: Path) -> None:
    if os.name == "posix":  # elsewhere a directory cannot be opened, and a rename needs no flush
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
