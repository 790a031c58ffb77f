"""Writing files of a run completely or not at all; the file with the state that resuming needs."""

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
    """Write a file through a draft, which is synced to disk and then moved to the file's path.

    Args:
        path: the file; its folder is created.
        write: writes the content into the open draft.

    Raises:
        BadRun: that fails (a full disk, no permission).  The file is as it was, and the draft is removed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_temporary(path) as draft:
            write(draft.file)
            draft.sync()
            draft.replace_target()
        sync_directory(path.parent)
    # torch.save turns the OSError of a full disk into a RuntimeError
    except (OSError, RuntimeError) as error:
        raise _make_write_error(path, error) from error


@contextmanager
def write_drafts_then_move_into_place(run: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Write drafts of files before the block, and move them into place after it.

    So a full disk is noticed before the block commits to anything.  Where the block raises, no draft is left.

    Args:
        run: the folder of the files, which is created.
        files: name -> content.

    Raises:
        BadRun: a file cannot be written.
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
                draft.replace_target()
        sync_directory(run)
    except OSError as error:
        raise _make_write_error(path, error) from error


def remove_drafts(run: Path, names: Iterable[str]) -> None:
    """Remove the drafts that a killed process left behind.

    Args:
        run: the run directory.
        names: the files whose drafts are removed, relative to `run`.
    """
    for path in (run / name for name in names):
        remove_abandoned_files(path.parent)
        path.with_name(f".{path.name}.tmp").unlink(missing_ok=True)  # as version 0.1.0 named them


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write the training state of a run.

    Args:
        run: the run directory.
        state: tensors and plain values.

    Raises:
        BadRun: the file cannot be written.
    """
    write_atomically(run / STATE, lambda file: torch.save(state, file))


def load_state(run: Path) -> dict[str, Any]:
    """Read the training state that `save_state` wrote.

    Args:
        run: the run directory.

    Returns:
        Tensors on the CPU and plain values.

    Raises:
        BadRun: the file is missing or damaged.
    """
    path = run / STATE
    if not path.exists():
        raise BadRun(
            f"there is no training to resume in {run}: {path} is missing. Leave out --resume to start one."
        )
    try:
        _verify_checksums_of_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise half a dozen kinds, and which one depends on the damage
        raise make_damaged_error(path, str(error)) from error
    if not isinstance(state, dict) or "standing" not in state:
        raise make_damaged_error(path, "it does not hold a training state")
    return state


def refuse_to_overwrite_files(run: Path, files: Iterable[str] = ()) -> None:
    """Check that a training can be started in a directory without overwriting anything.

    Args:
        run: the run directory, which may be missing.
        files: names of further files that the training would write.

    Raises:
        BadRun: the directory holds a training, or one of the files.
    """
    if (run / STATE).exists():
        raise BadRun(
            f"{run} already holds a training ({run / STATE} exists). Continue it with --resume, "
            "or choose another --out."
        )
    for name in (*files, METRICS, WEIGHTS):
        if os.path.lexists(run / name):
            raise BadRun(
                f"{run / name} does not belong to a training, and would be overwritten: choose another "
                "--out, or move the file away"
            )


def make_damaged_error(path: Path, reason: str) -> BadRun:
    """The error for a file of a run whose content is wrong.

    Args:
        path: the file.
        reason: what is wrong; the first line is quoted.
    """
    first = (reason.splitlines() or [""])[0][:160]
    return BadRun(f"{path} is damaged ({first}). Restore it from a copy, or train anew in another directory.")


def _verify_checksums_of_archive(path: Path) -> None:
    """Compare every entry of the archive with its checksum, which torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        name = archive.testzip()
    if name is not None:
        raise ValueError(f"the checksum of {name} is wrong")


def _make_write_error(path: Path, error: BaseException) -> BadRun:
    """The error for a file that cannot be written."""
    reason = _extract_cause_in_one_line(error)
    outcome = "the previous version is intact" if path.exists() else "nothing was written"
    return BadRun(f"cannot write {path}: {reason}; {outcome}. Free some space or choose another --out.")


def _extract_cause_in_one_line(error: BaseException) -> str:
    """What the operating system said, where an OSError is behind the error; else its first line."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return _extract_cause_in_one_line(cause) if cause else str(error).splitlines()[0]
