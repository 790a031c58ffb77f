"""Files that are either the old version or the new one, never half of each; the state that resume needs."""

import os
from collections.abc import Callable
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
    draft = path.with_name(f".{path.name}.tmp")
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
        kept = "the previous version is intact" if path.exists() else "nothing was written"
        raise BadRun(
            f"cannot write {path}: {_reason(error)}; {kept}. Free some space or choose another --out."
        ) from error
    finally:
        draft.unlink(missing_ok=True)  # after the rename there is none


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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen kinds, and which one depends on the damage
        raise BadRun(_damaged(path, str(error))) from error
    if not isinstance(state, dict) or "standing" not in state:
        raise BadRun(_damaged(path, "it does not hold a training state"))
    return state


def refuse_started(run: Path) -> None:
    """Raise BadRun where `run` already holds a training."""
    for name in (STATE, WEIGHTS, METRICS):
        if (run / name).exists():
            raise BadRun(
                f"{run} already holds a training ({run / name} exists). Continue it with --resume, "
                "or choose another --out."
            )


def _damaged(path: Path, reason: str) -> str:
    first = (reason.splitlines() or [""])[0][:160]
    return f"{path} is damaged ({first}). Restore it from a copy, or train anew in another directory."


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
