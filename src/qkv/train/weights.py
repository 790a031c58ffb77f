"""Weights as values and as safetensors files.  A tensor that several names share is kept once."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from qkv.errors import BadRun
from qkv.train.checkpoint import write_atomically


def shared_names(module: nn.Module) -> list[list[str]]:
    """The names in the module's state dict, those of one and the same tensor together."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in module.state_dict().items():
        alone = name if tensor.numel() == 0 else None
        key = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride(), alone)
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's weights and buffers on the CPU, shared ones under their first name only."""
    state = module.state_dict()
    return {
        names[0]: state[names[0]].detach().cpu().clone(memory_format=torch.contiguous_format)
        for names in shared_names(module)
    }


def restore(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy a snapshot back in place; every shared name sees it."""
    state = module.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(value)


def mean(snapshots: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of floating-point weights, summed in float64; everything else is the last snapshot's."""
    shots = list(snapshots)
    return {name: _mean([shot[name] for shot in shots]) for name in shots[-1]}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's weights to a safetensors file, atomically.  Raises BadRun where that fails."""
    import safetensors.torch

    write_atomically(path, lambda file: file.write(safetensors.torch.save(snapshot(model), {"format": "pt"})))


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill the model in place from a file that `save_weights` wrote for the same model; ties stay tied.

    Raises BadRun, with the file and what is wrong, where it is missing, truncated or of another model.
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
        if value.shape != state[name].shape:
            raise BadRun(
                f"{path} belongs to another model: {name} has shape {list(value.shape)}, "
                f"the model expects {list(state[name].shape)}"
            )
    restore(model, wanted)


def _read(path: Path) -> dict[str, Tensor]:
    import safetensors.torch
    from safetensors import SafetensorError

    if not path.is_file():
        raise BadRun(f"{path} is missing: no weights were saved there")
    try:
        return safetensors.torch.load(path.read_bytes())  # load_file refuses paths that are not UTF-8
    except (SafetensorError, OSError) as error:
        raise BadRun(f"{path} is damaged or not a safetensors file: {error}") from error


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
