"""Files that are either the old version or the new one, never half of each; the state that resume needs."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from qkv.atomic_files import open_temporary, remove_abandoned_files, sync_directory
from qkv.errors import BadRun

STATE = Path("training") / "state.pt"
METRICS = Path("metrics.jsonl")
WEIGHTS = Path("model.safetensors")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a draft of `path`, force it to disk, then move it over `path`.

    Raises BadRun where that fails (a full disk, no permission): `path` is as it was, the draft gone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_temporary(path) as draft:
            write(draft.file)
            draft.sync()
            draft.move()
        sync_directory(path.parent)
    # torch.save turns the OSError of a full disk into a RuntimeError
    except (OSError, RuntimeError) as error:
        raise _cannot_write(path, error) from error


@contextmanager
def stage_files(run: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Have drafts of these files on disk before the block, and move them into place after it.

    So a full disk shows before the block commits to anything.  Where the block raises, no draft is left.
    Raises BadRun where a file cannot be written.
    """
    path, drafts = run, []
    try:
        run.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for name, content in files.items():
                path = run / name
                drafts.append(stack.enter_context(open_temporary(path)))
                drafts[-1].file.write(content)
                drafts[-1].sync()
            yield
            for draft in drafts:
                draft.move()
        sync_directory(run)
    except OSError as error:
        raise _cannot_write(path, error) from error


def remove_drafts(run: Path, names: Iterable[str]) -> None:
    """Remove what writes of these files left half done when their process was killed."""
    for path in (run / name for name in names):
        remove_abandoned_files(path.parent)
        path.with_name(f".{path.name}.tmp").unlink(missing_ok=True)  # as version 0.1.0 named them


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write the training state: one dict of tensors and plain values."""
    write_atomically(run / STATE, lambda file: torch.save(state, file))


def load_state(run: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.  Raises BadRun where there is none or it is damaged."""
    path = run / STATE
    if not path.exists():
        raise BadRun(
            f"there is no training to resume in {run}: {path} is missing. Leave out --resume to start one."
        )
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise half a dozen kinds, and which one depends on the damage
        raise damaged_error(path, str(error)) from error
    if not isinstance(state, dict) or "standing" not in state:
        raise damaged_error(path, "it does not hold a training state")
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


def damaged_error(path: Path, reason: str) -> BadRun:
    """The error for a file of a run that cannot be right."""
    first = (reason.splitlines() or [""])[0][:160]
    return BadRun(f"{path} is damaged ({first}). Restore it from a copy, or train anew in another directory.")


def _check_sums(path: Path) -> None:
    """Compare every entry of the archive with its checksum, which torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        name = archive.testzip()
    if name is not None:
        raise ValueError(f"the checksum of {name} is wrong")


def _cannot_write(path: Path, error: BaseException) -> BadRun:
    kept = "the previous version is intact" if path.exists() else "nothing was written"
    return BadRun(f"cannot write {path}: {_reason(error)}; {kept}. Free some space or choose another --out.")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return _reason(cause) if cause else str(error).splitlines()[0]
