"""Checks that a saved state fits the training to resume: every key, type, shape and dtype, before any use.

The fused step of an optimizer trusts the sizes of its moments: with moments of other sizes it would write
past their ends.  And a value of another type would fail far from its cause.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import BadRun
from qkv.train.checkpoint import STATE, load_state, make_damaged_error
from qkv.train.config import MAY_CHANGE, TrainConfig, list_changed_keys_that_resuming_forbids
from qkv.train.loop_state import map_fields_to_saved_keys
from qkv.train.objective.base import Objective
from qkv.train.weights import collect_distinct_tensors

FORMAT = 2  # of states; the first had no number, no origin and no copy of the best weights
TYPES: dict[str, type] = {
    "config": dict,
    "standing": dict,
    "tally": dict,
    "metrics_bytes": int,
    "origin": dict,
    "weights": dict,
    "last": list,
    "optimizer": dict,
    "precision": dict,
}
KEYS = {*TYPES, "format", "kept"}
OPTIONAL_KEYS = {"carried"}
OPTIONAL_SCORES = ("best", "kept")  # of the loop state


class StateMismatch(Exception):
    """A value of a state that does not fit; the message says which and why."""


def read_and_check_state(run: Path) -> dict[str, Any]:
    """Read the saved state of a training, and check its plain values.

    Args:
        run: the run directory.

    Returns:
        The state: tensors and plain values.

    Raises:
        BadRun: there is no state, it is damaged, or another version of qkv wrote it.
    """
    state = load_state(run)
    if repr(state.get("format")) != repr(FORMAT):  # the value may be of any type
        raise BadRun(
            f"{run / STATE} was written by another version of qkv (format {state.get('format', 1)!r:.20}, "
            f"expected {FORMAT}): resume it with that version, or train anew in another directory"
        )
    try:
        _check_keys_types_and_plain_values(state)
    except StateMismatch as error:
        raise make_damaged_error(run / STATE, str(error)) from None
    return state


def _check_keys_types_and_plain_values(state: Mapping[str, Any]) -> None:
    """Check keys, types and plain values; raises StateMismatch."""
    _check_keys_are_exactly(
        "the state", {name: state[name] for name in state if name not in OPTIONAL_KEYS}, KEYS
    )
    if not isinstance(state.get("carried", []), list):
        raise StateMismatch(f"carried is of type {type(state['carried']).__name__}, expected list")
    for name, expected in TYPES.items():
        if not isinstance(state[name], expected) or isinstance(state[name], bool):
            raise StateMismatch(
                f"{name} is of type {type(state[name]).__name__}, expected {expected.__name__}"
            )
    for name in ("config", "origin"):
        if not _has_only_plain_values(state[name]):
            raise StateMismatch(f"{name} does not hold plain values")
    if state["metrics_bytes"] < 0:
        raise StateMismatch(f"metrics_bytes is {state['metrics_bytes']}, expected 0 or more")
    _check_maps_names_to_numbers("tally", state["tally"])
    _check_loop_state(state["standing"])


def check_state_fits(
    run: Path,
    state: Mapping[str, Any],
    config: TrainConfig,
    objective: Objective,
    optimizers: Mapping[str, torch.optim.Optimizer],
    precision: Mapping[str, Any],
) -> None:
    """Check that a state is one of this configuration, objective, optimizers and precision.

    Args:
        run: the run directory, which the error names.
        state: a state that `read_and_check_state` returned.
        config: the present configuration.
        objective: the caller's objective.
        optimizers: name -> optimizer.
        precision: the fresh state of Fabric's precision plugin.

    Raises:
        BadRun: the state does not fit.
    """
    changed = list_changed_keys_that_resuming_forbids(config, state["config"])
    if changed:
        raise BadRun(
            f"{run} was trained with other settings of train: {', '.join(changed)}. Resuming may only change "
            f"{', '.join(sorted(MAY_CHANGE))}. Set the others back, or train anew in another directory."
        )
    try:
        _check_plain_tensors_like("its state", state["weights"], objective.state_dict())
    except StateMismatch as error:
        raise BadRun(
            f"{run} was trained with another model: {error}. Resume with the recipe of that run, or "
            "train anew in another directory"
        ) from None
    try:
        _check_copies_of_weights(state, objective, config.average)
        _check_optimizer_states(state["optimizer"], optimizers, state["standing"]["step"])
        _check_precision_state(state["precision"], precision)
    except StateMismatch as error:
        raise make_damaged_error(run / STATE, str(error)) from None


def _check_copies_of_weights(state: Mapping[str, Any], objective: Objective, average: int) -> None:
    """Check the copies of weights that validation keeps."""
    if len(state["last"]) > average:
        raise StateMismatch(f"last holds {len(state['last'])} sets of weights, expected at most {average}")
    for number, weights in enumerate(state["last"]):
        _check_plain_tensors_like(f"last.{number}", weights, collect_distinct_tensors(objective))
    if state["kept"] is not None:
        _check_plain_tensors_like("kept", state["kept"], collect_distinct_tensors(objective.saved_module()))


def _check_optimizer_states(saved: Any, optimizers: Mapping[str, torch.optim.Optimizer], steps: int) -> None:
    if len(optimizers) == 1:
        _check_optimizer_state(saved, next(iter(optimizers.values())), steps)
        return
    _check_keys_are_exactly("optimizer", saved, set(optimizers))
    for name, optimizer in optimizers.items():
        _check_optimizer_state(saved[name], optimizer, steps)


def _check_optimizer_state(saved: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    _check_keys_are_exactly("optimizer", saved, {"state", "param_groups"})
    expected = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = saved["param_groups"]
    if (
        not isinstance(groups, list)
        or [_get_saved_parameter_indices_or_none(group) for group in groups] != expected
    ):
        raise StateMismatch("optimizer.param_groups does not list the model's parameters")
    for number, group in enumerate(groups):
        _check_maps_names_to_numbers(f"optimizer.param_groups.{number}", {"lr": group.get("lr")})
    moments = saved["state"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if moments or not isinstance(moments, dict):  # before the first update there are none
        _check_keys_are_exactly("optimizer.state", moments, set(range(len(parameters))))
    for number, parameter in enumerate(parameters if moments else ()):
        _check_moments(f"optimizer.state.{number}", moments[number], parameter, steps)


def _check_precision_state(saved: Any, fresh: Mapping[str, Any]) -> None:
    _check_keys_are_exactly("precision", saved, set(fresh))
    _check_maps_names_to_numbers("precision", saved)
    if any(not math.isfinite(value) or value < 0 for value in saved.values()):
        raise StateMismatch("precision holds a number that is negative or not finite")


def _check_plain_tensors_like(prefix: str, tensors: Any, expected: Mapping[str, Tensor]) -> None:
    """Check that a dictionary holds tensors with the names, shapes and dtypes of others."""
    _check_keys_are_exactly(prefix, tensors, set(expected))
    for name, like in expected.items():
        _check_plain_tensor_like(f"{prefix}.{name}", tensors[name], like)


def _check_keys_are_exactly(name: str, values: Any, expected: set[Any]) -> None:
    if not isinstance(values, Mapping):
        raise StateMismatch(f"{name} is of type {type(values).__name__}, expected dict")
    missing = sorted(map(str, expected - values.keys()))
    unknown = sorted(map(str, values.keys() - expected))
    if missing:
        raise StateMismatch(f"{name} lacks {_join_first_names(missing)}")
    if unknown:
        raise StateMismatch(f"{name} has the unknown {_join_first_names(unknown)}")


def _check_plain_tensor_like(name: str, value: Any, like: Tensor) -> None:
    if type(value) not in (Tensor, nn.Parameter):
        raise StateMismatch(f"{name} is of type {type(value).__name__}, expected a tensor")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested:
        raise StateMismatch(f"{name} is not a plain tensor on the CPU ({value.layout}, {value.device})")
    if value.shape != like.shape:
        raise StateMismatch(f"{name} has shape {list(value.shape)}, expected {list(like.shape)}")
    if value.dtype != like.dtype:
        raise StateMismatch(f"{name} has dtype {value.dtype}, expected {like.dtype}")


def _check_moments(name: str, moments: Any, parameter: Tensor, steps: int) -> None:
    """Check Adam's moments of one parameter, and that their step is one of the first `steps`."""
    _check_keys_are_exactly(name, moments, {"step", "exp_avg", "exp_avg_sq"})
    for moment in ("exp_avg", "exp_avg_sq"):
        _check_plain_tensor_like(f"{name}.{moment}", moments[moment], parameter)
    step = moments["step"]
    is_double = isinstance(step, Tensor) and step.dtype == torch.float64
    _check_plain_tensor_like(
        f"{name}.step", step, torch.zeros((), dtype=torch.float64 if is_double else torch.float32)
    )
    if not (0 <= float(step) <= steps and float(step).is_integer()):
        raise StateMismatch(f"{name}.step is {float(step)}, expected a whole number of at most {steps}")


