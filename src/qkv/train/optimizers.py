"""AdamW over groups of parameters: what is decayed, what has its own learning rate, what is frozen."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qkv.errors import BadRecipe
from qkv.kernel.core import Core
from qkv.train.config import TrainConfig

if TYPE_CHECKING:
    from qkv.train.objective.base import Objective


def make_adamw(
    objective: "Objective",
    config: TrainConfig,
    device: str,
    *,
    module: nn.Module | None = None,
    **options: Any,
) -> torch.optim.AdamW:
    """AdamW over those parameters that require a gradient, fused where that works.

    Vectors are not decayed; neither are those that an attention has for each of its heads.  Rates fall from
    layer to layer by `config.layer_decay`.

    Args:
        objective: the objective, whose parameter names the configuration's patterns match.
        config: learning rates, decay and the other options.
        device: the kind of device that the parameters are on, such as "cpu".
        module: the part of the objective whose parameters the optimizer moves; by default all of it.
        options: of `torch.optim.AdamW`, such as `lr` and `betas`, in place of the configuration's; the rates
            of `config.rates` still apply to the names that they match.

    Returns:
        The optimizer, whose first group is decayed.

    Raises:
        BadRecipe: rates shall fall from layer to layer, but the objective does not order its layers.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    settings = {"lr": config.lr, "betas": config.betas, "eps": config.eps, **options}
    names, per_head = map_parameter_ids_to_saved_names(objective), _collect_per_head_parameter_ids(objective)
    factors = _compute_layer_factors(objective, config)
    for parameter in (objective if module is None else module).parameters():
        if parameter.requires_grad:
            name = names[id(parameter)]
            is_decayed = _is_matrix(parameter, id(parameter) in per_head) and not _matches_any_pattern(
                name, config.no_decay
            )
            rate = _get_first_matching_rate_or_none(name, config)
            rate = rate or settings["lr"] * factors.get(id(parameter), 1.0)
            groups.setdefault((is_decayed, rate), []).append(parameter)
    # decayed parameters first: the order is part of a saved state
    ordered = sorted(groups.items(), key=lambda item: not item[0][0])
    # the fused step unscales float16 gradients itself, which leaves nothing to clip beforehand
    fused = device in ("cpu", "cuda") and config.precision != "16"
    parameter_groups = [
        {"params": members, "lr": rate, "weight_decay": config.weight_decay if is_decayed else 0.0}
        for (is_decayed, rate), members in ordered
    ]
    return torch.optim.AdamW(parameter_groups, fused=fused, **settings)


def check_patterns_and_freeze_parameters(objective: "Objective", config: TrainConfig) -> None:
    """Exclude the parameters that `config.freeze` names from training.

    Args:
        objective: the objective, whose parameter names the patterns match.
        config: the section `train` of the recipe.

    Raises:
        BadRecipe: a pattern, here or in the other lists of names, matches no parameter, or no parameter is
            left to train.
    """
    names = map_parameter_ids_to_saved_names(objective)
    _check_every_pattern_matches(config, names.values())
    for parameter in objective.parameters():
        if _matches_any_pattern(names[id(parameter)], config.freeze):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        patterns = ", ".join(map(repr, config.freeze))
        raise BadRecipe(f"train.freeze names {patterns}, and leaves no parameter to train: name fewer")


def map_parameter_ids_to_saved_names(objective: "Objective") -> dict[int, str]:
    """id of a parameter -> its name in model.safetensors, or in the objective where it is not saved there.

    Args:
        objective: the objective whose parameters are named.
    """
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    saved = {id(parameter): name for name, parameter in objective.saved_module().named_parameters()}
    return {**names, **saved}


def _check_every_pattern_matches(config: TrainConfig, names: Iterable[str]) -> None:
    names = list(names)
    for key, pattern in _list_keys_and_patterns(config):
        if not any(fnmatchcase(name, pattern) for name in names):
            first = sorted({name.partition(".")[0] for name in names})
            raise BadRecipe(
                f"{key} names {pattern!r}, which matches no parameter: they begin with {', '.join(first)}; "
                "a pattern such as 'encoder.*' matches every name that begins so"
            )


def _list_keys_and_patterns(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Every pattern of parameter names in the configuration, with its key before it."""
    yield from (("train.freeze", pattern) for pattern in config.freeze)
    yield from (("train.no_decay", pattern) for pattern in config.no_decay)
    yield from (("train.rates", pattern) for pattern in config.rates)


def _get_first_matching_rate_or_none(name: str, config: TrainConfig) -> float | None:
    """The peak learning rate of the first pattern that matches; None where none does."""
    return next((rate for pattern, rate in config.rates.items() if fnmatchcase(name, pattern)), None)


def _compute_layer_factors(objective: "Objective", config: TrainConfig) -> dict[int, float]:
    """id of a parameter in a layer -> the factor of its learning rate; empty without layer decay."""
    if config.layer_decay == 1:
        return {}
    groups = objective.layer_groups()
    if not groups:
        raise BadRecipe(
            f"train.layer_decay is {config.layer_decay}, but this model does not order its layers: leave it "
            "out, and set train.rates by names"
        )
    factors: dict[int, float] = {}
    for depth, modules in zip(range(len(groups), 0, -1), groups, strict=True):
        for parameter in (each for module in modules for each in module.parameters()):
            factors.setdefault(id(parameter), config.layer_decay**depth)
    return factors


def _collect_per_head_parameter_ids(objective: nn.Module) -> set[int]:
    """ids of the parameters whose first dimension counts heads."""
    cores = (module for module in objective.modules() if isinstance(module, Core))
    return {id(parameter) for core in cores for parameter in core.parameters()}


def _is_matrix(parameter: nn.Parameter, is_per_head: bool) -> bool:
    """Whether it, or its part for one head, has two or more dimensions larger than 1."""
    shape = parameter.shape[1:] if is_per_head else parameter.shape
    return sum(size > 1 for size in shape) >= 2


def _matches_any_pattern(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
