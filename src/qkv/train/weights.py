"""Weights as values and as safetensors files.  A tensor that several names share is kept once.

A file carries a digest of its tensors and a label, plain values that say what the weights belong to: bytes
that changed on disk, and files of two runs that were mixed, are noticed when they are loaded.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import BadRun
from qkv.train.checkpoint import write_atomically

METADATA = "qkv"
LONGEST_HEADER = 100_000_000  # bytes, as in safetensors


def shared_names(module: nn.Module) -> list[list[str]]:
    """The names in the module's state dict, those of one and the same tensor together."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in module.state_dict().items():
        alone = name if tensor.numel() == 0 else None
        key = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride(), alone)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's weights and buffers themselves, shared ones under their first name only."""
    state = module.state_dict()
    return {names[0]: state[names[0]] for names in shared_names(module)}


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of what `distinct_tensors` gives."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in distinct_tensors(module).items()
    }


def restore_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy a snapshot back in place; every shared name sees it."""
    state = module.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(value)


def average_weights(snapshots: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of floating-point weights, summed in float64; everything else is the last snapshot's."""
    shots = list(snapshots)
    return {name: _mean([shot[name] for shot in shots]) for name in shots[-1]}


def are_finite(weights: Mapping[str, Tensor]) -> bool:
    """Whether no floating-point number among the weights is infinite or NaN."""
    return all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def digest(weights: Mapping[str, Tensor]) -> str:
    """A digest of the names, types, shapes and bytes of tensors on the CPU."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        value = weights[name].contiguous()
        state.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def save_weights(model: nn.Module, path: Path, label: Mapping[str, Any] | None = None) -> None:
    """Write the model's weights to a safetensors file, atomically.  Raises BadRun where that fails."""
    write_weights(copy_weights(model), path, label or {})


def write_weights(weights: Mapping[str, Tensor], path: Path, label: Mapping[str, Any]) -> None:
    """Write a snapshot and its label to a safetensors file, atomically.  Raises BadRun where that fails."""
    import safetensors.torch

    content = json.dumps({**label, "weights": digest(weights)}, sort_keys=True)
    # one entry: safetensors writes several in an order that changes from process to process
    packed = safetensors.torch.save(dict(weights), {METADATA: content})
    write_atomically(path, lambda file: file.write(packed))


def read_label(path: Path) -> dict[str, Any]:
    """The label of a safetensors file; empty for one that was written without.  Raises BadRun as
    `load_weights`.
    """
    if not path.is_file():
        raise BadRun(f"{path} is missing: no weights were saved there")
    try:
        label = json.loads(_metadata(path).get(METADATA, "{}"))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadRun(f"{path} is damaged or not a safetensors file: {error}") from error
    if not isinstance(label, dict):
        raise BadRun(f"{path} is damaged: its metadata holds no keys and values")
    return label


def _metadata(path: Path) -> Any:
    """What stands in the header beside the tensors; safetensors' own reader refuses paths not in UTF-8."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, LONGEST_HEADER)))
    return header.get("__metadata__", {})


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill the model in place from a file that `save_weights` wrote for the same model; ties stay tied.

    Raises BadRun, with the file and what is wrong, where it is missing, truncated, changed since it was
    written, of another model, or holds numbers that are not finite.
    """
    found = _read(path)
    state = model.state_dict()
    wanted: dict[str, Tensor] = {}
    missing = []
    for names in shared_names(model):
        name = next((name for name in names if name in found), None)
        if name is None:
            missing.append(names[0])
        else:
            wanted[name] = found[name]
    unexpected = sorted(set(found) - set(state))
    if missing or unexpected:
        raise BadRun(f"{path} belongs to another model: {_differences(missing, unexpected)}")
    for name, value in wanted.items():
        _check_kind(path, name, value, state[name])
    if not are_finite(wanted):
        raise BadRun(f"{path} holds weights that are not finite: the training diverged. Lower train.lr")
    restore_weights(model, wanted)


def _check_kind(path: Path, name: str, value: Tensor, like: Tensor) -> None:
    if value.shape != like.shape:
        raise BadRun(
            f"{path} belongs to another model: {name} has shape {list(value.shape)}, "
            f"the model expects {list(like.shape)}"
        )
    both_floating = value.is_floating_point() and like.is_floating_point()
    if value.dtype != like.dtype and not both_floating:
        raise BadRun(
            f"{path} belongs to another model: {name} is of {value.dtype}, the model expects {like.dtype}"
        )


def _read(path: Path) -> dict[str, Tensor]:
    import safetensors.torch
    from safetensors import SafetensorError

    label = read_label(path)
    try:
        found = safetensors.torch.load(path.read_bytes())  # load_file refuses paths that are not UTF-8
    except (SafetensorError, OSError) as error:
        raise BadRun(f"{path} is damaged or not a safetensors file: {error}") from error
    if "weights" in label and label["weights"] != digest(found):
        raise BadRun(f"{path} is damaged: its weights are not those that were saved. Restore it from a copy")
    return found


def _differences(missing: list[str], unexpected: list[str]) -> str:
    kinds = (("lacks", missing), ("has the unknown", unexpected))
    return "; ".join(f"it {verb} {_shorten(names)}" for verb, names in kinds if names)


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _mean(values: list[Tensor]) -> Tensor:
    if not values[-1].is_floating_point():
        return values[-1]
    return (
        sum((value.double() for value in values[1:]), values[0].double())
        .div(len(values))
        .to(values[-1].dtype)
    )