def _check_loop_state(values: Mapping[str, Any]) -> None:
    """Check the values that `LoopState.to_dict` returns; they are saved under the key "standing"."""
    _check_keys_are_exactly("standing", values, set(map_fields_to_saved_keys().values()))
    for name, value in values.items():
        if name == "scores":
            _check_maps_names_to_numbers("standing.scores", value)
        elif name == "seconds":
            _check_maps_names_to_numbers("standing", {name: value})
        elif name not in OPTIONAL_SCORES and (type(value) is not int or value < 0):
            raise StateMismatch(f"standing.{name} is {value!r:.60}, expected a whole number of at least 0")
        elif name in OPTIONAL_SCORES and value is not None:
            _check_maps_names_to_numbers("standing", {name: value})


def _has_only_plain_values(value: Any) -> bool:
    """Whether a value is made of dicts with text keys, lists, numbers, texts, booleans and None."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _has_only_plain_values(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_has_only_plain_values, value))
    return value is None or type(value) in (bool, int, float, str)


def _check_maps_names_to_numbers(prefix: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise StateMismatch(f"{prefix} is of type {type(values).__name__}, expected dict")
    for name, value in values.items():
        if not isinstance(name, str) or type(value) not in (int, float):
            raise StateMismatch(f"{prefix}.{name!s:.60} is {value!r:.60}, expected a number")


def _get_saved_parameter_indices_or_none(group: Any) -> Any:
    """The numbers of a saved group's parameters, of whatever type they are; None where it has none."""
    return group.get("params") if isinstance(group, Mapping) else None


def _join_first_names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
