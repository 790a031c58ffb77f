"""Weights as values and as safetensors files.  A tensor that several names share is saved once.

A file holds a digest of its tensors and a label, plain values that say what the weights belong to.  So
loading notices bytes that changed on disk, and files of two runs that were mixed.
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


def group_names_by_tensor(module: nn.Module) -> list[list[str]]:
    """The names in the module's state dict, in one list for every tensor.

    Args:
        module: the module, in which several names may share a tensor.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in module.state_dict().items():
        unique = name if tensor.numel() == 0 else None  # empty tensors have no address
        key = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride(), unique)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def collect_distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's weights and buffers themselves, shared ones under their first name only.

    Args:
        module: the module, in which several names may share a tensor.
    """
    state = module.state_dict()
    return {names[0]: state[names[0]] for names in group_names_by_tensor(module)}


def copy_weights_to_cpu(module: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of the tensors that `collect_distinct_tensors` returns.

    Args:
        module: the module, in which several names may share a tensor.
    """
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in collect_distinct_tensors(module).items()
    }


def restore_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a module, in place; every name that shares a tensor gets them.

    Args:
        module: the module to change.
        weights: name -> value, as `copy_weights_to_cpu` returns them; other tensors of the module stay.
    """
    state = module.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(value)


def average_weights(copies: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of floating-point weights, summed in float64; other tensors are those of the last copy.

    Args:
        copies: what `copy_weights_to_cpu` returned at several times; at least one.
    """
    copies = list(copies)
    return {name: _average_floats_or_take_last([weights[name] for weights in copies]) for name in copies[-1]}


def are_weights_finite(weights: Mapping[str, Tensor]) -> bool:
    """Whether no floating-point number among the weights is infinite or NaN.

    Args:
        weights: name -> tensor.
    """
    return all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def compute_digest(weights: Mapping[str, Tensor]) -> str:
    """A digest of the names, dtypes, shapes and bytes of tensors.

    Args:
        weights: name -> tensor on the CPU.
    """
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        value = weights[name].contiguous()
        state.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def save_weights(model: nn.Module, path: Path, label: Mapping[str, Any] | None = None) -> None:
    """Write the model's weights to a safetensors file, completely or not at all.

    Args:
        model: the model.
        path: the file.
        label: plain values that say what the weights belong to; None for none.

    Raises:
        BadRun: the file cannot be written.
    """
    write_weights_with_digest_and_label(copy_weights_to_cpu(model), path, label or {})


def write_weights_with_digest_and_label(
    weights: Mapping[str, Tensor], path: Path, label: Mapping[str, Any]
) -> None:
    """Write weights and their label to a safetensors file, completely or not at all.

    Args:
        weights: name -> tensor, as `copy_weights_to_cpu` returns them.
        path: the file.
        label: plain values that say what the weights belong to.

    Raises:
        BadRun: the file cannot be written.
    """
    import safetensors.torch

    content = json.dumps({**label, "weights": compute_digest(weights)}, sort_keys=True)
    # one entry: safetensors writes several in an order that changes from process to process
    packed = safetensors.torch.save(dict(weights), {METADATA: content})
    write_atomically(path, lambda file: file.write(packed))


def read_weights_label(path: Path) -> dict[str, Any]:
    """Read the label of a safetensors file.

    Args:
        path: the file.

    Returns:
        The label; empty for a file that was written without one.

    Raises:
        BadRun: the file is missing or damaged.
    """
    if not path.is_file():
        raise BadRun(
            f"{path} is missing: no weights were saved there yet; wait for the first validation, or "
            "restore it from a copy"
        )
    try:
        label = json.loads(_read_metadata(path).get(METADATA, "{}"))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadRun(
            f"{path} is damaged or not a safetensors file: {error}. Restore it from a copy"
        ) from error
    if not isinstance(label, dict):
        raise BadRun(f"{path} is damaged: its metadata holds no keys and values. Restore it from a copy")
    return label


def _read_metadata(path: Path) -> Any:
    """What the header holds beside the tensors; safetensors' own reader refuses paths not in UTF-8."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, LONGEST_HEADER)))
    return header.get("__metadata__", {})


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill the model in place from a file that `save_weights` wrote for the same model; ties stay tied.

    Args:
        model: the model to fill.
        path: the safetensors file.

    Raises:
        BadRun: the file is missing, truncated, changed since it was written, of another model, or holds
            numbers that are not finite.
    """
    saved = _read_and_verify_tensors(path)
    state = model.state_dict()
    weights: dict[str, Tensor] = {}
    missing = []
    for names in group_names_by_tensor(model):
        name = next((name for name in names if name in saved), None)
        if name is None:
            missing.append(names[0])
        else:
            weights[name] = saved[name]
    unexpected = sorted(set(saved) - set(state))
    if missing or unexpected:
        raise BadRun(
            f"{path} belongs to another model: {_describe_differences(missing, unexpected)}; load it into "
            "the model that it was saved from"
        )
    for name, value in weights.items():
        _check_same_shape_and_kind_of_dtype(path, name, value, state[name])
    if not are_weights_finite(weights):
        raise BadRun(
            f"{path} holds weights that are not finite: the training diverged. Train anew with a lower "
            "train.lr"
        )
    restore_weights(model, weights)


def _check_same_shape_and_kind_of_dtype(path: Path, name: str, value: Tensor, like: Tensor) -> None:
    if value.shape != like.shape:
        raise BadRun(
            f"{path} belongs to another model: {name} has shape {list(value.shape)}, "
            f"the model expects {list(like.shape)}; load it into the model that it was saved from"
        )
    are_floating = value.is_floating_point() and like.is_floating_point()
    if value.dtype != like.dtype and not are_floating:
        raise BadRun(
            f"{path} belongs to another model: {name} is of {value.dtype}, the model expects {like.dtype}; "
            "load it into the model that it was saved from"
        )


def _read_and_verify_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, compared with its digest."""
    import safetensors.torch
    from safetensors import SafetensorError

    label = read_weights_label(path)
    try:
        tensors = safetensors.torch.load(path.read_bytes())  # load_file refuses paths that are not UTF-8
    except (SafetensorError, OSError) as error:
        raise BadRun(
            f"{path} is damaged or not a safetensors file: {error}. Restore it from a copy"
        ) from error
    if "weights" in label and label["weights"] != compute_digest(tensors):
        raise BadRun(f"{path} is damaged: its weights are not those that were saved. Restore it from a copy")
    return tensors


def _describe_differences(missing: list[str], unexpected: list[str]) -> str:
    kinds = (("lacks", missing), ("has the unknown", unexpected))
    return "; ".join(f"it {verb} {_join_first_names(names)}" for verb, names in kinds if names)


def _join_first_names(names: list[str]) -> str:
    remainder = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + remainder


def _average_floats_or_take_last(values: list[Tensor]) -> Tensor:
    if not values[-1].is_floating_point():
        return values[-1]
    total = sum((value.double() for value in values[1:]), values[0].double())
    return total.div(len(values)).to(values[-1].dtype)
